//! What an idle Waxwing holds in memory, beside Secrets that aren't its own.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};

use crate::{
    Error,
    lab::{Lab, User},
};

/// Secrets of others in the cluster.
pub const UNRELATED: usize = 10_000;
/// What each of them holds, in bytes.
const SIZE: usize = 8 << 10;
/// Certificates that were issued before.
pub const CERTIFICATES: usize = 200;
/// An idle Waxwing is looked at after this.
pub const REST: Duration = Duration::from_mins(1);

const AT_ONCE: usize = 16;

/// Secrets that have nothing to do with Waxwing.
pub struct Unrelated {
    api: Api<Secret>,
}

impl Unrelated {
    /// Makes them, in a namespace of their own.
    pub async fn fill(lab: &Lab) -> Result<Self, Error> {
        let namespace = lab.namespace("unrelated").await?;
        let api: Api<Secret> = Api::namespaced(lab.client(User::Admin)?, &namespace);
        let create = |number: usize| {
            let api = api.clone();
            let secret = Secret {
                metadata: ObjectMeta { name: Some(format!("s{number}")), ..ObjectMeta::default() },
                data: Some(BTreeMap::from([("data".to_owned(), ByteString(vec![b'x'; SIZE]))])),
                ..Secret::default()
            };
            async move { api.create(&PostParams::default(), &secret).await.map(drop) }
        };
        stream::iter((0..UNRELATED).map(create))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await
            .map_err(Error::kube(|| "making unrelated Secrets"))?;
        Ok(Self { api })
    }

    /// Deletes them, so that the next lane has a small cluster.
    pub async fn clear(self) -> Result<(), Error> {
        let deleted = self.api.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        deleted.map(drop).map_err(Error::kube(|| "deleting unrelated Secrets"))
    }
}
