//! Paths of ours in somebody's Ingress: added, and taken away again, without touching anything else.
//!
//! Rules and paths are atomic lists, which server-side apply can't merge. So each edit is a JSON patch (RFC 6902) that
//! holds only for the version that was read; if somebody else was faster, it is read and tried again.

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressRule};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use thiserror::Error;

use super::{
    object::uid_of,
    route::{class_of, is_route},
};
use crate::{
    runtime::client::{CallError, bounded},
    solver::responder::PATH,
};

/// How often somebody else may be faster.
const TRIES: u32 = 5;

/// What is to be added to an Ingress.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'a> {
    /// The Ingress's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub ingress: &'a str,
    /// The hosts whose challenges lead to the Service.
    pub hosts: &'a [String],
    /// The path, and how it is matched.
    pub path: (&'a str, &'a str),
    /// The Service in the same namespace, and its port.
    pub service: (&'a str, u16),
}

/// Why an Ingress wasn't edited.
#[derive(Debug, Error)]
pub enum EditError {
    /// The API server, or the way to it, said no.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The Ingress isn't fit for it.
    #[error("{0}")]
    Unfit(String),
}

/// Adds what isn't there yet.
pub async fn add(client: &Client, edit: &Edit<'_>) -> Result<(), EditError> {
    let Edit { namespace, ingress, .. } = *edit;
    let written = change(client, namespace, ingress, |found| additions(found, edit)).await?;
    if written {
        return Ok(());
    }
    Err(EditError::Unfit(format!(
        "there is no Ingress {namespace}/{ingress}: create it, or correct http01.ingress.name"
    )))
}

/// Takes away what serves the Certificate with this UID. An Ingress that is gone is fine.
pub async fn remove(client: &Client, namespace: &str, ingress: &str, uid: &str) -> Result<(), CallError> {
    match change(client, namespace, ingress, |found| Ok(removals(found, uid))).await {
        Err(EditError::Call(error)) => Err(error),
        // Only additions can be unfit.
        Ok(_) | Err(EditError::Unfit(_)) => Ok(()),
    }
}

/// The UIDs of the Certificates that have paths of ours in an Ingress.
pub fn uids(ingress: &Ingress) -> Vec<String> {
    let paths = rules(ingress).iter().flat_map(paths);
    let mut uids: Vec<String> = paths.filter_map(ours).map(str::to_owned).collect();
    uids.sort();
    uids.dedup();
    uids
}

/// The first Ingress, by name, that has the host, and is no route of Waxwing's.
pub fn serving<'a>(
    ingresses: impl IntoIterator<Item = &'a Ingress>,
    namespace: &str,
    host: &str,
) -> Option<String> {
    ingresses
        .into_iter()
        .filter(|ingress| ingress.metadata.namespace.as_deref() == Some(namespace))
        .filter(|ingress| !is_route(ingress))
        .filter(|ingress| rules(ingress).iter().any(|rule| rule.host.as_deref() == Some(host)))
        .map(ResourceExt::name_any)
        .min()
}

/// The name of an Ingress's class: the field, or the annotation that came before it and that some ingress controllers
/// go by. None where it has neither.
pub fn class_name(ingress: &Ingress) -> Option<&str> {
    let annotated = || ingress.metadata.annotations.as_ref()?.get(CLASS).map(String::as_str);
    class_of(ingress).or_else(annotated)
}

/// Reads and patches until no one was faster. False if there is no such Ingress.
async fn change(
    client: &Client,
    namespace: &str,
    name: &str,
    plan: impl Fn(&Ingress) -> Result<Vec<Value>, EditError>,
) -> Result<bool, EditError> {
    let api: Api<Ingress> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let mut tries = 0;
    loop {
        let what = format!("get Ingress {namespace}/{name}");
        let Some(found) = bounded(what, api.get_opt(name)).await? else { return Ok(false) };
        let mut operations = plan(&found)?;
        if operations.is_empty() {
            return Ok(true);
        }
        let version = found.metadata.resource_version.unwrap_or_default();
        operations.insert(0, json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}));
        let Ok(patch) = serde_json::from_value(Value::Array(operations)) else {
            return Err(EditError::Unfit(format!("Ingress {namespace}/{name} can't be edited")));
        };
        let what = format!("edit Ingress {namespace}/{name}");
        match bounded(what, api.patch(name, &parameters, &Patch::Json::<()>(patch))).await {
            Ok(_) => return Ok(true),
            // A test that doesn't hold is answered as an invalid object (422).
            Err(error) if (error.is_conflict() || error.is_invalid()) && tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

const MANAGER: &str = "waxwing-route";
const CLASS: &str = "kubernetes.io/ingress.class";

/// The operations that add what is missing.
fn additions(ingress: &Ingress, edit: &Edit<'_>) -> Result<Vec<Value>, EditError> {
    let (service, port) = edit.service;
    let (path, path_type) = edit.path;
    let wanted = json!({
        "path": path,
        "pathType": path_type,
        "backend": {"service": {"name": service, "port": {"number": port}}},
    });
    let mut operations = Vec::new();
    let found = rules(ingress);
    if found.is_empty() {
        operations.push(json!({"op": "add", "path": "/spec/rules", "value": []}));
    }
    for host in edit.hosts {
        let of_host = found.iter().enumerate().find(|(_, rule)| rule.host.as_deref() == Some(host.as_str()));
        match of_host {
            Some((index, rule)) if rule.http.is_some() => {
                let paths = paths(rule);
                // An earlier attempt may have led it to another pod: one path is all that counts.
                let earlier = |found: &HTTPIngressPath| {
                    ours(found) == uid_of(service) && found.path.as_deref() == Some(path)
                };
                let (op, position) = match paths.iter().position(earlier) {
                    Some(position) if json!(paths[position]) == wanted => continue,
                    Some(position) => ("replace", position),
                    None => ("add", 0),
                };
                let at = format!("/spec/rules/{index}/http/paths/{position}");
                operations.push(json!({"op": op, "path": at, "value": wanted}));
            }
            None if !covered(found, host) => {
                let rule = json!({"host": host, "http": {"paths": [wanted]}});
                operations.push(json!({"op": "add", "path": "/spec/rules/-", "value": rule}));
            }
            // A rule for the host alone would take all its other paths from the one that has them now.
            _ => {
                return Err(EditError::Unfit(format!(
                    "Ingress {}/{} serves {host} by a rule for several hosts or without paths: add a rule for {host} \
                     itself to it",
                    edit.namespace, edit.ingress
                )));
            }
        }
    }
    Ok(operations)
}

/// The operations that take away what serves one Certificate.
fn removals(ingress: &Ingress, uid: &str) -> Vec<Value> {
    let mut operations = Vec::new();
    // From the end, so that the indexes before stay what they are.
    for (index, rule) in rules(ingress).iter().enumerate().rev() {
        let is_its = |path: &HTTPIngressPath| ours(path) == Some(uid);
        let paths = paths(rule);
        if !paths.is_empty() && paths.iter().all(is_its) {
            operations.push(json!({"op": "remove", "path": format!("/spec/rules/{index}")}));
            continue;
        }
        for (position, _) in paths.iter().enumerate().rev().filter(|(_, path)| is_its(path)) {
            let at = format!("/spec/rules/{index}/http/paths/{position}");
            operations.push(json!({"op": "remove", "path": at}));
        }
    }
    operations
}

/// The UID of the Certificate that a path of ours is for.
fn ours(path: &HTTPIngressPath) -> Option<&str> {
    let is_challenges = path.path.as_deref().is_some_and(|path| path.starts_with(PATH));
    let service = &path.backend.service.as_ref()?.name;
    is_challenges.then(|| uid_of(service)).flatten()
}

/// Whether a rule without the host itself has it: for all hosts, or by a wildcard.
fn covered(rules: &[IngressRule], host: &str) -> bool {
    rules.iter().any(|rule| match rule.host.as_deref() {
        None | Some("") => true,
        Some(pattern) => pattern
            .strip_prefix("*.")
            .is_some_and(|zone| host.split_once('.').is_some_and(|(_, rest)| rest == zone)),
    })
}

fn rules(ingress: &Ingress) -> &[IngressRule] {
    ingress.spec.as_ref().and_then(|spec| spec.rules.as_deref()).unwrap_or_default()
}

fn paths(rule: &IngressRule) -> &[HTTPIngressPath] {
    rule.http.as_ref().map(|http| http.paths.as_slice()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::solver::http01::object::object_name;

    const UID: &str = "0a1b2c3d-0000-4000-8000-000000000001";
    const OTHER: &str = "0a1b2c3d-0000-4000-8000-000000000002";

    fn ingress(rules: &Value) -> Ingress {
        serde_json::from_value(json!({
            "metadata": {"name": "app", "namespace": "web"},
            "spec": {"rules": rules},
        }))
        .unwrap()
    }

    fn app(host: &str) -> Value {
        let backend = json!({"service": {"name": "app", "port": {"number": 80}}});
        json!({"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}})
    }

    /// What the API server makes of it.
    fn patched(before: &Ingress, operations: Vec<Value>) -> Ingress {
        let patch: kube::api::Patch<()> =
            Patch::Json(serde_json::from_value(Value::Array(operations)).unwrap());
        let Patch::Json(patch) = patch else { panic!("not a JSON patch") };
        let mut object = json!(before);
        apply(&mut object, &json!(patch));
        serde_json::from_value(object).unwrap()
    }

    /// As much of RFC 6902 as is used here.
    fn apply(object: &mut Value, operations: &Value) {
        for operation in operations.as_array().unwrap() {
            let path = operation["path"].as_str().unwrap();
            let (parent, last) = path.rsplit_once('/').unwrap();
            let parent = object.pointer_mut(parent).unwrap();
            match (operation["op"].as_str().unwrap(), parent) {
                ("add", Value::Array(items)) if last == "-" => items.push(operation["value"].clone()),
                ("add", Value::Array(items)) => {
                    items.insert(last.parse().unwrap(), operation["value"].clone());
                }
                ("add", Value::Object(fields)) => {
                    fields.insert(last.to_owned(), operation["value"].clone());
                }
                ("replace", Value::Array(items)) => {
                    items[last.parse::<usize>().unwrap()] = operation["value"].clone();
                }
                ("remove", Value::Array(items)) => {
                    items.remove(last.parse().unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn add_to(before: &Ingress, uid: &str, hosts: &[&str]) -> Result<Ingress, EditError> {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let service = object_name(uid);
        let edit = Edit {
            namespace: "web",
            ingress: "app",
            hosts: &hosts,
            path: (PATH, "Prefix"),
            service: (&service, 80),
        };
        additions(before, &edit).map(|operations| patched(before, operations))
    }

    #[test]
    fn what_is_added_is_taken_away_and_nothing_else() {
        for before in [
            ingress(&json!([app("a.example"), app("b.example"), app("*.c.example")])),
            ingress(&json!([app("a.example")])),
            ingress(&json!([])),
        ] {
            let hosts = ["b.example", "a.example", "new.example"];
            let edited = add_to(&before, UID, &hosts).unwrap();
            assert_eq!(uids(&edited), [UID]);
            assert_eq!(json!(add_to(&edited, UID, &hosts).unwrap()), json!(edited), "once is enough");
            let both = add_to(&edited, OTHER, &["a.example"]).unwrap();
            assert_eq!(uids(&both), [UID, OTHER]);
            let one = patched(&both, removals(&both, UID));
            assert_eq!(uids(&one), [OTHER]);
            let none = patched(&one, removals(&one, OTHER));
            assert_eq!(rules(&none), rules(&before));
        }
    }

    #[test]
    fn another_pod_takes_the_path_over() {
        let before = ingress(&json!([app("a.example")]));
        let led_to = |before: &Ingress, pod: &str| {
            let hosts = ["a.example".to_owned()];
            let service = format!("{}-{pod}", object_name(UID));
            let edit = Edit {
                namespace: "web",
                ingress: "app",
                hosts: &hosts,
                path: (PATH, "Prefix"),
                service: (&service, 80),
            };
            patched(before, additions(before, &edit).unwrap())
        };
        let both = add_to(&led_to(&before, "01234567"), OTHER, &["a.example"]).unwrap();
        let again = led_to(&both, "89abcdef");
        let paths: Vec<&HTTPIngressPath> = rules(&again).iter().flat_map(paths).collect();
        assert_eq!(paths.len(), 3, "the application's, the other Certificate's, and one of its own");
        assert!(json!(paths).to_string().contains(&format!("{}-89abcdef", object_name(UID))));
        assert_eq!(
            rules(&patched(&again, removals(&again, UID))),
            rules(&add_to(&before, OTHER, &["a.example"]).unwrap())
        );
    }

    #[test]
    fn a_rule_that_others_share_is_left_alone() {
        for rules in
            [json!([app("*.example")]), json!([{"http": app("")["http"]}]), json!([{"host": "a.example"}])]
        {
            let error = add_to(&ingress(&rules), UID, &["a.example"]).unwrap_err();
            assert!(error.to_string().contains("add a rule for a.example itself"), "{error}");
        }
    }

    #[test]
    fn the_class_is_a_field_or_an_annotation() {
        let mut one = ingress(&json!([]));
        assert_eq!(class_name(&one), None);
        one.metadata.annotations = Some([(CLASS.to_owned(), "gce".to_owned())].into());
        assert_eq!(class_name(&one), Some("gce"));
        one.spec.as_mut().unwrap().ingress_class_name = Some("alb".to_owned());
        assert_eq!(class_name(&one), Some("alb"));
    }

    #[test]
    fn the_ingress_that_has_a_host_is_found() {
        let one = ingress(&json!([app("a.example")]));
        let mut other = one.clone();
        other.metadata.namespace = Some("other".to_owned());
        assert_eq!(serving([&other, &one], "web", "a.example").as_deref(), Some("app"));
        assert_eq!(serving([&other, &one], "web", "b.example"), None);
    }
}
