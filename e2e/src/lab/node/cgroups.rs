//! The node's control groups. They are the one thing that a sandbox can't keep to itself: they are
//! made in the machine's own hierarchies, and outlive the processes in them.
//!
//! So a lab's are named after it, and a lock says whether that lab lives: the kernel lets go of it
//! with the process that holds it. Whoever comes later removes what nobody holds.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::{Error, paths};

/// How the name of each begins.
const PREFIX: &str = "waxwing-lab-";

/// Longest time for killed processes to leave their group.
const END: Duration = Duration::from_secs(10);

/// How often groups that should be empty are looked at.
const POLL: Duration = Duration::from_millis(20);

/// The groups of one node: one in each hierarchy. Dropping them kills what is in them.
#[derive(Debug)]
pub(super) struct Cgroups {
    name: String,
    // The lab lives as long as this is held.
    lock: File,
}

impl Cgroups {
    /// Makes them, after removing those of labs that are gone.
    pub(super) fn create() -> Result<Self, Error> {
        sweep();
        let mut id = [0; 4];
        aws_lc_rs::rand::fill(&mut id).map_err(Error::invalid(|| "naming control groups"))?;
        let name = format!("{PREFIX}{:08x}", u32::from_be_bytes(id));
        paths::create(&locks())?;
        let path = locks().join(&name);
        let failed = || format!("locking {}", path.display());
        let lock = File::create(&path).map_err(Error::io(failed))?;
        lock.lock().map_err(Error::io(failed))?;
        let cgroups = Self { name, lock };
        for hierarchy in hierarchies()? {
            let group = hierarchy.join(&cgroups.name);
            fs::create_dir(&group)
                .map_err(Error::io(|| format!("making the control group {}", group.display())))?;
        }
        Ok(cgroups)
    }

    /// Their name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Their path in every hierarchy.
    pub(super) fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// A group for the node's own processes, in one hierarchy: what they start and forget, as containerd
    /// does with its shims, is found and ended by it. A process joins by writing 0 to the file.
    pub(super) fn own(&self) -> Result<PathBuf, Error> {
        // A new group of version 1's cpuset takes no process before it is given processors.
        let takes_any = |root: &PathBuf| !root.join("cpuset.cpus").exists();
        let hierarchies = hierarchies()?;
        let root = hierarchies.iter().find(|root| takes_any(root)).or(hierarchies.first());
        let group = root.map(|root| root.join(&self.name).join("own")).unwrap_or_default();
        paths::create(&group)?;
        Ok(group.join("cgroup.procs"))
    }

    /// Kills everything in them.
    pub(super) fn kill(&self) {
        end(&self.name);
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        end(&self.name);
        let _ = fs::remove_file(locks().join(&self.name));
        let _ = self.lock.unlock();
    }
}

/// Removes the control groups of labs that are gone, which a crash leaves behind.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(locks()) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(lock) = File::open(entry.path()) else { continue };
        if name.starts_with(PREFIX) && lock.try_lock().is_ok() && end(&name) {
            // Groups that can't be removed yet are tried again by the next lab.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn locks() -> PathBuf {
    paths::lab().join("cgroups")
}

/// Where hierarchies are mounted: several of version 1, one of version 2, or both.
fn hierarchies() -> Result<Vec<PathBuf>, Error> {
    let mounts = paths::read(Path::new("/proc/self/mounts"))?;
    let of_groups = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let writable = fields.next()?.split(',').any(|option| option == "rw");
        (matches!(kind, "cgroup" | "cgroup2") && writable).then(|| PathBuf::from(path))
    });
    let mut found: Vec<PathBuf> = of_groups.collect();
    found.sort();
    found.dedup();
    if found.is_empty() {
        let why = "none is mounted that can be written to".to_owned();
        return Err(Error::Invalid { what: "control groups".to_owned(), why });
    }
    Ok(found)
}

/// Kills what is in the groups of that name and removes them. Whether none is left.
fn end(name: &str) -> bool {
    let Ok(hierarchies) = hierarchies() else { return false };
    let groups: Vec<PathBuf> =
        hierarchies.iter().map(|root| root.join(name)).filter(|group| group.exists()).collect();
    let begun = Instant::now();
    loop {
        let mut empty = true;
        for group in &groups {
            empty &= kill_and_remove(group);
        }
        if empty || begun.elapsed() > END {
            return empty;
        }
        std::thread::sleep(POLL);
    }
}

/// Kills what is in a group and in those below it, and removes those that are empty. Whether it is gone.
fn kill_and_remove(group: &Path) -> bool {
    let below = fs::read_dir(group).into_iter().flatten().filter_map(Result::ok);
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        kill_and_remove(&entry.path());
    }
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
        // It may end by itself meanwhile.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    match fs::remove_dir(group) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    #[test]
    fn groups_of_a_lab_that_is_gone_are_swept_and_others_stay() {
        if !rustix::process::geteuid().is_root() || hierarchies().is_err() {
            eprintln!("skipped: this user can make no control groups");
            return;
        }
        let living = Cgroups::create().unwrap();
        let gone = Cgroups::create().unwrap();
        let group = gone.own().unwrap().parent().unwrap().to_path_buf();
        let mut member = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(group.join("cgroup.procs"), member.id().to_string()).unwrap();
        // As the kernel does for a process that is killed; and nothing is cleaned up.
        gone.lock.unlock().unwrap();
        sweep();
        assert!(!member.wait().unwrap().success());
        assert!(!group.parent().unwrap().exists());
        assert!(living.own().unwrap().exists());
        let left = locks().join(&living.name);
        drop(living);
        assert!(!left.exists());
    }
}
