//! Rates of a CA's limits: in an issuer as what is allowed, in a Certificate's status as what was used.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::GoDuration;

/// So much in such a time. All of it may be used at once; then one more becomes free each period / count.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeRate {
    /// Experimental. What is counted. Account: new orders of the account. RegisteredDomain: certificates with names of
    /// one registered domain, such as example.co.uk, by the public suffix list. IdenticalNames: certificates for exactly
    /// the same names. FailedValidations: validations of one name that failed.
    pub scope: RateScope,

    /// Experimental. How many, 1 to 1000000.
    #[schemars(range(max = 1_000_000))]
    #[x_kube(validation = Rule::new("self >= 1")
        .message("write 1 or more: a rate of 0 would let nothing through; to issue nothing, delete the issuer"))]
    pub count: i32,

    /// Experimental. In which time: a duration such as 168h or 3h, 1s to 8784h.
    #[x_kube(validation = Rule::new(format!("!self.matches('{}') || (duration(self) >= duration('1s') && duration(self) <= duration('8784h'))", crate::duration::PATTERN))
        .message("write 1s or more, and at most 8784h, which is a year"))]
    pub period: GoDuration,
}

impl Default for AcmeRate {
    fn default() -> Self {
        Self { scope: RateScope::Account, count: 1, period: Duration::from_secs(1).into() }
    }
}

/// What a rate counts.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RateScope {
    /// New orders of the account.
    Account,
    /// Certificates with names of one registered domain.
    RegisteredDomain,
    /// Certificates for exactly the same names.
    IdenticalNames,
    /// Validations of one name that failed.
    FailedValidations,
}

/// A limit that a CA called used up.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitRefusal {
    /// URL of the account that ordered.
    pub account: String,

    /// What is counted.
    pub scope: RateScope,

    /// The registered domain or the name that it is counted for, where the CA says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,

    /// When the CA may be asked again.
    pub until: Time,
}

/// What one attempt has used of the CA's limits.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitUse {
    /// When.
    pub time: Time,

    /// URL of the account at the CA.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub account: String,

    /// Of which scopes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub scopes: Vec<RateScope>,
}
