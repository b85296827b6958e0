//! Waxwing's logs in a lab, and following a file that another process appends to.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{Error, lab::OWN_NAMESPACE, paths};

/// How often the file is looked at: its lines carry their own times, so this delays only what is shown.
const LOOK: Duration = Duration::from_millis(20);

/// A place in a log file.
#[derive(Debug)]
pub struct LogTail {
    path: PathBuf,
    read: u64,
    /// A line without its end yet.
    begun: Vec<u8>,
}

impl LogTail {
    /// From the file's end on.
    pub fn from_end(path: &Path) -> Result<Self, Error> {
        let length =
            std::fs::metadata(path).map_err(Error::io(|| format!("reading {}", path.display())))?.len();
        Ok(Self { path: path.to_path_buf(), read: length, begun: Vec::new() })
    }

    /// Sends whole lines to `lines` until nobody receives them any more.
    pub async fn follow(mut self, lines: mpsc::Sender<String>) {
        loop {
            // A file that can't be read now may be readable the next time.
            for line in self.new_lines().unwrap_or_default() {
                if lines.send(line).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = lines.closed() => return,
            }
        }
    }

    fn new_lines(&mut self) -> Result<Vec<String>, Error> {
        let failed = || format!("reading {}", self.path.display());
        let mut file = std::fs::File::open(&self.path).map_err(Error::io(failed))?;
        file.seek(SeekFrom::Start(self.read)).map_err(Error::io(failed))?;
        let mut news = Vec::new();
        file.read_to_end(&mut news).map_err(Error::io(failed))?;
        self.read += news.len() as u64;
        self.begun.extend(news);
        let Some(end) = self.begun.iter().rposition(|&byte| byte == b'\n') else { return Ok(Vec::new()) };
        let rest = self.begun.split_off(end + 1);
        let whole = std::mem::replace(&mut self.begun, rest);
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }
}

/// Waxwing's logs in a lab whose logs are in `logs`: what kubelet keeps of its pods, or else what its process wrote.
pub fn of_waxwing(logs: &Path) -> Vec<PathBuf> {
    let below = |directory: PathBuf| {
        std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
    };
    // NAMESPACE_POD_UID/CONTAINER/0.log
    let prefix = format!("{OWN_NAMESPACE}_");
    let of_ours =
        |pod: &PathBuf| pod.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    let pods = below(logs.join("pods")).filter(of_ours);
    let files: Vec<PathBuf> = pods.flat_map(|pod| below(pod.join("waxwing"))).collect();
    if files.is_empty() { vec![logs.join("waxwing.log")] } else { files }
}

/// Where to look when something went wrong: the end of a log.
pub fn hint(path: &Path) -> String {
    format!("Waxwing's log is {}; its end:\n{}", path.display(), paths::tail(path, 5))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs::OpenOptions, io::Write as _};

    use super::*;

    #[test]
    fn gives_whole_lines_from_the_end_on() {
        let path = std::env::temp_dir().join(format!("waxwing-tail-{}", std::process::id()));
        std::fs::write(&path, "before\n").unwrap();
        let mut tail = LogTail::from_end(&path).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(tail.new_lines().unwrap(), ["one", "two"]);
        file.write_all(b"ee\n").unwrap();
        assert_eq!(tail.new_lines().unwrap(), ["three"]);
        assert!(tail.new_lines().unwrap().is_empty());
        std::fs::remove_file(path).unwrap();
    }
}
