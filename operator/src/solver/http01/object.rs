//! An object that serves issuances outside of Waxwing's namespace: what it is, its names and labels, and which
//! Certificate it is for. Pure.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Preconditions},
};
use serde_json::{Value, json};
use waxwing_api::labels;

/// A kind of object that serves issuances. The order is that in which they are deleted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `networking.k8s.io/v1`
    Ingress,
    /// `gateway.networking.k8s.io/v1`
    HttpRoute,
    /// `gateway.networking.k8s.io/v1beta1`, which every release of the Gateway API serves.
    ReferenceGrant,
    /// `v1`
    Service,
    /// `discovery.k8s.io/v1`
    EndpointSlice,
    /// `v1`
    Pod,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Ingress, Self::HttpRoute, Self::ReferenceGrant, Self::Service, Self::EndpointSlice, Self::Pod];

    /// Group, version, kind, plural.
    pub(super) const fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Ingress => ("networking.k8s.io", "v1", "Ingress", "ingresses"),
            Self::HttpRoute => ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
            Self::ReferenceGrant => {
                ("gateway.networking.k8s.io", "v1beta1", "ReferenceGrant", "referencegrants")
            }
            Self::Service => ("", "v1", "Service", "services"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
            Self::Pod => ("", "v1", "Pod", "pods"),
        }
    }

    pub(super) fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    pub(super) fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.resource())
    }
}

/// Where an object is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.names().2, self.namespace, self.name)
    }
}

/// An object to be made.
#[derive(Clone, Debug)]
pub struct Object {
    pub(super) place: Place,
    manifest: Value,
}

impl Object {
    /// `body` is what it says beyond its names and Waxwing's labels.
    pub fn new(kind: Kind, namespace: &str, name: &str, uid: &str, body: Value) -> Self {
        let (group, version, kind_name, _) = kind.names();
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let mut manifest = body;
        merge(
            &mut manifest,
            json!({
                "apiVersion": api_version,
                "kind": kind_name,
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": {
                        labels::MANAGED_BY: labels::MANAGED_BY_WAXWING,
                        labels::COMPONENT: labels::COMPONENT_ROUTE,
                        labels::CERTIFICATE_UID: uid,
                    },
                },
            }),
        );
        let place = Place { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        Self { place, manifest }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// The whole object.
    pub fn manifest(&self) -> &Value {
        &self.manifest
    }
}

/// Deletes the object with this UID alone: a request that is late must not end another one of its name, which the next
/// leader uses.
pub(super) fn only(uid: &str) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    }
}

/// Lays `over` over `under`, object by object.
pub(super) fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// Eight digits that stand for a text.
pub fn short_hash(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().take(4).fold(String::new(), |mut digits, byte| {
        // Writing to a String can't fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// The label selector of everything that serves issuances outside of Waxwing's namespace.
pub fn selector() -> String {
    format!(
        "{}={},{}={},{}",
        labels::MANAGED_BY,
        labels::MANAGED_BY_WAXWING,
        labels::COMPONENT,
        labels::COMPONENT_ROUTE,
        labels::CERTIFICATE_UID
    )
}

/// The name that everything of one Certificate has, or begins with.
pub fn object_name(uid: &str) -> String {
    format!("{PREFIX}{uid}")
}

/// The UID in the name of a Service of ours.
pub fn uid_of(service: &str) -> Option<&str> {
    let rest = service.strip_prefix(PREFIX)?;
    let uid = rest.get(..UID)?;
    let known = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (known && (rest.len() == UID || rest.as_bytes().get(UID) == Some(&b'-'))).then_some(uid)
}

const PREFIX: &str = "waxwing-";
/// The length of a UID.
const UID: usize = 36;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn names_tell_the_certificate() {
        let uid = "0a1b2c3d-0000-4000-8000-000000000001";
        assert_eq!(uid_of(&object_name(uid)), Some(uid));
        assert_eq!(uid_of(&format!("{}-0123abcd", object_name(uid))), Some(uid));
        assert_eq!(uid_of("waxwing"), None);
        assert_eq!(uid_of("waxwing-metrics-of-the-operator-in-the-cluster"), None);
        assert!(format!("{}-{}", object_name(uid), short_hash("a")).len() <= 63);
    }
}
