//! Helm, as tests of the chart call it.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use e2e::{Error, parts::Part, paths};

/// The chart.
pub fn chart() -> PathBuf {
    paths::workspace().join("charts/waxwing")
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

/// What a program printed, if it succeeded.
pub fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Everything that a program printed.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
