//! The whole of one issuance.

use futures::future::{join, join_all};
use instant_acme::OrderStatus;
use jiff::Timestamp;

use crate::attempts::Attempts;
use crate::authorization::SOLVER_PATIENCE;
use crate::order::Order;
use crate::poll::Poll;
use crate::{
    Account, ChallengeType, Entry, Error, Evidence, Failure, Identifier, Issued, Journal, JournalError,
    NoProgress, ObtainError, ObtainErrorKind, PairError, Presented, Progress, Request, Secret, Solver,
    Solvers, Step, authorization, flights, issued, key,
};

/// Obtains a certificate: the whole of one issuance.
///
/// An order that the `journal` holds is resumed if it is for this account and this request; otherwise a new one is
/// made, and the journal has its URL and the private key before the next request leaves. Dropping the future leaves
/// the journal as it is, so that the next call goes on with the same order. The caller clears the journal when it has
/// stored what this returns; an order that the CA gave up is cleared from it here.
pub async fn obtain(
    account: &Account,
    request: &Request,
    journal: &dyn Journal,
    solvers: &dyn Solvers,
    progress: &dyn Progress,
) -> Result<Issued, ObtainError> {
    validate(request)?;
    let names = request.sorted_identifiers().iter().map(Identifier::to_string).collect::<Vec<_>>();
    let _flight = flights::join(account, request.profile.as_deref(), &names, progress).await;
    let issuance = Issuance { account, request, journal, solvers, progress, evidence: Vec::new() };
    // Whoever waits for others of the same names doesn't hold the room for this yet.
    Box::pin(issuance.run()).await
}

/// Gives up the order that the `journal` holds, as when its certificate is no longer wanted: cleans up what was
/// presented, tells the CA that the authorizations that are still pending won't be completed (RFC 8555 §7.5.2), and
/// clears the journal, unless something was left to clean up.
///
/// A CA that can't be asked is no reason to fail: its authorizations expire by themselves.
pub async fn abandon(
    account: &Account,
    journal: &dyn Journal,
    solvers: &dyn Solvers,
) -> Result<(), JournalError> {
    let Some(entry) = journal.load().await? else { return Ok(()) };
    let _flight = flights::join(account, entry.profile.as_deref(), &entry.identifiers, &NoProgress).await;
    let left = authorization::clean_up(&entry.presented, solvers).await;
    if entry.account_url == account.url()
        && let Err(error) = deactivate(account, &entry.order_url).await
    {
        tracing::info!(order = entry.order_url, %error, "could not tell the CA that an order is given up");
    }
    if left.is_empty() { journal.clear().await } else { Ok(()) }
}

async fn deactivate(account: &Account, order_url: &str) -> Result<(), Error> {
    let mut order = Order::restore(account, order_url).await?;
    if order.status() == OrderStatus::Pending {
        authorization::deactivate(account, order.authorization_urls()).await?;
    }
    Ok(())
}

/// So many orders that hold another key's certificate are left, before it is called an error.
const FOREIGN_ORDERS: usize = 2;
/// CAs allow a hundred; more than this is a mistake.
const IDENTIFIERS: usize = 1000;
/// So often a finalize may be refused because the order isn't ready yet.
const NOT_READY: u32 = 10;

struct Issuance<'a> {
    account: &'a Account,
    request: &'a Request,
    journal: &'a dyn Journal,
    solvers: &'a dyn Solvers,
    progress: &'a dyn Progress,
    evidence: Vec<Evidence>,
}

/// An order under way, and what the journal says of it.
struct Open {
    order: Order,
    entry: Entry,
}

enum Completed {
    Issued(Box<Issued>),
    /// The order holds another key's certificate.
    Foreign,
}

fn validate(request: &Request) -> Result<(), ObtainErrorKind> {
    let refuse = |why: String| Err(ObtainErrorKind::Request(why));
    match request.sorted_identifiers().len() {
        0 => return refuse("it names no identifier".to_owned()),
        1..=IDENTIFIERS => {}
        count => return refuse(format!("it names {count} identifiers, and no CA takes more than a hundred")),
    }
    if let Some(name) = &request.common_name
        && !request.identifiers.iter().any(|identifier| identifier.to_string() == *name)
    {
        return refuse(format!("the common name {name} is not among the identifiers"));
    }
    Ok(())
}

impl Issuance<'_> {
    async fn run(mut self) -> Result<Issued, ObtainError> {
        let mut open = match self.resume().await? {
            Some(open) => open,
            None => self.order().await?,
        };
        let mut foreign = Vec::new();
        loop {
            match self.complete(&mut open).await {
                Ok(Completed::Issued(issued)) => return Ok(*issued),
                Ok(Completed::Foreign) => {}
                Err(kind) => return Err(self.give_up(&open, kind).await),
            }
            // The CA gave us an order that someone else finalized, with another key: leave it and make another.
            let url = open.order.url().to_owned();
            if foreign.contains(&url) || foreign.len() >= FOREIGN_ORDERS {
                return Err(self.give_up(&open, ObtainErrorKind::ForeignOrder).await);
            }
            foreign.push(url);
            open = self.order().await?;
        }
    }

    /// The order that the journal holds, if it is ours to go on with.
    async fn resume(&self) -> Result<Option<Open>, ObtainError> {
        let Some(entry) = self.journal.load().await? else { return Ok(None) };
        if !self.fits(&entry) {
            tracing::info!(order = entry.order_url, "the journal's order is for another request; leaving it");
            self.forget(&entry).await;
            return Ok(None);
        }
        let mut order = match Order::restore(self.account, &entry.order_url).await {
            Ok(order) => order,
            Err(error) if is_gone(&error) => {
                tracing::info!(order = entry.order_url, %error, "the CA no longer has the journal's order");
                self.forget(&entry).await;
                return Ok(None);
            }
            Err(source) => {
                return Err(failed_at(ObtainErrorKind::Ca { doing: "resuming the order", source }, &entry));
            }
        };
        if order.status() == OrderStatus::Invalid {
            self.forget(&entry).await;
            return Ok(None);
        }
        self.progress.step(&Step::OrderResumed { url: entry.order_url.clone() });
        Ok(Some(Open { order, entry }))
    }

    fn fits(&self, entry: &Entry) -> bool {
        let origin = |url: &str| url::Url::parse(url).ok().map(|url| url.origin());
        entry.account_url == self.account.url()
            && entry.thumbprint == self.account.thumbprint()
            && entry.request_hash == self.request.hash()
            && origin(&entry.order_url) == Some(self.account.directory().resources().new_order.origin())
            && self.request.reuse_key.as_ref().is_none_or(|key| *key == entry.private_key_pem)
    }

    /// Cleans up what an order that is left presented, except what the next one will present just the same.
    async fn forget(&self, entry: &Entry) {
        let again = self.expected();
        let stale: Vec<_> = entry.presented.iter().filter(|one| !again.contains(one)).cloned().collect();
        authorization::clean_up(&stale, self.solvers).await;
    }

    /// Makes a new order, and writes it and its key to the journal. Solvers prepare at the same time.
    async fn order(&self) -> Result<Open, ObtainError> {
        self.progress.step(&Step::Preparing);
        let private_key_pem = match &self.request.reuse_key {
            Some(key) => key::parse(key).map(|_| key.clone()),
            None => key::generate(self.request.key).await,
        }
        .map_err(ObtainErrorKind::Key)?;
        let (open, ()) = join(self.order_with(private_key_pem), self.prepare()).await;
        open
    }

    async fn order_with(&self, private_key_pem: Secret) -> Result<Open, ObtainError> {
        let offers_ari = self.account.directory().renewal_info().is_some();
        let mut replaces = self.request.replaces.clone().filter(|_| offers_ari);
        let mut created = Order::create(self.account, self.request, replaces.as_deref()).await;
        if replaces.is_some() && created.as_ref().is_err_and(is_about_replaces) {
            // `replaces` only asks for a favour (RFC 9773 §5); the certificate matters more.
            replaces = None;
            created = Order::create(self.account, self.request, None).await;
        }
        let mut order = created.map_err(|source| ObtainErrorKind::Ca { doing: "ordering", source })?;
        let entry = Entry {
            private_key_pem,
            order_url: order.url().to_owned(),
            account_url: self.account.url().to_owned(),
            thumbprint: self.account.thumbprint().to_owned(),
            request_hash: self.request.hash(),
            identifiers: self.request.sorted_identifiers().iter().map(Identifier::to_string).collect(),
            profile: self.request.profile.clone(),
            replaces: replaces.filter(|_| order.replaces()),
            presented: self.expected(),
        };
        self.journal.save(&entry).await.map_err(|error| failed_at(error.into(), &entry))?;
        self.progress.step(&Step::OrderCreated { url: entry.order_url.clone() });
        Ok(Open { order, entry })
    }

    /// The solvers that a CA's usual offer leads to, one for each identifier that has one.
    fn likely(&self) -> Vec<(Identifier, bool, std::sync::Arc<dyn Solver>)> {
        let choose = |identifier: Identifier| {
            let wildcard = identifier.is_wildcard();
            let base = match &identifier {
                Identifier::Dns(_) => Identifier::Dns(identifier.base()),
                Identifier::Ip(_) => identifier,
            };
            let usual: &[ChallengeType] = match &base {
                _ if wildcard => &[ChallengeType::Dns01],
                Identifier::Dns(_) => {
                    &[ChallengeType::Http01, ChallengeType::Dns01, ChallengeType::TlsAlpn01]
                }
                Identifier::Ip(_) => &[ChallengeType::Http01, ChallengeType::TlsAlpn01],
            };
            let solver = self.solvers.choose(&base, wildcard, usual).ok()?;
            Some((base, wildcard, solver))
        };
        self.request.sorted_identifiers().into_iter().filter_map(choose).collect()
    }

    /// What will most likely be presented, as far as it is known without a token: so the journal's first write holds
    /// it already, and needs no second one.
    fn expected(&self) -> Vec<Presented> {
        let mut expected = Vec::new();
        for (identifier, wildcard, solver) in self.likely() {
            if solver.challenge_type() == ChallengeType::Http01 {
                let challenge =
                    authorization::challenge(self.account, identifier, wildcard, ChallengeType::Http01, "");
                add(&mut expected, solver.record(&challenge));
            }
        }
        expected
    }

    async fn prepare(&self) {
        let each = self.likely().into_iter().map(|(identifier, _, solver)| async move {
            let reason = match tokio::time::timeout(SOLVER_PATIENCE, solver.prepare(&identifier)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            tracing::info!(%identifier, reason, "a solver could not prepare; it will be asked to present");
        });
        join_all(each).await;
    }

    /// From an order to its certificate.
    async fn complete(&mut self, open: &mut Open) -> Result<Completed, ObtainErrorKind> {
        if open.order.status() == OrderStatus::Pending {
            self.authorize(open).await?;
        }
        self.finalize(open).await?;
        self.progress.step(&Step::Downloading);
        let preferred = self.request.preferred_chain.as_deref();
        let chain_pem = open
            .order
            .download(self.account, preferred)
            .await
            .map_err(|source| ObtainErrorKind::Ca { doing: "downloading the certificate", source })?;
        let private_key_pem = open.entry.private_key_pem.clone();
        let leaf = match issued::check(&chain_pem, &private_key_pem, self.request, Timestamp::now()) {
            Ok(leaf) => leaf,
            Err(PairError::KeyMismatch) => return Ok(Completed::Foreign),
            Err(error) => return Err(ObtainErrorKind::Certificate(error)),
        };
        authorization::clean_up(&open.entry.presented, self.solvers).await;
        let (order_url, replaces) = (open.entry.order_url.clone(), open.entry.replaces.clone());
        Ok(Completed::Issued(Box::new(Issued { chain_pem, private_key_pem, leaf, order_url, replaces })))
    }

    /// Brings every authorization of the order to valid.
    async fn authorize(&mut self, open: &mut Open) -> Result<(), ObtainErrorKind> {
        let pending =
            authorization::pending(self.account, open.order.authorization_urls(), self.solvers).await?;
        if pending.is_empty() {
            return Ok(());
        }
        let before = open.entry.presented.len();
        for one in &pending {
            add(&mut open.entry.presented, one.record());
        }
        if open.entry.presented.len() != before {
            self.journal.save(&open.entry).await?;
        }
        let identifiers = pending.iter().map(|one| one.challenge.identifier.clone()).collect();
        self.progress.step(&Step::Presenting { identifiers });
        let outcome = authorization::validate(self.account, &pending, self.progress).await;
        self.evidence.extend(outcome.evidence);
        outcome.result
    }

    /// Sends the signing request and waits until the order is valid.
    async fn finalize(&self, open: &mut Open) -> Result<(), ObtainErrorKind> {
        let order = &mut open.order;
        let csr =
            key::signing_request(&open.entry.private_key_pem, self.request).map_err(ObtainErrorKind::Key)?;
        let finalizing = |source| ObtainErrorKind::Ca { doing: "finalizing the order", source };
        let mut poll = Poll::new(self.account.timing());
        let mut attempts = Attempts::new();
        let mut not_ready = 0;
        // Its authorizations are valid, so the order is ready, whatever it said before. Should the CA need a moment
        // to see that, it answers orderNotReady.
        let mut send = matches!(order.status(), OrderStatus::Pending | OrderStatus::Ready);
        loop {
            if send {
                self.progress.step(&Step::Finalizing);
                match order.finalize(&csr).await {
                    Ok(()) => {}
                    Err(Error::Request(error))
                        if error.acme_type() == "orderNotReady" && not_ready < NOT_READY =>
                    {
                        not_ready += 1;
                        order.refresh().await.map_err(finalizing)?;
                    }
                    Err(Error::Request(error)) => {
                        let acted = error.may_have_acted();
                        attempts.after(error).await.map_err(|error| finalizing(error.into()))?;
                        if !acted {
                            continue;
                        }
                        // It may have been acted on all the same: the order says.
                        order.refresh().await.map_err(finalizing)?;
                    }
                    Err(error) => return Err(finalizing(error)),
                }
            }
            match order.status() {
                OrderStatus::Valid => return Ok(()),
                OrderStatus::Invalid => {
                    return Err(ObtainErrorKind::OrderInvalid { problem: order.problem() });
                }
                OrderStatus::Pending | OrderStatus::Processing | OrderStatus::Ready => {}
            }
            poll.wait(order.retry_after(), || "the order".to_owned()).await?;
            let polling = |source| ObtainErrorKind::Ca { doing: "polling the order", source };
            while poll.outcome(order.refresh().await).await.map_err(polling)?.is_none() {}
            send = order.status() == OrderStatus::Ready;
        }
    }

    /// Cleans up after a failure as far as it is final, and says what was seen.
    async fn give_up(&mut self, open: &Open, kind: ObtainErrorKind) -> ObtainError {
        let lost = match &kind {
            ObtainErrorKind::Validation { .. }
            | ObtainErrorKind::OrderInvalid { .. }
            | ObtainErrorKind::ForeignOrder => true,
            ObtainErrorKind::Certificate(error) => !matches!(error, PairError::NotYet { .. }),
            _ => false,
        };
        let stuck = matches!(
            kind,
            ObtainErrorKind::Solver { .. }
                | ObtainErrorKind::NoSolver { .. }
                | ObtainErrorKind::Certificate(_)
        );
        if lost || stuck {
            let left = authorization::clean_up(&open.entry.presented, self.solvers).await;
            // While something is left to clean up, the journal says what.
            if lost
                && left.is_empty()
                && let Err(error) = self.journal.clear().await
            {
                tracing::warn!(%error, order = open.entry.order_url, "could not clear the journal of a lost order");
            }
        }
        let evidence = std::mem::take(&mut self.evidence);
        ObtainError { evidence, ..failed_at(kind, &open.entry) }
    }
}

fn failed_at(kind: ObtainErrorKind, entry: &Entry) -> ObtainError {
    ObtainError { order_url: Some(entry.order_url.clone()), ..kind.into() }
}

fn add(presented: &mut Vec<Presented>, one: Presented) {
    if !presented.contains(&one) {
        presented.push(one);
    }
}

/// Whether the CA says that there is no such order, or none of this account. An error page of something in between
/// doesn't say that.
fn is_gone(error: &Error) -> bool {
    error.request().is_some_and(|request| match &request.failure {
        Failure::Status { status: 404 | 410, .. } => true,
        Failure::Status { status: 400..=428, problem: Some(problem), .. } => {
            !matches!(problem.acme_type(), "accountDoesNotExist" | "badNonce")
        }
        _ => false,
    })
}

fn is_about_replaces(error: &Error) -> bool {
    let types = ["alreadyReplaced", "malformed", "unauthorized", "conflict"];
    error.request().is_some_and(|request| types.contains(&request.acme_type()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The operator spawns it.
    #[allow(dead_code)]
    fn an_issuance_can_be_spawned(
        account: &Account,
        request: &Request,
        journal: &dyn Journal,
        solvers: &dyn Solvers,
        progress: &dyn Progress,
    ) {
        fn spawnable<T: Send>(_: T) {}
        spawnable(obtain(account, request, journal, solvers, progress));
    }

    #[test]
    fn a_common_name_must_be_among_the_identifiers() {
        let mut request = Request::new("a.example".parse().into_iter().collect());
        assert!(validate(&request).is_ok());
        request.common_name = Some("b.example".into());
        assert!(validate(&request).is_err());
        assert!(validate(&Request::new(Vec::new())).is_err());
    }
}
