//! The custom resources of Waxwing: [`Certificate`], [`Issuer`] and [`ClusterIssuer`], group
//! `waxwing.dev`, version `v1`.
//!
//! These types are the one source of the `CustomResourceDefinition`s in `crds/`: their field
//! comments are what `kubectl explain` prints, and their rules are what `kubectl apply` checks.
//! Where cert-manager.io/v1 has a field of the same meaning for ACME, ours has the same name, type,
//! nesting and default, except for the private key: ECDSA P-256 in PKCS#8 here.
//!
//! ```
//! use waxwing_api::{Certificate, CertificateSpec, IssuerKind, IssuerRef};
//!
//! let certificate = Certificate::new(
//!     "shop",
//!     CertificateSpec {
//!         secret_name: "shop-tls".into(),
//!         dns_names: vec!["shop.example.com".into()],
//!         issuer_ref: IssuerRef { name: "letsencrypt".into(), kind: IssuerKind::ClusterIssuer, ..Default::default() },
//!         ..Default::default()
//!     },
//! );
//! assert_eq!(certificate.spec.key().algorithm, waxwing_api::PrivateKeyAlgorithm::Ecdsa);
//! ```

#![allow(
    clippy::doc_markdown,
    reason = "the comments are what `kubectl explain` prints: backticks as backticks"
)]
#![allow(clippy::duplicated_attributes, reason = "each column of `kubectl get` has a type")]
#![allow(rustdoc::bare_urls, reason = "the same: `kubectl explain` would print the brackets")]

mod acme;
mod certificate;
mod crds;
mod duration;
mod issuer;
pub mod labels;
mod limits;
pub mod reason;
mod renewal;
mod schema;

pub use acme::{
    Acme, AcmeLimits, AcmeSolver, ExistingRoute, ExternalAccountBinding, Http01, Http01GatewayHttpRoute,
    Http01Ingress, ImagePullSecret, ParentRef, PathType, PodTemplate, PodTemplateMetadata, PodTemplateSpec,
    PrivateKeySecretRef, Rehearsal, RehearsalIssuerRef, RehearseWhen, RenewalInformationSource, Responder,
    RoutePolicy, SecretKeyRef, ServiceType, SolverSelector, Toleration,
};
pub use certificate::{
    Certificate, CertificateAcmeStatus, CertificateSpec, CertificateStatus, IssuerKind, IssuerPause,
    IssuerRef, KeyUsage, PrivateKey, PrivateKeyAlgorithm, PrivateKeyEncoding, RenewalInformation,
    RotationPolicy, SecretTemplate, SuggestedWindow,
};
pub use crds::{Manifest, crds, manifests};
pub use duration::{GoDuration, ParseDurationError};
pub use issuer::{
    AcmeIssuer, AllowRule, ClusterIssuer, ClusterIssuerSpec, Issuer, IssuerAcmeStatus, IssuerSpec,
    IssuerStatus,
};
pub use limits::{AcmeRate, LimitRefusal, LimitUse, RateScope};
pub use renewal::{CertificateRenewal, CertificateRenewalWindow, RenewalPolicy};

/// The API group of every kind in this crate.
pub const GROUP: &str = "waxwing.dev";

/// The API version of every kind in this crate.
pub const VERSION: &str = "v1";
