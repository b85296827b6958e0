//! Waxwing's own image.

use std::collections::BTreeMap;

use super::{Entry, Image, Program};

/// The name of Waxwing's image, without a tag.
pub const NAME: &str = "waxwing.dev/waxwing";

/// The most bytes that a registry may have to store for it.
pub const MOST_BYTES: usize = 40 * 1024 * 1024;

/// A user that no machine gives to anyone, by custom the one of images without users.
const USER: u32 = 65_532;

/// The image of a Waxwing program: it alone, at `/waxwing`. `revision` names the commit that it was built from,
/// if it was.
pub fn waxwing(program: Program, created: jiff::Timestamp, revision: Option<&str>) -> Image {
    let version = env!("CARGO_PKG_VERSION");
    let mut labels = BTreeMap::from(
        [
            ("title", "Waxwing"),
            ("description", "Keeps TLS certificates in a Kubernetes cluster issued and fresh over ACME."),
            ("version", version),
            ("licenses", "Apache-2.0"),
            ("url", "https://waxwing.dev"),
        ]
        .map(|(name, value)| (label(name), value.to_owned())),
    );
    labels.insert(label("created"), created.to_string());
    if let Some(revision) = revision {
        labels.insert(label("revision"), revision.to_owned());
    }
    Image {
        name: format!("{NAME}:{version}"),
        architecture: program.architecture,
        entries: vec![Entry::File { path: "waxwing".to_owned(), mode: 0o555, contents: program.bytes }],
        entrypoint: vec!["/waxwing".to_owned()],
        arguments: vec!["run".to_owned()],
        user: USER,
        labels,
        created,
    }
}

fn label(name: &str) -> String {
    format!("org.opencontainers.image.{name}")
}
