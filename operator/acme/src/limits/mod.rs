//! What CAs allow, what has been used of it, and whose turn is next. Pure: the clock is passed in.
//!
//! A [`Ledger`] is asked before each new order. It takes the tokens that the order needs, or says until when to wait
//! and why; it remembers who waits, so that whoever needs a token most gets the next one. It can be made anew from
//! what was used lately ([`Spent`]), which is little enough to be kept beside each certificate.

mod bucket;
mod ledger;
mod queue;
mod rate;
mod refused;
#[cfg(test)]
mod scenarios;

pub use ledger::{Applicant, Ledger, Past, Settled, Settlement, Spent, Wait};
pub use queue::Standing;
pub use rate::{
    Limits, PUBLISHED, Published, Purpose, Rate, Renewals, Scope, UnknownScope, registered_domain,
    registered_domains,
};
pub use refused::{Refused, refused_limit};
