//! As much of OpenAPI as our schemas use.

#![allow(clippy::cast_precision_loss, reason = "sizes here are far below 2^53")]

use serde_json::Value;

/// What is wrong with `object`, one sentence each; nothing if it fits.
pub fn check(schema: &Value, object: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    visit(schema, object, "", &mut problems);
    problems
}

/// A rule of CEL, and where it is.
pub struct Rule {
    /// Path of the value that it is about, such as `spec.acme.solvers[].http01`.
    pub at: String,
    /// Path that a refusal names: the same, or a field in it.
    pub reported_at: String,
    /// What a refusal says.
    pub message: String,
}

/// All rules in `schema`.
pub fn rules(schema: &Value, path: &str, found: &mut Vec<Rule>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        found.push(Rule {
            at: path.into(),
            reported_at: format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default()),
            message: rule["message"].as_str().expect("every rule has a message").into(),
        });
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        rules(property, &join(path, name), found);
    }
    if schema["items"].is_object() {
        rules(&schema["items"], &format!("{path}[]"), found);
    }
    if schema["additionalProperties"].is_object() {
        rules(&schema["additionalProperties"], &join(path, "*"), found);
    }
}

/// Whether `object` has a value at the path of a rule.
pub fn has(object: &Value, path: &str) -> bool {
    if path.is_empty() {
        return true;
    }
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    if step == "*" {
        return object.as_object().is_some_and(|map| map.values().any(|value| has(value, rest)));
    }
    match step.strip_suffix("[]") {
        Some(step) => object[step].as_array().is_some_and(|items| items.iter().any(|item| has(item, rest))),
        None => !object[step].is_null() && has(&object[step], rest),
    }
}

/// The path of a refusal as the rule has it: no indexes of lists, `*` for the key of a map.
pub fn without_keys(schema: &Value, path: &str) -> String {
    let mut schema = schema;
    let mut walked = String::new();
    let mut rest = path;
    while !rest.is_empty() {
        if schema["additionalProperties"].is_object() {
            // Keys may hold dots; our maps hold nothing deeper.
            return join(&walked, "*");
        }
        let (step, after) = rest.split_once('.').unwrap_or((rest, ""));
        let (name, item) = step.split_once('[').map_or((step, false), |(name, _)| (name, true));
        schema = &schema["properties"][name];
        walked = join(&walked, name);
        if item {
            schema = &schema["items"];
            walked.push_str("[]");
        }
        rest = after;
    }
    walked
}

fn visit(schema: &Value, value: &Value, path: &str, problems: &mut Vec<String>) {
    let right_type = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        other => panic!("{path}: a type that the API server doesn't know: {other:?}"),
    };
    if !right_type {
        problems.push(format!("{path}: must be of type {}", schema["type"]));
        return;
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        problems.push(format!("{path}: unsupported value {value}"));
    }
    let size = match value {
        Value::String(text) => Some(("minLength", "maxLength", text.chars().count() as f64)),
        Value::Array(items) => Some(("minItems", "maxItems", items.len() as f64)),
        Value::Object(fields) => Some(("minProperties", "maxProperties", fields.len() as f64)),
        Value::Number(number) => number.as_f64().map(|number| ("minimum", "maximum", number)),
        _ => None,
    };
    if let Some((least, most, size)) = size {
        if schema[least].as_f64().is_some_and(|least| size < least) {
            problems.push(format!("{path}: below {least}"));
        }
        if schema[most].as_f64().is_some_and(|most| size > most) {
            problems.push(format!("{path}: above {most}"));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        visit(&schema["items"], item, &format!("{path}[]"), problems);
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value[name].is_null() {
            problems.push(format!("{}: required", join(path, name)));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = join(path, name);
        match &schema["properties"][name] {
            _ if schema["additionalProperties"].is_object() => {
                visit(&schema["additionalProperties"], field, &path, problems);
            }
            // Checked elsewhere, when it is used.
            _ if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
            // Every object has them; the API server knows their schema.
            Value::Null if ["apiVersion", "kind", "metadata"].contains(&path.as_str()) => {}
            Value::Null => problems.push(format!("{path}: unknown field")),
            property => visit(property, field, &path, problems),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}
