//! A part of the lab that runs as a process of its own: started, stopped, frozen and measured.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::{Error, paths};

/// How often a process that should end is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A program with its arguments, which may run now or not. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in user and kernel mode.
    pub cpu: Duration,
    /// The most memory that was resident at once, in bytes.
    pub peak_resident: u64,
    /// The memory that is resident now, in bytes.
    pub resident: u64,
}

impl Process {
    /// A process that is not started yet, and whose output goes to `<logs>/<name>.log`.
    pub fn new(name: &str, program: &Path, logs: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_path_buf(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log: logs.join(format!("{name}.log")),
            child: Mutex::new(None),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Its name, as in its log's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it. Output is appended to its log. Nothing happens when it already runs.
    pub fn start(&self) -> Result<(), Error> {
        let mut child = self.lock();
        if child.as_mut().is_some_and(|running| matches!(running.try_wait(), Ok(None))) {
            return Ok(());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(Error::io(|| format!("opening {}", self.log.display())))?;
        let errors = log.try_clone().map_err(Error::io(|| format!("opening {}", self.log.display())))?;
        let started = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(Error::io(|| format!("starting {} ({})", self.name, self.program.display())))?;
        *child = Some(started);
        Ok(())
    }

    /// Its id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.lock().as_ref().map(Child::id)
    }

    /// How it ended, if it was started and ended by itself.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.lock().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// The error that says that it ended by itself, if it did.
    pub fn check(&self) -> Result<(), Error> {
        let Some(status) = self.ended() else { return Ok(()) };
        Err(Error::Ended {
            part: self.name.clone(),
            status: status.to_string(),
            log: self.log.clone(),
            tail: paths::tail(&self.log, 10),
        })
    }

    /// SIGKILL: it gets no chance to clean up.
    pub fn kill(&self) {
        if let Some(mut child) = self.lock().take() {
            // It may have ended by itself: then there is nothing to kill, only to wait for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and SIGKILL when it hasn't ended after `grace`. How it ended, if it ran.
    pub async fn stop(&self, grace: Duration) -> Option<ExitStatus> {
        let _ = self.signal(Signal::TERM);
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            let status = self.ended();
            if status.is_some() || self.id().is_none() {
                *self.lock() = None;
                return status;
            }
            tokio::time::sleep(POLL).await;
        }
        self.kill();
        None
    }

    /// SIGSTOP: it keeps its sockets and answers nothing.
    pub fn freeze(&self) -> Result<(), Error> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT after [`freeze`](Self::freeze).
    pub fn thaw(&self) -> Result<(), Error> {
        self.signal(Signal::CONT)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let Some(pid) = self.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else {
            return Err(Error::Invalid { what: self.name.clone(), why: "it does not run".to_owned() });
        };
        rustix::process::kill_process(pid, signal).map_err(|error| Error::Io {
            what: format!("sending {signal:?} to {}", self.name),
            source: error.into(),
        })
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All of its output so far, over all its starts.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// What it has used; `None` when it doesn't run.
    pub fn usage(&self) -> Option<Usage> {
        let id = self.id()?;
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let bytes = |field: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(field))?;
            value.trim().trim_end_matches("kB").trim().parse().ok().map(|kib: u64| kib.saturating_mul(1024))
        };
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The program's name is in parentheses and may hold spaces: count from behind it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let cpu = Duration::from_millis(ticks.saturating_mul(1000) / per_second);
        Some(Usage { cpu, peak_resident: bytes("VmHWM:")?, resident: bytes("VmRSS:")? })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn stops_what_it_started_and_keeps_the_log() {
        let logs = std::env::temp_dir().join(format!("waxwing-process-{}", std::process::id()));
        paths::create(&logs).unwrap();
        let process = Process::new("shell", Path::new("/bin/sh"), &logs)
            .args(["-c", "echo hello; exec cat /dev/zero >/dev/null"]);
        process.start().unwrap();
        let first = process.id().unwrap();
        process.start().unwrap();
        assert_eq!(process.id(), Some(first), "starting twice is one process");
        while !process.log().contains("hello") {
            tokio::time::sleep(POLL).await;
        }
        process.freeze().unwrap();
        process.thaw().unwrap();
        assert!(process.usage().unwrap().peak_resident > 0);
        let status = process.stop(Duration::from_secs(5)).await.unwrap();
        assert!(!status.success());
        assert!(process.id().is_none());
        fs::remove_dir_all(logs).unwrap();
    }
}
