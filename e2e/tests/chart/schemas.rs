//! kubeconform, with schemas made from what API servers check by: the documents of Kubernetes for its own kinds, and
//! the definitions of custom ones. Like an API server with `--validate=strict`, they refuse fields that nobody knows.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use e2e::{Error, parts::Part, paths};
use serde_json::{Map, Value, json};

use crate::renders::objects;

/// Where kubeconform looks for a kind.
const FILE: &str = "{{.ResourceKind}}.{{.ResourceAPIVersion}}.{{.Group}}.json";

/// The schemas of Kubernetes, which refer to each other.
const KUBERNETES: &str = "kubernetes.json";

/// What kubeconform says about a YAML stream.
pub fn kubeconform(yaml: &str) -> Result<Value, Error> {
    static SCHEMAS: OnceLock<PathBuf> = OnceLock::new();
    let mut kubeconform = Command::new(Part::Kubeconform.program("kubeconform")?);
    let schemas = SCHEMAS.get_or_init(|| write().unwrap());
    kubeconform.args(["-strict", "-summary", "-output=json"]);
    kubeconform.arg("-schema-location").arg(schemas.join(FILE));
    kubeconform.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = kubeconform.spawn().map_err(Error::io(|| "starting kubeconform"))?;
    child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    Ok(serde_json::from_str(&said)
        .unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&output.stderr))))
}

/// Writes the schemas. Answers with where they are.
fn write() -> Result<PathBuf, Error> {
    let directory = paths::volatile().join("schemas");
    paths::create(&directory)?;
    write_built_in(&directory)?;
    let ours = files(&paths::workspace().join("crds"));
    let monitors = files(&Part::PrometheusOperator.directory()?.join("crds"));
    for file in ours.iter().chain(&monitors) {
        for definition in objects(&paths::read(file)?) {
            write_custom(&directory, &definition["spec"])?;
        }
    }
    Ok(directory)
}

fn write_built_in(directory: &Path) -> Result<(), Error> {
    let mut all = Map::new();
    for document in files(&Part::Kubeconform.directory()?.join("openapi")) {
        let mut document: Value = serde_json::from_str(&paths::read(&document)?).unwrap();
        // A list of groups has none.
        if let Value::Object(schemas) = document["components"]["schemas"].take() {
            all.extend(schemas);
        }
    }
    for (name, schema) in &mut all {
        close(schema);
        for kind in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            write_kind(directory, [&kind["group"], &kind["version"], &kind["kind"]], &built_in(name))?;
        }
    }
    let all = json!({"components": {"schemas": all}});
    paths::write(&directory.join(KUBERNETES), all.to_string())
}

fn write_custom(directory: &Path, definition: &Value) -> Result<(), Error> {
    for version in definition["versions"].as_array().unwrap() {
        let mut schema = version["schema"]["openAPIV3Schema"].clone();
        close(&mut schema);
        // What every object has, API servers check by themselves.
        let properties = &mut schema["properties"];
        properties["apiVersion"] = json!({"type": "string"});
        properties["kind"] = json!({"type": "string"});
        properties["metadata"] = built_in("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        let kind = [&definition["group"], &version["name"], &definition["names"]["kind"]];
        write_kind(directory, kind, &schema)?;
    }
    Ok(())
}

fn write_kind(directory: &Path, kind: [&Value; 3], schema: &Value) -> Result<(), Error> {
    let [group, version, kind] = kind.map(|name| name.as_str().unwrap());
    // To kubeconform, the group of `apiVersion: v1` is v1.
    let group = if group.is_empty() { version } else { group };
    let name = format!("{}.{version}.{group}.json", kind.to_lowercase());
    paths::write(&directory.join(name), schema.to_string())
}

fn built_in(name: &str) -> Value {
    json!({"$ref": format!("{KUBERNETES}#/components/schemas/{name}")})
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Makes a schema refuse fields that it doesn't name, unless it says that there are others. What is below `allOf`,
/// `anyOf` and the like speaks of the same value, so it stays open.
fn close(schema: &mut Value) {
    let Some(keywords) = schema.as_object_mut() else { return };
    if let Some(Value::Object(properties)) = keywords.get_mut("properties") {
        properties.values_mut().for_each(close);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = keywords.get_mut(inner) {
            close(inner);
        }
    }
    let open = keywords.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    if keywords.contains_key("properties") && !open {
        keywords.entry("additionalProperties").or_insert(json!(false));
    }
    // An API server takes a null for these.
    if keywords.get("nullable") == Some(&json!(true)) {
        *schema = json!({"anyOf": [{"type": "null"}, schema.take()]});
    }
}
