//! The engine against a CA that plays what a script says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod ca;
mod crash;
mod http;
mod issuance;
mod issuing;
mod parts;
mod reuse;
mod revocation;
mod script;
mod self_check;
mod state;
mod trouble;
