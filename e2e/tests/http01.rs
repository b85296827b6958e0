//! Ways of HTTP-01 that need no node: routes that stay and are watched, paths in somebody's Ingress.

#[path = "http01/rights.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod rights;

use std::{net::IpAddr, time::Duration};

use e2e::{
    Error,
    lab::{
        OWN_NAMESPACE, Parts, TraefikOptions, User,
        scenario::{Answer, Scenario, Stage, Web},
    },
    probe,
    sandbox::SILENT_ADDRESS,
};
use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::Ingress,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use waxwing_api::{Certificate, labels, reason};

/// Anything comes about within this time.
const PATIENCE: Duration = Duration::from_mins(1);

/// The tests share one lab. Each has a namespace and names of its own.
async fn scenario(name: &str) -> Result<Scenario<'static>, Error> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    let start = || async {
        let parts = Parts { step_ca: true, traefik: Some(TraefikOptions::default()), ..Parts::default() };
        // A first look at a permanent route, and a second one where the first saw nothing, after a second.
        let stage = Stage::start_with("http01", parts, &[("WAXWING_ROUTE_CHECK_INTERVAL", "36s")]).await?;
        stage.lab().apply(OWN_NAMESPACE, rights::IN_PLACE).await?;
        Ok::<_, Error>(stage)
    };
    STAGE.get_or_try_init(start).await?.scenario(name).await
}

fn solver(http01: &Value) -> Value {
    json!({"solvers": [{"http01": http01}]})
}

fn permanent() -> Value {
    solver(&json!({"ingress": {"ingressClassName": "traefik", "routePolicy": "Permanent"}}))
}

#[tokio::test]
async fn a_permanent_route_stays_and_renewals_change_nothing_at_the_edge() -> Result<(), Error> {
    let s = scenario("permanent").await?;
    let (stays, goes) = (s.name("stays"), s.name("goes"));
    s.issuer("own", permanent()).await?;
    s.certify("stays", json!({"dnsNames": [stays], "issuerRef": {"name": "own"}})).await?;
    s.ready("stays").await?;
    // One that was used later, and went.
    s.certify("goes", json!({"dnsNames": [goes]})).await?;
    s.ready("goes").await?;
    until_routes(&s, &goes, 0).await?;
    assert_eq!(routes(&s, &stays).await?.len(), 1);

    let uid = routes(&s, &stays).await?.first().and_then(ResourceExt::uid);
    let serial = s.pair("stays-tls").await?.serial()?;
    s.api::<Secret>()
        .delete("stays-tls", &DeleteParams::default())
        .await
        .map_err(Error::kube(|| "deleting"))?;
    s.until(s.api::<Secret>(), "stays-tls", |secret| secret.map(|_| ()).ok_or("there is none".to_owned()))
        .await?;
    s.ready("stays").await?;
    assert_ne!(s.pair("stays-tls").await?.serial()?, serial);
    assert_eq!(routes(&s, &stays).await?.first().and_then(ResourceExt::uid), uid);

    s.delete::<Certificate>("stays").await?;
    until_routes(&s, &stays, 0).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn a_permanent_path_that_breaks_is_told() -> Result<(), Error> {
    let s = scenario("broken").await?;
    let host = s.name("shop");
    s.issuer("own", permanent()).await?;
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": {"name": "own"}})).await?;
    s.ready("shop").await?;
    probe::until("a first look", PATIENCE, || async {
        let routes = routes(&s, &host).await.map_err(|error| error.to_string())?;
        let noted = routes.iter().any(|route| route.annotations().contains_key("waxwing.dev/led-here"));
        if noted { Ok(()) } else { Err(format!("{routes:?}")) }
    })
    .await?;
    until_metric(&s, "shop", 0).await?;

    let silent: IpAddr = SILENT_ADDRESS.parse().map_err(Error::invalid(|| "an address"))?;
    s.lab().dns().set(&host, &[silent]).await?;
    let note =
        format!("The permanent path for challenges of {host} led to Waxwing and doesn't any more: GET");
    s.told("Certificate", "shop", "Warning", reason::ROUTE_BROKEN, &note).await?;
    until_metric(&s, "shop", 1).await?;

    s.lab().dns().reset(&host).await?;
    until_metric(&s, "shop", 0).await?;

    // One that somebody deleted comes back.
    let before = routes(&s, &host).await?;
    let Some(route) = before.first() else { panic!("no route") };
    let api = own_routes(&s)?;
    api.delete(&route.name_any(), &DeleteParams::default())
        .await
        .map_err(Error::kube(|| "deleting a route"))?;
    probe::until("the route", PATIENCE, || async {
        let routes = routes(&s, &host).await.map_err(|error| error.to_string())?;
        match routes.first() {
            Some(again) if again.uid() != route.uid() => Ok(()),
            other => Err(format!("{:?}", other.map(ResourceExt::name_any))),
        }
    })
    .await?;
    s.delete::<Certificate>("shop").await?;
    s.nothing_left().await
}

#[tokio::test]
async fn a_path_is_added_to_an_ingress_and_taken_away() -> Result<(), Error> {
    let s = scenario("in-place").await?;
    let hosts = [s.name("a"), s.name("b")];
    let app = Web::http(Answer::text("the app")).await?;
    let before = s.route("app", "traefik", &hosts[0], "/", &app, None).await?;
    s.issuer("own", solver(&json!({"ingress": {"name": "app"}}))).await?;
    s.certify("shop", json!({"dnsNames": hosts, "issuerRef": {"name": "own"}})).await?;
    s.ready("shop").await?;
    s.pair("shop-tls").await?.serves(&s.roots().await?, &hosts)?;
    until_restored(&s, &before).await?;
    // Not one of its own was made.
    let own = s.writes("shop")?.into_iter().filter(|write| write.resource == "ingresses");
    assert_eq!(own.count(), 0);
    s.nothing_left().await
}

#[tokio::test]
async fn a_path_is_taken_away_after_a_crash() -> Result<(), Error> {
    let s = scenario("crashed").await?;
    let host = s.name("shop");
    let silent: IpAddr = SILENT_ADDRESS.parse().map_err(Error::invalid(|| "an address"))?;
    s.lab().dns().set(&host, &[silent]).await?;
    let app = Web::http(Answer::text("the app")).await?;
    let before = s.route("app", "traefik", &host, "/", &app, None).await?;
    s.issuer("own", solver(&json!({"ingress": {"name": "app"}}))).await?;
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": {"name": "own"}})).await?;
    s.until(s.api::<Ingress>(), "app", |ingress| {
        let ingress = ingress.ok_or("there is none")?;
        if json!(ingress.spec).to_string().contains("acme-challenge") {
            Ok(())
        } else {
            Err("no path".to_owned())
        }
    })
    .await?;
    s.operator().kill();
    s.delete::<Certificate>("shop").await?;
    s.start_again().await?;
    until_restored(&s, &before).await?;
    s.nothing_left().await
}

#[tokio::test]
async fn an_ingress_that_cant_take_the_path_is_explained() -> Result<(), Error> {
    let s = scenario("unfit").await?;
    let host = s.name("shop");
    s.issuer("own", solver(&json!({"ingress": {"name": "app"}}))).await?;
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": {"name": "own"}})).await?;
    let stopped = s.stopped_saying("shop", reason::BACKING_OFF, "there is no Ingress").await?;
    assert!(stopped.message.contains("correct http01.ingress.name"), "{}", stopped.message);

    let app = Web::http(Answer::text("the app")).await?;
    let wildcard = format!("*.{}", host.split_once('.').map(|(_, zone)| zone).unwrap_or_default());
    let before = s.route("app", "traefik", &wildcard, "/", &app, None).await?;
    s.certify("shop", json!({"dnsNames": [host], "issuerRef": {"name": "own"}, "renewBefore": "720h"}))
        .await?;
    s.stopped_saying("shop", reason::BACKING_OFF, &format!("add a rule for {host} itself")).await?;
    until_restored(&s, &before).await
}

#[tokio::test]
async fn a_cluster_without_the_gateway_api_is_told_so() -> Result<(), Error> {
    let s = scenario("no-gateway").await?;
    s.lab().apply(OWN_NAMESPACE, rights::GATEWAY).await?;
    s.issuer("own", solver(&json!({"gatewayHTTPRoute": {"parentRefs": [{"name": "public"}]}}))).await?;
    s.certify("shop", json!({"dnsNames": [s.name("shop")], "issuerRef": {"name": "own"}})).await?;
    s.stopped_saying("shop", reason::BACKING_OFF, "Install the Gateway API's CustomResourceDefinitions")
        .await
        .map(|_| ())
}

fn own_routes(s: &Scenario<'_>) -> Result<Api<Ingress>, Error> {
    Ok(Api::namespaced(s.lab().client(User::Admin)?, OWN_NAMESPACE))
}

/// Waxwing's own Ingresses for a host.
async fn routes(s: &Scenario<'_>, host: &str) -> Result<Vec<Ingress>, Error> {
    let ours = format!("{}={}", labels::COMPONENT, labels::COMPONENT_ROUTE);
    let found = own_routes(s)?.list(&ListParams::default().labels(&ours)).await;
    let found = found.map_err(Error::kube(|| "listing routes"))?.items;
    Ok(found.into_iter().filter(|route| route.name_any().starts_with(&format!("route-{host}-"))).collect())
}

async fn until_routes(s: &Scenario<'_>, host: &str, count: usize) -> Result<(), Error> {
    probe::until(&format!("{count} routes for {host}"), PATIENCE, || async {
        let found = routes(s, host).await.map_err(|error| error.to_string())?.len();
        if found == count { Ok(()) } else { Err(format!("{found}")) }
    })
    .await
}

async fn until_metric(s: &Scenario<'_>, certificate: &str, value: u8) -> Result<(), Error> {
    let line = format!(
        "waxwing_certificate_route_broken{{name=\"{certificate}\",namespace=\"{}\"}} {value}",
        s.namespace()
    );
    let http = e2e::http::Http::new("")?;
    probe::until(&line, PATIENCE, || async {
        let text = http.get("http://127.0.0.1:9402/metrics").await?.ok("metrics")?;
        if text.contains(&line) { Ok(()) } else { Err(Error::Invalid { what: line.clone(), why: text }) }
    })
    .await
}

/// Waits until an Ingress is what it was, and what the path led to is gone.
async fn until_restored(s: &Scenario<'_>, before: &Ingress) -> Result<(), Error> {
    s.until(s.api::<Ingress>(), &before.name_any(), |ingress| {
        let ingress = ingress.ok_or("there is none")?;
        if ingress.spec == before.spec { Ok(()) } else { Err(format!("{:?}", ingress.spec)) }
    })
    .await?;
    let ours = ListParams::default().labels(labels::CERTIFICATE_UID);
    probe::until("the end of Services", PATIENCE, || async {
        let services = s.api::<Service>().list(&ours).await.map_err(|error| error.to_string())?;
        let slices = s.api::<EndpointSlice>().list(&ours).await.map_err(|error| error.to_string())?;
        if services.items.is_empty() && slices.items.is_empty() {
            Ok(())
        } else {
            Err(format!("{services:?}"))
        }
    })
    .await
}
