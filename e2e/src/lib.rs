//! The lab: a real Kubernetes control plane, real certificate authorities, a real ingress
//! controller and a name server on this machine, in a sandbox that leaves nothing behind.
//!
//! Tests use [`lab::Lab`]; the program `e2e` keeps a lab running for people. For what no real CA does
//! on demand there is a CA of our own, [`fault_ca::FaultCa`].

pub mod bench;
pub mod demo;
pub mod fault_ca;
pub mod http;
pub mod image;
pub mod lab;
pub mod parts;
pub mod paths;
pub mod pki;
pub mod probe;
pub mod process;
pub mod sandbox;
pub mod up;

mod error;

pub use error::Error;
