//! A control group for one PostgreSQL, where this process may make one (root, or a delegated
//! group): `cgroup.kill` gives SIGKILL to all of it in one step of the kernel, forks included.
//! A help, never the proof: `tree` kills and counts with it and without it alike.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A group of its own below this process's, and what killing it needs, opened beforehand.
pub(crate) struct Cgroup {
    directory: PathBuf,
    join: File,
    kill: File,
}

impl Cgroup {
    /// The group of the node whose run directory this is: a former guard's, with what it left in it,
    /// or a new one. `None` where none can be had (cgroup v2 with `cgroup.kill`: Linux 5.14).
    pub(crate) fn of(run_dir: &Path) -> Option<Self> {
        let own = own_group()?;
        let node = fs::metadata(run_dir).ok()?;
        let directory = own.join(format!("pgherd-{:x}-{:x}", node.dev(), node.ino()));
        if !directory.is_dir() {
            fs::create_dir(&directory).ok()?;
        }
        let open = |name: &str| OpenOptions::new().write(true).open(directory.join(name)).ok();
        match (open("cgroup.procs"), open("cgroup.kill")) {
            (Some(join), Some(kill)) => Some(Self { directory, join, kill }),
            _ => {
                let _ = fs::remove_dir(&directory);
                None
            }
        }
    }

    /// A process that writes `0` here is in the group, and so are its children.
    pub(crate) fn door(&self) -> RawFd {
        self.join.as_raw_fd()
    }

    /// SIGKILL for all in it.
    pub(crate) fn kill(&self) {
        let _ = (&self.kill).write(b"1");
    }

    /// Removes the empty group.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Where this process's group of cgroup v2 is mounted.
fn own_group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| below(line, path))
}

/// A line of mountinfo (proc(5)): fields 4 and 5 are the root within the file system and the mount
/// point; after the dash comes the type.
fn below(line: &str, path: &str) -> Option<PathBuf> {
    let (fields, kind) = line.split_once(" - ")?;
    if !kind.starts_with("cgroup2 ") {
        return None;
    }
    let mut fields = fields.split(' ').skip(3);
    let (root, mount) = (fields.next()?, fields.next()?);
    let inside = Path::new(path).strip_prefix(root).ok()?;
    Some(Path::new(mount).join(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_below_its_mount() {
        let whole = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw";
        let place = below(whole, "/system.slice/pgherd.service");
        assert_eq!(place, Some("/sys/fs/cgroup/system.slice/pgherd.service".into()));
        let bound = "30 24 0:26 /a /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert_eq!(below(bound, "/a/b"), Some("/sys/fs/cgroup/b".into()));
        assert_eq!(below(bound, "/elsewhere"), None);
        assert_eq!(below("31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", "/"), None);
    }
}
