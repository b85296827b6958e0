//! Orders (RFC 8555 §7.1.3, §7.4).

use instant_acme::{CertificateIdentifier, NewOrder, OrderStatus};
use jiff::Timestamp;

use crate::attempts::Attempts;
use crate::issued::topmost_issuer;
use crate::session::Session;
use crate::signed::{Payload, unusable};
use crate::{Account, Error, Identifier, Problem, Request};

/// An order and what is known of its state.
pub(crate) struct Order {
    session: Session,
    order: instant_acme::Order,
}

/// As many alternate chains are looked at.
const ALTERNATES: usize = 8;

impl Order {
    /// Makes an order. Where its answer is lost it is asked for again, so that the CA may hold one more order that
    /// nobody finalizes.
    pub(crate) async fn create(
        account: &Account,
        request: &Request,
        replaces: Option<&str>,
    ) -> Result<Self, Error> {
        let session = Session::new(account).await?;
        let url = account.directory().resources().new_order.as_str();
        let identifiers: Vec<_> = request.sorted_identifiers().iter().map(theirs).collect();
        let mut attempts = Attempts::new();
        loop {
            let mut new_order = NewOrder::new(&identifiers);
            if let Some(profile) = &request.profile {
                new_order = new_order.profile(profile);
            }
            if let Some((authority, serial)) = replaces.and_then(|replaces| replaces.split_once('.')) {
                new_order = new_order.replaces(CertificateIdentifier {
                    authority_key_identifier: authority.into(),
                    serial: serial.into(),
                });
            }
            match session.account.new_order(&new_order).await.map_err(|error| session.typed(error, url)) {
                Ok(order) => return Ok(Self { session, order }),
                Err(Error::Request(error)) => attempts.after(error).await?,
                // The order exists, but instant-acme doesn't like its answer (such as a `replaces` not echoed).
                Err(error) => {
                    let Some(made) = session.last().location else { return Err(error) };
                    return Self::fetch(session, made).await;
                }
            }
        }
    }

    /// The order at `url`.
    pub(crate) async fn restore(account: &Account, url: &str) -> Result<Self, Error> {
        Self::fetch(Session::new(account).await?, url.to_owned()).await
    }

    async fn fetch(session: Session, url: String) -> Result<Self, Error> {
        let mut attempts = Attempts::new();
        loop {
            match session.account.order(url.clone()).await.map_err(|error| session.typed(error, &url)) {
                Ok(order) => return Ok(Self { session, order }),
                Err(Error::Request(error)) => attempts.after(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn url(&self) -> &str {
        self.order.url()
    }

    pub(crate) fn status(&mut self) -> OrderStatus {
        self.order.state().status
    }

    /// Why the CA gave it up.
    pub(crate) fn problem(&mut self) -> Option<Problem> {
        self.order.state().error.as_ref().map(Problem::from)
    }

    /// Whether the CA takes it for one that replaces a certificate: it must say so (RFC 9773 §5).
    pub(crate) fn replaces(&mut self) -> bool {
        self.order.state().replaces.is_some()
    }

    pub(crate) fn authorization_urls(&mut self) -> Vec<String> {
        self.order.state().authorizations.iter().map(|authorization| authorization.url.clone()).collect()
    }

    /// When the CA wants to be asked again, by the last answer.
    pub(crate) fn retry_after(&self) -> Option<Timestamp> {
        self.session.last().retry_after
    }

    /// Asks the CA for the order's state.
    pub(crate) async fn refresh(&mut self) -> Result<(), Error> {
        let url = self.url().to_owned();
        let mut attempts = Attempts::new();
        loop {
            match self.order.refresh().await.map(drop).map_err(|error| self.session.typed(error, &url)) {
                Err(Error::Request(error)) => attempts.after(error).await?,
                other => return other,
            }
        }
    }

    /// Sends the signing request, once: after a failure the CA may have acted, so [`refresh`](Self::refresh) first.
    pub(crate) async fn finalize(&mut self, csr: &[u8]) -> Result<(), Error> {
        let url = self.url().to_owned();
        self.order.finalize_csr(csr).await.map_err(|error| self.session.typed(error, &url))
    }

    /// The certificate chain of a valid order, in PEM: the one whose topmost certificate was issued by `preferred`,
    /// or else the one that the CA gives first.
    pub(crate) async fn download(
        &mut self,
        account: &Account,
        preferred: Option<&str>,
    ) -> Result<String, Error> {
        let url = self.url().to_owned();
        let mut attempts = Attempts::new();
        let chain = loop {
            match self.order.certificate().await.map_err(|error| self.session.typed(error, &url)) {
                Ok(Some(chain)) => break chain,
                Ok(None) => return Err(unusable(&url, "a valid order has no certificate")),
                Err(Error::Request(error)) => attempts.after(error).await?,
                Err(error) => return Err(error),
            }
        };
        let Some(preferred) = preferred else { return Ok(chain) };
        if topmost_issuer(&chain).as_deref() == Some(preferred) {
            return Ok(chain);
        }
        for alternate in self.session.last().alternates.iter().take(ALTERNATES) {
            let answer = account.signed().post(alternate, Payload::Get).await?;
            if let Ok(other) = String::from_utf8(answer.body.to_vec())
                && topmost_issuer(&other).as_deref() == Some(preferred)
            {
                return Ok(other);
            }
        }
        tracing::warn!(
            order = url,
            preferred,
            "the CA offers no chain of the preferred issuer; taking its first"
        );
        Ok(chain)
    }
}

fn theirs(identifier: &Identifier) -> instant_acme::Identifier {
    match identifier {
        Identifier::Dns(name) => instant_acme::Identifier::Dns(name.clone()),
        Identifier::Ip(address) => instant_acme::Identifier::Ip(*address),
    }
}
