//! A machine as kubelet, containerd and the CNI plugins want it, made of mounts that nobody outside
//! of the sandbox sees. What they write to fixed places goes to memory and ends with the node.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::run;
use crate::{Error, paths};

/// Everything of the node, in memory. `/run`, because containerd's sockets must have short paths.
pub(super) const STATE: &str = "/run/waxwing-lab";

/// Where programs write without being asked: `/var/lib/cni`, `/var/lib/kubelet`, `/var/log/containers`.
const WRITTEN: [&str; 2] = ["/var/lib", "/var/log"];

/// Settings of the kernel that kubelet changes unless they are so. They are the whole machine's, so
/// kubelet is shown what it wants to see.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The mounts. Dropping them takes them away, with all that was mounted below them since.
#[derive(Debug)]
pub(super) struct Machine {
    mounts: Vec<PathBuf>,
}

impl Machine {
    pub(super) fn prepare() -> Result<Self, Error> {
        let target = paths::target();
        if let Some(hidden) =
            WRITTEN.iter().chain(["/run", "/var/run"].iter()).find(|at| target.starts_with(at))
        {
            let why =
                format!("the lab's node hides {hidden}; put the sources elsewhere, or set CARGO_TARGET_DIR");
            return Err(Error::Invalid { what: target.display().to_string(), why });
        }
        let mut machine = Self { mounts: Vec::new() };
        let resolver = paths::read(Path::new("/etc/resolv.conf"))?;
        machine.mount("/run", &["-t", "tmpfs", "-o", "mode=0755", "waxwing-lab"])?;
        paths::create(Path::new(STATE))?;
        // Some machines keep it in /run, where it was hidden just now.
        let at = fs::read_link("/etc/resolv.conf").unwrap_or_default();
        if fs::metadata("/etc/resolv.conf").is_err() {
            let at = Path::new("/etc").join(at);
            at.parent().map_or(Ok(()), paths::create)?;
            paths::write(&at, resolver)?;
        }
        for place in WRITTEN {
            let name = place.replace('/', "-");
            let [upper, work] = ["upper", "work"].map(|kind| format!("{STATE}/private{name}/{kind}"));
            paths::create(Path::new(&upper))?;
            paths::create(Path::new(&work))?;
            let options = format!("lowerdir={place},upperdir={upper},workdir={work}");
            machine.mount(place, &["-t", "overlay", "-o", &options, "waxwing-lab"])?;
        }
        for (setting, wanted) in SETTINGS {
            let at = format!("/proc/sys/{setting}");
            if paths::read(Path::new(&at))?.trim() != wanted {
                let shown = format!("{STATE}/{}", setting.replace('/', "-"));
                paths::write(Path::new(&shown), format!("{wanted}\n"))?;
                machine.mount(&at, &["--bind", &shown])?;
            }
        }
        Ok(machine)
    }

    fn mount(&mut self, at: &str, what: &[&str]) -> Result<(), Error> {
        run(Command::new("mount").args(what).arg(at))?;
        self.mounts.push(PathBuf::from(at));
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for at in self.mounts.iter().rev() {
            // Lazily: with what is mounted below. What fails ends with the sandbox.
            let _ = run(Command::new("umount").arg("--lazy").arg(at));
        }
    }
}
