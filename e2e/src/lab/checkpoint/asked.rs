//! What a request asks, in few words, and whether it counts. Pure.

use http::{Method, Uri};

/// What a request is to the count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It counts. The text is the same for the same step of any issuance.
    Once(String),
    /// It keeps a cache filled: a watch, and the list that it begins with. These come whenever a watch ends.
    Watch,
    /// It has to do with who leads, and comes by the clock.
    Lease,
}

/// What is asked of the API server by a Waxwing whose own namespace is `own`.
pub(super) fn api_server(method: &Method, uri: &Uri, own: &str) -> Asked {
    let mut path = uri.path().split('/').filter(|part| !part.is_empty()).peekable();
    // api/VERSION, or apis/GROUP/VERSION
    let head = if path.next() == Some("apis") { 2 } else { 1 };
    let mut path = path.skip(head).peekable();
    let mut place = "";
    if path.peek() == Some(&"namespaces") {
        path.next();
        place = if path.next() == Some(own) { " in Waxwing's namespace" } else { " in the user's namespace" };
    }
    let resource = path.next().unwrap_or_default();
    if resource == "leases" {
        return Asked::Lease;
    }
    let verb = match (method, path.next().is_some()) {
        (&Method::GET, false) => return Asked::Watch,
        (&Method::GET, true) => "get",
        (&Method::POST, _) => "create",
        (&Method::DELETE, _) => "delete",
        _ => "patch",
    };
    let below = path.next().map(|below| format!("/{below}")).unwrap_or_default();
    Asked::Once(format!("API server: {verb} {resource}{below}{place}"))
}

/// What is asked of the CA.
pub(super) fn ca(method: &Method, uri: &Uri) -> String {
    let parts = uri.path().split('/').filter(|part| !part.is_empty());
    // Identifiers of orders and the like are long.
    let parts = parts.map(|part| if part.len() > 20 { "…" } else { part });
    format!("CA: {method} /{}", parts.collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &Method, uri: &'static str) -> Asked {
        api_server(method, &Uri::from_static(uri), "system")
    }

    #[test]
    fn requests_are_told_by_what_they_ask() {
        let once = |text: &str| Asked::Once(format!("API server: {text}"));
        assert_eq!(
            asked(&Method::POST, "/api/v1/namespaces/system/secrets?fieldManager=waxwing"),
            once("create secrets in Waxwing's namespace")
        );
        assert_eq!(
            asked(&Method::PATCH, "/apis/waxwing.dev/v1/namespaces/web/certificates/shop/status?"),
            once("patch certificates/status in the user's namespace")
        );
        assert_eq!(asked(&Method::GET, "/apis/waxwing.dev/v1/certificates"), Asked::Watch);
        assert_eq!(
            asked(&Method::GET, "/api/v1/namespaces/web/secrets/shop"),
            once("get secrets in the user's namespace")
        );
        assert_eq!(asked(&Method::GET, "/api/v1/namespaces/web/secrets?limit=500&watch=true"), Asked::Watch);
        let lease = "/apis/coordination.k8s.io/v1/namespaces/system/leases/waxwing";
        assert_eq!(asked(&Method::PATCH, lease), Asked::Lease);
        assert_eq!(
            ca(&Method::POST, &Uri::from_static("/acme/acme/order/0123456789012345678901234567/finalize")),
            "CA: POST /acme/acme/order/…/finalize"
        );
    }
}
