//! Counting what was written to the API server, by whom, from its audit log.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    path::PathBuf,
};

use jiff::Timestamp;
use serde::Deserialize;

use super::User;
use crate::Error;

/// The audit log.
#[derive(Clone, Debug)]
pub struct Audit {
    path: PathBuf,
}

/// A place in the audit log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

/// One write: create, update, patch, delete or deletecollection, also one that was refused, a dry
/// run or an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The user's name.
    pub user: String,
    /// The verb.
    pub verb: String,
    /// The resource in its plural, with its subresource: `certificates/status`.
    pub resource: String,
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// The object's name; empty when the server chose it.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// The User-Agent: which process it was.
    pub agent: String,
    /// When the request arrived.
    pub received: Timestamp,
    /// When it was answered.
    pub answered: Timestamp,
}

impl Audit {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where the log ends now; [`writes_since`](Self::writes_since) counts from here. The server
    /// writes an entry before it answers, so a request that was answered is in it.
    pub fn mark(&self) -> Result<Mark, Error> {
        let length = std::fs::metadata(&self.path)
            .map_err(Error::io(|| format!("reading {}", self.path.display())))?
            .len();
        Ok(Mark(length))
    }

    /// All writes since a mark, in order.
    pub fn writes_since(&self, mark: Mark) -> Result<Vec<Write>, Error> {
        let failed = || format!("reading {}", self.path.display());
        let mut file = File::open(&self.path).map_err(Error::io(failed))?;
        file.seek(SeekFrom::Start(mark.0)).map_err(Error::io(failed))?;
        let mut writes = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(Error::io(failed))?;
            // The last line may be half written.
            let Ok(event) = serde_json::from_str::<Event>(&line) else { continue };
            writes.extend(event.write());
        }
        Ok(writes)
    }

    /// How many writes `user` made since a mark, by verb and resource.
    pub fn count(&self, user: User, since: Mark) -> Result<BTreeMap<String, usize>, Error> {
        let mut counts = BTreeMap::new();
        for write in self.writes_since(since)?.into_iter().filter(|write| write.user == user.name()) {
            *counts.entry(format!("{} {}", write.verb, write.resource)).or_default() += 1;
        }
        Ok(counts)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: EventUser,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    request_received_timestamp: Timestamp,
    #[serde(default)]
    stage_timestamp: Timestamp,
    object_ref: Option<EventObject>,
    response_status: Option<EventStatus>,
}

#[derive(Deserialize)]
struct EventUser {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize)]
struct EventObject {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct EventStatus {
    #[serde(default)]
    code: u16,
}

impl Event {
    fn write(self) -> Option<Write> {
        const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
        let object = self.object_ref.filter(|_| WRITES.contains(&self.verb.as_str()))?;
        let mut resource = object.resource;
        if !object.subresource.is_empty() {
            resource = format!("{resource}/{}", object.subresource);
        }
        Some(Write {
            user: self.user.username,
            verb: self.verb,
            resource,
            namespace: object.namespace,
            name: object.name,
            code: self.response_status.map_or(0, |status| status.code),
            agent: self.user_agent,
            received: self.request_received_timestamp,
            answered: self.stage_timestamp,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn counts_writes_by_user_from_a_mark_on() {
        let path = std::env::temp_dir().join(format!("waxwing-audit-{}", std::process::id()));
        let line = |user: &str, verb: &str, sub: &str| {
            format!(
                r#"{{"kind":"Event","stage":"ResponseComplete","verb":"{verb}","user":{{"username":"{user}","groups":[]}},"objectRef":{{"resource":"secrets","namespace":"a","name":"b","subresource":"{sub}"}},"responseStatus":{{"code":201}}}}"#
            ) + "\n"
        };
        std::fs::write(&path, line("waxwing", "create", "")).unwrap();
        let audit = Audit::new(path.clone());
        let mark = audit.mark().unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += &line("waxwing", "patch", "status");
        text += &line("waxwing", "get", "");
        text += &line("admin", "create", "");
        text += "{\"half";
        std::fs::write(&path, text).unwrap();
        let counts = audit.count(User::Waxwing, mark).unwrap();
        assert_eq!(counts, BTreeMap::from([("patch secrets/status".to_owned(), 1)]));
        assert_eq!(audit.writes_since(Mark::default()).unwrap().len(), 3);
        std::fs::remove_file(path).unwrap();
    }
}
