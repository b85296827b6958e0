//! Waxwing is killed at every request of a registration, an issuance and a renewal, at three moments each, and loses
//! nothing.
//!
//! `tests/crash.rs` kills at random moments under load; here each moment of one certificate's way has its turn.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use e2e::{
    Error,
    lab::{
        Enclave, Lab, Moment, Parts, Point, Run, TraefikOptions,
        scenario::{Pair, Roots, Scenario},
    },
    sandbox::REPLICA_ADDRESSES,
};
use futures::future::{join_all, try_join_all};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::timeout;
use waxwing_api::{Certificate, CertificateStatus, Issuer, reason};

/// So many are killed side by side, each in an enclave of its own.
const WORKERS: usize = 4;

/// Longest time until everything is done, from the Certificate's begin or from the next process's.
const LONGEST_RUN: Duration = Duration::from_mins(1);

/// After so many failures the others would tell no more.
const FAILURES: usize = 12;

/// The Certificate that is renewed.
const KEPT: &str = "kept";

/// What Waxwing does when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// A new Issuer gets its account.
    Registration,
    /// A new Certificate is issued, by HTTP-01 and a route of its own.
    Issuance,
    /// One whose pair is still valid is renewed, the same way.
    Renewal,
}

/// The runs that are still to be made, and what came of the others.
#[derive(Default)]
struct Plan {
    /// Each with whether all that weren't disturbed have come to its point.
    runs: Mutex<VecDeque<(Work, Point, bool)>>,
    killed: AtomicUsize,
    not_reached: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

/// One enclave at work.
struct Worker<'lab> {
    lab: &'lab Lab,
    number: usize,
    enclave: Enclave<'lab>,
    runs: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_request_loses_nothing() -> Result<(), Error> {
    let traefik = TraefikOptions { throttle: Some(Duration::from_millis(100)), ..TraefikOptions::default() };
    let parts = Parts { step_ca: true, traefik: Some(traefik), ..Parts::default() };
    let lab = Lab::start("crash-points", parts).await?;
    let roots = Roots::new(&lab.roots().await?)?;

    // What there is to be killed at.
    let mut workers = try_join_all((0..WORKERS).map(|number| Worker::start(&lab, number))).await?;
    let plan = Plan::default();
    for work in [Work::Registration, Work::Issuance, Work::Renewal] {
        let undisturbed =
            try_join_all(workers.iter_mut().map(|worker| worker.run(&roots, work, None))).await?;
        let shortest = undisturbed.iter().map(|run| run.requests.len()).min().unwrap_or_default();
        let longest = undisturbed.into_iter().max_by_key(|run| run.requests.len()).unwrap_or_default();
        println!("{work:?}: {} requests", longest.requests.len());
        for (number, request) in longest.requests.iter().enumerate() {
            println!("{:4}  {request}", number + 1);
        }
        assert!(longest.requests.len() > 4, "all that Waxwing asks passes the checkpoint");
        plan.add(work, longest.requests.len(), shortest);
    }

    join_all(workers.into_iter().map(|worker| plan.carry_out(worker, &roots))).await;
    plan.verdict();
    Ok(())
}

impl Plan {
    /// Adds the points of a work that takes up to `most` requests, and `least` where nothing had to be asked twice.
    fn add(&self, work: Work, most: usize, least: usize) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let points = (1..=most).flat_map(|request| Moment::ALL.map(|moment| Point { request, moment }));
        runs.extend(points.map(|point| (work, point, point.request <= least)));
    }

    async fn carry_out(&self, mut worker: Worker<'_>, roots: &Roots) {
        loop {
            let next = self.runs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((work, point, is_sure)) = next else { return };
            let failure = match worker.run(roots, work, Some(point)).await {
                Ok(run) if run.killed => {
                    self.killed.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                // This one was shorter than the longest.
                Ok(_) => {
                    self.not_reached.fetch_add(usize::from(is_sure), Ordering::Relaxed);
                    continue;
                }
                Err(error) => format!("{work:?}, {point}: {error:?}"),
            };
            eprintln!("{failure}");
            self.killed.fetch_add(1, Ordering::Relaxed);
            let failures = {
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push(failure);
                failures.len()
            };
            if failures >= FAILURES {
                self.runs.lock().unwrap_or_else(PoisonError::into_inner).clear();
                return;
            }
            // What is left of this run must not disturb the next one.
            let (lab, number) = (worker.lab, worker.number);
            drop(worker);
            match Worker::start(lab, number).await {
                Ok(fresh) => worker = fresh,
                Err(error) => {
                    self.failures
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(format!("a new enclave: {error:?}"));
                    return;
                }
            }
        }
    }

    fn verdict(self) {
        let failures = self.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        let killed = self.killed.into_inner();
        let survived = killed.saturating_sub(failures.len());
        e2e::probe::tell(format_args!("{killed} points of the crash test, {survived} survived"));
        let not_reached = self.not_reached.into_inner();
        if not_reached > 0 {
            println!(
                "{not_reached} more lay behind the last request of a run that was shorter than any before"
            );
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(killed > 100, "too few to tell anything");
        assert!(not_reached * 10 < killed, "the runs are too unlike each other to be counted through");
    }
}

impl<'lab> Worker<'lab> {
    async fn start(lab: &'lab Lab, number: usize) -> Result<Self, Error> {
        let address = REPLICA_ADDRESSES.get(number).copied().unwrap_or_default();
        let enclave = Enclave::start(lab, &format!("killed-{number}"), address).await?;
        let s = enclave.scenario()?;
        certify(&s, KEPT).await?;
        s.ready(KEPT).await?;
        s.nothing_left().await?;
        Ok(Self { lab, number, enclave, runs: 0 })
    }

    /// Lets Waxwing work, kills it at the point if there is one, and checks everything when it has come to rest.
    async fn run(&mut self, roots: &Roots, work: Work, point: Option<Point>) -> Result<Run, Error> {
        self.runs += 1;
        let s = self.enclave.scenario()?;
        let checkpoint = self.enclave.checkpoint();
        checkpoint.quiet().await?;
        let ca_log = self.lab.step_ca()?.process().log().len();
        match work {
            Work::Registration => {
                let name = format!("ca-{}", self.runs);
                checkpoint.begin(point, self.enclave.killer());
                let email = s.name(&name).replacen('.', "@", 1);
                s.issuer(&name, json!({"server": checkpoint.ca_directory(), "email": email})).await?;
                let run = self
                    .rest(&name, async || {
                        s.issuer_is(&name, reason::ACCOUNT_REGISTERED).await?;
                        checkpoint.quiet().await
                    })
                    .await?;
                let accounts = self.lab.step_ca()?.accounts(&email);
                if accounts != 1 {
                    return Err(wrong(&name, format!("it has {accounts} accounts")));
                }
                s.delete::<Issuer>(&name).await?;
                Ok(run)
            }
            Work::Issuance => {
                let name = format!("issued-{}", self.runs);
                checkpoint.begin(point, self.enclave.killer());
                certify(&s, &name).await?;
                let run = self.rest(&name, async || self.issued(&s, &name, &[]).await).await?;
                let status = self.check(&s, &name, roots, ca_log).await?;
                if status.revision != Some(1) {
                    return Err(wrong(&name, format!("its revision is {:?}", status.revision)));
                }
                s.delete::<Certificate>(&name).await?;
                Ok(run)
            }
            Work::Renewal => {
                let before = s.pair(&secret(KEPT)).await?.serial()?;
                checkpoint.begin(point, self.enclave.killer());
                let stale = [before, plant(&s).await?];
                let renewal = async {
                    let run = self.rest(KEPT, async || self.issued(&s, KEPT, &stale).await).await?;
                    self.check(&s, KEPT, roots, ca_log).await?;
                    Ok(run)
                };
                tokio::select! {
                    run = renewal => run,
                    failed = always_serves(&s, roots) => match failed? {},
                }
            }
        }
    }

    /// Waits until `rested` is content, and starts Waxwing again if it is killed.
    async fn rest(&self, name: &str, rested: impl AsyncFn() -> Result<(), Error>) -> Result<Run, Error> {
        let in_time = async || {
            let late = || format!("{name} doesn't come to rest within {} s", LONGEST_RUN.as_secs());
            timeout(LONGEST_RUN, rested()).await.unwrap_or_else(|_| Err(wrong("Waxwing", late())))
        };
        let checkpoint = self.enclave.checkpoint();
        tokio::select! {
            () = checkpoint.killed() => {}
            rested = in_time() => rested?,
        }
        let run = checkpoint.end();
        if run.killed {
            let at = run.requests.last().map_or("", String::as_str);
            let again = async {
                self.enclave.start_again().await?;
                in_time().await
            };
            again.await.map_err(|error| wrong(&format!("{name}, killed at {at:?}"), format!("{error:?}")))?;
        }
        Ok(run)
    }

    /// Waits until a Certificate tells of another pair than those with the serial numbers `stale`, and nothing is left
    /// to do.
    async fn issued(&self, s: &Scenario<'_>, name: &str, stale: &[String]) -> Result<(), Error> {
        s.until(s.api::<Certificate>(), name, |certificate| {
            let status =
                certificate.and_then(|certificate| certificate.status.as_ref()).ok_or("no status")?;
            let is = |type_, value| {
                let mut conditions = status.conditions.iter();
                conditions.find(|one| one.type_ == type_).map(|one| one.status == value)
            };
            // Whoever finds the pair stored, and nothing said of an attempt, says nothing of one.
            let rests = is(reason::READY, "True") == Some(true) && is(reason::ISSUING, "True") != Some(true);
            let fresh = status.serial_number.as_ref().is_some_and(|serial| !stale.contains(serial));
            if fresh && rests { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await?;
        s.nothing_left().await?;
        self.enclave.checkpoint().quiet().await
    }

    /// What must be true of every Certificate that has come to rest.
    async fn check(
        &self,
        s: &Scenario<'_>,
        name: &str,
        roots: &Roots,
        ca_log: usize,
    ) -> Result<CertificateStatus, Error> {
        let status = s.get::<Certificate>(name).await?.status.unwrap_or_default();
        if status.failed_issuance_attempts.is_some() || status.last_failure_time.is_some() {
            return Err(wrong(name, format!("a failure is counted: {status:?}")));
        }
        let pair = s.pair(&secret(name)).await?;
        pair.serves(roots, &[s.name(name)])?;
        if status.serial_number != Some(pair.serial()?) {
            return Err(wrong(name, format!("the status tells of another pair: {status:?}")));
        }
        // The stored pair is not the one from before, so it is that of the one order that was finalized.
        let orders = self.lab.step_ca()?.orders(ca_log).remove(&s.name(name)).unwrap_or_default();
        let orphans = orders.created.difference(&orders.finalized).count();
        if orders.finalized.len() != 1 || orphans > 1 {
            return Err(wrong(name, format!("it has cost {orders:?}")));
        }
        Ok(status)
    }
}

async fn certify(s: &Scenario<'_>, name: &str) -> Result<(), Error> {
    let spec = json!({"dnsNames": [s.name(name)], "issuerRef": {"name": Enclave::ISSUER}});
    s.certify(name, spec).await.map(|_| ())
}

/// Replaces the stored pair by one that serves for ten days more, and so is due for renewal. Its serial number.
async fn plant(s: &Scenario<'_>) -> Result<String, Error> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let (begin, end) = (today.saturating_sub(80.days()), today.saturating_add(10.days()));
    let old = s.lab().authority().server_between(&[s.name(KEPT).as_str()], begin, end)?;
    let data = json!({
        "tls.crt": ByteString(old.certificate_pem.into_bytes()),
        "tls.key": ByteString(old.key_pem.into_bytes()),
    });
    let planted = s
        .api::<Secret>()
        .patch(&secret(KEPT), &PatchParams::default(), &Patch::Merge(json!({"data": data})))
        .await
        .map_err(Error::kube(|| "planting a pair"))?;
    Pair::of(&planted)?.serial()
}

/// Ends with an error as soon as the Secret that is being renewed holds no valid pair.
async fn always_serves(s: &Scenario<'_>, roots: &Roots) -> Result<Infallible, Error> {
    let host = s.name(KEPT);
    let fault = s
        .until(s.api::<Secret>(), &secret(KEPT), |secret| {
            let secret = secret.ok_or("it is gone").map_err(|why| wrong(KEPT, why.to_owned()));
            match secret.and_then(Pair::of).and_then(|pair| pair.serves(roots, &[&host])) {
                Ok(()) => Err("it serves".to_owned()),
                Err(fault) => Ok(fault),
            }
        })
        .await?;
    Err(wrong("the Secret that is renewed", format!("{fault:?}")))
}

fn secret(name: &str) -> String {
    format!("{name}-tls")
}

fn wrong(what: &str, why: String) -> Error {
    Error::Invalid { what: what.to_owned(), why }
}
