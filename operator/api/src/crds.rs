//! The `CustomResourceDefinition`s.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{Certificate, ClusterIssuer, Issuer};

/// The definitions of all kinds, in the order in which they are best applied.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![Issuer::crd(), ClusterIssuer::crd(), Certificate::crd()]
}

/// A definition as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The name of the file in `crds/`.
    pub file: String,
    /// Its text: YAML, ends with a newline.
    pub yaml: String,
}

/// The files in `crds/`.
pub fn manifests() -> Result<Vec<Manifest>, serde_yaml::Error> {
    crds()
        .into_iter()
        .map(|crd| {
            let file = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
            Ok(Manifest { file, yaml: serde_yaml::to_string(&crd)? })
        })
        .collect()
}
