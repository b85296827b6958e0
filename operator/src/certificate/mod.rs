//! Certificates: from a spec to a Secret that holds what it asks for.
//!
//! [`issue`] is the one line that everything done for a Certificate follows; the other modules are its
//! steps, in the order in which it takes them.

pub mod admit;
pub mod advice;
mod attempt;
pub mod budget;
pub mod candidates;
pub mod claims;
mod conditions;
pub mod controller;
pub mod decide;
mod ending;
mod history;
pub mod host_gate;
pub mod issue;
pub mod key_encoding;
pub mod limits_used;
mod memory;
pub mod order_secret;
pub mod renewal;
pub mod renewal_request;
pub mod reporter;
pub mod revocation;
pub mod setback;
pub mod status;
pub mod target_secret;
pub mod tasks;
pub mod turns;
pub mod wanted;

/// The name under which the API server records what Waxwing sets.
const FIELD_MANAGER: &str = "waxwing";
