//! `spec.renewal` of a Certificate: whether it is renewed for its age, and when that is welcome.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GoDuration, schema};

/// Whether and when a certificate is renewed for its age.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRenewal {
    /// RenewBefore: renewed before it expires, when renewBefore or renewBeforePercentage say. Disabled: issued once,
    /// and again when the spec changes or the Secret doesn't hold the pair any more, but never for its age, even when
    /// it has expired; for certificates that are replaced by hand. Default: RenewBefore.
    #[serde(default)]
    pub policy: RenewalPolicy,

    /// Times in which a renewal is welcome, at most 16. A renewal is brought forward to the last of them before its
    /// time, or else put off to the next. They give way when a twentieth of the lifetime is left; and they never hold
    /// up a first certificate, a change of the spec, a repair, a revocation or a renewal that was asked for.
    /// Default: none; then any time is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub windows: Vec<CertificateRenewalWindow>,
}

/// Whether a certificate is renewed for its age.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RenewalPolicy {
    /// Before it expires.
    #[default]
    RenewBefore,
    /// Never.
    Disabled,
}

/// A time in which a renewal is welcome: it comes again and again.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRenewalWindow {
    /// When it begins, as crontab(5) writes it: minute (0-59), hour (0-23), day of the month (1-31), month (1-12 or
    /// JAN-DEC) and day of the week (0-7 or SUN-SAT). Each is a value, a range such as 1-5, a step such as */2, a list
    /// of those, or *. If both days are restricted, either is enough. 0 3 * * 6 is Saturday at three.
    #[schemars(length(min = 9, max = 128))]
    #[x_kube(validation = schema::cron())]
    #[x_kube(validation = schema::cron_that_comes())]
    pub cron: String,

    /// How long it lasts: a duration such as 2h or 30m.
    #[x_kube(validation = Rule::new(format!("!self.matches('{}') || duration(self) > duration('0s')", crate::duration::PATTERN))
        .message("write how long the window lasts, such as 2h: one of no length never comes"))]
    pub window_duration: GoDuration,

    /// The time zone of cron: a name of the IANA's database such as Europe/Berlin. Where its clocks are set forward
    /// over the begin of a window, it begins as much later; where they are set back and it comes twice, at the first.
    /// Default: UTC.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$')")
        .message("write a time zone of the IANA's database such as Europe/Berlin, or UTC"))]
    pub timezone: String,
}

fn utc() -> String {
    "UTC".into()
}
