//! Whose a name is: what routes it, and from which namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;
use waxwing_api::labels;

use crate::runtime::gateway_api::{Kind, Listener, Parent, Routing};

/// For each wanted name the namespaces that claim it, each with what routes the name there: "Ingress shop/web".
pub type Claims = BTreeMap<String, BTreeMap<String, String>>;

/// Which of `names` are routed, and from where, as far as it matters to a Certificate of `namespace`.
///
/// What stands in Waxwing's own namespace is nobody's claim: its routes, and what an administrator made there for
/// `http01.existingRoute`. Neither are its routes elsewhere: who was once let have a name must not have it for good.
pub fn claims<'a>(
    names: &BTreeSet<String>,
    namespace: &str,
    own_namespace: &str,
    ingresses: impl IntoIterator<Item = &'a Ingress>,
    gateway_api: &[Arc<Routing>],
) -> Claims {
    let mut claims = Claims::new();
    for ingress in ingresses {
        let (Some(spec), Some(from)) = (&ingress.spec, ingress.namespace()) else { continue };
        let is_route =
            ingress.labels().get(labels::COMPONENT).is_some_and(|what| what == labels::COMPONENT_ROUTE);
        if from == own_namespace || is_route {
            continue;
        }
        let ruled = spec.rules.iter().flatten().filter_map(|rule| rule.host.as_deref());
        let secured = spec.tls.iter().flatten().flat_map(|tls| tls.hosts.iter().flatten());
        for host in ruled.chain(secured.map(String::as_str)) {
            claim(&mut claims, names, host, "Ingress", &from, &ingress.name_any());
        }
    }
    for routing in gateway_api {
        let Routing { kind, namespace: from, name, .. } = &**routing;
        let hosts: Vec<&str> = match kind {
            // The certificates of a listener stand beside it, whoever routes.
            Kind::Gateway | Kind::ListenerSet if from == namespace => {
                own_hosts(&routing.hosts.listeners, names)
            }
            // It says what the platform is ready to serve, for routes of many namespaces: it keeps no name from them.
            Kind::Gateway => continue,
            _ if from == own_namespace => continue,
            Kind::ListenerSet => {
                routing.hosts.listeners.iter().filter_map(|listener| listener.hostname.as_deref()).collect()
            }
            Kind::GrpcRoute | Kind::HttpRoute | Kind::TlsRoute => routed_hosts(routing, gateway_api),
        };
        for host in hosts {
            claim(&mut claims, names, host, kind.name(), from, name);
        }
    }
    claims
}

fn claim(
    claims: &mut Claims,
    names: &BTreeSet<String>,
    host: &str,
    kind: &str,
    namespace: &str,
    object: &str,
) {
    let host = host.to_ascii_lowercase();
    for name in names.iter().filter(|name| overlap(name, &host)) {
        let claimant = format!("{kind} {namespace}/{object}");
        let claimants = claims.entry(name.clone()).or_default();
        let shown = claimants.entry(namespace.to_owned()).or_insert_with(|| claimant.clone());
        // Of several always the same one, so that a message doesn't change by itself.
        if claimant < *shown {
            *shown = claimant;
        }
    }
}

/// The hosts of the listeners that need a certificate; one without a host serves all of `names`.
fn own_hosts<'a>(listeners: &'a [Listener], names: &'a BTreeSet<String>) -> Vec<&'a str> {
    let mut hosts = Vec::new();
    for listener in listeners.iter().filter(|listener| matches!(listener.protocol.as_str(), "HTTPS" | "TLS"))
    {
        match &listener.hostname {
            Some(host) => hosts.push(host.as_str()),
            None => hosts.extend(names.iter().map(String::as_str)),
        }
    }
    hosts
}

/// A route's hosts: its own, else those of the listeners that it attaches to. Their wildcards aren't its own, since
/// others route names below them.
fn routed_hosts<'a>(route: &'a Routing, gateway_api: &'a [Arc<Routing>]) -> Vec<&'a str> {
    if !route.hosts.hostnames.is_empty() {
        return route.hosts.hostnames.iter().map(String::as_str).collect();
    }
    let listeners = route.hosts.parent_refs.iter().flat_map(|parent| {
        let namespace = parent.namespace.as_deref().unwrap_or(&route.namespace);
        let kind = parent.kind.as_deref().unwrap_or(Kind::Gateway.name());
        let parents = gateway_api.iter().filter(move |other| {
            other.kind.name() == kind && other.namespace == namespace && other.name == parent.name
        });
        parents.flat_map(|parent| &parent.hosts.listeners).filter(|listener| attaches(parent, listener))
    });
    listeners
        .filter_map(|listener| listener.hostname.as_deref())
        .filter(|host| !host.starts_with('*'))
        .collect()
}

fn attaches(parent: &Parent, listener: &Listener) -> bool {
    parent.section_name.as_ref().is_none_or(|name| *name == listener.name)
        && parent.port.is_none_or(|port| port == listener.port)
}

/// Whether a certificate for `name` would serve `host` or the other way round; either may be a wildcard.
fn overlap(name: &str, host: &str) -> bool {
    let under = |wildcard: &str, name: &str| {
        wildcard.strip_prefix("*.").is_some_and(|zone| {
            name.split_once('.').is_some_and(|(label, parent)| !label.is_empty() && parent == zone)
        })
    };
    name == host || under(name, host) || under(host, name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::{Value, json};

    use super::*;

    fn ingress(namespace: &str, name: &str, host: &str) -> Ingress {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"rules": [{"host": host}]},
        }))
        .unwrap()
    }

    fn routing(kind: Kind, namespace: &str, name: &str, hosts: Value) -> Arc<Routing> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Arc::new(Routing { kind, namespace, name, hosts: serde_json::from_value(hosts).unwrap() })
    }

    fn route(namespace: &str, name: &str, hosts: &[&str]) -> Arc<Routing> {
        routing(Kind::HttpRoute, namespace, name, json!({"hostnames": hosts}))
    }

    /// Who claims `a.example`, where a Certificate of namespace `web` wants it.
    fn claimants(ingresses: &[Ingress], gateway_api: &[Arc<Routing>]) -> Vec<String> {
        let names = BTreeSet::from(["a.example".to_owned(), "b.other".to_owned()]);
        let claims = claims(&names, "web", "waxwing-system", ingresses, gateway_api);
        claims.get("a.example").into_iter().flat_map(|claimants| claimants.values().cloned()).collect()
    }

    #[test]
    fn what_routes_a_name_claims_it() {
        assert_eq!(claimants(&[], &[]), [""; 0]);
        assert_eq!(claimants(&[ingress("shop", "i", "A.example")], &[]), ["Ingress shop/i"]);
        assert_eq!(claimants(&[ingress("shop", "i", "*.example")], &[]), ["Ingress shop/i"]);
        for (kind, expected) in [
            (Kind::HttpRoute, "HTTPRoute shop/r"),
            (Kind::GrpcRoute, "GRPCRoute shop/r"),
            (Kind::TlsRoute, "TLSRoute shop/r"),
        ] {
            let routes = [routing(kind, "shop", "r", json!({"hostnames": ["x.example", "a.example"]}))];
            assert_eq!(claimants(&[], &routes), [expected]);
        }
        assert_eq!(claimants(&[], &[route("shop", "r", &["*.example"])]), ["HTTPRoute shop/r"]);
        assert_eq!(claimants(&[], &[route("shop", "r", &["x.example"])]), [""; 0]);
    }

    #[test]
    fn one_object_stands_for_a_namespace_whatever_the_order() {
        let routes = [route("shop", "r2", &["a.example"]), route("web", "r", &["a.example"])];
        let again = [route("shop", "r1", &["a.example"]), route("shop", "r2", &["a.example"])];
        let ingresses = [ingress("shop", "z", "a.example")];
        assert_eq!(claimants(&ingresses, &routes), ["HTTPRoute shop/r2", "HTTPRoute web/r"]);
        assert_eq!(claimants(&[], &again), ["HTTPRoute shop/r1"]);
    }

    #[test]
    fn what_stands_in_waxwings_own_namespace_is_no_claim() {
        let ingresses = ["a.example", "*.example"].map(|host| ingress("waxwing-system", "i", host));
        let routes = [route("waxwing-system", "r", &["*.example"])];
        assert_eq!(claimants(&ingresses, &routes), [""; 0]);
    }

    #[test]
    fn waxwings_own_routes_are_no_claim() {
        let mut own = ingress("shop", "i", "a.example");
        own.labels_mut().insert(labels::COMPONENT.to_owned(), labels::COMPONENT_ROUTE.to_owned());
        assert_eq!(claimants(&[own], &[]), [""; 0]);
    }

    #[test]
    fn a_route_without_hosts_has_those_of_its_listeners() {
        let gateway = |namespace: &str| {
            let listener = |name: &str, port, host| json!({"name": name, "port": port, "hostname": host});
            let listeners = [
                listener("a", 80, json!("a.example")),
                listener("x", 80, json!("x.example")),
                listener("all", 80, json!("*.example")),
                listener("any", 8080, Value::Null),
            ];
            routing(Kind::Gateway, namespace, "public", json!({"listeners": listeners}))
        };
        let attached = |parent: Value| {
            let route = routing(Kind::HttpRoute, "shop", "r", json!({"parentRefs": [parent]}));
            claimants(&[], &[route, gateway("edge")])
        };
        let of = |rest: Value| {
            let mut parent = json!({"name": "public", "namespace": "edge"});
            parent.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            attached(parent)
        };
        assert_eq!(of(json!({})), ["HTTPRoute shop/r"]);
        assert_eq!(of(json!({"sectionName": "a", "port": 80})), ["HTTPRoute shop/r"]);
        assert_eq!(of(json!({"sectionName": "x"})), [""; 0]);
        assert_eq!(of(json!({"sectionName": "all"})), [""; 0], "others route names below it");
        assert_eq!(of(json!({"port": 8080})), [""; 0]);
        assert_eq!(of(json!({"kind": "Service"})), [""; 0]);
        assert_eq!(attached(json!({"name": "public"})), [""; 0], "it means a Gateway of its own namespace");
    }

    #[test]
    fn a_gateway_claims_for_its_own_namespace_alone() {
        let gateway = |namespace: &str, protocol: &str, host: Value| {
            let listeners = json!([{"name": "l", "port": 443, "protocol": protocol, "hostname": host}]);
            [routing(Kind::Gateway, namespace, "public", json!({"listeners": listeners}))]
        };
        assert_eq!(claimants(&[], &gateway("edge", "HTTPS", json!("a.example"))), [""; 0]);
        assert_eq!(claimants(&[], &gateway("edge", "HTTPS", Value::Null)), [""; 0]);
        for host in [json!("a.example"), json!("*.example"), Value::Null] {
            assert_eq!(claimants(&[], &gateway("web", "HTTPS", host)), ["Gateway web/public"]);
        }
        assert_eq!(claimants(&[], &gateway("web", "TLS", json!("a.example"))), ["Gateway web/public"]);
        assert_eq!(claimants(&[], &gateway("web", "HTTPS", json!("x.example"))), [""; 0]);
        assert_eq!(
            claimants(&[], &gateway("web", "HTTP", json!("a.example"))),
            [""; 0],
            "no certificate there"
        );
    }

    #[test]
    fn a_tenants_listeners_claim_like_its_routes() {
        let set = |namespace: &str, host: Value| {
            let listeners = json!([{"name": "l", "port": 443, "protocol": "HTTPS", "hostname": host}]);
            [routing(Kind::ListenerSet, namespace, "own", json!({"listeners": listeners}))]
        };
        assert_eq!(claimants(&[], &set("shop", json!("*.example"))), ["ListenerSet shop/own"]);
        assert_eq!(claimants(&[], &set("shop", Value::Null)), [""; 0]);
        assert_eq!(claimants(&[], &set("web", json!("a.example"))), ["ListenerSet web/own"]);
    }

    #[test]
    fn wildcards_overlap_one_label_deep() {
        for (name, host, expected) in [
            ("a.example", "a.example", true),
            ("*.example", "a.example", true),
            ("a.example", "*.example", true),
            ("a.b.example", "*.example", false),
            ("example", "*.example", false),
            ("b.example", "a.example", false),
        ] {
            assert_eq!(overlap(name, host), expected, "{name} {host}");
        }
    }
}
