//! A Service in another namespace that leads to Waxwing: without a selector, and with a copy of the endpoints of
//! Waxwing's own. Pure.
//!
//! An `ExternalName` Service would be less, but Traefik follows none by default, and ingress-nginx and Contour can be
//! told not to. Copied endpoints work with every ingress controller that reads `EndpointSlice`s.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use serde_json::{Value, json};

use super::{
    object::{Kind, Object},
    pod::SERVICE_PORT,
};

/// Label on an `EndpointSlice`: its Service.
pub const SERVICE: &str = "kubernetes.io/service-name";

/// More addresses aren't copied: one replica that answers is enough.
const MOST: usize = 100;

/// The Service `name` in `namespace` and its endpoints, copied from `slices`.
pub fn copies(slices: &[EndpointSlice], namespace: &str, name: &str, uid: &str) -> Vec<Object> {
    let service = json!({"spec": {
        "type": "ClusterIP",
        "ports": [{"name": "http", "port": SERVICE_PORT, "protocol": "TCP"}],
    }});
    let mut objects = vec![Object::new(Kind::Service, namespace, name, uid, service)];
    let mut by_type: BTreeMap<&str, (i32, Vec<Value>)> = BTreeMap::new();
    for slice in slices {
        let Some(port) = port(slice.ports.as_deref().unwrap_or_default()) else { continue };
        let (_, endpoints) = by_type.entry(&slice.address_type).or_insert_with(|| (port, Vec::new()));
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            if ready && endpoints.len() < MOST {
                endpoints.push(json!({"addresses": endpoint.addresses, "conditions": {"ready": true}}));
            }
        }
    }
    for (address_type, (port, endpoints)) in by_type {
        let slice = json!({
            "metadata": {"labels": {
                SERVICE: name,
                // Whose they are: else the control plane may take them for leftovers of its own.
                "endpointslice.kubernetes.io/managed-by": "waxwing.dev",
            }},
            "addressType": address_type,
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        });
        let slice_name = format!("{name}-{}", address_type.to_ascii_lowercase());
        objects.push(Object::new(Kind::EndpointSlice, namespace, &slice_name, uid, slice));
    }
    objects
}

/// The responder's port: the only one, or the one of that name.
fn port(ports: &[EndpointPort]) -> Option<i32> {
    let named = |port: &&EndpointPort| port.name.as_deref() == Some("responder");
    ports.iter().find(named).or_else(|| ports.first())?.port
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn ready_endpoints_are_copied() {
        let slice = |value: Value| serde_json::from_value::<EndpointSlice>(value).unwrap();
        let slices = [
            slice(json!({
                "addressType": "IPv4",
                "endpoints": [
                    {"addresses": ["10.0.0.1"]},
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                ],
                "ports": [{"name": "metrics", "port": 9402}, {"name": "responder", "port": 8089}],
            })),
            slice(json!({
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.0.3"], "conditions": {"ready": true}}],
                "ports": [{"name": "responder", "port": 8089}],
            })),
            slice(
                json!({"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"]}], "ports": [{"port": 1}]}),
            ),
        ];
        let made = copies(&slices, "web", "waxwing-uid", "uid");
        assert_eq!(made.len(), 3);
        let four = made[1].manifest();
        assert_eq!(four["metadata"]["name"], "waxwing-uid-ipv4");
        assert_eq!(four["metadata"]["labels"][SERVICE], "waxwing-uid");
        assert_eq!(four["ports"][0]["port"], 8089);
        let addresses: Vec<&Value> =
            four["endpoints"].as_array().unwrap().iter().map(|one| &one["addresses"][0]).collect();
        assert_eq!(addresses, ["10.0.0.1", "10.0.0.3"]);
        assert_eq!(made[0].manifest()["spec"]["selector"], Value::Null);
        assert_eq!(made[2].manifest()["addressType"], "IPv6");
    }
}
