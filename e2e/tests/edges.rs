//! Several edges before one cluster, which don't learn a route at the same instant.

use std::time::Duration;

use bytes::Bytes;
use e2e::{
    Error,
    lab::{
        Parts, Traefik, TraefikOptions,
        scenario::{Answer, PATIENCE, Stage, Web},
    },
    probe,
    sandbox::{NODE_ADDRESS, SECOND_EDGE_ADDRESS},
};
use http::Method;
use serde_json::json;

/// How long the slow edge gathers changes: longer than an issuance needs to ask the CA.
const SLOW: Duration = Duration::from_secs(6);

#[tokio::test]
async fn the_ca_is_asked_when_every_edge_has_the_route() -> Result<(), Error> {
    let every = |throttle| TraefikOptions { throttle: Some(throttle), ..TraefikOptions::default() };
    let parts = Parts { step_ca: true, traefik: Some(every(Duration::from_millis(100))), ..Parts::default() };
    let stage = Stage::start_with("edges", parts, &[("WAXWING_SELF_CHECK_TIMEOUT", "30s")]).await?;
    let slow = stage.lab().second_traefik(&every(SLOW)).await?;
    let s = stage.scenario("edges").await?;

    // An edge that has just learned something is the slowest to learn the next.
    let other = s.name("other");
    let app = Web::http(Answer::text("the app")).await?;
    s.route("other", Traefik::CLASS, &other, "/", &app, None).await?;
    let http = s.lab().http().await?;
    let url = format!("http://{SECOND_EDGE_ADDRESS}/");
    probe::until("the slow edge", PATIENCE, || async {
        http.send(Method::GET, &url, &[("host", &other)], Bytes::new()).await?.ok("the app")
    })
    .await?;

    // The CA asks at the first address.
    let host = s.name("shop");
    s.resolve(&host, &[SECOND_EDGE_ADDRESS, NODE_ADDRESS]).await?;
    s.certify("shop", json!({"dnsNames": [host]})).await?;
    let certificate = s.ready("shop").await?;

    let failures = certificate.status.and_then(|status| status.failed_issuance_attempts);
    assert_eq!(failures, None, "the first attempt succeeds");
    let log = s.operator().process().log();
    assert!(log.contains(&format!("self-check of {host} passed")), "{log}");
    let (quick, slow) = (stage.lab().traefik()?.challenges()?, slow.challenges()?);
    for (edge, asked) in [("quick", &quick), ("slow", &slow)] {
        assert!(asked.iter().any(|one| one.by_us && one.status == 200), "the {edge} edge: {asked:?}");
        let misled = asked.iter().find(|one| !one.by_us && one.status != 200);
        assert!(misled.is_none(), "the CA was sent to the {edge} edge too soon: {misled:?}");
    }
    assert!(slow.iter().any(|one| one.by_us && one.status == 404), "it wasn't slow: {slow:?}");
    assert!(quick.iter().chain(&slow).any(|one| !one.by_us), "the CA has asked: {quick:?} {slow:?}");
    s.nothing_left().await
}
