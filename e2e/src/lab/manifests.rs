//! Applying YAML, and what labs have applied.

use std::{path::PathBuf, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, WatchParams},
    discovery::{Scope, pinned_kind},
};
use serde::Deserialize as _;

use crate::{Error, paths, probe};

/// The IngressClass `traefik` and what Traefik may do.
const TRAEFIK: &str = include_str!("../../manifests/traefik.yaml");

/// Waxwing's namespace, its Service, and who it is.
const WAXWING: &str = include_str!("../../manifests/waxwing.yaml");

/// Applies what every lab has.
pub(super) async fn prepare(client: &Client) -> Result<(), Error> {
    apply(client, "default", TRAEFIK).await
}

/// Applies what Waxwing as a process needs: the CRDs in `crds/`, its namespace and its Service, and its rights in
/// `deploy/`.
pub(super) async fn prepare_for_waxwing(client: &Client) -> Result<(), Error> {
    let mut established = Vec::new();
    for file in crd_files()? {
        let yaml = paths::read(&file)?;
        apply(client, "default", &yaml).await?;
        for document in documents(&yaml)? {
            established.extend(document.metadata.name);
        }
    }
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for name in established {
        probe::until(&format!("CustomResourceDefinition {name}"), Duration::from_secs(20), || async {
            let crd = crds.get(&name).await.map_err(|error| error.to_string())?;
            let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
            let done = conditions
                .iter()
                .any(|condition| condition.type_ == "Established" && condition.status == "True");
            if !done {
                return Err("not established".to_owned());
            }
            // A watch that comes before the server's cache is refused, and its client waits a while.
            let names = crd.spec.names;
            let version =
                crd.spec.versions.into_iter().next().map(|version| version.name).unwrap_or_default();
            let kind = GroupVersionKind::gvk(&crd.spec.group, &version, &names.kind);
            let resource = ApiResource::from_gvk_with_plural(&kind, &names.plural);
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let watch = api.watch(&WatchParams::default().timeout(1), "0").await;
            watch.map(|_| ()).map_err(|error| error.to_string())
        })
        .await?;
    }
    apply(client, "default", WAXWING).await?;
    // What is delivered is what is tested.
    apply(client, "default", &paths::read(&paths::workspace().join("deploy/rbac.yaml"))?).await
}

/// Applies every document of `yaml`. Objects that name no namespace go to `namespace`.
pub(super) async fn apply(client: &Client, namespace: &str, yaml: &str) -> Result<(), Error> {
    for object in documents(yaml)? {
        let types = object.types.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let what = || format!("applying {} {name}", types.kind);
        let kind = GroupVersionKind::try_from(&types).map_err(Error::invalid(what))?;
        let (resource, capabilities) = pinned_kind(client, &kind).await.map_err(Error::kube(what))?;
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Cluster => Api::all_with(client.clone(), &resource),
            Scope::Namespaced => {
                let namespace = object.metadata.namespace.as_deref().unwrap_or(namespace);
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
        };
        let params = PatchParams::apply("waxwing-lab").force();
        api.patch(&name, &params, &Patch::Apply(&object)).await.map_err(Error::kube(what))?;
    }
    Ok(())
}

fn documents(yaml: &str) -> Result<Vec<DynamicObject>, Error> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let failed = || "reading a manifest";
        let value = serde_yaml::Value::deserialize(document).map_err(Error::invalid(failed))?;
        if !value.is_null() {
            objects.push(serde_yaml::from_value(value).map_err(Error::invalid(failed))?);
        }
    }
    Ok(objects)
}

fn crd_files() -> Result<Vec<PathBuf>, Error> {
    let directory = paths::workspace().join("crds");
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let failed = || format!("listing {}", directory.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(Error::io(failed))? {
        let path = entry.map_err(Error::io(failed))?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
