//! One route: what its Ingress looks like. Pure.

use std::fmt::Write;

use aws_lc_rs::digest::{Context, SHA256};
use k8s_openapi::{
    api::networking::v1::{
        HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
        IngressSpec, ServiceBackendPort,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use waxwing_api::labels;

use super::controllers::Annotations;
use crate::solver::responder::PATH;

/// A way from the edge to the responder, for one host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// What the ingress controller needs to be told.
    pub annotations: Annotations,
    /// The ingress class; none leaves it to the cluster's default.
    pub class: Option<String>,
    /// The DNS name.
    pub host: String,
    /// The token of one challenge for a path that matches exactly; none for a prefix, which serves all.
    pub token: Option<String>,
}

impl Route {
    /// The name of its Ingress: the same for the same route, in every process.
    pub fn name(&self) -> String {
        let mut hash = Context::new(&SHA256);
        let annotations = self.annotations.iter().flat_map(|(key, value)| [*key, *value]);
        let parts = [self.class.as_deref(), Some(self.host.as_str()), self.token.as_deref()];
        for part in parts.into_iter().map(Option::unwrap_or_default).chain(annotations) {
            hash.update(part.as_bytes());
            // None of the parts holds a newline.
            hash.update(b"\n");
        }
        // At most 253 characters, and neither a dot nor a hyphen before the next hyphen.
        let host: String = self.host.chars().take(220).collect();
        let mut name = format!("route-{}-", host.trim_end_matches(['.', '-']));
        for byte in hash.finish().as_ref().iter().take(5) {
            // Writing to a String can't fail.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }

    /// Its path, and how it is matched.
    pub fn path(&self) -> (String, &'static str) {
        match &self.token {
            Some(token) => (format!("{PATH}{token}"), "Exact"),
            None => (PATH.to_owned(), "Prefix"),
        }
    }

    /// Its Ingress, with the responder's Service (name, port) behind it.
    pub fn ingress(&self, namespace: &str, service: &(String, u16)) -> Ingress {
        let (service, port) = service;
        let backend = IngressBackend {
            service: Some(IngressServiceBackend {
                name: service.clone(),
                port: Some(ServiceBackendPort { number: Some(i32::from(*port)), name: None }),
            }),
            resource: None,
        };
        let (path, path_type) = self.path();
        let path = HTTPIngressPath { backend, path: Some(path), path_type: path_type.to_owned() };
        let annotations = self.annotations.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        Ingress {
            metadata: ObjectMeta {
                annotations: (!self.annotations.is_empty()).then(|| annotations.collect()),
                labels: Some(
                    [
                        (labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_WAXWING.to_owned()),
                        (labels::COMPONENT.to_owned(), labels::COMPONENT_ROUTE.to_owned()),
                    ]
                    .into(),
                ),
                name: Some(self.name()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(IngressSpec {
                ingress_class_name: self.class.clone(),
                rules: Some(vec![IngressRule {
                    host: Some(self.host.clone()),
                    http: Some(HTTPIngressRuleValue { paths: vec![path] }),
                }]),
                ..IngressSpec::default()
            }),
            status: None,
        }
    }
}

/// True if an Ingress in the cluster still is what was made.
pub fn is_intact(found: &Ingress, made: &Ingress) -> bool {
    let has = |(key, value): (&String, &String)| {
        found.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key)) == Some(value)
    };
    let (Some(found_spec), Some(made_spec)) = (&found.spec, &made.spec) else { return false };
    found_spec.rules == made_spec.rules
        && (made_spec.ingress_class_name.is_none()
            || found_spec.ingress_class_name == made_spec.ingress_class_name)
        && made.metadata.annotations.iter().flatten().all(has)
        && is_route(found)
}

/// True for an Ingress that carries the labels of a route.
pub fn is_route(ingress: &Ingress) -> bool {
    let label =
        |key: &str| ingress.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    label(labels::COMPONENT) == Some(labels::COMPONENT_ROUTE)
        && label(labels::MANAGED_BY) == Some(labels::MANAGED_BY_WAXWING)
}

/// The host that a route is for.
pub fn host_of(ingress: &Ingress) -> Option<&str> {
    ingress.spec.as_ref()?.rules.as_ref()?.first()?.host.as_deref()
}

/// The class of the ingress controller that has it.
pub fn class_of(ingress: &Ingress) -> Option<&str> {
    ingress.spec.as_ref()?.ingress_class_name.as_deref()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn route(class: Option<&str>, host: &str) -> Route {
        Route { annotations: &[], class: class.map(str::to_owned), host: host.to_owned(), token: None }
    }

    #[test]
    fn names_are_stable_valid_and_distinct() {
        let name = route(Some("traefik"), "shop.example.com").name();
        assert!(name.starts_with("route-shop.example.com-"), "{name}");
        assert_eq!(name, route(Some("traefik"), "shop.example.com").name());
        let variant = Route { annotations: &[("a", "b")], ..route(Some("traefik"), "shop.example.com") };
        let exact = Route { token: Some("t".to_owned()), ..route(Some("traefik"), "shop.example.com") };
        let names = [
            name,
            variant.name(),
            exact.name(),
            route(None, "shop.example.com").name(),
            route(Some("nginx"), "shop.example.com").name(),
            route(Some("traefik"), "www.example.com").name(),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        let long =
            format!("{}.{}", "a".repeat(60), ["b".repeat(63), "c".repeat(63), "d".repeat(60)].join("."));
        assert!(route(None, &long).name().len() <= 253);
    }

    #[test]
    fn a_changed_route_is_made_again() {
        let route = Route { annotations: &[("a", "b")], ..route(Some("traefik"), "shop.example.com") };
        let service = ("waxwing".to_owned(), 80);
        let made = route.ingress("waxwing-system", &service);
        assert!(is_intact(&made, &made));
        assert_eq!(host_of(&made), Some("shop.example.com"));
        let mut other = made.clone();
        other.metadata.annotations = None;
        assert!(!is_intact(&other, &made));
        assert!(!is_intact(&route.ingress("waxwing-system", &("other".to_owned(), 80)), &made));
        let mut other = made.clone();
        other.metadata.labels = None;
        assert!(!is_intact(&other, &made) && !is_route(&other));
    }
}
