//! Content that is named by its digest.

use std::fmt::Write as _;

use aws_lc_rs::digest::SHA256;
use serde_json::{Value, json};

use crate::Error;

/// What a blob is.
#[derive(Clone, Copy, Debug)]
pub(super) enum MediaType {
    Layer,
    Config,
    Manifest,
}

/// Bytes, what they are, and their digest.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    media_type: MediaType,
    digest: String,
    bytes: Vec<u8>,
}

impl MediaType {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Layer => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Config => "application/vnd.oci.image.config.v1+json",
            Self::Manifest => "application/vnd.oci.image.manifest.v1+json",
        }
    }
}

impl Blob {
    pub(super) fn new(media_type: MediaType, bytes: Vec<u8>) -> Self {
        Self { media_type, digest: digest(&bytes), bytes }
    }

    /// The bytes of a value: `serde_json` writes them in the same way each time.
    pub(super) fn json(media_type: MediaType, value: &Value) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(value).map_err(Error::invalid(|| "writing an image's manifest"))?;
        Ok(Self::new(media_type, bytes))
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its path in a layout.
    pub(super) fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    /// What refers to it.
    pub(super) fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type.name(), "digest": self.digest, "size": self.bytes.len()})
    }
}

/// `sha256:` and the digest in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in aws_lc_rs::digest::digest(&SHA256, bytes).as_ref() {
        // A String takes any text.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), empty);
        assert_eq!(Blob::new(MediaType::Layer, Vec::new()).path(), format!("blobs/sha256/{}", &empty[7..]));
    }
}
