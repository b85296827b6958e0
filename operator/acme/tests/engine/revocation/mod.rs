//! Whether certificates were revoked, asked of a server that plays a CA's.

mod lists;
mod pki;
mod responders;
