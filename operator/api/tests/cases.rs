//! Every case in `tests/cases/` against the generated schemas, without an API server: limits by the small
//! checker in `openapi.rs`, rules by kube's evaluator of CEL. The lab applies the same files to a real one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod openapi;

use std::{collections::BTreeSet, fs, path::Path};

use kube::core::cel::{Validator, validate_cel};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use waxwing_api::{Certificate, ClusterIssuer, Issuer};

/// One entry of a file in `tests/cases/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    valid: bool,
    /// Refused by a limit of OpenAPI, not by a rule.
    #[serde(default)]
    schema: bool,
    /// What the refusal says.
    message: Option<String>,
    object: Value,
}

#[test]
fn certificate() {
    check::<Certificate>("Certificate");
}

#[test]
fn issuer() {
    check::<Issuer>("Issuer");
}

#[test]
fn cluster_issuer() {
    check::<ClusterIssuer>("ClusterIssuer");
}

/// A rule counts as tested when a case of its kind breaks it at its place, and a valid one has a value
/// there. What issuers and cluster issuers share is tested once.
#[test]
fn every_rule_has_a_case_that_passes_and_one_that_fails() {
    let (mut all, mut failed, mut passed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for kind in ["Certificate", "Issuer", "ClusterIssuer"] {
        let schema = schema(kind);
        let place = |place: String| match place.strip_prefix("spec.") {
            Some(rest) if rest.starts_with("acme") || rest.starts_with("allow[]") => format!("*.{place}"),
            _ => format!("{kind}.{place}"),
        };
        let mut rules = Vec::new();
        openapi::rules(&schema, "", &mut rules);
        for case in cases(kind) {
            if case.valid {
                for rule in &rules {
                    if openapi::has(&case.object, &rule.at) {
                        passed.insert((place(rule.reported_at.clone()), rule.message.clone()));
                    }
                }
            } else if let Err(errors) = Validator::new().validate(&schema, &case.object, None) {
                failed.extend(
                    errors
                        .iter()
                        .map(|e| (place(openapi::without_keys(&schema, &e.field_path)), e.message.clone())),
                );
            }
        }
        all.extend(rules.into_iter().map(|rule| (place(rule.reported_at), rule.message)));
    }
    assert!(all.len() > 30, "{}", all.len());
    let untested: Vec<_> = all.difference(&failed).collect();
    assert!(untested.is_empty(), "no case fails these rules: {untested:#?}");
    let unpassed: Vec<_> = all.difference(&passed).collect();
    assert!(unpassed.is_empty(), "no valid case has a value for these rules: {unpassed:#?}");
}

fn check<K>(kind: &str)
where
    K: kube::CustomResourceExt + Serialize + DeserializeOwned,
{
    let schema = schema(kind);
    for Case { name, valid, schema: by_schema, message, object } in cases(kind) {
        let name = format!("{kind}: {name}");
        let limits = openapi::check(&schema, &object);
        let rules = Validator::new().validate(&schema, &object, None);
        let typed = serde_json::from_value::<K>(object);
        if valid {
            assert_eq!((limits, rules), (vec![], Ok(())), "{name}");
            validate_cel(&typed.expect(&name)).expect(&name);
            continue;
        }
        let message = message.unwrap_or_else(|| panic!("{name}: a case that isn't valid needs a message"));
        if by_schema {
            assert!(!limits.is_empty(), "{name}: no limit refuses it");
            continue;
        }
        assert_eq!(limits, Vec::<String>::new(), "{name}: refused by a limit, not by a rule");
        let errors = rules.expect_err(&name);
        assert!(errors.iter().any(|error| error.message.contains(&message)), "{name}: {errors:?}");
        // What the type can't even hold needs no rule on the Rust side.
        if let Ok(object) = typed {
            let errors = validate_cel(&object).expect_err(&name);
            assert!(errors.iter().any(|error| error.message.contains(&message)), "{name}: {errors:?}");
        }
    }
}

fn cases(kind: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cases")
        .join(format!("{}.yaml", kind.to_lowercase()));
    let cases: Vec<Case> = serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(cases.iter().all(|case| case.object["kind"] == kind), "{} is for {kind} alone", path.display());
    cases
}

fn schema(kind: &str) -> Value {
    let crd = waxwing_api::crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    serde_json::to_value(crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap())
        .unwrap()
}
