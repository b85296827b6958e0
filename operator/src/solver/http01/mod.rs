//! HTTP-01 (RFC 8555 §8.3): routes from the edge to the responder.

pub mod controllers;
pub mod existing_route;
pub mod ingress;
pub mod route;
pub mod routes;
