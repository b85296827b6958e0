//! Waxwing against a CA that makes every trouble a CA can make: the fault CA. Each test has one of its own.

#[path = "trouble/budgets.rs"]
mod budgets;
#[path = "trouble/edge.rs"]
mod edge;
#[path = "trouble/fallbacks.rs"]
mod fallbacks;
#[path = "trouble/issuers.rs"]
mod issuers;
#[path = "trouble/renewals.rs"]
mod renewals;

use std::time::Duration;

use e2e::{
    Error,
    fault_ca::{
        Behaviour, FaultCa, Kind, Limit, Limits, Play, Problem, RetryAfter, Rule, Suggestion, Validation,
        Window,
    },
    lab::{
        Parts, RESPONDER_PORT,
        scenario::{PATIENCE, Roots, Scenario, Stage, Stopped, condition},
    },
    probe,
};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard};
use waxwing_api::{Certificate, CertificateStatus, Issuer, reason};

const WEEK: Duration = Duration::from_hours(7 * 24);

/// Whoever restarts Waxwing is alone; all others run beside each other.
static RESTARTS: RwLock<()> = RwLock::const_new(());

async fn stage() -> Result<&'static Stage, Error> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    let start = async {
        let stage = Stage::start("trouble", Parts::default()).await?;
        // As an edge does that knows the way to challenges already (`http01.existingRoute`).
        edge::lead(80, RESPONDER_PORT)?;
        Ok(stage)
    };
    Box::pin(STAGE.get_or_try_init(|| start)).await
}

/// A test's place, its CA, and an Issuer `ca` that names it.
struct Trouble {
    s: Scenario<'static>,
    ca: FaultCa,
}

impl Trouble {
    async fn new(name: &str) -> Result<Self, Error> {
        Self::with(name, Behaviour::default()).await
    }

    async fn with(name: &str, behaviour: Behaviour) -> Result<Self, Error> {
        let s = stage().await?.scenario(name).await?;
        let ca = FaultCa::start(s.lab().authority(), behaviour)?;
        let trouble = Self { s, ca };
        trouble.issuer("ops@example.com").await?;
        trouble.s.issuer_is("ca", reason::ACCOUNT_REGISTERED).await?;
        Ok(trouble)
    }

    async fn issuer(&self, email: &str) -> Result<Issuer, Error> {
        self.issuer_at(&self.ca, "ca", json!({"email": email})).await
    }

    /// Applies an Issuer at a CA.
    async fn issuer_at(&self, ca: &FaultCa, name: &str, more: Value) -> Result<Issuer, Error> {
        let mut acme = json!({"server": ca.directory(), "solvers": [{"http01": {"existingRoute": {}}}]});
        if let (Some(acme), Value::Object(more)) = (acme.as_object_mut(), more) {
            acme.extend(more);
        }
        self.s.issuer(name, acme).await
    }

    /// Applies a Certificate for the DNS name of its name. `note` makes another spec of it, which is tried at once.
    async fn certify(&self, name: &str, note: &str) -> Result<Certificate, Error> {
        let spec = json!({
            "dnsNames": [self.s.name(name)],
            "issuerRef": {"name": "ca"},
            "secretTemplate": {"annotations": {"note": note}},
        });
        self.s.certify(name, spec).await
    }

    /// Waits until it is Ready, and checks that nobody has failed, that its pair serves, and that the CA has signed so
    /// many certificates for it and seen nothing that it should never see.
    async fn issued(&self, name: &str, signed: usize) -> Result<CertificateStatus, Error> {
        let status = self.s.ready(name).await?.status.unwrap_or_default();
        assert_eq!(status.failed_issuance_attempts, None);
        let host = self.s.name(name);
        self.s.pair(&format!("{name}-tls")).await?.serves(&self.roots()?, &[&host])?;
        assert_eq!(self.ca.signed(&[&host]), signed, "certificates for {host}");
        assert_eq!(self.ca.violations(), Vec::<String>::new());
        Ok(status)
    }

    /// Waits for what is asked so often about a Certificate's DNS name.
    async fn asked(&self, kind: Kind, name: &str, times: usize) -> Result<(), Error> {
        let host = self.s.name(name);
        probe::until(&format!("{times} {kind:?} for {host}"), PATIENCE, || async {
            let seen = self.ca.count(kind, &host);
            if seen >= times { Ok(()) } else { Err(format!("{seen} so far")) }
        })
        .await
    }

    /// Waits for a renewal.
    async fn renewed(&self, name: &str) -> Result<CertificateStatus, Error> {
        self.s
            .until(self.s.api::<Certificate>(), name, |certificate| {
                let status = certificate.and_then(|one| one.status.clone()).unwrap_or_default();
                if status.revision >= Some(2) { Ok(status) } else { Err("not renewed yet".to_owned()) }
            })
            .await
    }

    fn roots(&self) -> Result<Roots, Error> {
        Roots::new(&self.ca.issuance_root())
    }

    fn statuses(&self) -> Vec<&'static str> {
        self.ca.orders().iter().map(|order| order.status).collect()
    }
}

async fn beside() -> RwLockReadGuard<'static, ()> {
    RESTARTS.read().await
}

fn limited_for_a_week() -> Play {
    Play::Refuse(Problem::rate_limited().retry_after(RetryAfter::Seconds(WEEK.as_secs())))
}

fn next_attempt(stopped: &Certificate) -> Timestamp {
    let status = stopped.status.clone().unwrap_or_default();
    status.next_attempt_time.map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

fn says(stopped: &Stopped, words: &[&str]) {
    for word in words {
        assert!(stopped.message.contains(word), "{word:?} is not in {:?}", stopped.message);
    }
}

#[tokio::test]
async fn a_restart_keeps_a_rate_limit_of_a_week_and_an_order_in_processing() -> Result<(), Error> {
    let _alone = RESTARTS.write().await;
    let t = Trouble::new("restart").await?;
    let before = Timestamp::now();
    let limited = [("seconds", RetryAfter::Seconds(WEEK.as_secs())), ("date", RetryAfter::Date(WEEK))];
    for (name, retry_after) in limited {
        let refusal = Play::Refuse(Problem::rate_limited().retry_after(retry_after));
        t.ca.play(Rule::new(Kind::NewOrder, refusal).name(&t.s.name(name)));
        t.certify(name, "first").await?;
    }
    t.ca.play(Rule::new(Kind::Finalize, Play::Processing(None)).name(&t.s.name("stuck")));
    t.certify("stuck", "first").await?;
    let mut resting = Vec::new();
    for name in ["seconds", "date"] {
        let stopped = t.s.stopped(name, reason::BACKING_OFF).await?;
        says(&stopped, &["rateLimited", "Service busy"]);
        // A date has no fractions of a second.
        let week = next_attempt(&stopped.certificate).duration_since(before).as_secs_f64();
        assert!(week >= WEEK.as_secs_f64() - 1.0, "{week} s");
        resting.push(stopped.certificate);
    }
    t.asked(Kind::Order, "stuck", 3).await?;

    t.s.operator().kill();
    let polls = t.ca.count(Kind::Order, &t.s.name("stuck"));
    t.s.start_again().await?;
    t.asked(Kind::Order, "stuck", polls + 2).await?;
    t.ca.release_orders();
    t.issued("stuck", 1).await?;
    let host = t.s.name("stuck");
    assert_eq!((t.ca.count(Kind::NewOrder, &host), t.ca.count(Kind::Finalize, &host)), (1, 1));

    // The new process has looked at all by the time that it has issued another one.
    t.certify("next", "first").await?;
    t.issued("next", 1).await?;
    for before in &resting {
        let now: Certificate = t.s.get(&before.name_any()).await?;
        assert_eq!(now.resource_version(), before.resource_version(), "nothing is written again");
        assert_eq!(next_attempt(&now), next_attempt(before));
        assert_eq!(t.ca.count(Kind::NewOrder, &t.s.name(&before.name_any())), 1, "nothing is asked again");
    }
    assert_eq!(t.statuses(), ["valid", "valid"]);

    // Another spec is another attempt.
    t.ca.stop_all();
    t.certify("date", "second").await?;
    t.issued("date", 1).await?;
    t.s.nothing_left().await
}

#[tokio::test]
async fn a_limit_of_lets_encrypts_is_told_in_its_words() -> Result<(), Error> {
    let _beside = beside().await;
    let limits =
        Limits { certificates_per_domain: Some(Limit { count: 1, period: WEEK }), ..Limits::lets_encrypt() };
    let t = Trouble::with("limit", Behaviour { limits, ..Behaviour::default() }).await?;
    t.certify("one", "first").await?;
    t.issued("one", 1).await?;
    let before = Timestamp::now();
    t.certify("two", "first").await?;
    let stopped = t.s.stopped("two", reason::BACKING_OFF).await?;
    says(&stopped, &["too many certificates (1) already issued", "in the last 168h0m0s"]);
    let pause = next_attempt(&stopped.certificate).duration_since(before);
    assert!(pause > SignedDuration::from_hours(167), "{pause}");
    // The same names again are no new ones.
    t.certify("one", "second").await?;
    t.issued("one", 1).await.map(drop)
}

#[tokio::test]
async fn html_pages_with_status_200_lose_nothing() -> Result<(), Error> {
    let _beside = beside().await;
    let t = Trouble::new("html").await?;
    for (name, kind) in [
        ("order", Kind::NewOrder),
        ("authorization", Kind::Authorization),
        ("challenge", Kind::Challenge),
        ("finalize", Kind::Finalize),
        ("download", Kind::Certificate),
    ] {
        t.ca.play(Rule::new(kind, Play::Html(200)).name(&t.s.name(name)));
        t.certify(name, "first").await?;
    }
    let names = ["order", "authorization", "challenge", "finalize", "download"];
    for name in names {
        let stopped = t.s.stopped(name, reason::BACKING_OFF).await?;
        says(&stopped, &["it is an HTML page"]);
    }
    t.ca.stop_all();
    for name in names {
        t.certify(name, "second").await?;
    }
    for name in names {
        t.issued(name, 1).await?;
    }
    t.s.nothing_left().await?;

    let page = t.ca.play(Rule::new(Kind::Directory, Play::Html(200)));
    t.issuer("other@example.com").await?;
    let said = t.s.issuer_is("ca", reason::DIRECTORY_UNREACHABLE).await?;
    assert!(said.contains("it is an HTML page"), "{said}");
    t.ca.stop(page);
    t.issuer("third@example.com").await?;
    t.s.issuer_is("ca", reason::ACCOUNT_REGISTERED).await?;
    assert_eq!(t.ca.accounts().len(), 1, "the same account");
    Ok(())
}

#[tokio::test]
async fn a_ca_whose_clock_is_a_day_off() -> Result<(), Error> {
    let _beside = beside().await;
    let t = Trouble::new("clock").await?;
    t.ca.clock().set_ahead(SignedDuration::from_hours(-24));
    t.certify("slow", "first").await?;
    t.issued("slow", 1).await?;

    t.ca.clock().set_ahead(SignedDuration::from_hours(24));
    t.certify("fast", "first").await?;
    let stopped = t.s.stopped("fast", reason::BACKING_OFF).await?;
    says(&stopped, &["not yet", "Check the clock of this machine"]);
    let pause = next_attempt(&stopped.certificate).duration_since(Timestamp::now());
    assert!(pause > SignedDuration::from_hours(23), "{pause}");
    // Another one would be of no more use: the one that is there is waited for.
    t.certify("fast", "second").await?;
    t.s.stopped("fast", reason::BACKING_OFF).await?;
    assert_eq!(t.s.open_orders().await?, ["fast"]);
    assert_eq!(t.ca.signed(&[&t.s.name("fast")]), 1);
    // Other names are another matter.
    t.ca.clock().set_ahead(SignedDuration::ZERO);
    let names = [t.s.name("fast"), t.s.name("faster")];
    t.s.certify("fast", json!({"dnsNames": names, "issuerRef": {"name": "ca"}})).await?;
    t.s.ready("fast").await?;
    t.s.pair("fast-tls").await?.serves(&t.roots()?, &names)?;
    t.s.nothing_left().await
}

#[tokio::test]
async fn refused_nonces_and_cut_connections_pass_unnoticed() -> Result<(), Error> {
    let _beside = beside().await;
    let t = Trouble::new("passing").await?;
    let cases = [
        ("nonces", Kind::NewOrder, Play::Refuse(Problem::bad_nonce()), 10),
        ("more-nonces", Kind::Finalize, Play::Refuse(Problem::bad_nonce()), 10),
        ("cut-before", Kind::NewOrder, Play::CutBefore, 1),
        ("cut-order", Kind::NewOrder, Play::CutAfter, 1),
        ("cut-finalize", Kind::Finalize, Play::CutAfter, 1),
        ("cut-download", Kind::Certificate, Play::CutAfter, 2),
        ("busy", Kind::Authorization, Play::Refuse(Problem::internal(503)), 2),
    ];
    for (name, kind, play, times) in cases.clone() {
        t.ca.play(Rule::new(kind, play).name(&t.s.name(name)).times(times));
        t.certify(name, "first").await?;
    }
    for (name, ..) in &cases {
        t.issued(name, 1).await?;
    }
    assert_eq!(t.ca.orders().len(), cases.len(), "an order whose answer was lost is given again");
    t.s.nothing_left().await
}

#[tokio::test]
async fn an_account_that_the_ca_forgot_is_registered_again_once() -> Result<(), Error> {
    let _beside = beside().await;
    let t = Trouble::new("forgotten").await?;
    t.ca.forget_accounts();
    let names = ["one", "two", "three"];
    for name in names {
        t.certify(name, "first").await?;
    }
    for name in names {
        t.issued(name, 1).await?;
    }
    t.s.told("Issuer", "ca", "Normal", reason::ACCOUNT_REGISTERED, "the CA no longer knew the ACME account")
        .await?;
    assert_eq!(t.ca.accounts().len(), 1);
    let registered = t.ca.asked().iter().filter(|asked| asked.kind == Kind::NewAccount).count();
    assert_eq!(registered, 2, "once at first, and once again for all three");
    t.s.nothing_left().await
}

#[tokio::test]
async fn an_order_that_expires_or_fails_is_made_anew() -> Result<(), Error> {
    let _beside = beside().await;
    let t = Trouble::new("lost").await?;
    let host = t.s.name("expires");
    t.ca.play(Rule::new(Kind::Challenge, Play::Validate(Validation::Never)).name(&host).times(1));
    t.certify("expires", "first").await?;
    // The CA has been told to look, and is asked what it saw.
    t.asked(Kind::Authorization, "expires", 2).await?;
    t.ca.expire_all();
    t.s.stopped("expires", reason::BACKING_OFF).await?;
    t.certify("expires", "second").await?;
    t.issued("expires", 1).await?;
    assert_eq!(t.statuses(), ["expired", "valid"]);

    let refusal =
        Problem::new(400, "connection", "192.0.2.7: Fetching http://fails.test/: Timeout during connect");
    let fails = Play::Validate(Validation::Fails(refusal));
    t.ca.play(Rule::new(Kind::Challenge, fails).name(&t.s.name("fails")).times(1));
    t.certify("fails", "first").await?;
    let stopped = t.s.stopped("fails", reason::BACKING_OFF).await?;
    says(&stopped, &["Timeout during connect"]);
    t.certify("fails", "second").await?;
    t.issued("fails", 1).await?;
    assert_eq!(t.statuses(), ["expired", "valid", "invalid", "valid"]);
    t.s.nothing_left().await
}

#[tokio::test]
async fn two_certificates_for_the_same_names_get_an_order_each() -> Result<(), Error> {
    let _beside = beside().await;
    let t = Trouble::new("same").await?;
    let host = t.s.name("shop");
    let spec = json!({"dnsNames": [host], "issuerRef": {"name": "ca"}});
    for name in ["one", "other"] {
        t.s.certify(name, spec.clone()).await?;
    }
    let mut serials = Vec::new();
    for name in ["one", "other"] {
        t.s.ready(name).await?;
        let pair = t.s.pair(&format!("{name}-tls")).await?;
        pair.serves(&t.roots()?, &[&host])?;
        serials.push(pair.serial()?);
    }
    assert_ne!(serials[0], serials[1]);
    assert_eq!(t.statuses(), ["valid", "valid"]);
    assert_eq!(t.ca.signed(&[&host]), 2);
    t.s.nothing_left().await
}

#[tokio::test]
async fn a_window_in_the_past_and_a_revocation_renew() -> Result<(), Error> {
    let _beside = beside().await;
    // By itself it would be renewed when the test has given up long since.
    let lifetime = PATIENCE * 5 / 2;
    let t =
        Trouble::with("past", Behaviour { certificate_lifetime: lifetime, ..Behaviour::default() }).await?;
    let past = Play::Suggest(Suggestion {
        explanation_url: Some("https://ca.example/incident".to_owned()),
        ..Suggestion::new(Window::Past)
    });
    t.ca.play(Rule::new(Kind::RenewalInfo, past).name(&t.s.name("past")).times(1));
    // The CA holds that it was replaced already.
    let replaced = Play::Refuse(Problem::already_replaced("00"));
    t.ca.play(Rule::new(Kind::NewOrder, replaced).name(&t.s.name("past")).after(1).times(1));
    // The other one is revoked before anybody can have asked when to renew it.
    t.ca.play(Rule::new(Kind::Finalize, Play::Processing(None)).name(&t.s.name("revoked")).times(1));
    for name in ["past", "revoked"] {
        t.certify(name, "first").await?;
    }
    t.asked(Kind::Order, "revoked", 1).await?;
    let signed = t.ca.orders().into_iter().find(|order| order.names == [t.s.name("revoked")]);
    let revoked = signed.and_then(|order| order.serial).unwrap_or_default();
    assert!(t.ca.revoke(&revoked));
    t.ca.release_orders();

    let why = "The CA suggests when to renew, and says why: https://ca.example/incident";
    t.s.told("Certificate", "past", "Normal", reason::RENEWAL_SUGGESTED, why).await?;
    for name in ["past", "revoked"] {
        let status = t.renewed(name).await?;
        assert_eq!(status.failed_issuance_attempts, None);
        let pair = t.s.pair(&format!("{name}-tls")).await?;
        pair.serves(&t.roots()?, &[&t.s.name(name)])?;
        assert_ne!(pair.serial()?, revoked);
    }
    let orders = |name: &str| -> Vec<(bool, Option<u16>)> {
        let (host, asked) = (t.s.name(name), t.ca.asked());
        let of = asked.iter().filter(|asked| asked.kind == Kind::NewOrder && asked.names.contains(&host));
        of.map(|asked| (asked.replaces.is_some(), asked.status)).collect()
    };
    assert_eq!(orders("past"), [(false, Some(201)), (true, Some(409)), (false, Some(201))]);
    assert_eq!(orders("revoked"), [(false, Some(201)), (true, Some(201))]);
    Ok(())
}

#[tokio::test]
async fn windows_that_make_no_sense_are_ignored() -> Result<(), Error> {
    let _beside = beside().await;
    let lifetime = Duration::from_mins(1);
    let t =
        Trouble::with("odd", Behaviour { certificate_lifetime: lifetime, ..Behaviour::default() }).await?;
    let windows = [("reversed", Window::Reversed), ("far", Window::FarFuture), ("wide", Window::YearsWide)];
    for (name, window) in windows {
        let odd = Suggestion { retry_after: None, ..Suggestion::new(window) };
        t.ca.play(Rule::new(Kind::RenewalInfo, Play::Suggest(odd)).name(&t.s.name(name)));
        t.certify(name, "first").await?;
    }
    for (name, _) in windows {
        let mut planned = None;
        let status =
            t.s.until(t.s.api::<Certificate>(), name, |certificate| {
                let certificate = certificate.ok_or("there is none")?;
                let status = certificate.status.clone().unwrap_or_default();
                let advice = status.acme.as_ref().and_then(|acme| acme.ari.as_ref());
                assert!(advice.is_none(), "{name}: {advice:?}");
                if status.revision >= Some(2) {
                    return Ok(status);
                }
                let ready = condition(certificate, reason::READY);
                assert!(planned.is_none() || ready.is_some_and(|ready| ready.status == "True"), "{ready:?}");
                let renewal = status.renewal_time.map(|time| time.0);
                assert!(
                    planned.is_none() || planned == renewal,
                    "{name}: moved from {planned:?} to {renewal:?}"
                );
                planned = renewal;
                Err("not renewed yet".to_owned())
            })
            .await?;
        assert_eq!(status.failed_issuance_attempts, None);
        assert!(t.ca.count(Kind::RenewalInfo, &t.s.name(name)) > 0, "the CA was asked");
    }
    Ok(())
}
