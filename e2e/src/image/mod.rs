//! Container images, made without a container engine: one layer, written byte for byte from its
//! inputs, so that the same inputs give the same digest on every machine.
//!
//! What is written is an OCI image layout (OCI image specification 1.1), as a directory and as an
//! archive. The archive is a `docker save` archive too: `ctr images import`, `podman load` and
//! `docker load` take it.

mod blob;
mod elf;
mod layer;
mod waxwing;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter},
    path::Path,
};

use blob::{Blob, MediaType};
pub use elf::{Architecture, Program};
pub use layer::Entry;
use serde_json::{Value, json};
pub use waxwing::{MOST_BYTES, NAME, waxwing};

use crate::{Error, paths};

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct Image {
    /// The reference that an archive is imported as: `registry/name:tag`.
    pub name: String,
    /// The processor that its programs are for.
    pub architecture: Architecture,
    /// Its files.
    pub entries: Vec<Entry>,
    /// What runs, and what a pod's `args` leave in place.
    pub entrypoint: Vec<String>,
    /// Arguments unless others are given.
    pub arguments: Vec<String>,
    /// A numeric user, so that `runAsNonRoot` can be checked without an `/etc/passwd`.
    pub user: u32,
    /// Labels, which are annotations of the manifest too.
    pub labels: BTreeMap<String, String>,
    /// The time that the image and its files carry.
    pub created: jiff::Timestamp,
}

/// An image as bytes.
#[derive(Clone, Debug)]
pub struct Built {
    name: String,
    layer: Blob,
    config: Blob,
    manifest: Blob,
    unpacked: usize,
    created: jiff::Timestamp,
}

impl Image {
    /// Makes the layer, the configuration and the manifest.
    pub fn build(&self) -> Result<Built, Error> {
        let unpacked = layer::archive(&self.entries, self.created)?;
        let layer = Blob::new(MediaType::Layer, layer::compress(&unpacked)?);
        // Of the archive before compression: what a machine holds can be checked against it.
        let diff = blob::digest(&unpacked);
        let architecture = self.architecture.name();
        let config = Blob::json(
            MediaType::Config,
            &json!({
                "architecture": architecture,
                "os": "linux",
                "created": self.created.to_string(),
                "config": {
                    "User": format!("{0}:{0}", self.user),
                    "Entrypoint": self.entrypoint,
                    "Cmd": self.arguments,
                    "WorkingDir": "/",
                    "Labels": self.labels,
                },
                "rootfs": {"type": "layers", "diff_ids": [diff]},
                "history": [{"created": self.created.to_string(), "comment": "one layer, from its inputs"}],
            }),
        )?;
        let manifest = Blob::json(
            MediaType::Manifest,
            &json!({
                "schemaVersion": 2,
                "mediaType": MediaType::Manifest.name(),
                "config": config.descriptor(),
                "layers": [layer.descriptor()],
                "annotations": self.labels,
            }),
        )?;
        let unpacked = unpacked.len();
        Ok(Built { name: self.name.clone(), layer, config, manifest, unpacked, created: self.created })
    }
}

impl Built {
    /// The digest of its manifest, by which registries know it.
    pub fn digest(&self) -> &str {
        self.manifest.digest()
    }

    /// The reference that its archive is imported as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a registry stores and a machine pulls, in bytes.
    pub fn size(&self) -> usize {
        [&self.layer, &self.config, &self.manifest].into_iter().map(|blob| blob.bytes().len()).sum()
    }

    /// What a machine holds when it is unpacked, in bytes.
    pub fn unpacked(&self) -> usize {
        self.unpacked
    }

    /// Writes an OCI image layout into a directory, in place of what was there.
    pub fn write_layout(&self, directory: &Path) -> Result<(), Error> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(|| format!("removing {}", directory.display()))(error));
            }
            _ => {}
        }
        for (path, contents) in self.files()? {
            let path = directory.join(path);
            if let Some(parent) = path.parent() {
                paths::create(parent)?;
            }
            paths::write(&path, contents)?;
        }
        Ok(())
    }

    /// Writes the layout as one archive, with what `docker load` reads beside it.
    pub fn write_archive(&self, path: &Path) -> Result<(), Error> {
        let failed = || format!("writing {}", path.display());
        if let Some(parent) = path.parent() {
            paths::create(parent)?;
        }
        let mut files = self.files()?;
        let of_docker = json!([{
            "Config": self.config.path(),
            "RepoTags": [self.name],
            "Layers": [self.layer.path()],
        }]);
        files.insert("manifest.json".to_owned(), text(&of_docker)?);
        let entries: Vec<Entry> =
            files.into_iter().map(|(path, contents)| Entry::File { path, mode: 0o644, contents }).collect();
        let file = File::create(path).map_err(Error::io(failed))?;
        layer::write(&entries, self.created, BufWriter::new(file)).map_err(Error::io(failed))
    }

    fn files(&self) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let mut reference = self.manifest.descriptor();
        if let Some(reference) = reference.as_object_mut() {
            let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
            let names = json!({
                "io.containerd.image.name": self.name,
                "org.opencontainers.image.ref.name": tag,
            });
            reference.insert("annotations".to_owned(), names);
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [reference],
        });
        let mut files = BTreeMap::from([
            ("oci-layout".to_owned(), text(&json!({"imageLayoutVersion": "1.0.0"}))?),
            ("index.json".to_owned(), text(&index)?),
        ]);
        for blob in [&self.layer, &self.config, &self.manifest] {
            files.insert(blob.path(), blob.bytes().to_vec());
        }
        Ok(files)
    }
}

fn text(value: &Value) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(Error::invalid(|| "writing an image's index"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn image() -> Image {
        let program = Entry::File { path: "bin/a".to_owned(), mode: 0o555, contents: vec![7; 5000] };
        let link = Entry::Link { path: "bin/b".to_owned(), target: "a".to_owned() };
        Image {
            name: "waxwing.dev/test:1".to_owned(),
            architecture: Architecture::Amd64,
            entries: vec![link, program],
            entrypoint: vec!["/bin/a".to_owned()],
            arguments: Vec::new(),
            user: 65_532,
            labels: BTreeMap::from([("org.opencontainers.image.title".to_owned(), "test".to_owned())]),
            created: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes_in_any_order() {
        let mut other = image();
        other.entries.reverse();
        let directory = std::env::temp_dir().join(format!("waxwing-image-{}", std::process::id()));
        let write = |image: &Image, name: &str| {
            let path = directory.join(name);
            image.build().unwrap().write_archive(&path).unwrap();
            fs::read(path).unwrap()
        };
        assert_eq!(write(&image(), "one"), write(&other, "two"));
        other.created = jiff::Timestamp::from_second(1).unwrap();
        assert_ne!(image().build().unwrap().digest(), other.build().unwrap().digest());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn every_blob_of_a_layout_is_named_by_its_digest_and_reachable_from_the_index() {
        let directory = std::env::temp_dir().join(format!("waxwing-layout-{}", std::process::id()));
        let built = image().build().unwrap();
        built.write_layout(&directory).unwrap();
        let read = |digest: &str| {
            let bytes = fs::read(directory.join("blobs").join(digest.replace(':', "/"))).unwrap();
            assert_eq!(blob::digest(&bytes), digest);
            bytes
        };
        let parse = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
        let index = parse(fs::read(directory.join("index.json")).unwrap());
        let reference = &index["manifests"][0];
        assert_eq!(reference["digest"], built.digest());
        assert_eq!(reference["annotations"]["io.containerd.image.name"], "waxwing.dev/test:1");
        let manifest = parse(read(reference["digest"].as_str().unwrap()));
        let config = parse(read(manifest["config"]["digest"].as_str().unwrap()));
        assert_eq!(config["config"]["User"], "65532:65532");
        let layer = &manifest["layers"][0];
        assert_eq!(layer["size"], read(layer["digest"].as_str().unwrap()).len());
        fs::remove_dir_all(directory).unwrap();
    }
}
