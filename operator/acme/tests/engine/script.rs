//! What the scripted CA is told to play.

/// What the CA plays.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a trouble of its own")]
pub struct Script {
    /// Percent of requests whose nonce is refused.
    pub bad_nonces: u64,
    /// Faults, each for the next request to its endpoint.
    pub faults: Vec<(Endpoint, Fault)>,
    /// A fault for the n-th request of all, from 1.
    pub fault_at: Option<(usize, Fault)>,
    /// A fault for each n-th signed request.
    pub every: Option<(usize, Fault)>,
    /// Authorizations are valid from the beginning.
    pub valid_at_once: bool,
    /// Orders are ready at once and have no authorizations.
    pub no_authorizations: bool,
    /// newOrder answers the same names with the same order while it is pending or ready.
    pub reuse_orders: bool,
    /// So many newOrders are answered with a valid order that holds another key's certificate.
    pub foreign_orders: usize,
    /// The foreign order is the same one each time.
    pub same_foreign_order: bool,
    /// So many polls until an authorization is decided.
    pub validation_polls: usize,
    /// So many polls until an order is issued.
    pub finalize_polls: usize,
    /// Orders become ready so many requests after their last authorization.
    pub late_ready: usize,
    /// Retry-After, in seconds, of what is not decided yet.
    pub retry_after: Option<u64>,
    /// The problem with which this host's validation fails.
    pub invalid: Option<(&'static str, &'static str)>,
    /// So many times it looks in vain and leaves the challenge pending, with an error (RFC 8555 §8.2).
    pub looks_in_vain: usize,
    /// Refuses `replaces` with this type.
    pub refuse_replaces: Option<&'static str>,
    /// Leaves `replaces` out of its answers.
    pub forget_replaces: bool,
    /// The challenges that are offered; none: HTTP-01 and DNS-01.
    pub offered: Vec<&'static str>,
    /// Puts another name into certificates.
    pub wrong_name: bool,
    /// Newly made accounts must be bound with this key identifier.
    pub external_account: Option<&'static str>,
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Directory,
    NewNonce,
    NewAccount,
    Account,
    NewOrder,
    Order,
    Authorization,
    Challenge,
    Finalize,
    Certificate,
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends before the request is acted on.
    CutBefore,
    /// The connection ends after the request was acted on.
    CutAfter,
    /// Never answers, and doesn't act.
    Hang,
    /// Acts, and never answers.
    ActAndHang,
    /// An error page.
    Html(u16),
    /// An answer that isn't ACME's, with status 200, this content type, and a Retry-After of an hour.
    NotAcme(&'static str),
    /// A problem document with this status, type and Retry-After.
    Problem(u16, &'static str, Option<u64>),
    /// Nothing: for counting.
    None,
}

impl Script {
    /// The fault for a request: the how-manieth of all, and of the signed ones (0: not signed).
    pub fn fault(&mut self, endpoint: Endpoint, request: usize, signed: usize) -> Fault {
        if let Some(index) = self.faults.iter().position(|(at, _)| *at == endpoint) {
            return self.faults.remove(index).1;
        }
        match (&self.fault_at, &self.every) {
            (Some((at, fault)), _) if *at == request => fault.clone(),
            (_, Some((nth, fault))) if signed > 0 && signed.is_multiple_of(*nth) => fault.clone(),
            _ => Fault::None,
        }
    }
}

impl Endpoint {
    /// The kind of request to this path.
    pub fn of(path: &str) -> Self {
        match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
            "directory" => Endpoint::Directory,
            "nonce" => Endpoint::NewNonce,
            "new-account" => Endpoint::NewAccount,
            "account" => Endpoint::Account,
            "new-order" => Endpoint::NewOrder,
            "order" => Endpoint::Order,
            "authorization" => Endpoint::Authorization,
            "challenge" => Endpoint::Challenge,
            "finalize" => Endpoint::Finalize,
            _ => Endpoint::Certificate,
        }
    }
}
