//! The cases of the API's own tests, against a real API server: it accepts what must be accepted, and refuses the
//! rest with the sentence that says what to write instead.

#![allow(clippy::expect_used, reason = "a test without its cases has to stop")]

use std::{fs, path::Path};

use e2e::lab::{Lab, Parts, User};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, ValidationDirective},
};
use serde::Deserialize;
use serde_json::Value;
use waxwing_api::{GROUP, VERSION};

/// One entry of a file in `operator/api/tests/cases/`.
#[derive(Deserialize)]
struct Case {
    name: String,
    valid: bool,
    /// Refused by a limit of `OpenAPI`, in the API server's own words.
    #[serde(default)]
    schema: bool,
    message: Option<String>,
    object: Value,
}

#[tokio::test]
async fn the_api_server_agrees_with_every_case() {
    let lab = Lab::start("api", Parts::default()).await.expect("the lab comes up");
    let client = lab.client(User::Admin).expect("a client");
    for (kind, namespaced) in [("Certificate", true), ("Issuer", true), ("ClusterIssuer", false)] {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, kind));
        let api: Api<DynamicObject> = if namespaced {
            Api::namespaced_with(client.clone(), "default", &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        let cases = cases(kind);
        assert!(cases.len() > 5, "{kind}");
        for case in cases {
            let parameters = PatchParams {
                dry_run: true,
                field_validation: Some(ValidationDirective::Strict),
                ..PatchParams::apply("cases").force()
            };
            let name = case.object["metadata"]["name"].as_str().unwrap_or("unnamed").to_owned();
            let answer = api.patch(&name, &parameters, &Patch::Apply(&case.object)).await;
            let what = format!("{kind}: {}", case.name);
            match (case.valid, answer) {
                (true, Ok(_)) => {}
                (true, Err(error)) => panic!("{what} is refused: {error}"),
                (false, Ok(_)) => panic!("{what} is accepted"),
                (false, Err(error)) => {
                    let said = error.to_string();
                    let expected = case.message.filter(|_| !case.schema).unwrap_or_default();
                    assert!(said.contains(&expected), "{what} is refused otherwise: {said}");
                }
            }
        }
    }
}

fn cases(kind: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/api/tests/cases");
    let file = folder.join(format!("{}.yaml", kind.to_lowercase()));
    serde_yaml::from_str(&fs::read_to_string(&file).expect("the cases")).expect("cases in YAML")
}
