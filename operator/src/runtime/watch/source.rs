//! Where the objects of a watch are read from.

use std::collections::BTreeSet;

use kube::{
    Api, Client, Resource,
    core::{ClusterResourceScope, DeserializeGuard, NamespaceResourceScope},
};

/// Which namespaces are watched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// All of them, and what belongs to none.
    Cluster,
    /// These alone. Nothing that belongs to no namespace is read: there are no cluster issuers.
    Namespaces(BTreeSet<String>),
}

/// What is read of a kind: that of one namespace, or all there is.
pub(super) struct Source<K> {
    pub(super) api: Api<DeserializeGuard<K>>,
    /// The namespace, where it may be deleted while Waxwing works for others.
    pub(super) may_go: Option<String>,
}

/// What is read of a kind with namespaces. Waxwing's own can't be gone, and what is open stands there: without the
/// right to read it nobody leads.
pub(super) fn namespaced<K>(client: &Client, scope: &Scope, own_namespace: &str) -> Vec<Source<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match scope {
        Scope::Cluster => vec![Source { api: Api::all(client.clone()), may_go: None }],
        Scope::Namespaces(some) => some
            .iter()
            .map(|namespace| Source {
                api: Api::namespaced(client.clone(), namespace),
                may_go: (namespace != own_namespace).then(|| namespace.clone()),
            })
            .collect(),
    }
}

pub(super) fn cluster<K>(client: &Client, scope: &Scope) -> Vec<Source<K>>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
{
    match scope {
        Scope::Cluster => vec![Source { api: Api::all(client.clone()), may_go: None }],
        Scope::Namespaces(_) => Vec::new(),
    }
}
