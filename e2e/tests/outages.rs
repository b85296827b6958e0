//! What Waxwing stands on goes away and comes back: permissions, the API server, the CA.

use e2e::{
    Error,
    lab::{
        Parts, PebbleOptions, TraefikOptions, User,
        scenario::{Limits, PATIENCE, Scenario, Stage, condition},
    },
    probe,
    sandbox::SILENT_ADDRESS,
};
use k8s_openapi::api::{
    networking::v1::Ingress,
    rbac::v1::{ClusterRole, PolicyRule, Role},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use waxwing_api::{Certificate, ClusterIssuer, reason};

/// What two attempts may cost.
const TWO: Limits = Limits { writes: 20, requests: 40 };

/// One test at a time: each takes something away from everybody.
async fn alone(name: &str) -> Result<(Scenario<'static>, MutexGuard<'static, ()>), Error> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let parts = Parts {
        pebble: Some(PebbleOptions::default()),
        traefik: Some(TraefikOptions::default()),
        ..Parts::default()
    };
    let stage = STAGE.get_or_try_init(|| Stage::start("outages", parts)).await?;
    Ok((stage.scenario(name).await?, turn))
}

#[tokio::test]
async fn a_permission_is_missing_for_the_target_secret() -> Result<(), Error> {
    let (s, _turn) = alone("no-secrets").await?;
    let spec = |note: &str| json!({"dnsNames": [s.routed("shop")], "secretTemplate": {"annotations": {"note": note}}});
    let taken = take_secrets_away(&s).await?;
    s.certify("shop", spec("first")).await?;
    let stopped = s.stopped("shop", reason::BACKING_OFF).await?;
    for word in ["shop-tls", "signed and waits", "allow waxwing"] {
        assert!(stopped.message.contains(word), "{word:?} is not in {:?}", stopped.message);
    }
    assert!(stopped.certificate.status.clone().unwrap_or_default().next_attempt_time.is_some());
    assert_eq!(s.open_orders().await?, ["shop"], "the key that was signed for is kept");
    assert_eq!(finalized(&s, "shop"), 1);

    // With the permission, the certificate that was signed is stored. A change of the spec brings the look.
    taken.give_back(&s).await?;
    s.certify("shop", spec("second")).await?;
    s.ready("shop").await?;
    s.pair("shop-tls").await?.serves(&s.roots().await?, &[s.routed("shop")])?;
    assert_eq!(finalized(&s, "shop"), 1, "nothing is issued twice");
    s.nothing_left().await?;
    s.calm("shop", TWO).await
}

#[tokio::test]
async fn a_permission_is_missing_for_routes() -> Result<(), Error> {
    let (s, _turn) = alone("no-routes").await?;
    let host = s.name("shop");
    let roles: Api<Role> = Api::namespaced(s.lab().client(User::Admin)?, e2e::lab::OWN_NAMESPACE);
    let role = roles.get("waxwing").await.map_err(Error::kube(|| "reading the Role"))?;
    let rules = role.rules.clone().unwrap_or_default();
    let without = rules.iter().filter(|rule| !is_about(rule, "ingresses")).collect::<Vec<_>>();
    set_rules(&roles, &json!(without)).await?;
    no_routes(&s).await?;
    s.certify("shop", json!({"dnsNames": [host]})).await?;
    let stopped = s.stopped("shop", reason::BACKING_OFF).await?;
    for word in [host.as_str(), "ingresses", "Waxwing may make the route"] {
        assert!(stopped.message.contains(word), "{word:?} is not in {:?}", stopped.message);
    }
    s.calm("shop", TWO).await?;

    set_rules(&roles, &json!(rules)).await?;
    s.certify("shop", json!({"dnsNames": [host], "renewBefore": "720h"})).await?;
    s.ready("shop").await?;
    s.nothing_left().await
}

#[tokio::test]
async fn the_api_server_is_restarted_mid_issuance() -> Result<(), Error> {
    let (s, _turn) = alone("api-server").await?;
    // The edge knows the way already: it can't learn one from an API server that is gone.
    let host = s.routed("shop");
    s.resolve(&host, &[SILENT_ADDRESS]).await?;
    let certificate = s.certify("shop", json!({"dnsNames": [host]})).await?;
    s.ordered(&certificate).await?;
    s.answering(&host).await?;
    s.lab().api_server().kill();
    // The CA is still there: it validates and signs, and then there is nowhere to store it.
    s.lab().dns().reset(&host).await?;
    let signed = probe::until("the CA's signature", PATIENCE, || async {
        if finalized(&s, "shop") == 1 { Ok(()) } else { Err("not finalized") }
    })
    .await;
    s.lab().api_server().start()?;
    s.lab().api_server_ready().await?;
    signed?;

    let status = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, None, "an outage says nothing about the Certificate");
    s.pair("shop-tls").await?.serves(&s.roots().await?, &[host])?;
    assert_eq!((ordered(&s, "shop"), finalized(&s, "shop")), (1, 1), "nothing is issued twice");
    s.nothing_left().await
}

#[tokio::test]
async fn the_ca_stops_and_goes_on() -> Result<(), Error> {
    let (s, _turn) = alone("frozen").await?;
    let host = s.routed("shop");
    s.lab().pebble()?.freeze()?;
    s.certify("shop", json!({"dnsNames": [host]})).await?;
    // A step that lasts is told.
    let told = s.until(s.api::<Certificate>(), "shop", |certificate| {
        let issuing = certificate.and_then(|certificate| condition(certificate, reason::ISSUING));
        match issuing {
            Some(issuing) if issuing.status == "True" => Ok(issuing.message.clone()),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(!told.await?.is_empty());
    s.lab().pebble()?.thaw()?;
    let status = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, None);
    s.nothing_left().await?;
    s.calm("shop", TWO).await
}

#[tokio::test]
async fn the_ca_is_gone_for_a_while() -> Result<(), Error> {
    let (s, _turn) = alone("gone").await?;
    let host = s.routed("shop");
    s.lab().pebble()?.kill();
    s.certify("shop", json!({"dnsNames": [host]})).await?;
    let stopped = s.stopped("shop", reason::BACKING_OFF).await?;
    assert!(stopped.message.contains("localhost:14000"), "{}", stopped.message);
    assert!(stopped.certificate.status.clone().unwrap_or_default().next_attempt_time.is_some());
    s.within("shop", Limits { writes: 4, requests: 6 })?;

    s.lab().pebble()?.restart_empty().await?;
    s.certify("shop", json!({"dnsNames": [host], "renewBefore": "720h"})).await?;
    s.ready("shop").await?;
    s.nothing_left().await
}

#[tokio::test]
async fn the_ca_is_restarted_empty_mid_issuance() -> Result<(), Error> {
    let (s, _turn) = alone("empty").await?;
    let host = s.name("shop");
    s.resolve(&host, &[SILENT_ADDRESS]).await?;
    let key = account_key(&s).await?;
    let certificate = s.certify("shop", json!({"dnsNames": [host]})).await?;
    s.ordered(&certificate).await?;
    s.lab().pebble()?.restart_empty().await?;
    s.lab().dns().reset(&host).await?;
    let status = s.ready("shop").await?.status.unwrap_or_default();
    assert_eq!(status.failed_issuance_attempts, None, "an order that the CA has lost is no failure");
    s.pair("shop-tls").await?.serves(&s.roots().await?, &[host])?;
    s.nothing_left().await?;
    s.calm("shop", Limits { writes: 30, ..TWO }).await?;
    assert_eq!(account_key(&s).await?, key, "it is registered again with the key that it had");
    Ok(())
}

/// The hash of the account's key.
async fn account_key(s: &Scenario<'_>) -> Result<Option<String>, Error> {
    let issuer: ClusterIssuer =
        s.cluster_issuers().get("pebble").await.map_err(Error::kube(|| "reading pebble"))?;
    let key = issuer.status.unwrap_or_default().acme.unwrap_or_default().last_private_key_hash;
    assert!(key.is_some());
    Ok(key)
}

fn ordered(s: &Scenario<'_>, certificate: &str) -> usize {
    s.requests(certificate).iter().filter(|url| url.ends_with("/order-plz")).count()
}

fn finalized(s: &Scenario<'_>, certificate: &str) -> usize {
    s.requests(certificate).iter().filter(|url| url.contains("/finalize-order/")).count()
}

/// Rules as they were.
struct Taken {
    everywhere: Vec<PolicyRule>,
    own: Vec<PolicyRule>,
}

/// Waxwing may read Secrets everywhere, and write them in its own namespace alone.
async fn take_secrets_away(s: &Scenario<'_>) -> Result<Taken, Error> {
    let (everywhere, own) = roles(s)?;
    let read = |error| Error::kube(|| "reading the permissions")(error);
    let taken = Taken {
        everywhere: everywhere.get("waxwing").await.map_err(read)?.rules.unwrap_or_default(),
        own: own.get("waxwing").await.map_err(read)?.rules.unwrap_or_default(),
    };
    let reading = |rule: &PolicyRule| PolicyRule {
        verbs: rule
            .verbs
            .iter()
            .filter(|verb| ["get", "list", "watch"].contains(&verb.as_str()))
            .cloned()
            .collect(),
        ..rule.clone()
    };
    let less: Vec<PolicyRule> = taken
        .everywhere
        .iter()
        .map(|rule| if is_about(rule, "secrets") { reading(rule) } else { rule.clone() })
        .collect();
    let mut more = taken.own.clone();
    more.extend(taken.everywhere.iter().filter(|rule| is_about(rule, "secrets")).cloned());
    set_rules(&own, &json!(more)).await?;
    set_rules(&everywhere, &json!(less)).await?;
    Ok(taken)
}

impl Taken {
    async fn give_back(&self, s: &Scenario<'_>) -> Result<(), Error> {
        let (everywhere, own) = roles(s)?;
        set_rules(&everywhere, &json!(self.everywhere)).await?;
        set_rules(&own, &json!(self.own)).await
    }
}

fn roles(s: &Scenario<'_>) -> Result<(Api<ClusterRole>, Api<Role>), Error> {
    let client = s.lab().client(User::Admin)?;
    Ok((Api::all(client.clone()), Api::namespaced(client, e2e::lab::OWN_NAMESPACE)))
}

async fn set_rules<K>(roles: &Api<K>, rules: &Value) -> Result<(), Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = Patch::Merge(json!({"rules": rules}));
    let patched = roles.patch("waxwing", &PatchParams::default(), &patch).await;
    patched.map(|_| ()).map_err(Error::kube(|| "changing the permissions"))?;
    Ok(())
}

/// Waits until Waxwing may make no route: the API server learns of changed rules a moment later.
async fn no_routes(s: &Scenario<'_>) -> Result<(), Error> {
    let routes: Api<Ingress> = Api::namespaced(s.lab().client(User::Waxwing)?, e2e::lab::OWN_NAMESPACE);
    let mut route = Ingress::default();
    route.metadata.name = Some("refused".to_owned());
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    probe::until("the end of the permission", PATIENCE, || async {
        match routes.create(&dry_run, &route).await {
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

fn is_about(rule: &PolicyRule, resource: &str) -> bool {
    rule.resources.iter().flatten().any(|name| name == resource)
}
