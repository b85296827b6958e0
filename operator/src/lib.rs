//! Waxwing keeps TLS certificates in a Kubernetes cluster issued and fresh over ACME (RFC 8555).
//!
//! The way of one Certificate through the modules: [`source`] makes it from an Ingress that asks for
//! one; [`certificate`] decides what to do and drives the engine, `waxwing_acme`; [`issuer`] has the
//! account at the CA; [`solver`] answers the CA's challenges; [`runtime`] is what they stand on.
//! [`cli`] starts it all. `certificate` knows `issuer` and `solver`, which know neither each other
//! nor it.

pub mod certificate;
pub mod cli;
pub mod issuer;
pub mod runtime;
pub mod solver;
pub mod source;
