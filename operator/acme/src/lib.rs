//! Waxwing's engine: obtains certificates over ACME (RFC 8555).
//!
//! [`obtain`] does the whole of one issuance. It writes a private key and an order's URL to a [`Journal`] before the
//! next request leaves, so that a process that dies anywhere loses nothing: the next call goes on with the same
//! order. [`abandon`] gives it up. [`Solvers`] answer the CA's challenges; [`Progress`] is told each step.
//!
//! Policy (when to renew, when to retry, what an error means) is pure functions of plain data.

mod account;
mod ari;
mod attempts;
mod authorization;
mod challenge;
mod cron;
pub mod diagnosis;
mod directory;
mod error;
mod evidence;
mod flights;
mod http;
pub mod issued;
mod journal;
mod key;
pub mod limits;
mod nonces;
mod obtain;
mod order;
mod poll;
mod problem;
mod progress;
pub mod renewal;
mod request;
mod request_error;
mod resolve;
pub mod retry;
mod revocation;
mod secret;
mod self_check;
mod session;
mod signed;
mod slots;
mod tls;
mod windows;

pub use account::{Account, AccountKey, ExternalAccount};
pub use ari::{RenewalInfo, SuggestedWindow};
pub use challenge::{Challenge, ChallengeType, NoSolver, Solver, SolverError, Solvers};
pub use cron::{Cron, CronError};
pub use diagnosis::{Diagnosis, diagnose};
pub use directory::{Directory, Meta};
pub use error::{Actor, Class, Error, ObtainError, ObtainErrorKind, Retry};
pub use evidence::{Evidence, Observation, Outcome};
pub use http::{Http, HttpConfig, Observer, TrustRoots};
pub use issued::{Issued, Leaf, PairError, check, inspect};
pub use journal::{Entry, FileJournal, Journal, JournalError, Presented, replace_file};
pub use obtain::{abandon, obtain};
pub use poll::Timing;
pub use problem::{Problem, ProblemIdentifier, Subproblem};
pub use progress::{NoProgress, Progress, Step};
pub use renewal::{Fit, RenewalPlan, RenewalWishes, plan_renewal, renewal_time};
pub use request::{Identifier, InvalidIdentifier, KeyAlgorithm, Request};
pub use request_error::{Failure, RequestError};
pub use retry::{backoff, parse_retry_after};
pub use revocation::{
    FetchError, RevocationAnswer, RevocationConfig, RevocationError, RevocationReason, RevocationSources,
    RevocationStatus, Revocations, Revoked, Unusable,
};
pub use secret::Secret;
pub use self_check::{SelfCheck, SelfCheckConfig, challenge_url};
pub use windows::{Window, WindowError, Windows};
