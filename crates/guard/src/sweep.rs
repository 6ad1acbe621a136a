//! Killing what a dead guard left behind: every process that lives in a data directory.
//! Leaves the orderly way, by the process tree, to the guard.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::process::{ProcessState, stat};

/// Processes that live in a data directory and outlived SIGKILL.
#[derive(Debug, thiserror::Error)]
#[error(
    "{count} processes still live in {} {waited:?} after SIGKILL (first: pid {first}); they wait \
     for a disk, most likely, and nothing may start there before they are gone",
    .data_dir.display()
)]
pub struct SweepError {
    /// Where.
    pub data_dir: PathBuf,
    /// How many.
    pub count: usize,
    /// One of them.
    pub first: i32,
    /// How long was waited.
    pub waited: Duration,
}

/// Kills every process that lives in `data_dir` (see [`living_in`]) until none is left, for at most
/// `bound`. Says how many were killed.
///
/// # Errors
/// [`SweepError`] when some are left.
pub fn sweep(data_dir: &Path, bound: Duration) -> Result<usize, SweepError> {
    let begin = Instant::now();
    let mut killed = Vec::new();
    loop {
        let living = living_in(data_dir);
        let Some(&first) = living.first() else { return Ok(killed.len()) };
        for &pid in &living {
            if !killed.contains(&pid) {
                killed.push(pid);
            }
            if let Some(pid) = Pid::from_raw(pid) {
                // ESRCH: it is gone already.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        if begin.elapsed() >= bound {
            let (count, waited) = (living.len(), begin.elapsed());
            return Err(SweepError { data_dir: data_dir.to_owned(), count, first, waited });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processes of our user whose working directory is `data_dir` or below: PostgreSQL's, which
/// all go there, and the commands it runs. A process with a terminal that isn't PostgreSQL's own
/// executable is somebody's shell, not ours to kill; nor is any pgherd.
#[must_use]
pub fn living_in(data_dir: &Path) -> Vec<i32> {
    let data_dir = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let own_uid = rustix::process::getuid().as_raw();
    let own_exe = fs::metadata("/proc/self/exe").ok().map(|exe| (exe.dev(), exe.ino()));
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let lives_there = |&pid: &i32| {
        let of = |what: &str| PathBuf::from(format!("/proc/{pid}/{what}"));
        // No link: gone, a zombie, or another user's.
        let Ok(cwd) = fs::read_link(of("cwd")) else { return false };
        if !undeleted(cwd).starts_with(&data_dir) {
            return false;
        }
        let ours = fs::metadata(of("")).is_ok_and(|dir| dir.uid() == own_uid);
        let exe = fs::metadata(of("exe")).ok().map(|exe| (exe.dev(), exe.ino()));
        if !ours || exe.is_some() && exe == own_exe {
            return false;
        }
        let name = fs::read_link(of("exe")).map(undeleted).unwrap_or_default();
        let postgres = name.file_name().is_some_and(|name| name == "postgres");
        stat(pid).is_some_and(|seen| {
            seen.state == ProcessState::Alive && (postgres || seen.terminal == 0)
        })
    };
    pids.filter(lives_there).collect()
}

/// The kernel marks a removed file or directory behind its name.
fn undeleted(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(name) => PathBuf::from(OsString::from_vec(name.to_vec())),
        None => path,
    }
}
