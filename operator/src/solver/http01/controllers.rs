//! What is known about ingress controllers, by `spec.controller` of their IngressClass.

/// Annotations of an Ingress.
pub type Annotations = &'static [(&'static str, &'static str)];

/// How one ingress controller routes challenges.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Controller {
    /// `spec.controller` of its `IngressClass`, or what that begins with where a `/` and a name may follow.
    pub controller: &'static str,
    /// How it is solved unless the issuer says.
    pub mode: Mode,
    /// Why an Ingress in Waxwing's namespace doesn't reach users' hosts, where it doesn't.
    pub foreign_host: Result<(), &'static str>,
    /// What the route needs to be reached by plain HTTP, whatever is set for the host or the whole controller.
    pub plain: Annotations,
    /// What a second route needs, to be reached by HTTPS where the edge redirects all HTTP there.
    pub redirected: Option<Annotations>,
}

/// How a controller's challenges are solved unless the issuer says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// By an Ingress in Waxwing's namespace, to Waxwing itself.
    Operator,
    /// By a pod and an Ingress in the Certificate's namespace.
    Pod {
        /// Whether an Ingress of that namespace that has the host takes the path, where there is one: a second one of
        /// the same host would be ignored, or cost a load balancer.
        in_place: bool,
        /// Whether the pod's Service needs a port on every node.
        node_port: bool,
    },
}

/// What is known about a controller; for an unknown one, that it does as the Ingress API says.
pub fn of(controller: Option<&str>) -> &'static Controller {
    let known = |known: &&Controller| {
        controller.is_some_and(|name| {
            name.strip_prefix(known.controller).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    TABLE.iter().find(known).unwrap_or(&UNKNOWN)
}

/// The controller of a class that has no `IngressClass`: GKE's goes by the annotation `kubernetes.io/ingress.class`
/// alone, and by no `spec.ingressClassName`. <https://cloud.google.com/kubernetes-engine/docs/troubleshooting/ingress>
pub fn of_annotation(class: &str) -> Option<&'static str> {
    matches!(class, "gce" | "gce-internal").then_some(GCE)
}

const GCE: &str = "k8s.io/ingress-gce";

const UNKNOWN: Controller =
    Controller { controller: "", mode: Mode::Operator, foreign_host: Ok(()), plain: &[], redirected: None };

const ONE_NAMESPACE: &str = "it serves a host from one namespace alone, so a challenge can't be routed to Waxwing's; \
     write responder: Pod, or remove responder";
const PER_INGRESS: &str = "it makes a load balancer for each Ingress, so a route made for a challenge would not be \
     where the name points; write http01.ingress.name, the Ingress that serves the name, and responder: Pod";

const TABLE: &[Controller] = &[
    // https://kubernetes.github.io/ingress-nginx/user-guide/nginx-configuration/annotations/
    // Its webhook refuses our path, for the dot in it, in 1.12.0 to 1.12.5, 1.13.0 and 1.13.1, unless
    // strict-validate-path-type is off.
    Controller {
        controller: "k8s.io/ingress-nginx",
        plain: &[
            ("nginx.ingress.kubernetes.io/force-ssl-redirect", "false"),
            ("nginx.ingress.kubernetes.io/ssl-redirect", "false"),
            ("nginx.ingress.kubernetes.io/whitelist-source-range", "0.0.0.0/0,::/0"),
        ],
        ..UNKNOWN
    },
    // An entry point that redirects all HTTP does so before any router of an Ingress; and a router
    // with TLS answers HTTPS alone. So there are two.
    Controller {
        controller: "traefik.io/ingress-controller",
        redirected: Some(&[("traefik.ingress.kubernetes.io/router.tls", "true")]),
        ..UNKNOWN
    },
    // https://github.com/haproxytech/kubernetes-ingress
    Controller {
        controller: "haproxy.org/ingress-controller",
        plain: &[("haproxy.org/ssl-redirect", "false")],
        ..UNKNOWN
    },
    // https://haproxy-ingress.github.io/docs/configuration/keys/
    Controller {
        controller: "haproxy-ingress.github.io/controller",
        plain: &[
            ("haproxy-ingress.github.io/ssl-redirect", "false"),
            ("haproxy-ingress.github.io/whitelist-source-range", "0.0.0.0/0,::/0"),
        ],
        ..UNKNOWN
    },
    // Redirects only where an Ingress of its own says so.
    Controller {
        controller: "projectcontour.io",
        plain: &[("ingress.kubernetes.io/force-ssl-redirect", "false")],
        ..UNKNOWN
    },
    Controller {
        controller: "ingress-controllers.konghq.com/kong",
        plain: &[("konghq.com/protocols", "http,https"), ("konghq.com/strip-path", "false")],
        ..UNKNOWN
    },
    // A host is one Ingress's, the oldest; a second one is ignored, whatever its namespace.
    // https://docs.nginx.com/nginx-ingress-controller/configuration/host-and-listener-collisions/
    Controller {
        controller: "nginx.org/ingress-controller",
        mode: Mode::Pod { in_place: true, node_port: false },
        foreign_host: Err(ONE_NAMESPACE),
        ..UNKNOWN
    },
    // A host is one namespace's, the one with the oldest route; paths may be spread over its Ingresses.
    Controller {
        controller: "openshift.io/ingress-to-route",
        mode: Mode::Pod { in_place: false, node_port: false },
        foreign_host: Err(ONE_NAMESPACE),
        ..UNKNOWN
    },
    // In its default mode, dedicated, it makes a load balancer for each Ingress. Nothing in the IngressClass tells it from
    // shared, where an Ingress in Waxwing's namespace does: so responder: Operator isn't refused.
    // https://docs.cilium.io/en/stable/network/servicemesh/ingress/
    Controller {
        controller: "cilium.io/ingress-controller",
        mode: Mode::Pod { in_place: true, node_port: false },
        ..UNKNOWN
    },
    // By default both send traffic to ports of nodes.
    Controller {
        controller: "ingress.k8s.aws/alb",
        mode: Mode::Pod { in_place: true, node_port: true },
        foreign_host: Err(PER_INGRESS),
        ..UNKNOWN
    },
    // No IngressClass leads here: see `of_annotation`.
    Controller {
        controller: GCE,
        mode: Mode::Pod { in_place: true, node_port: true },
        foreign_host: Err(PER_INGRESS),
        ..UNKNOWN
    },
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn controllers_are_found_by_name() {
        assert_eq!(of(Some("k8s.io/ingress-nginx")).plain.len(), 3);
        assert_eq!(
            of(Some("haproxy.org/ingress-controller/haproxy")).controller,
            "haproxy.org/ingress-controller"
        );
        assert!(of(Some("traefik.io/ingress-controller")).redirected.is_some());
        assert!(of(Some("ingress.k8s.aws/alb")).foreign_host.is_err());
        assert_eq!(of(Some("k8s.io/ingress-nginx-of-mine")), &UNKNOWN);
        assert_eq!(of(Some("example.com/mine")), &UNKNOWN);
        assert_eq!(of(None), &UNKNOWN);
    }

    #[test]
    fn a_pod_answers_exactly_where_waxwing_itself_cant() {
        for known in TABLE.iter().filter(|known| known.controller != "cilium.io/ingress-controller") {
            assert_eq!(known.mode == Mode::Operator, known.foreign_host.is_ok(), "{}", known.controller);
        }
        // This one can in one of its modes.
        let cilium = of(Some("cilium.io/ingress-controller"));
        assert_eq!(cilium.mode, Mode::Pod { in_place: true, node_port: false });
        assert!(cilium.foreign_host.is_ok());
    }

    #[test]
    fn gke_is_known_by_the_annotation() {
        for class in ["gce", "gce-internal"] {
            assert_eq!(of(of_annotation(class)).mode, Mode::Pod { in_place: true, node_port: true });
        }
        assert_eq!(of_annotation("nginx"), None);
    }
}
