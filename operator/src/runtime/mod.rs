//! What every controller stands on: the API client, shared watches, leader election, Events, metrics, logs, supervised tasks and small HTTP servers.

pub mod admin;
pub mod client;
pub mod events;
pub mod gateway_api;
pub mod lease;
pub mod log;
mod merge;
pub mod metrics;
pub mod permit;
pub mod reconnect;
pub mod serve;
pub mod shutdown;
pub mod watch;
