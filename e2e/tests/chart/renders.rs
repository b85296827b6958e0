//! What the chart renders.

use std::{fs, process::Output};

use e2e::{Error, parts::KUBERNETES};
use serde::Deserialize as _;
use serde_json::Value;

use crate::helm::{chart, helm};

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

/// Renders the chart. Built without a version of Kubernetes, Helm would take it for an old one.
pub fn render(release: &str, namespace: &str, arguments: &[&str]) -> Result<Output, Error> {
    let version = format!("--kube-version={KUBERNETES}");
    let mut helm = helm()?;
    helm.args(["template", release, ".", "--namespace", namespace, &version]).args(arguments);
    helm.output().map_err(Error::io(|| "starting helm"))
}

/// Renders the chart with a set of values, for a cluster that has Waxwing's definitions.
pub fn render_set(set: &str) -> Result<Output, Error> {
    let arguments = ["--values", &values_of(set), "--api-versions", "waxwing.dev/v1/ClusterIssuer"];
    render("waxwing", "waxwing-system", &arguments)
}

/// The objects of a YAML stream.
pub fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(yaml);
    documents.map(|one| Value::deserialize(one).unwrap()).filter(|one| !one.is_null()).collect()
}
