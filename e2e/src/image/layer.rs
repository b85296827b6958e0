//! Archives that hold nothing of the machine that writes them: sorted entries, one time for all,
//! no owner but root, no names of users.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use crate::Error;

/// Something in an archive. Paths are relative to the root.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A file.
    File {
        /// Its path.
        path: String,
        /// Its permissions.
        mode: u32,
        /// Its bytes.
        contents: Vec<u8>,
    },
    /// A symbolic link.
    Link {
        /// Its path.
        path: String,
        /// Where it leads.
        target: String,
    },
}

impl Entry {
    fn path(&self) -> &str {
        match self {
            Self::File { path, .. } | Self::Link { path, .. } => path,
        }
    }
}

/// The entries as an archive.
pub(super) fn archive(entries: &[Entry], time: jiff::Timestamp) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    write(entries, time, &mut bytes).map_err(Error::io(|| "writing an image's layer"))?;
    Ok(bytes)
}

/// gzip, without a name or a time of its own.
pub(super) fn compress(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let failed = || "compressing an image's layer";
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(bytes).map_err(Error::io(failed))?;
    gzip.finish().map_err(Error::io(failed))
}

/// Writes an archive: the directories that lead to the entries, then these, by path.
pub(super) fn write(entries: &[Entry], time: jiff::Timestamp, into: impl Write) -> io::Result<()> {
    let time = u64::try_from(time.as_second()).unwrap_or_default();
    let header = |kind: EntryType, mode: u32, size: usize| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(time);
        header.set_size(u64::try_from(size).unwrap_or(u64::MAX));
        header
    };
    let mut archive = Builder::new(into);
    for directory in directories(entries) {
        let mut header = header(EntryType::Directory, 0o755, 0);
        archive.append_data(&mut header, directory, io::empty())?;
    }
    let sorted: BTreeMap<&str, &Entry> = entries.iter().map(|entry| (entry.path(), entry)).collect();
    for (path, entry) in sorted {
        match entry {
            Entry::File { mode, contents, .. } => {
                let mut header = header(EntryType::Regular, *mode, contents.len());
                archive.append_data(&mut header, path, contents.as_slice())?;
            }
            Entry::Link { target, .. } => {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                archive.append_link(&mut header, path, target)?;
            }
        }
    }
    archive.into_inner()?.flush()
}

fn directories(entries: &[Entry]) -> BTreeSet<String> {
    let ends = |entry: &Entry| {
        let path = entry.path().to_owned();
        path.match_indices('/').map(|(end, _)| end).collect::<Vec<_>>()
    };
    entries
        .iter()
        .flat_map(|entry| ends(entry).into_iter().filter_map(|end| entry.path().get(..=end)))
        .map(ToOwned::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_archive_is_sorted_and_names_no_user() {
        let file = |path: &str| Entry::File { path: path.to_owned(), mode: 0o555, contents: b"x".to_vec() };
        let entries = [file("b"), file("a/c/d"), file("a/b")];
        let bytes = archive(&entries, jiff::Timestamp::from_second(5).unwrap()).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!((entry.header().uid().unwrap(), entry.header().mtime().unwrap()), (0, 5));
            assert!(entry.header().username_bytes().is_some_and(<[u8]>::is_empty));
            seen.push(entry.path().unwrap().display().to_string());
        }
        assert_eq!(seen, ["a/", "a/c/", "a/b", "a/c/d", "b"]);
    }
}
