//! The journal: where an issuance writes down what must not be lost.
//!
//! A private key that a CA may sign and the URL of its order are in the journal before the next request leaves;
//! what a solver presents is in it before it is presented. Whoever finds an [`Entry`] can go on with the order, or
//! clean up after it.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{ChallengeType, Secret};

/// Durable storage for one issuance. Each of these returns only when the storage has it.
#[async_trait]
pub trait Journal: Send + Sync {
    /// What was saved last, if anything.
    async fn load(&self) -> Result<Option<Entry>, JournalError>;
    /// Replaces what was saved.
    async fn save(&self, entry: &Entry) -> Result<(), JournalError>;
    /// Forgets what was saved. [`obtain`](crate::obtain) calls this for an order that the CA gave up or whose
    /// certificate can't be used; else whoever stores the certificate does, after it is stored.
    async fn clear(&self) -> Result<(), JournalError>;
}

/// All that is needed to go on with an open order, or to clean up after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The certificate's private key (PKCS#8, PEM).
    pub private_key_pem: Secret,
    /// The order's URL.
    pub order_url: String,
    /// The account's URL.
    pub account_url: String,
    /// The thumbprint of the account's key (RFC 7638).
    pub thumbprint: String,
    /// [`Request::hash`](crate::Request::hash) of the request that the order is for.
    pub request_hash: String,
    /// The identifiers ordered.
    pub identifiers: Vec<String>,
    /// The profile ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What the order replaces (RFC 9773 §5), if the CA took it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// What solvers present, or are about to.
    #[serde(default)]
    pub presented: Vec<Presented>,
}

/// One thing that a solver presents, exactly enough to take it away again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presented {
    /// The identifier whose challenge it answers.
    pub identifier: String,
    /// The challenge's type.
    pub challenge_type: ChallengeType,
    /// The solver, by [`Solver::id`](crate::Solver::id).
    pub solver: String,
    /// What exactly is presented. For HTTP-01: the host.
    pub value: String,
}

/// The journal could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct JournalError {
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl JournalError {
    /// An error that says what was being done, to what.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// The same, with its cause.
    pub fn caused_by(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { message: message.into(), source: Some(source.into()) }
    }
}

/// A journal in one file, readable by its owner alone, replaced atomically.
#[derive(Clone, Debug)]
pub struct FileJournal {
    path: PathBuf,
}

impl FileJournal {
    /// A journal at `path`, whose directory must exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let path = self.path.clone();
        let failed = |error: io::Error| {
            JournalError::caused_by(format!("{doing} the journal {}", self.path.display()), error)
        };
        tokio::task::spawn_blocking(move || work(&path))
            .await
            .map_err(|error| failed(error.into()))?
            .map_err(failed)
    }
}

#[async_trait]
impl Journal for FileJournal {
    async fn load(&self) -> Result<Option<Entry>, JournalError> {
        let read = |path: &Path| match std::fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        self.blocking("reading", read).await
    }

    async fn save(&self, entry: &Entry) -> Result<(), JournalError> {
        let bytes = serde_json::to_vec_pretty(entry)
            .map_err(|error| JournalError::caused_by("encoding the journal", error))?;
        self.blocking("writing", move |path| replace_file(path, &bytes)).await
    }

    async fn clear(&self) -> Result<(), JournalError> {
        let remove = |path: &Path| match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_directory(path),
        };
        self.blocking("removing", remove).await
    }
}

/// Puts `bytes` at `path` so that a crash leaves the old content or the new, and only the owner can read it.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;

    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // A leftover of a crash may have other permissions.
    let _ = std::fs::remove_file(&temporary);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_directory(path)
}

/// Makes a rename or removal in the directory of `path` durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn entry() -> Entry {
        Entry {
            private_key_pem: Secret::new("key"),
            order_url: "https://ca.example/order/1".into(),
            account_url: "https://ca.example/account/1".into(),
            thumbprint: "thumb".into(),
            request_hash: "hash".into(),
            identifiers: vec!["a.example".into()],
            profile: None,
            replaces: None,
            presented: vec![Presented {
                identifier: "a.example".into(),
                challenge_type: ChallengeType::Http01,
                solver: "test".into(),
                value: "a.example".into(),
            }],
        }
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("waxwing-journal-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[tokio::test]
    async fn what_is_saved_is_loaded_until_it_is_cleared() {
        let directory = directory("roundtrip");
        let journal = FileJournal::new(directory.join("order.json"));
        assert_eq!(journal.load().await.unwrap(), None);
        journal.clear().await.unwrap();
        journal.save(&entry()).await.unwrap();
        journal.save(&Entry { order_url: "other".into(), ..entry() }).await.unwrap();
        assert_eq!(journal.load().await.unwrap().unwrap().order_url, "other");
        journal.clear().await.unwrap();
        assert_eq!(journal.load().await.unwrap(), None);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_file_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;

        let directory = directory("mode");
        let path = directory.join("order.json");
        std::fs::write(directory.join("order.json.new"), "left by a crash").unwrap();
        FileJournal::new(&path).save(&entry()).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn a_broken_file_is_an_error_that_names_it() {
        let directory = directory("broken");
        let path = directory.join("order.json");
        std::fs::write(&path, "{").unwrap();
        let error = FileJournal::new(&path).load().await.unwrap_err();
        assert!(error.to_string().contains("order.json"), "{error}");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
