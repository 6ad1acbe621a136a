//! Processes and ports of this machine, as the tests of whole clusters need them.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Free ports, below those that the system gives away by itself.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let start = 20_000 + u16::try_from(std::process::id() % 9_000).unwrap();
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = (start..32_000).filter(free);
    std::array::from_fn(|_| ports.next().expect("a free port"))
}

pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // It may have ended by now.
        let _ = kill_process(pid, signal);
    }
}

pub(crate) fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

pub(crate) fn words(pid: i32) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = text.split(|b| *b == 0).filter(|w| !w.is_empty());
    words.map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

/// Processes whose command line names the directory, or that have settled below it: PostgreSQL's
/// backends change their names, and stay in the data directory.
pub(crate) fn living_below(dir: &Path) -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let prefix = dir.to_string_lossy().into_owned();
    let within = |text: &str| {
        text.find(&prefix).is_some_and(|at| {
            matches!(text.as_bytes().get(at + prefix.len()), None | Some(b'/' | b'"'))
        })
    };
    let settled = |pid: &i32| {
        let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
        cwd.is_ok_and(|cwd| within(&cwd.to_string_lossy()))
    };
    // The store is told of the nodes' locks, and is none of their processes.
    let store = |words: &[String]| words.get(1).is_some_and(|w| w == "store");
    let named = |pid: &i32| {
        let words = words(*pid);
        let count = if store(&words) { words.len().min(8) } else { words.len() };
        words[..count].iter().any(|w| within(w))
    };
    let ours = |pid: &i32| *pid != own && (named(pid) || settled(pid));
    pids().into_iter().filter(ours).collect()
}

pub(crate) fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
}

/// Kills whatever lives below a directory. The directory is the test's own, so nothing else is hit.
pub(crate) fn sweep(dir: &Path) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let left = living_below(dir);
        if left.is_empty() || Instant::now() > until {
            return;
        }
        left.iter().for_each(|pid| send(pid.cast_unsigned(), Signal::KILL));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process and everything below it.
pub(crate) fn tree(root: i32) -> Vec<i32> {
    let mut all = vec![root];
    let pids = pids();
    let mut at = 0;
    while at < all.len() {
        let above = all[at];
        all.extend(pids.iter().filter(|pid| parent(**pid) == Some(above)));
        at += 1;
    }
    all
}
