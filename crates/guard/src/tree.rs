//! Killing every descendant of this process, and knowing when all of them have it.
//! Leaves the decision to kill, and waiting between the passes, to `watch`.
//!
//! The guard is a subreaper: whatever happens between the postmaster and its offspring (double
//! forks, new sessions), all of it stays below the guard in the process tree. A process with a
//! pending SIGKILL can't fork any more (fork(2) fails with a pending signal), so: kill first, then
//! look at its children.

use std::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::process::{number, path, read_file, stat};

/// Room for one pass of [`Tree::walk`]; more processes than that are left to [`Tree::scan`].
const QUEUE: usize = 65_536;
/// Room for one `children` file: ten thousand pids.
const CHILDREN: usize = 81_920;

/// Everything that killing needs, allocated before there is anything to kill.
pub(crate) struct Tree {
    own: i32,
    /// One bit per pid: SIGKILL was sent.
    killed: Vec<u64>,
    queue: Vec<i32>,
    children: Vec<u8>,
    entries: Vec<MaybeUninit<u8>>,
    tasks: Vec<MaybeUninit<u8>>,
}

/// What reaping found.
pub(crate) enum Reaped {
    /// This child ended, with this wait status.
    One(i32, i32),
    /// Nothing to reap now.
    NothingYet,
    /// There is no child left, and so no descendant.
    NoChild,
}

impl Tree {
    pub(crate) fn new(own: Pid) -> Self {
        let pid_max = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
        let pid_max = pid_max.and_then(|text| text.trim().parse().ok()).unwrap_or(4_194_304_usize);
        Self {
            own: own.as_raw_nonzero().get(),
            killed: vec![0; pid_max / 64 + 1],
            queue: Vec::with_capacity(QUEUE),
            children: vec![0; CHILDREN],
            entries: vec![MaybeUninit::uninit(); 32_768],
            tasks: vec![MaybeUninit::uninit(); 4_096],
        }
    }

    /// Kills one process, once. Says whether it was new.
    pub(crate) fn kill(&mut self, pid: i32) -> bool {
        let (word, bit) = (pid.cast_unsigned() as usize / 64, 1 << (pid.cast_unsigned() % 64));
        let Some(word) = self.killed.get_mut(word) else { return false };
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        if let Some(pid) = Pid::from_raw(pid) {
            // ESRCH: it is gone. EPERM: it became another user's, which no backend can.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        true
    }

    fn has_killed(&self, pid: i32) -> bool {
        let index = pid.cast_unsigned() as usize;
        self.killed.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// The fast way: kills down the tree along the kernel's `children` files. It may miss a process
    /// whose parent ends meanwhile (and does nothing where the kernel has no such files).
    pub(crate) fn walk(&mut self) {
        self.queue.clear();
        self.queue.push(self.own);
        let mut next = 0;
        while let Some(&pid) = self.queue.get(next) {
            next += 1;
            self.walk_one(pid);
        }
    }

    fn walk_one(&mut self, pid: i32) {
        let mut name = [0; 64];
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tasks = path(&mut name, format_args!("/proc/{pid}/task"));
        let Ok(tasks) = rustix::fs::open(tasks, flags, Mode::empty()) else { return };
        let mut buffer = std::mem::take(&mut self.tasks);
        let mut threads = RawDir::new(tasks, &mut buffer);
        while let Some(Ok(thread)) = threads.next() {
            let Some(thread) = number(thread.file_name().to_bytes()) else { continue };
            let children = path(&mut name, format_args!("/proc/{pid}/task/{thread}/children"));
            let mut text = std::mem::take(&mut self.children);
            if let Some(list) = read_file(children, &mut text) {
                self.kill_listed(list);
            }
            self.children = text;
        }
        self.tasks = buffer;
    }

    fn kill_listed(&mut self, list: &[u8]) {
        // What follows the last space is a number cut off by a full buffer, or nothing.
        let end = list.iter().rposition(|&byte| byte == b' ').unwrap_or(0);
        for pid in list[..end].split(|&byte| byte == b' ').filter_map(number) {
            let Ok(pid) = i32::try_from(pid) else { continue };
            self.kill(pid);
            if self.queue.len() < QUEUE {
                self.queue.push(pid);
            }
        }
    }

    /// The proof: looks at the parent of every process there is, and kills each that descends from
    /// this one. Says whether the pass was complete and found nothing new: then all have SIGKILL.
    pub(crate) fn scan(&mut self) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(proc) = rustix::fs::open(c"/proc", flags, Mode::empty()) else { return false };
        let mut clean = true;
        let mut buffer = std::mem::take(&mut self.entries);
        let mut entries = RawDir::new(proc, &mut buffer);
        while let Some(entry) = entries.next() {
            let Ok(entry) = entry else {
                clean = false;
                break;
            };
            let pid = number(entry.file_name().to_bytes()).and_then(|pid| i32::try_from(pid).ok());
            let Some(pid) = pid.filter(|&pid| pid != self.own) else { continue };
            let Some(seen) = stat(pid) else { continue };
            if (seen.parent == self.own || self.has_killed(seen.parent)) && self.kill(pid) {
                clean = false;
            }
        }
        self.entries = buffer;
        clean
    }

    /// Reaps one ended child, without waiting.
    pub(crate) fn reap(&mut self) -> Reaped {
        loop {
            return match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get();
                    // The number may be used again from now on.
                    let index = pid.cast_unsigned() as usize;
                    if let Some(word) = self.killed.get_mut(index / 64) {
                        *word &= !(1 << (index % 64));
                    }
                    Reaped::One(pid, status.as_raw())
                }
                Ok(None) => Reaped::NothingYet,
                Err(Errno::INTR) => continue,
                Err(_) => Reaped::NoChild,
            };
        }
    }
}
