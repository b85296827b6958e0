//! Helm and kubectl, as an administrator of a lab's cluster calls them.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use e2e::{
    Error,
    lab::{Lab, User},
    parts::Part,
};
use serde_json::Value;

use crate::helm;

/// Runs Helm, which must succeed. Answers with what it printed.
pub fn run(lab: &Lab, verb: &[&str], what: &[&str]) -> Result<String, Error> {
    let mut command = helm::helm()?;
    command.env("KUBECONFIG", lab.kubeconfig(User::Admin)).args(verb).args(what);
    Ok(helm::printed(&command.output().map_err(Error::io(|| "starting helm"))?))
}

/// Runs kubectl, with an object to read.
pub fn kubectl(lab: &Lab, arguments: &[&str], input: &Value) -> Output {
    let mut kubectl = Command::new(Part::Kubernetes.program("kubectl").unwrap());
    kubectl.env("KUBECONFIG", lab.kubeconfig(User::Admin)).args(arguments);
    kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = kubectl.spawn().unwrap();
    // One that reads no input may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.to_string().as_bytes());
    child.wait_with_output().unwrap()
}
