//! A lab that keeps running for people: `e2e up` starts it, `e2e down` ends it.
//!
//! A supervisor runs inside of a sandbox and writes what it sees to a file. Outside, what was
//! started is kept in another file, so that only processes of ours are ever ended.

mod forward;
mod supervise;

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    net::TcpListener,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

pub use forward::forward;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
pub use supervise::{PartState, Supervised, supervise};

use crate::{
    Error,
    lab::{self, API_URL},
    parts::{self, Part, Progress, Purpose},
    paths, sandbox,
};

/// How often a lab that starts or ends is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Longest time for a lab to start.
const PATIENCE: Duration = Duration::from_mins(3);

/// Longest time for the kernel to end a sandbox.
const END: Duration = Duration::from_secs(10);

/// A lab by its name, running or not.
#[derive(Clone, Debug)]
pub struct Named {
    name: String,
}

/// A lab that is up.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// The process whose end ends the sandbox.
    pub sandbox: ProcessId,
    /// How to reach it.
    pub ports: Ports,
}

/// Ports of 127.0.0.1 that lead into the sandbox.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Ports {
    /// To the API server.
    pub api: u16,
    /// To Traefik's port 80.
    pub http: u16,
    /// To Traefik's port 443.
    pub https: u16,
}

/// What `up` started, as its file holds it. It is written as soon as there is something to end.
#[derive(Deserialize, Serialize)]
struct State {
    sandbox: ProcessId,
    ports: Option<Ports>,
}

/// A process that can't be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct UpOptions {
    /// Waxwing's program and arguments, to run it inside of the lab.
    pub operator: Vec<OsString>,
    /// An archive with Waxwing's image, for Helm to install it: the lab then has a node that knows the image, and
    /// nothing of Waxwing yet.
    pub image: Option<PathBuf>,
}

impl Named {
    /// A name is part of paths: letters, digits and dashes.
    pub fn new(name: &str) -> Result<Self, Error> {
        let fits = !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '-');
        if fits {
            return Ok(Self { name: name.to_owned() });
        }
        let why = "write it with letters, digits and dashes".to_owned();
        Err(Error::Invalid { what: format!("the lab's name {name:?}"), why })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its files are.
    pub fn directory(&self) -> PathBuf {
        paths::named(&self.name)
    }

    /// Where its logs are.
    pub fn logs(&self) -> PathBuf {
        self.directory().join("logs")
    }

    /// The administrator's kubeconfig for this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory().join("kubeconfig")
    }

    /// The roots of the lab's servers and of its CA, PEM.
    pub fn roots(&self) -> PathBuf {
        self.directory().join("roots.pem")
    }

    /// What runs, if it is up.
    pub fn running(&self) -> Option<Running> {
        let state = self.state().filter(|state| state.sandbox.is_alive())?;
        Some(Running { sandbox: state.sandbox, ports: state.ports? })
    }

    /// What runs, or an error that says how to start it.
    pub fn expect_running(&self) -> Result<Running, Error> {
        self.running().ok_or_else(|| Error::NotUp { name: self.name.clone() })
    }

    /// What the supervisor last saw.
    pub fn supervised(&self) -> Option<Supervised> {
        Supervised::read(&self.directory())
    }

    /// Starts it unless it runs, and returns when every part answers.
    pub fn up(&self, options: &UpOptions) -> Result<Running, Error> {
        paths::create(&self.directory())?;
        // Two at once would start the same lab twice.
        let lock = self.directory().join("lock");
        let lock = fs::File::create(&lock).map_err(Error::io(|| format!("opening {}", lock.display())))?;
        lock.lock().map_err(Error::io(|| "waiting for another `e2e up`"))?;
        if let Some(running) = self.running() {
            return Ok(running);
        }
        // One that was interrupted while it started.
        self.down()?;
        // Of the last time.
        let _ = fs::remove_dir_all(self.logs());
        paths::create(&self.logs())?;
        let purpose = if options.image.is_some() { Purpose::Install } else { Purpose::Demo };
        let started = supervise::steps(options);
        let mut progress = Progress::new(purpose.parts().len() + started.len());
        parts::fetch(purpose, &mut progress)?;

        let sandbox = self.start_sandbox(options)?;
        let outcome = self
            .write_state(&State { sandbox, ports: None })
            .and_then(|()| self.wait_for(sandbox, &started, &mut progress))
            .and_then(|()| self.open_ports(sandbox));
        match outcome {
            Ok(ports) => Ok(Running { sandbox, ports }),
            Err(error) => {
                progress.interrupt();
                self.down()?;
                Err(error)
            }
        }
    }

    /// Ends it. Whether it ran.
    pub fn down(&self) -> Result<bool, Error> {
        let Some(State { sandbox, .. }) = self.state() else { return Ok(false) };
        let ran = sandbox.is_alive();
        sandbox.end()?;
        lab::sweep();
        // Logs stay to be read.
        let _ = fs::remove_file(self.state_file());
        let _ = fs::remove_file(self.kubeconfig());
        let _ = fs::remove_dir_all(self.directory().join("files"));
        Ok(ran)
    }

    /// A command that runs inside of it.
    pub fn command(&self) -> Result<Command, Error> {
        Ok(sandbox::join(self.expect_running()?.sandbox.first_inside()?))
    }

    fn state(&self) -> Option<State> {
        serde_json::from_str(&fs::read_to_string(self.state_file()).ok()?).ok()
    }

    fn write_state(&self, state: &State) -> Result<(), Error> {
        let state =
            serde_json::to_string_pretty(state).map_err(Error::invalid(|| "writing the lab's state"))?;
        paths::write(&self.state_file(), state)
    }

    fn state_file(&self) -> PathBuf {
        self.directory().join("state.json")
    }

    /// A sandbox in a session of its own: it outlives this command and its terminal.
    fn start_sandbox(&self, options: &UpOptions) -> Result<ProcessId, Error> {
        let _ = fs::remove_file(Supervised::file(&self.directory()));
        let exe = std::env::current_exe().map_err(Error::io(|| "finding the path of this program"))?;
        let mut inside =
            vec![exe.into_os_string(), "supervise".into(), "--name".into(), self.name.clone().into()];
        if let Some(image) = &options.image {
            inside.extend(["--image".into(), image.clone().into_os_string()]);
        }
        if !options.operator.is_empty() {
            inside.push("--".into());
            inside.extend(options.operator.iter().cloned());
        }
        self.detach(&sandbox::command(&inside)?, Stdio::null(), "supervisor")
    }

    fn wait_for(&self, sandbox: ProcessId, titles: &[String], progress: &mut Progress) -> Result<(), Error> {
        let begun = Instant::now();
        for (index, title) in titles.iter().enumerate() {
            progress.begin(title);
            progress.doing("starting");
            loop {
                let supervised = self.supervised();
                let last = index + 1 == titles.len();
                let ready = |seen: &Supervised| if last { seen.complete } else { seen.ready.len() > index };
                if supervised.as_ref().is_some_and(ready) {
                    break;
                }
                if let Some(why) = supervised.and_then(|seen| seen.error) {
                    return Err(Error::Invalid { what: title.clone(), why });
                }
                let log = self.logs().join("supervisor.log");
                if !sandbox.is_alive() {
                    let (status, tail) = ("too early".to_owned(), paths::tail(&log, 10));
                    return Err(Error::Ended { part: "the lab's supervisor".to_owned(), status, log, tail });
                }
                if begun.elapsed() > PATIENCE {
                    let last = format!("see {}", self.logs().display());
                    return Err(Error::NotReady { what: title.clone(), after: PATIENCE, last });
                }
                std::thread::sleep(POLL);
                progress.tick();
            }
            progress.end("ready");
        }
        Ok(())
    }

    /// Opens ports of this machine's loopback that lead into the sandbox, and writes what uses them.
    fn open_ports(&self, sandbox: ProcessId) -> Result<Ports, Error> {
        let inside = sandbox.first_inside()?;
        let open = |name: &str, target: &str| -> Result<u16, Error> {
            let failed = || format!("opening a port for {name}");
            let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(Error::io(failed))?;
            let port = listener.local_addr().map_err(Error::io(failed))?.port();
            let exe = std::env::current_exe().map_err(Error::io(failed))?;
            let mut command = sandbox::join(inside);
            command.arg(exe).args(["forward", "--to", target]);
            self.detach(&command, Stdio::from(OwnedFd::from(listener)), &format!("forward-{name}"))?;
            Ok(port)
        };
        let ports = Ports {
            api: open("api", API_URL.trim_start_matches("https://"))?,
            http: open("http", &format!("{}:80", sandbox::NODE_ADDRESS))?,
            https: open("https", &format!("{}:443", sandbox::NODE_ADDRESS))?,
        };
        let inside = paths::read(&self.directory().join("files/admin.kubeconfig"))?;
        let outside = inside.replace(API_URL, &format!("https://127.0.0.1:{}", ports.api));
        paths::write_private(&self.kubeconfig(), &outside)?;
        self.write_state(&State { sandbox, ports: Some(ports) })?;
        Ok(ports)
    }

    /// Starts a command in a session of its own, with its output in a log.
    fn detach(&self, command: &Command, input: Stdio, name: &str) -> Result<ProcessId, Error> {
        let log = self.logs().join(format!("{name}.log"));
        let failed = || format!("starting {name}");
        let mut options = OpenOptions::new();
        let output = options.create(true).write(true).truncate(true).open(&log).map_err(Error::io(failed))?;
        let errors = output.try_clone().map_err(Error::io(failed))?;
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let child = Command::new("setsid")
            .arg(command.get_program())
            .args(command.get_args())
            .envs(variables)
            .stdin(input)
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(Error::io(failed))?;
        ProcessId::of(child.id()).ok_or_else(|| Error::Ended {
            part: name.to_owned(),
            status: "at once".to_owned(),
            tail: paths::tail(&log, 10),
            log,
        })
    }
}

impl ProcessId {
    fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        Some(Self { pid, started: stat.started })
    }

    /// Whether this very process lives.
    pub fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != "Z")
    }

    /// Kills everything inside of its sandbox, and waits until it is gone.
    fn end(self) -> Result<(), Error> {
        if !self.is_alive() {
            return Ok(());
        }
        // When the first process inside ends, the kernel ends the others, and only then does this
        // one's wait for it end.
        let victim = self.first_inside().unwrap_or(self.pid);
        let Some(pid) = i32::try_from(victim).ok().and_then(Pid::from_raw) else { return Ok(()) };
        match rustix::process::kill_process(pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                let source = io::Error::from(error);
                return Err(Error::Io { what: format!("ending the sandbox (process {})", self.pid), source });
            }
        }
        let begun = Instant::now();
        while self.is_alive() {
            if begun.elapsed() > END {
                let what = format!("the end of the sandbox (process {})", self.pid);
                return Err(Error::NotReady { what, after: END, last: "it still runs".to_owned() });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// The first process inside of the sandbox: this one's only child.
    fn first_inside(self) -> Result<u32, Error> {
        let entries = fs::read_dir("/proc").map_err(Error::io(|| "listing processes"))?;
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .find(|&pid| Stat::read(pid).is_some_and(|stat| stat.parent == self.pid))
            .ok_or_else(|| Error::Invalid {
                what: format!("the sandbox (process {})", self.pid),
                why: "nothing runs in it".to_owned(),
            })
    }
}

/// What `/proc/<pid>/stat` says that is needed here.
struct Stat {
    state: String,
    parent: u32,
    started: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name is in parentheses and may hold anything: count from behind it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            state: (*fields.first()?).to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

/// The part whose programs people use beside the lab: kubectl.
pub fn kubectl_directory() -> Result<PathBuf, Error> {
    Part::Kubernetes.directory()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_are_parts_of_paths() {
        assert!(Named::new("demo-2").is_ok());
        for bad in ["", "../up", "a b", "a/b"] {
            assert!(Named::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_process_is_told_from_another_with_its_number() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { started: own.started + 1, ..own }.is_alive());
    }
}
