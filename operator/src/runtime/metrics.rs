//! Metrics for Prometheus. Label values are names of objects and fixed words; never a domain's free text.

use std::time::Duration;

use jiff::Timestamp;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector, proto::MetricFamily,
};

/// The metric families of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    acme_requests: IntCounterVec,
    certificate_expiry: GaugeVec,
    certificate_ready: IntGaugeVec,
    issuances: IntCounterVec,
    leader: IntGauge,
    limit_wait: Histogram,
    limit_waiting: IntGaugeVec,
    reconciles: IntCounterVec,
    revocation_checks: IntCounterVec,
    route_broken: IntGaugeVec,
    self_check: Histogram,
    turn_waiting: IntGaugeVec,
}

/// One that waits for its turn, until this is dropped.
pub struct Waits(IntGauge);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers every family.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let metrics = Self {
            acme_requests: IntCounterVec::new(
                Opts::new(
                    "waxwing_acme_requests_total",
                    "Requests to CAs, by host and HTTP status (0: none)",
                ),
                &["host", "status"],
            )?,
            certificate_expiry: GaugeVec::new(
                Opts::new(
                    "waxwing_certificate_not_after_timestamp_seconds",
                    "When the stored certificate expires, in seconds since 1970",
                ),
                &["namespace", "name"],
            )?,
            certificate_ready: IntGaugeVec::new(
                Opts::new("waxwing_certificate_ready", "1 while the Certificate is Ready, else 0"),
                &["namespace", "name"],
            )?,
            issuances: IntCounterVec::new(
                Opts::new(
                    "waxwing_issuances_total",
                    "Ended attempts to issue, by result (a condition's reason)",
                ),
                &["result"],
            )?,
            leader: IntGauge::new("waxwing_leader", "1 while this replica leads, else 0")?,
            limit_wait: Histogram::with_opts(
                HistogramOpts::new(
                    "waxwing_limit_wait_seconds",
                    "How long those that a limit of a CA held back have waited for it",
                )
                .buckets(vec![1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0]),
            )?,
            limit_waiting: IntGaugeVec::new(
                Opts::new(
                    "waxwing_limit_waiting",
                    "Certificates that wait for a limit of a CA, by what it counts (the scope of a rate)",
                ),
                &["scope"],
            )?,
            reconciles: IntCounterVec::new(
                Opts::new(
                    "waxwing_reconciles_total",
                    "Reconciliations, by controller and result (ok, error)",
                ),
                &["controller", "result"],
            )?,
            revocation_checks: IntCounterVec::new(
                Opts::new(
                    "waxwing_revocation_checks_total",
                    "Questions whether a stored certificate was revoked, by answer (good, revoked, unknown)",
                ),
                &["answer"],
            )?,
            route_broken: IntGaugeVec::new(
                Opts::new(
                    "waxwing_certificate_route_broken",
                    "1 while a permanent path for the Certificate's challenges leads elsewhere, else 0",
                ),
                &["namespace", "name"],
            )?,
            self_check: Histogram::with_opts(
                HistogramOpts::new(
                    "waxwing_self_check_seconds",
                    "From the first self-check of a challenge to its end",
                )
                .buckets(vec![0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0]),
            )?,
            turn_waiting: IntGaugeVec::new(
                Opts::new(
                    "waxwing_turn_waiting",
                    "Certificates that wait for their turn, by queue (RunsOut, First, Again)",
                ),
                &["queue"],
            )?,
            registry,
        };
        metrics.registry.register(Box::new(metrics.acme_requests.clone()))?;
        metrics.registry.register(Box::new(metrics.certificate_expiry.clone()))?;
        metrics.registry.register(Box::new(metrics.certificate_ready.clone()))?;
        metrics.registry.register(Box::new(metrics.issuances.clone()))?;
        metrics.registry.register(Box::new(metrics.leader.clone()))?;
        metrics.registry.register(Box::new(metrics.limit_wait.clone()))?;
        metrics.registry.register(Box::new(metrics.limit_waiting.clone()))?;
        metrics.registry.register(Box::new(metrics.reconciles.clone()))?;
        metrics.registry.register(Box::new(metrics.revocation_checks.clone()))?;
        metrics.registry.register(Box::new(metrics.route_broken.clone()))?;
        metrics.registry.register(Box::new(metrics.self_check.clone()))?;
        metrics.registry.register(Box::new(metrics.turn_waiting.clone()))?;
        Ok(metrics)
    }

    /// The exposition format.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// A request to a CA was answered, or, with status 0, wasn't.
    pub fn acme_request(&self, host: &str, status: u16) {
        self.acme_requests.with_label_values(&[host, &status.to_string()]).inc();
    }

    /// What is known about a Certificate.
    pub fn certificate(&self, namespace: &str, name: &str, ready: bool, not_after: Option<Timestamp>) {
        self.certificate_ready.with_label_values(&[namespace, name]).set(i64::from(ready));
        match not_after {
            #[allow(clippy::cast_precision_loss)] // exact until the year 285,000,000
            Some(time) => {
                self.certificate_expiry.with_label_values(&[namespace, name]).set(time.as_second() as f64);
            }
            None => {
                let _ = self.certificate_expiry.remove_label_values(&[namespace, name]);
            }
        }
    }

    /// It was asked whether a stored certificate was revoked.
    pub fn revocation_check(&self, answer: &str) {
        self.revocation_checks.with_label_values(&[answer]).inc();
    }

    /// A Certificate is gone.
    pub fn forget_certificate(&self, namespace: &str, name: &str) {
        // An error says that it was never there.
        let _ = self.certificate_ready.remove_label_values(&[namespace, name]);
        let _ = self.certificate_expiry.remove_label_values(&[namespace, name]);
    }

    /// Forgets all Certificates but those that `lives` knows, by namespace and name.
    pub fn retain_certificates(&self, lives: impl Fn(&str, &str) -> bool) {
        for told in self.certificate_ready.collect().iter().flat_map(MetricFamily::get_metric) {
            let label = |wanted: &str| {
                let found = told.get_label().iter().find(|label| label.name() == wanted);
                found.map_or("", |label| label.value())
            };
            let (namespace, name) = (label("namespace"), label("name"));
            if !lives(namespace, name) {
                self.forget_certificate(namespace, name);
            }
        }
    }

    /// An attempt to issue ended. `result` is a condition's reason, such as `Issued`.
    pub fn issuance(&self, result: &str) {
        self.issuances.with_label_values(&[result]).inc();
    }

    /// This replica leads, or leads no more. What it knew of Certificates is the next leader's to tell.
    pub fn leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
        if !leads {
            self.certificate_ready.reset();
            self.certificate_expiry.reset();
            self.limit_waiting.reset();
            self.route_broken.reset();
        }
    }

    /// So many Certificates wait for limits of this scope.
    pub fn limit_waiting(&self, scope: &str, waiting: usize) {
        self.limit_waiting.with_label_values(&[scope]).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// One that a limit held back may go on.
    pub fn limit_waited(&self, elapsed: Duration) {
        self.limit_wait.observe(elapsed.as_secs_f64());
    }

    /// One waits for its turn in this queue.
    pub fn waits_for_turn(&self, queue: &str) -> Waits {
        let waiting = self.turn_waiting.with_label_values(&[queue]);
        waiting.inc();
        Waits(waiting)
    }

    /// A reconciliation ended.
    pub fn reconcile(&self, controller: &str, ok: bool) {
        self.reconciles.with_label_values(&[controller, if ok { "ok" } else { "error" }]).inc();
    }

    /// Which Certificates have permanent routes, by namespace and name, and whether one of them is broken.
    pub fn permanent_routes<'a>(&self, routes: impl Iterator<Item = ((&'a str, &'a str), bool)>) {
        self.route_broken.reset();
        for ((namespace, name), broken) in routes {
            self.route_broken.with_label_values(&[namespace, name]).set(i64::from(broken));
        }
    }

    /// A self-check ended.
    pub fn self_check(&self, elapsed: Duration) {
        self.self_check.observe(elapsed.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_deleted_certificate_leaves_no_series() {
        let metrics = Metrics::new().unwrap();
        metrics.certificate("web", "shop", true, Some("2027-02-20T14:32:10Z".parse().unwrap()));
        metrics.issuance("Issued");
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        assert!(text.contains("waxwing_certificate_ready{name=\"shop\",namespace=\"web\"} 1"), "{text}");
        assert!(text.contains("waxwing_issuances_total{result=\"Issued\"} 1"), "{text}");
        metrics.certificate("web", "left", false, None);
        metrics.retain_certificates(|_, name| name == "shop");
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        assert!(text.contains("name=\"shop\"") && !text.contains("left"), "{text}");
        metrics.forget_certificate("web", "shop");
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        assert!(!text.contains("shop"), "{text}");
    }

    #[test]
    fn whoever_waits_for_its_turn_is_counted_until_it_waits_no_more() {
        let metrics = Metrics::new().unwrap();
        let waits = metrics.waits_for_turn("Again");
        let waiting = |count: u8| {
            let text = String::from_utf8(metrics.text().unwrap()).unwrap();
            text.contains(&format!("waxwing_turn_waiting{{queue=\"Again\"}} {count}"))
        };
        assert!(waiting(1));
        drop(waits);
        assert!(waiting(0));
    }
}
