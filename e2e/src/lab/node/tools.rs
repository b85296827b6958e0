//! The image that every node has: busybox, which sleeps in pods' sandboxes, and serves, fetches and
//! looks up in tests.

use std::collections::BTreeMap;

use super::{TOOLS, find};
use crate::{
    Error,
    image::{Entry, Image, Program},
};

/// The commands that are in it by name.
const COMMANDS: [&str; 10] = ["cat", "echo", "httpd", "ls", "nc", "nslookup", "sh", "sleep", "true", "wget"];

pub(super) fn image() -> Result<Image, Error> {
    // A busybox with libraries is refused here, before pods fail without a word.
    let program = Program::read(&find("busybox").unwrap_or_default())?;
    let link = |name: &str| Entry::Link { path: format!("bin/{name}"), target: "busybox".to_owned() };
    let mut entries: Vec<Entry> = COMMANDS.into_iter().map(link).collect();
    entries.push(Entry::File { path: "bin/busybox".to_owned(), mode: 0o555, contents: program.bytes });
    // A page for `httpd -h /www`.
    entries.push(Entry::File {
        path: "www/index.html".to_owned(),
        mode: 0o444,
        contents: b"served by the lab's tools\n".to_vec(),
    });
    Ok(Image {
        name: TOOLS.to_owned(),
        architecture: program.architecture,
        entries,
        entrypoint: vec!["/bin/busybox".to_owned()],
        arguments: vec!["sleep".to_owned(), "infinity".to_owned()],
        user: 65_532,
        labels: BTreeMap::new(),
        created: jiff::Timestamp::UNIX_EPOCH,
    })
}
