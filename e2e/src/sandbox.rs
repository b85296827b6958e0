//! A sandbox: network, process and mount namespaces of our own, so that the machine stays as it is.
//!
//! Inside, ports 53, 80 and 443 are always free, two labs run side by side, and the kernel ends
//! everything as soon as the command ends, also after a crash: nothing is ever left behind.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions};

use crate::{Error, lab, paths};

/// The node's address inside of every sandbox. Endpoints refuse loopback addresses, so what an
/// ingress controller must reach is addressed by this one.
pub const NODE_ADDRESS: &str = "10.99.0.1";

/// A second address of the node, on which no part listens: connections to it are refused.
pub const SILENT_ADDRESS: &str = "10.99.0.2";

/// A third address of the node, for an edge beside the first.
pub const SECOND_EDGE_ADDRESS: &str = "10.99.0.3";

/// How often, and how long apart, the processes of a sandbox that ends are looked for.
const ENDS: u32 = 200;
const END_POLL: Duration = Duration::from_millis(10);

/// More addresses of the node: one for each replica of Waxwing, so that all have the same ports, as pods do.
pub const REPLICA_ADDRESSES: [&str; 6] =
    ["10.99.0.11", "10.99.0.12", "10.99.0.13", "10.99.0.14", "10.99.0.15", "10.99.0.16"];

/// Set inside of a sandbox.
const MARK: &str = "WAXWING_LAB_SANDBOX";

/// Whether this process runs inside of a sandbox.
pub fn inside() -> bool {
    env::var_os(MARK).is_some()
}

/// The command that runs `command` in a new sandbox, as the current user.
pub fn command(command: &[OsString]) -> Result<Command, Error> {
    let flags = flags()?;
    let exe = env::current_exe().map_err(Error::io(|| "finding the path of this program"))?;
    // Made out here, where a user namespace has not yet taken the rights to.
    paths::create(&paths::volatile())?;
    let mut unshare = Command::new("unshare");
    unshare.args(flags).arg("--").arg(exe).arg("sandbox-init").arg("--").args(command);
    Ok(unshare)
}

/// Replaces this process by `command` in a new sandbox. Returns only when that is impossible.
pub fn enter(what: &[OsString]) -> Error {
    match command(what) {
        Ok(mut unshare) => Error::Io { what: "starting unshare".to_owned(), source: unshare.exec() },
        Err(error) => error,
    }
}

/// The first process of a sandbox: sets it up, runs `command`, answers with its exit code.
pub fn init(command: &[OsString]) -> Result<u8, Error> {
    set_up_network()?;
    mount()?;
    let Some((program, arguments)) = command.split_first() else {
        return Err(Error::Invalid { what: "sandbox".to_owned(), why: "no command was given".to_owned() });
    };
    let child = Command::new(program)
        .args(arguments)
        .env(MARK, "1")
        .spawn()
        .map_err(Error::io(|| format!("starting {}", Path::new(program).display())))?;
    let child = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // Orphans become children of the first process; they are waited for here too.
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == child => {
                end_orphans();
                lab::sweep();
                return Ok(exit_code(ExitStatus::from_raw(status.as_raw())));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(Error::Io { what: "waiting for the command".to_owned(), source: error.into() });
            }
        }
    }
}

/// Ends what the command left running. The kernel would do it a moment later; but then nobody is left
/// to remove the control groups that they are in.
fn end_orphans() {
    // Only the first process of a sandbox sees the sandbox's processes alone.
    if !rustix::process::getpid().is_init() {
        return;
    }
    for _ in 0..ENDS {
        let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for pid in numbers.filter_map(Pid::from_raw).filter(|pid| !pid.is_init()) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        if rustix::process::wait(WaitOptions::NOHANG).is_err() {
            // No child is left, and orphans would be children.
            return;
        }
        std::thread::sleep(END_POLL);
    }
}

/// The command that runs in the sandbox whose first process is `init`, seen from outside.
pub fn join(init: u32) -> Command {
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--target", &init.to_string(), "--net", "--pid", "--mount"]);
    if !is_root() {
        nsenter.args(["--user", "--preserve-credentials"]);
    }
    nsenter.arg("--").env(MARK, "1");
    nsenter
}

/// What a shell would report: the code, or 128 and the signal.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Which namespaces this user may make: as root none of users, else one, in which we are root.
fn flags() -> Result<Vec<&'static str>, Error> {
    const PLAIN: [&str; 5] = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut flags = PLAIN.to_vec();
    if !is_root() {
        flags.extend(["--user", "--map-root-user"]);
    }
    let trial = Command::new("unshare").args(&flags).args(["--", "true"]).output();
    match trial {
        Ok(output) if output.status.success() => Ok(flags),
        Ok(output) => Err(Error::NoNamespaces { answer: text(&output) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing {
            program: "unshare".to_owned(),
            needed_for: "the sandbox",
            install: "Install util-linux (Debian, Ubuntu: apt-get install util-linux).",
        }),
        Err(source) => Err(Error::Io { what: "starting unshare".to_owned(), source }),
    }
}

/// Loopback, the node's addresses on an interface of their own, and a default route: the API
/// server wants one.
fn set_up_network() -> Result<(), Error> {
    ip("link set lo up")?;
    // Kernels without modules often lack one of the two.
    ip("link add node0 type bridge").or_else(|_| ip("link add node0 type dummy"))?;
    ip(&format!("addr add {NODE_ADDRESS}/24 dev node0"))?;
    for address in [SILENT_ADDRESS, SECOND_EDGE_ADDRESS].into_iter().chain(REPLICA_ADDRESSES) {
        ip(&format!("addr add {address}/24 dev node0"))?;
    }
    ip("link set node0 up")?;
    ip("route add default dev node0")
}

/// Memory for what lives as long as the sandbox, and a resolver that asks the lab's name server.
fn mount() -> Result<(), Error> {
    let volatile = paths::volatile();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "waxwing-lab"]).arg(&volatile))?;
    let resolver = volatile.join("resolv.conf");
    paths::write(&resolver, "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n")?;
    run(Command::new("mount").arg("--bind").arg(&resolver).arg("/etc/resolv.conf"))
}

fn ip(arguments: &str) -> Result<(), Error> {
    run(Command::new("ip").args(arguments.split(' ')))
}

fn run(command: &mut Command) -> Result<(), Error> {
    let output = command.stdin(Stdio::null()).output().map_err(|source| {
        let program = command.get_program().to_string_lossy().into_owned();
        if source.kind() == io::ErrorKind::NotFound {
            Error::Missing {
                program,
                needed_for: "the sandbox",
                install: "Install iproute2 and mount (Debian, Ubuntu: apt-get install iproute2 mount).",
            }
        } else {
            Error::Io { what: format!("starting {program}"), source }
        }
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Invalid { what: format!("{command:?}"), why: text(&output) })
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
