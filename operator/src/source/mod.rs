//! What makes Certificates for those who don't write them: annotated Ingresses.

pub mod annotations;
mod desired;
pub mod ingress;
