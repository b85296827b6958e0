//! Reads the documentation and the examples and checks them against the code, so that they stay true.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use waxwing_api::GoDuration;

#[test]
fn every_reason_is_documented() {
    let page = page("conditions.md");
    for reason in constants("operator/api/src/reason.rs") {
        assert!(
            page.contains(&format!("`{reason}`")) || page.contains(&format!(": {reason}\n")),
            "{reason} is missing"
        );
    }
}

#[test]
fn every_metric_is_documented() {
    let page = page("metrics.md");
    let source = read(&root().join("operator/src/runtime/metrics.rs"));
    let metrics: BTreeSet<&str> = quoted(&source).filter(|text| is_metric(text)).collect();
    assert!(!metrics.is_empty());
    for metric in metrics {
        assert!(page.contains(&format!("`{metric}`")), "{metric} is missing");
    }
}

#[test]
fn every_field_is_documented() {
    for (crd, page_name) in
        [("certificates", "certificate.md"), ("issuers", "issuer.md"), ("clusterissuers", "issuer.md")]
    {
        let crd: Value = yaml(&read(&root().join(format!("crds/waxwing.dev_{crd}.yaml")))).remove(0);
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        let page = page(page_name);
        let words: BTreeSet<&str> = page.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        for field in fields(&schema["spec"]).into_iter().chain(fields(&schema["status"])) {
            assert!(words.contains(field.as_str()), "{page_name} doesn't say what {field} is");
        }
    }
}

#[test]
fn every_flag_is_documented() {
    let page = page("command-line.md");
    for verb in ["run", "renew", "status", "crds"] {
        let help = Command::new(env!("CARGO_BIN_EXE_waxwing")).args([verb, "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let flags: BTreeSet<&str> = help
            .split_whitespace()
            .filter(|word| word.starts_with("--") && !["--help", "--version"].contains(word))
            .map(|word| word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()))
            .collect();
        assert!(!flags.is_empty());
        for flag in flags {
            assert!(page.contains(&format!("`{flag}")), "waxwing {verb} {flag} is missing");
        }
    }
}

#[test]
fn examples_are_what_the_types_say() {
    let mut kinds = BTreeSet::new();
    for file in files(&root().join("examples"), "yaml") {
        for object in yaml(&read(&file)) {
            kinds.extend(check(&object, &file));
        }
    }
    for page in files(&root().join("docs/src"), "md").into_iter().chain([root().join("README.md")]) {
        for block in read(&page).split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            for object in yaml(block) {
                kinds.extend(check(&object, &page));
            }
        }
    }
    assert!(kinds.contains("Certificate") && kinds.contains("ClusterIssuer"), "{kinds:?}");
}

#[test]
fn links_lead_somewhere() {
    let mut faults = Vec::new();
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let top = top.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    for page in files(&root().join("docs/src"), "md").into_iter().chain(top) {
        for target in read(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if target.contains("://") {
                continue;
            }
            let linked = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let found = linked.exists() && (anchor.is_empty() || anchors(&read(&linked)).contains(anchor));
            if !found {
                faults.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = page("SUMMARY.md");
    let pages = root().join("docs/src");
    for page in files(&pages, "md") {
        let name = page.strip_prefix(&pages).unwrap().to_string_lossy().into_owned();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "{name} is in no chapter");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page(name: &str) -> String {
    read(&root().join("docs/src").join(name))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{} has no .{extension}", folder.display());
    found
}

/// The objects of a YAML stream.
fn yaml(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap()).collect()
}

/// The values of a file's string constants.
fn constants(file: &str) -> Vec<String> {
    let source = read(&root().join(file));
    let found: Vec<String> = source
        .lines()
        .filter(|line| line.starts_with("pub const"))
        .flat_map(|line| quoted(line).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(!found.is_empty(), "{file} has no constants");
    found
}

fn is_metric(text: &str) -> bool {
    text.starts_with("waxwing_") && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn quoted(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').skip(1).step_by(2)
}

/// The names of a schema's own fields, however deep. What Kubernetes defines is not ours to explain.
fn fields(schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        found.insert(name.clone());
        if name != "conditions" && name != "namespaceSelector" {
            found.extend(fields(property));
            found.extend(fields(&property["items"]));
        }
    }
    found
}

/// Checks that an object of ours has no field that its type doesn't know. Gives its kind.
fn check(object: &Value, file: &Path) -> Option<String> {
    let kind = object["kind"].as_str()?;
    if object["apiVersion"] != "waxwing.dev/v1" {
        return None;
    }
    let known = match kind {
        "Certificate" => through::<waxwing_api::Certificate>(object),
        "Issuer" => through::<waxwing_api::Issuer>(object),
        "ClusterIssuer" => through::<waxwing_api::ClusterIssuer>(object),
        other => panic!("{}: there is no kind {other}", file.display()),
    };
    let known = known.unwrap_or_else(|error| panic!("{}: {kind}: {error}", file.display()));
    assert_within(object, &known, &format!("{}: {kind}", file.display()));
    Some(kind.to_owned())
}

fn through<T: DeserializeOwned + serde::Serialize>(object: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(serde_json::from_value::<T>(object.clone())?)
}

fn assert_within(part: &Value, whole: &Value, place: &str) {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            for (key, value) in part {
                let place = format!("{place}.{key}");
                assert_within(value, whole.get(key).unwrap_or_else(|| panic!("{place} is no field")), &place);
            }
        }
        (Value::Array(part), Value::Array(whole)) => {
            for (part, whole) in part.iter().zip(whole) {
                assert_within(part, whole, place);
            }
        }
        // 2h is 2h0m0s.
        (Value::String(part), Value::String(whole)) => {
            let duration = |text: &str| text.parse::<GoDuration>();
            let same = duration(part).is_ok() && duration(part) == duration(whole);
            assert!(same || part == whole, "{place}: {part:?} is not {whole:?}");
        }
        (part, whole) => assert_eq!(part, whole, "{place}"),
    }
}

/// The anchors that a page's headings get.
fn anchors(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            text.chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}
