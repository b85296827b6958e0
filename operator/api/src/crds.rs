//! The `CustomResourceDefinition`s, made from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{Certificate, ClusterIssuer, Issuer, labels};

/// The definitions of all kinds, in the order in which they are best applied.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [Certificate::crd(), Issuer::crd(), ClusterIssuer::crd()].map(finish).into()
}

/// A definition as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The name of the file in `crds/`: `waxwing.dev_certificates.yaml`.
    pub file: String,
    /// Its text: YAML that ends with a newline.
    pub yaml: String,
}

/// The definitions of all kinds as files, as they are committed in `crds/`.
pub fn manifests() -> Result<Vec<Manifest>, serde_yaml::Error> {
    crds()
        .into_iter()
        .map(|crd| {
            let file = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
            let yaml =
                format!("# Generated from operator/api by `make crds`.\n{}", serde_yaml::to_string(&crd)?);
            Ok(Manifest { file, yaml })
        })
        .collect()
}

/// What the derive can't say.
fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    crd.metadata
        .labels
        .get_or_insert_default()
        .insert("app.kubernetes.io/name".into(), labels::MANAGED_BY_WAXWING.into());
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            tidy(schema);
        }
    }
    crd
}

/// Makes a generated schema read, and behave, like one of Kubernetes' own.
fn tidy(schema: &mut JSONSchemaProps) {
    // An optional field is left out. With `nullable` a null would be stored, and seen by the rules.
    schema.nullable = None;
    // The kind says it.
    schema.title = None;
    if let Some(description) = &mut schema.description {
        *description = paragraphs(description);
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        tidy(property);
        if name == "status" {
            // Shares types with the spec, but no one writes it who needs to be told how.
            drop_rules(property);
        }
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => {
            tidy(items);
            // `kubectl explain` prints it behind the description of the list.
            items.description = None;
        }
        Some(JSONSchemaPropsOrArray::Schemas(_)) | None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}

fn drop_rules(schema: &mut JSONSchemaProps) {
    schema.x_kubernetes_validations = None;
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(drop_rules);
}

/// Joins the lines of each paragraph: where a comment is broken is a matter of the source alone.
fn paragraphs(text: &str) -> String {
    text.split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn committed_files_are_fresh() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
        for Manifest { file, yaml } in manifests().unwrap() {
            let path = folder.join(&file);
            if std::env::var_os("UPDATE_CRDS").is_some() {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&path, &yaml).unwrap();
            }
            let committed = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == yaml,
                "crds/{file} isn't what the types say; write it anew with `make crds` (or UPDATE_CRDS=1 cargo test -p waxwing-api) and commit it"
            );
        }
    }

    #[test]
    fn every_field_is_described() {
        fn undescribed(path: &str, schema: &JSONSchemaProps, found: &mut Vec<String>) {
            for (name, property) in schema.properties.iter().flatten() {
                let path = format!("{path}.{name}");
                if property.description.as_deref().is_none_or(str::is_empty) {
                    found.push(path.clone());
                }
                undescribed(&path, property, found);
                if let Some(JSONSchemaPropsOrArray::Schema(items)) = &property.items {
                    undescribed(&format!("{path}[]"), items, found);
                }
            }
        }

        let mut found = Vec::new();
        for crd in crds() {
            let schema = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
            assert!(schema.description.is_some());
            for part in ["spec", "status"] {
                let part_schema = &schema.properties.as_ref().unwrap()[part];
                assert!(part_schema.description.is_some(), "{part}");
                undescribed(&format!("{}.{part}", crd.spec.names.kind), part_schema, &mut found);
            }
        }
        assert!(found.is_empty(), "no description: {found:?}");
    }
}
