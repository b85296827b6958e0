//! Where the lab keeps things. All of it is under `target/lab/`.

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::Error;

/// The root of the repository.
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Everything of the lab: `target/lab`.
pub fn lab() -> PathBuf {
    target().join("lab")
}

/// Built and fetched parts. `WAXWING_LAB_PARTS` moves it to where a CI keeps its caches.
pub fn parts() -> PathBuf {
    env::var_os("WAXWING_LAB_PARTS").map_or_else(|| lab().join("parts"), PathBuf::from)
}

/// What lives as long as a sandbox: inside, memory is mounted here; outside, it is empty.
pub fn volatile() -> PathBuf {
    lab().join("volatile")
}

/// The logs of a lab that tests start.
pub fn test_logs(name: &str) -> PathBuf {
    lab().join("test-logs").join(name)
}

/// State and logs of a lab that `e2e up` keeps running.
pub fn named(name: &str) -> PathBuf {
    lab().join("up").join(name)
}

/// Makes a directory and those above it.
pub fn create(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(Error::io(|| format!("making {}", directory.display())))
}

/// Writes a file whole.
pub fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Error> {
    fs::write(path, contents).map_err(Error::io(|| format!("writing {}", path.display())))
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, contents: &str) -> Result<(), Error> {
    let failed = || format!("writing {}", path.display());
    // An older one may be open to all.
    let _ = fs::remove_file(path);
    let mut options = fs::OpenOptions::new();
    let mut file = options.create_new(true).write(true).mode(0o600).open(path).map_err(Error::io(failed))?;
    file.write_all(contents.as_bytes()).map_err(Error::io(failed))
}

/// Reads a file whole.
pub fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(Error::io(|| format!("reading {}", path.display())))
}

/// The last `lines` lines of a file; empty when it can't be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
