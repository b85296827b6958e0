//! From an annotated Ingress to the Certificates that it should have, and what to do to get there. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::networking::v1::{Ingress, IngressTLS},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::ResourceExt;
use serde_json::Value;
use waxwing_api::{Certificate, labels};

use super::annotations;

/// Labels of the Ingress that its Certificates don't get: they say who manages an object.
const LABELS_OF_ITS_OWN: &[&str] = &["applyset.kubernetes.io/part-of", labels::COMPONENT, labels::MANAGED_BY];

/// What an Ingress asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Desired {
    /// The Certificates that it should have.
    pub(super) certificates: Vec<Certificate>,
    /// Whether Certificates that it made and no longer names are deleted: only if it still asks for any.
    pub(super) prune: bool,
    /// The Secrets that it names, also where no Certificate can be made.
    pub(super) secrets: BTreeSet<String>,
    /// What is wrong with it, in sentences.
    pub(super) problems: Vec<String>,
}

/// One step towards what is desired.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Create(Box<Certificate>),
    /// Not made by this Ingress: left alone. The text says so.
    Leave(String),
    Delete {
        name: String,
        uid: String,
    },
    Update(Box<Certificate>),
}

/// What the Ingress asks for: one Certificate for each entry of `spec.tls`, named like its Secret.
pub(super) fn desired(ingress: &Ingress) -> Desired {
    let none = BTreeMap::new();
    let annotations::Read { template, problems } =
        annotations::read(ingress.metadata.annotations.as_ref().unwrap_or(&none));
    let mut desired = Desired { problems, ..Desired::default() };
    let Some(template) = template else { return desired };
    desired.prune = true;
    let entries: &[IngressTLS] =
        ingress.spec.as_ref().and_then(|spec| spec.tls.as_deref()).unwrap_or_default();
    let mut seen = BTreeMap::<&str, usize>::new();
    for name in entries.iter().filter_map(|entry| entry.secret_name.as_deref()) {
        *seen.entry(name).or_default() += 1;
    }
    if entries.is_empty() {
        desired.problems.push(
            "it asks for certificates and has no spec.tls: add an entry with hosts and a secretName"
                .to_owned(),
        );
    }
    for (index, entry) in entries.iter().enumerate() {
        let Some(name) = entry.secret_name.as_deref().filter(|name| !name.is_empty()) else {
            desired
                .problems
                .push(format!("spec.tls[{index}] has no secretName: name the Secret for its certificate"));
            continue;
        };
        let first = desired.secrets.insert(name.to_owned());
        if seen.get(name).is_some_and(|times| *times > 1) {
            if first {
                desired.problems.push(format!(
                    "several entries of spec.tls name the Secret {name}: join their hosts in one entry"
                ));
            }
            continue;
        }
        let mut hosts = BTreeSet::new();
        let dns_names: Vec<String> = entry
            .hosts
            .iter()
            .flatten()
            .filter(|host| !host.is_empty() && hosts.insert(host.as_str()))
            .cloned()
            .collect();
        if dns_names.is_empty() {
            desired
                .problems
                .push(format!("spec.tls[{index}] has no hosts: write the names for its certificate"));
            continue;
        }
        let mut certificate = Certificate::new(name, template.clone());
        name.clone_into(&mut certificate.spec.secret_name);
        certificate.spec.dns_names = dns_names;
        certificate.metadata = metadata(ingress, name);
        desired.certificates.push(certificate);
    }
    desired
}

/// What to do, given the Certificates of the namespace.
pub(super) fn steps<'a>(
    ingress: &Ingress,
    desired: &Desired,
    existing: impl Iterator<Item = &'a Certificate> + Clone,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for certificate in &desired.certificates {
        let name = certificate.metadata.name.as_deref();
        let Some(found) = existing.clone().find(|found| found.metadata.name.as_deref() == name) else {
            steps.push(Step::Create(Box::new(certificate.clone())));
            continue;
        };
        if found.metadata.deletion_timestamp.is_some() {
            // Its end brings another look.
            continue;
        }
        match controller(found) {
            Some(owner) if is_controller(owner, ingress) => {
                if !holds(found, certificate) {
                    let mut update = certificate.clone();
                    // What is changed is what was looked at.
                    update.metadata.resource_version.clone_from(&found.metadata.resource_version);
                    steps.push(Step::Update(Box::new(update)));
                }
            }
            // Of an earlier Ingress of this name: the garbage collector is about to take it.
            Some(owner) if owner.kind == "Ingress" && Some(owner.name.as_str()) == ingress.metadata.name.as_deref() => {}
            _ => steps.push(Step::Leave(format!(
                "the Certificate {} exists and wasn't made by this Ingress, so it is left alone: delete it, or \
                 name another Secret in spec.tls",
                certificate.name_any()
            ))),
        }
    }
    if desired.prune {
        let ours = |found: &&Certificate| {
            controller(found).is_some_and(|owner| is_controller(owner, ingress))
                && found.metadata.deletion_timestamp.is_none()
                && !desired.secrets.contains(&found.name_any())
        };
        steps.extend(existing.filter(ours).filter_map(|found| {
            Some(Step::Delete { name: found.name_any(), uid: found.metadata.uid.clone()? })
        }));
    }
    steps
}

/// The ownerReference with `controller: true`.
pub(super) fn controller(certificate: &Certificate) -> Option<&OwnerReference> {
    certificate.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

fn is_controller(owner: &OwnerReference, ingress: &Ingress) -> bool {
    owner.kind == "Ingress" && Some(&owner.uid) == ingress.metadata.uid.as_ref()
}

fn metadata(ingress: &Ingress, name: &str) -> ObjectMeta {
    let own = |key: &&String| LABELS_OF_ITS_OWN.contains(&key.as_str());
    let mut labels: BTreeMap<String, String> = ingress
        .metadata
        .labels
        .iter()
        .flatten()
        .filter(|(key, _)| !own(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_WAXWING.to_owned());
    labels.insert(labels::COMPONENT.to_owned(), labels::COMPONENT_CERTIFICATE.to_owned());
    let owner = OwnerReference {
        api_version: "networking.k8s.io/v1".to_owned(),
        // True needs the right to update the Ingress's finalizers, and gains nothing.
        block_owner_deletion: None,
        controller: Some(true),
        kind: "Ingress".to_owned(),
        name: ingress.name_any(),
        uid: ingress.metadata.uid.clone().unwrap_or_default(),
    };
    ObjectMeta {
        labels: Some(labels),
        name: Some(name.to_owned()),
        namespace: ingress.metadata.namespace.clone(),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

/// True if all that is desired is there. What others have added is theirs.
fn holds(found: &Certificate, desired: &Certificate) -> bool {
    let labels = |(key, value): (&String, &String)| {
        found.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value)
    };
    let spec = |certificate: &Certificate| serde_json::to_value(&certificate.spec).ok();
    let Some((found_spec, desired_spec)) = spec(found).zip(spec(desired)) else { return false };
    desired.metadata.labels.iter().flatten().all(labels) && contains(&found_spec, &desired_spec)
}

fn contains(found: &Value, desired: &Value) -> bool {
    match (found, desired) {
        (Value::Object(found), Value::Object(desired)) => {
            desired.iter().all(|(key, desired)| found.get(key).is_some_and(|found| contains(found, desired)))
        }
        (found, desired) => found == desired,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use k8s_openapi::api::networking::v1::IngressSpec;
    use waxwing_api::GoDuration;

    use super::*;

    fn ingress(annotations: &[(&str, &str)], tls: &[(&str, &[&str])]) -> Ingress {
        let owned = |text: &str| text.to_owned();
        let entry = |&(secret, hosts): &(&str, &[&str])| IngressTLS {
            hosts: Some(hosts.iter().map(|host| owned(host)).collect()),
            secret_name: Some(owned(secret)),
        };
        Ingress {
            metadata: ObjectMeta {
                annotations: Some(
                    annotations.iter().map(|&(key, value)| (owned(key), owned(value))).collect(),
                ),
                labels: Some(
                    [("team", "a"), (labels::MANAGED_BY, "Helm")]
                        .map(|(key, value)| (owned(key), owned(value)))
                        .into(),
                ),
                name: Some(owned("shop")),
                namespace: Some(owned("web")),
                uid: Some(owned("uid-1")),
                ..ObjectMeta::default()
            },
            spec: Some(IngressSpec { tls: Some(tls.iter().map(entry).collect()), ..IngressSpec::default() }),
            status: None,
        }
    }

    const ISSUER: &[(&str, &str)] = &[("waxwing.dev/cluster-issuer", "ca")];

    fn steps_for(ingress: &Ingress, existing: &[Certificate]) -> Vec<Step> {
        steps(ingress, &desired(ingress), existing.iter())
    }

    #[test]
    fn each_tls_entry_makes_a_certificate() {
        let ingress = ingress(
            ISSUER,
            &[("a-tls", &["a.example", "a.example", "www.a.example"]), ("b-tls", &["b.example"])],
        );
        let desired = desired(&ingress);
        assert!(desired.problems.is_empty(), "{:?}", desired.problems);
        let [first, second] = desired.certificates.as_slice() else { panic!("{desired:?}") };
        assert_eq!(first.metadata.name.as_deref(), Some("a-tls"));
        assert_eq!(first.spec.secret_name, "a-tls");
        assert_eq!(first.spec.dns_names, ["a.example", "www.a.example"]);
        assert_eq!(first.metadata.namespace.as_deref(), Some("web"));
        assert_eq!(controller(second).unwrap().uid, "uid-1");
        let labels = second.metadata.labels.as_ref().unwrap();
        assert_eq!(labels.get("team").map(String::as_str), Some("a"));
        assert_eq!(labels.get(labels::MANAGED_BY).map(String::as_str), Some("waxwing"));
    }

    #[test]
    fn entries_that_make_none_are_told() {
        let duplicate = desired(&ingress(ISSUER, &[("a-tls", &["a.example"]), ("a-tls", &["b.example"])]));
        assert!(duplicate.certificates.is_empty());
        assert_eq!(duplicate.problems.len(), 1);
        assert!(duplicate.problems[0].contains("a-tls"));
        let empty = desired(&ingress(ISSUER, &[("a-tls", &[]), ("", &["b.example"])]));
        assert!(empty.certificates.is_empty());
        assert_eq!(empty.problems.len(), 2);
        assert_eq!(desired(&ingress(ISSUER, &[])).problems.len(), 1);
        assert_eq!(desired(&ingress(&[], &[("a-tls", &["a.example"])])), Desired::default());
    }

    #[test]
    fn the_same_again_is_no_step() {
        let ingress = ingress(ISSUER, &[("a-tls", &["a.example"])]);
        let Some(Step::Create(made)) = steps_for(&ingress, &[]).pop() else { panic!("not created") };
        let mut made = *made;
        // What others add stays theirs.
        made.spec.renew_before = Some("720h".parse::<GoDuration>().unwrap());
        made.metadata.uid = Some("uid-2".to_owned());
        assert_eq!(steps_for(&ingress, std::slice::from_ref(&made)), []);
        let mut changed = made.clone();
        changed.spec.dns_names.push("evil.example".to_owned());
        assert!(matches!(steps_for(&ingress, &[changed]).as_slice(), [Step::Update(_)]));
    }

    #[test]
    fn what_left_the_ingress_is_deleted_and_the_rest_left_alone() {
        let before = ingress(ISSUER, &[("a-tls", &["a.example"]), ("b-tls", &["b.example"])]);
        let mut existing = desired(&before).certificates;
        existing[0].metadata.uid = Some("uid-a".to_owned());
        existing[1].metadata.uid = Some("uid-b".to_owned());
        let mut foreign = existing[0].clone();
        foreign.metadata.name = Some("c-tls".to_owned());
        foreign.metadata.owner_references = None;
        existing.push(foreign);
        let after = ingress(ISSUER, &[("b-tls", &["b.example"]), ("c-tls", &["c.example"])]);
        let steps = steps_for(&after, &existing);
        assert!(matches!(&steps[0], Step::Leave(why) if why.contains("c-tls")), "{steps:?}");
        assert_eq!(steps[1], Step::Delete { name: "a-tls".to_owned(), uid: "uid-a".to_owned() });
        assert_eq!(steps.len(), 2);
        // Refused entries delete nothing, nor does an Ingress that no longer asks.
        let refused = ingress(ISSUER, &[("a-tls", &[]), ("b-tls", &["b.example"])]);
        assert_eq!(steps_for(&refused, &existing), []);
        assert_eq!(steps_for(&ingress(&[], &[]), &existing), []);
    }

    #[test]
    fn an_earlier_ingress_of_the_name_is_waited_for() {
        let old = ingress(ISSUER, &[("a-tls", &["a.example"])]);
        let existing = desired(&old).certificates;
        let mut new = old;
        new.metadata.uid = Some("uid-9".to_owned());
        assert_eq!(steps_for(&new, &existing), []);
    }
}
