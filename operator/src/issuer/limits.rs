//! What an issuer's CA allows: what it has published, and what the spec says instead.

use std::time::Duration;

use url::Url;
use waxwing_acme::limits::{Limits, Rate, Scope};
use waxwing_api::{Acme, AcmeRate, RateScope};

/// The CA of an issuer as limits are counted at it: the host of its directory, and the port if it isn't 443.
pub fn ca(acme: &Acme) -> String {
    let Ok(url) = Url::parse(&acme.server) else { return acme.server.clone() };
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What the CA of an issuer allows.
pub fn limits(acme: &Acme) -> Limits {
    let own: Vec<Rate> = acme.limits.iter().flat_map(|limits| &limits.rates).filter_map(rate).collect();
    Limits::of(&ca(acme), &own)
}

/// `None` for what the API server refuses.
fn rate(rate: &AcmeRate) -> Option<Rate> {
    let scope = match rate.scope {
        RateScope::Account => Scope::Account,
        RateScope::RegisteredDomain => Scope::RegisteredDomain,
        RateScope::IdenticalNames => Scope::IdenticalNames,
        RateScope::FailedValidations => Scope::FailedValidations,
    };
    Rate::new(scope, u32::try_from(rate.count).ok()?, Duration::from(rate.period))
}

#[cfg(test)]
mod tests {
    use waxwing_api::AcmeLimits;

    use super::*;

    #[test]
    fn the_ca_is_a_host_and_its_limits_are_known_or_named() {
        let at = |server: &str, rates| Acme {
            server: server.into(),
            limits: Some(AcmeLimits { rates, ..AcmeLimits::default() }),
            ..Acme::default()
        };
        let letsencrypt = at("https://ACME-v02.api.letsencrypt.org/directory", Vec::new());
        assert_eq!(ca(&letsencrypt), "acme-v02.api.letsencrypt.org");
        assert_eq!(limits(&letsencrypt).rates.len(), 4);
        let rate = AcmeRate { scope: RateScope::IdenticalNames, count: 7, ..AcmeRate::default() };
        let private = at("https://10.0.0.1:14000/dir", vec![rate, AcmeRate { count: 0, ..rate }]);
        assert_eq!(ca(&private), "10.0.0.1:14000");
        let limits = limits(&private);
        assert_eq!(limits.rates.len(), 1);
        assert_eq!((limits.rates[0].scope, limits.rates[0].count.get()), (Scope::IdenticalNames, 7));
    }
}
