//! Rates: how much of what a CA allows, which of them an order counts against, and what CAs have published.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// What a rate counts, and for whom.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// New orders of one account.
    Account,
    /// Certificates with a name of one registered domain, of all accounts at the CA.
    RegisteredDomain,
    /// Certificates for exactly the same names, of all accounts at the CA.
    IdenticalNames,
    /// Validations of one name that failed, of one account.
    FailedValidations,
}

/// At most `count` at once, and then one more each `period / count`: a bucket of tokens that refills evenly.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Rate {
    /// What is counted.
    pub scope: Scope,
    /// How many.
    pub count: NonZeroU32,
    /// In which time.
    pub period: Duration,
}

/// What a CA allows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Its rates. Several of one scope are all kept to.
    pub rates: Vec<Rate>,
    /// What it makes of renewals.
    pub renewals: Renewals,
}

/// What a CA's limits make of renewals.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Renewals {
    /// They count as any other order does.
    #[default]
    Counted,
    /// As Let's Encrypt documents: one by ARI within the suggested window counts against nothing; any other for the
    /// same names not against [`Scope::Account`] and [`Scope::RegisteredDomain`].
    Exempt,
}

/// What an order is for, as far as limits make a difference.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Purpose {
    /// Names that this CA isn't known to have certified together.
    FirstIssue,
    /// The same names as a certificate of this CA that exists.
    Renewal,
    /// The order names the certificate that it replaces (RFC 9773 §5), within the window that the CA suggests.
    RenewalByAri,
}

/// The limits that the operator of a CA has published.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The host of the CA's directory.
    pub host: &'static str,
    /// Where they are published.
    pub source: &'static str,
    /// The date of that page when they were read there.
    pub as_of: &'static str,
    /// Scope, count, and period in seconds.
    pub rates: &'static [(Scope, u32, u64)],
    /// What is said of renewals.
    pub renewals: Renewals,
}

const HOUR: u64 = 3600;
const WEEK: u64 = 7 * 24 * HOUR;

/// Limits of public CAs. All of these are token buckets that refill evenly, by the CA's own words.
///
/// Let's Encrypt also pauses a name after 1152 validations that failed in a row (3600 in staging), of which one a day
/// is forgiven: back-off that grows to a day stays below that.
pub const PUBLISHED: &[Published] = &[
    Published {
        host: "acme-v02.api.letsencrypt.org",
        source: "https://letsencrypt.org/docs/rate-limits/",
        as_of: "2026-08-05",
        rates: &[
            (Scope::Account, 300, 3 * HOUR),
            (Scope::RegisteredDomain, 50, WEEK),
            (Scope::IdenticalNames, 5, WEEK),
            (Scope::FailedValidations, 5, HOUR),
        ],
        renewals: Renewals::Exempt,
    },
    Published {
        host: "acme-staging-v02.api.letsencrypt.org",
        source: "https://letsencrypt.org/docs/staging-environment/",
        as_of: "2025-11-25",
        rates: &[
            (Scope::Account, 1500, 3 * HOUR),
            (Scope::RegisteredDomain, 30_000, 1),
            (Scope::IdenticalNames, 30_000, WEEK),
            (Scope::FailedValidations, 200, HOUR),
        ],
        renewals: Renewals::Exempt,
    },
];

impl Rate {
    /// A rate; `None` where the count or the period is zero.
    pub fn new(scope: Scope, count: u32, period: Duration) -> Option<Self> {
        let count = NonZeroU32::new(count)?;
        (!period.is_zero()).then_some(Self { scope, count, period })
    }
}

impl Limits {
    /// What applies at the CA whose directory is on `host`: what is published for it, where `own` has no rate of the
    /// same scope.
    pub fn of(host: &str, own: &[Rate]) -> Self {
        let Some(published) = PUBLISHED.iter().find(|published| published.host == host) else {
            return Self { rates: own.to_vec(), renewals: Renewals::Counted };
        };
        let known = published
            .rates
            .iter()
            .filter(|(scope, ..)| own.iter().all(|rate| rate.scope != *scope))
            .filter_map(|(scope, count, seconds)| Rate::new(*scope, *count, Duration::from_secs(*seconds)));
        Self { rates: known.chain(own.iter().copied()).collect(), renewals: published.renewals }
    }

    /// Whether an order for this purpose counts against rates of this scope, or is refused while one is used up.
    pub fn concerns(&self, purpose: Purpose, scope: Scope) -> bool {
        match (self.renewals, purpose) {
            (Renewals::Counted, _) | (Renewals::Exempt, Purpose::FirstIssue) => true,
            (Renewals::Exempt, Purpose::Renewal) => {
                matches!(scope, Scope::IdenticalNames | Scope::FailedValidations)
            }
            (Renewals::Exempt, Purpose::RenewalByAri) => false,
        }
    }
}

/// The part of a name that its owner bought: one label more than the public suffix, private ones included, as Let's
/// Encrypt counts. The name itself, without `*.`, where it is a public suffix.
pub fn registered_domain(name: &str) -> &str {
    let name = name.strip_prefix("*.").unwrap_or(name);
    psl::domain_str(name).unwrap_or(name)
}

/// The registered domains of `names`.
pub fn registered_domains<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    names.into_iter().map(registered_domain).collect()
}

/// A scope's name that isn't one.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is no scope of a rate")]
pub struct UnknownScope(String);

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Account, Self::RegisteredDomain, Self::IdenticalNames, Self::FailedValidations];

    /// Whether it is counted for one account, and not for all of a CA.
    pub const fn is_of_account(self) -> bool {
        matches!(self, Self::Account | Self::FailedValidations)
    }

    /// Its name: one word, stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Account => "Account",
            Self::RegisteredDomain => "RegisteredDomain",
            Self::IdenticalNames => "IdenticalNames",
            Self::FailedValidations => "FailedValidations",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    /// For people, such as `50 certificates in 7 days`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.scope {
            Scope::Account => "new orders",
            Scope::RegisteredDomain | Scope::IdenticalNames => "certificates",
            Scope::FailedValidations => "failed validations",
        };
        let what = if self.count.get() == 1 { what.trim_end_matches('s') } else { what };
        let seconds = self.period.as_secs();
        let (number, unit) = [(86_400, "days"), (3600, "hours"), (60, "minutes")]
            .into_iter()
            .find(|(size, _)| seconds >= *size && seconds.is_multiple_of(*size))
            .map_or((seconds, "seconds"), |(size, unit)| (seconds / size, unit));
        write!(f, "{} {what} in ", self.count)?;
        if number == 1 {
            let one = if unit == "hours" { "an" } else { "a" };
            write!(f, "{one} {}", unit.trim_end_matches('s'))
        } else {
            write!(f, "{number} {unit}")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn registered_domains_are_one_label_below_a_public_suffix() {
        for (name, expected) in [
            ("www.example.com", "example.com"),
            ("*.example.com", "example.com"),
            ("new.blog.example.co.uk", "example.co.uk"),
            // Of the list's private part.
            ("a.b.github.io", "b.github.io"),
            ("github.io", "github.io"),
            // A rule with a wildcard, and its exception.
            ("a.b.c.ck", "b.c.ck"),
            ("a.www.ck", "www.ck"),
            // A top-level domain that no rule knows.
            ("a.b.test", "b.test"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(registered_domain(name), expected, "{name}");
        }
    }

    #[test]
    fn ones_own_rates_replace_those_of_the_same_scope() {
        let own = Rate::new(Scope::RegisteredDomain, 500, Duration::from_secs(WEEK)).unwrap();
        let limits = Limits::of("acme-v02.api.letsencrypt.org", &[own]);
        let domain: Vec<_> =
            limits.rates.iter().filter(|rate| rate.scope == Scope::RegisteredDomain).collect();
        assert_eq!(domain, [&own]);
        assert_eq!(limits.rates.len(), 4);
        assert_eq!(Limits::of("ca.example", &[own]).rates, [own]);
        assert_eq!(Limits::of("ca.example", &[]), Limits::default());
    }

    #[test]
    fn lets_encrypt_exempts_renewals_and_an_unknown_ca_doesnt() {
        let known = Limits::of("acme-v02.api.letsencrypt.org", &[]);
        let unknown = Limits::of("ca.example", &[]);
        for scope in Scope::ALL {
            assert!(known.concerns(Purpose::FirstIssue, scope));
            assert!(!known.concerns(Purpose::RenewalByAri, scope), "{scope}");
            let counts = matches!(scope, Scope::IdenticalNames | Scope::FailedValidations);
            assert_eq!(known.concerns(Purpose::Renewal, scope), counts, "{scope}");
            assert!(unknown.concerns(Purpose::RenewalByAri, scope));
            assert_eq!(scope.name().parse(), Ok(scope));
        }
    }

    #[test]
    fn what_is_published_makes_rates_and_zero_makes_none() {
        for published in PUBLISHED {
            assert_eq!(Limits::of(published.host, &[]).rates.len(), published.rates.len());
            assert!(
                published.source.starts_with("https://")
                    && published.as_of.parse::<jiff::civil::Date>().is_ok()
            );
        }
        assert_eq!(Rate::new(Scope::Account, 0, Duration::from_secs(1)), None);
        assert_eq!(Rate::new(Scope::Account, 1, Duration::ZERO), None);
    }

    #[test]
    fn rates_read_as_a_sentence_part() {
        let text = |scope, count, seconds| {
            Rate::new(scope, count, Duration::from_secs(seconds)).unwrap().to_string()
        };
        assert_eq!(text(Scope::RegisteredDomain, 50, WEEK), "50 certificates in 7 days");
        assert_eq!(text(Scope::FailedValidations, 5, HOUR), "5 failed validations in an hour");
        assert_eq!(text(Scope::Account, 1, 90), "1 new order in 90 seconds");
    }
}
