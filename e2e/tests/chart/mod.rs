//! Helm, as tests of the chart call it.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use e2e::{
    Error,
    parts::{KUBERNETES, Part},
    paths,
};
use serde::Deserialize as _;
use serde_json::Value;

/// The chart.
pub fn chart() -> PathBuf {
    paths::workspace().join("charts/waxwing")
}

/// The sets of values whose renders are kept: their names, in the chart's `tests/`.
pub fn sets() -> Vec<String> {
    let folders = fs::read_dir(chart().join("tests")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = folders.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// The values of a set.
pub fn values_of(set: &str) -> String {
    chart().join("tests").join(set).join("values.yaml").display().to_string()
}

/// Helm with its files in the lab's directory.
pub fn helm() -> Result<Command, Error> {
    let mut helm = Command::new(Part::Helm.program("helm")?);
    let home = paths::lab().join("helm");
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(variable, &home);
    }
    helm.stdin(Stdio::null()).current_dir(chart());
    Ok(helm)
}

/// Renders the chart. Built without a version of Kubernetes, Helm would take it for an old one.
pub fn render(release: &str, namespace: &str, arguments: &[&str]) -> Result<Output, Error> {
    let version = format!("--kube-version={KUBERNETES}");
    let mut helm = helm()?;
    helm.args(["template", release, ".", "--namespace", namespace, &version]).args(arguments);
    helm.output().map_err(Error::io(|| "starting helm"))
}

/// What a program printed, if it succeeded.
pub fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Everything that a program printed.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The objects of a YAML stream.
pub fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(yaml);
    documents.map(|one| Value::deserialize(one).unwrap()).filter(|one| !one.is_null()).collect()
}
