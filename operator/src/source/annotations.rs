//! The annotations of an Ingress that make its Certificates: one table. Pure.

use std::collections::BTreeMap;

use waxwing_api::{CertificateSpec, GROUP, IssuerKind, IssuerRef, labels};

/// Every annotation of Waxwing's on an Ingress begins with this.
pub const PREFIX: &str = "waxwing.dev/";

/// One annotation and what it sets. An error is a sentence that says what to write instead.
struct Annotation {
    name: &'static str,
    set: fn(&str, &mut CertificateSpec) -> Result<(), String>,
}

/// The known ones. To read another, add it here.
const TABLE: &[Annotation] = &[
    Annotation {
        name: labels::INGRESS_ISSUER,
        set: |value, spec| set_issuer(IssuerKind::Issuer, labels::INGRESS_ISSUER, value, spec),
    },
    Annotation {
        name: labels::INGRESS_CLUSTER_ISSUER,
        set: |value, spec| set_issuer(IssuerKind::ClusterIssuer, labels::INGRESS_CLUSTER_ISSUER, value, spec),
    },
];

/// What an Ingress's annotations say about its Certificates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// A spec with all that the annotations set, or none if they ask for no Certificate.
    pub template: Option<CertificateSpec>,
    /// What is wrong with them, in sentences.
    pub problems: Vec<String>,
}

/// Reads the annotations of an Ingress.
pub fn read(annotations: &BTreeMap<String, String>) -> Read {
    let mut spec = CertificateSpec::default();
    let mut problems = Vec::new();
    for (name, value) in annotations.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        match TABLE.iter().find(|known| known.name == name) {
            Some(known) => {
                if let Err(problem) = (known.set)(value.trim(), &mut spec) {
                    problems.push(problem);
                }
            }
            None => problems.push(unknown(name)),
        }
    }
    let asks =
        [labels::INGRESS_ISSUER, labels::INGRESS_CLUSTER_ISSUER].map(|name| annotations.contains_key(name));
    if asks == [true, true] {
        problems.push(format!(
            "{} and {} are both set: remove one of them",
            labels::INGRESS_ISSUER,
            labels::INGRESS_CLUSTER_ISSUER
        ));
        return Read { template: None, problems };
    }
    let template = (!spec.issuer_ref.name.is_empty()).then_some(spec);
    Read { template, problems }
}

fn unknown(name: &str) -> String {
    let known: Vec<&str> = TABLE.iter().map(|annotation| annotation.name).collect();
    format!("{name} means nothing on an Ingress and is ignored; known are {}", known.join(" and "))
}

fn set_issuer(
    kind: IssuerKind,
    annotation: &str,
    value: &str,
    spec: &mut CertificateSpec,
) -> Result<(), String> {
    if value.is_empty() {
        return Err(format!("{annotation} is empty: write the name of the {kind}"));
    }
    spec.issuer_ref = IssuerRef { name: value.to_owned(), kind, group: Some(GROUP.to_owned()) };
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn reading(annotations: &[(&str, &str)]) -> Read {
        read(&annotations.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn either_issuer_makes_certificates() {
        let issuer = reading(&[("waxwing.dev/issuer", "ca"), ("example.com/other", "x")]);
        let reference = issuer.template.unwrap().issuer_ref;
        assert_eq!((reference.name.as_str(), reference.kind), ("ca", IssuerKind::Issuer));
        assert!(issuer.problems.is_empty());
        let cluster = reading(&[("waxwing.dev/cluster-issuer", " ca ")]).template.unwrap();
        assert_eq!(
            (cluster.issuer_ref.name.as_str(), cluster.issuer_ref.kind),
            ("ca", IssuerKind::ClusterIssuer)
        );
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(reading(&[]), Read::default());
        let both = reading(&[("waxwing.dev/issuer", "a"), ("waxwing.dev/cluster-issuer", "b")]);
        assert!(both.template.is_none() && both.problems[0].contains("remove one"));
        let empty = reading(&[("waxwing.dev/issuer", "")]);
        assert!(empty.template.is_none() && empty.problems[0].contains("is empty"));
        let unknown = reading(&[("waxwing.dev/isuer", "a")]);
        assert!(unknown.template.is_none());
        assert!(unknown.problems[0].starts_with("waxwing.dev/isuer means nothing"), "{:?}", unknown.problems);
    }
}
