//! The agent's side: starting a guard, finding it again after a restart, arming it, asking it.
//! Never waits longer than for the start of a process; leaves waiting for ends to the caller, who
//! has two pidfds for it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::ARGV0;
use crate::process::{ProcessState, boot_id, stat};
use crate::shared::{Cause, Phase, Shared, Status};
use crate::watchdog::{Watchdog, WatchdogState};

/// How long a guard may take from its start to the postmaster's.
const START_BOUND: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Clone, Debug)]
pub struct GuardSpec {
    /// The program that becomes the guard; `/proc/self/exe` for the running one.
    pub exe: PathBuf,
    /// Where the registration file (`guard`) is kept.
    pub run_dir: PathBuf,
    /// The postmaster's program and arguments. Visible to everybody: no secrets.
    pub argv: Vec<OsString>,
    /// The whole environment of guard and postmaster; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Standard output and error of both are appended here.
    pub log_file: PathBuf,
    /// When to kill: microseconds of CLOCK_BOOTTIME, [`crate::NEVER`] for never.
    pub deadline: u64,
    /// The term that the deadline belongs to.
    pub term: u64,
    /// The kernel's watchdog, and the seconds after which it resets the machine; 0: not now.
    pub watchdog: Option<(Watchdog, u64)>,
}

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// One guard per run directory.
    #[error("guard {pid} is alive already ({}); adopt or kill it first", .registration.display())]
    AlreadyRunning {
        /// Its pid.
        pid: i32,
        /// The file that says so.
        registration: PathBuf,
    },
    /// The guard or its log could not be started.
    #[error("the guard can't be started: {what} {}: {source}", .path.display())]
    Start {
        /// The step.
        what: &'static str,
        /// The file concerned.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The guard lives, and could not start the postmaster.
    #[error("the guard can't start {}: {source}", .program.display())]
    Postmaster {
        /// PostgreSQL's program.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The guard ended, or did nothing for ten seconds.
    #[error("guard {pid} did not start the postmaster; its words are in {}", .log_file.display())]
    Silent {
        /// Its pid.
        pid: i32,
        /// Where it writes.
        log_file: PathBuf,
    },
    /// A guard lives whose page can't be used.
    #[error(
        "guard {pid} is alive and can't be adopted: {source}; kill it (SIGTERM) and start anew"
    )]
    Foreign {
        /// Its pid.
        pid: i32,
        /// What is wrong.
        source: io::Error,
    },
}

/// A living or ended guard and its postmaster.
pub struct Guard {
    page: Shared,
    pid: Pid,
    fd: OwnedFd,
    postmaster_fd: Option<OwnedFd>,
    /// Present when this process started it and must reap it.
    child: Mutex<Option<Child>>,
}

impl Guard {
    /// Starts a guard and, through it, the postmaster. Blocks for the few milliseconds that takes.
    ///
    /// # Errors
    /// [`GuardError`]; nothing is left running then.
    pub fn spawn(spec: &GuardSpec) -> Result<Self, GuardError> {
        let registration = spec.run_dir.join("guard");
        if let Some((pid, ..)) = registered(&registration) {
            return Err(GuardError::AlreadyRunning { pid: raw(pid), registration });
        }
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| GuardError::Start { what, path, source }
        };
        let log = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&spec.log_file);
        let log = log.map_err(failed("opening", &spec.log_file))?;
        let errors = log.try_clone().map_err(failed("opening", &spec.log_file))?;
        let page = Shared::create(spec.term, spec.deadline);
        let (page, memory) = page.map_err(failed("making a shared page for", &spec.exe))?;
        let timeout = spec.watchdog.as_ref().map_or(0, |(_, timeout)| *timeout);
        page.watchdog_timeout.store(timeout, Ordering::SeqCst);
        let mut child = Command::new(&spec.exe)
            .arg0(ARGV0)
            .arg(&registration)
            .args(spec.watchdog.as_ref().map(|(watchdog, _)| watchdog.argument()))
            .args(&spec.argv)
            .env_clear()
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(memory)
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(failed("running", &spec.exe))?;
        let pid = Pid::from_child(&child);
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        let fd = fd.map_err(|errno| {
            // Not a zombie as long as it is ours: this can hit no other process.
            let _ = child.kill();
            failed("watching", &spec.exe)(errno.into())
        })?;
        let mut guard = Self { page, pid, fd, postmaster_fd: None, child: Mutex::new(Some(child)) };
        guard.wait_for_start(spec)?;
        guard.postmaster_fd = guard.open_postmaster();
        Ok(guard)
    }

    /// The guard that an earlier life of this agent left; `None` when there is none alive.
    ///
    /// # Errors
    /// [`GuardError::Foreign`] when one is alive and its page can't be used.
    pub fn adopt(run_dir: &Path) -> Result<Option<Self>, GuardError> {
        let Some((pid, start)) = registered(&run_dir.join("guard")) else { return Ok(None) };
        let foreign = |source| GuardError::Foreign { pid: raw(pid), source };
        let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
        // Checked again after the open: now the descriptor is this process and no later one.
        if alive(pid, start).is_none() {
            return Ok(None);
        }
        let path = format!("/proc/{}/fd/0", raw(pid));
        let memory = fs::OpenOptions::new().read(true).write(true).open(path).map_err(foreign)?;
        let page = Shared::open(memory).map_err(foreign)?;
        let mut guard = Self { page, pid, fd, postmaster_fd: None, child: Mutex::new(None) };
        let begin = Instant::now();
        while guard.status().phase == Phase::Starting && guard.is_alive() {
            if begin.elapsed() > START_BOUND {
                return Err(foreign(io::Error::other("it never started the postmaster")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        guard.postmaster_fd = guard.open_postmaster();
        Ok(Some(guard))
    }

    /// Sets term and deadline, the deadline in microseconds of CLOCK_BOOTTIME. False when it is too
    /// late: the guard kills already, or is gone.
    pub fn arm(&self, term: u64, deadline: u64) -> bool {
        self.page.term.store(term, Ordering::SeqCst);
        self.set_deadline(deadline)
    }

    /// Moves the deadline, in either direction. False when it is too late.
    pub fn set_deadline(&self, deadline: u64) -> bool {
        let before = self.page.deadline.swap(deadline, Ordering::SeqCst);
        if deadline < before {
            self.wake();
        }
        self.status().phase <= Phase::Running && self.is_alive()
    }

    /// The armed term and deadline.
    #[must_use]
    pub fn armed(&self) -> (u64, u64) {
        let deadline = self.page.deadline.load(Ordering::SeqCst);
        (self.page.term.load(Ordering::SeqCst), deadline)
    }

    /// After how many seconds an unfed watchdog resets the machine from the next belief on; 0: it is
    /// given back.
    pub fn set_watchdog(&self, timeout: u64) {
        self.page.watchdog_timeout.store(timeout, Ordering::SeqCst);
    }

    /// How it is with the kernel's watchdog.
    #[must_use]
    pub fn watchdog(&self) -> WatchdogState {
        self.page.watchdog()
    }

    /// Asks the guard to kill everything now. Doesn't wait; see [`Self::status`].
    pub fn kill(&self) {
        self.page.kill_request.store(1, Ordering::SeqCst);
        self.wake();
    }

    /// Kills the guard itself (the kernel then kills the postmaster): the last resort when a guard
    /// doesn't react. A [`crate::sweep`] must follow.
    pub fn kill_guard(&self) {
        // ESRCH: it is gone.
        let _ = rustix::process::pidfd_send_signal(&self.fd, Signal::KILL);
        if let Some(fd) = &self.postmaster_fd {
            let _ = rustix::process::pidfd_send_signal(fd, Signal::KILL);
        }
    }

    /// Sends a signal to the postmaster only (SIGINT: fast shutdown; SIGHUP: reload).
    ///
    /// # Errors
    /// ESRCH when it is gone.
    pub fn signal_postmaster(&self, signal: Signal) -> io::Result<()> {
        let fd = self.postmaster_fd.as_ref().ok_or(io::Error::from_raw_os_error(libc::ESRCH))?;
        Ok(rustix::process::pidfd_send_signal(fd, signal)?)
    }

    /// One look at the shared page. A guard that was itself killed leaves the page as it was: see
    /// [`Self::is_alive`].
    #[must_use]
    pub fn status(&self) -> Status {
        self.page.status()
    }

    /// Whether the guard process lives. Reaps it when it has ended and is our child.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1..));
        if ended {
            let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(mut child) = child.take() {
                let _ = child.wait();
            }
        }
        !ended
    }

    /// The guard's pid.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable when the guard has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The postmaster's pid, alive or not.
    #[must_use]
    pub fn postmaster_pid(&self) -> Option<Pid> {
        let pid = self.page.postmaster_pid.load(Ordering::SeqCst);
        Pid::from_raw(i32::try_from(pid).ok()?)
    }

    /// Readable when the postmaster has ended; the guard's when the postmaster was gone before it
    /// could be looked at.
    #[must_use]
    pub fn postmaster_pidfd(&self) -> BorrowedFd<'_> {
        self.postmaster_fd.as_ref().unwrap_or(&self.fd).as_fd()
    }

    fn wake(&self) {
        // ESRCH: it is gone.
        let _ = rustix::process::pidfd_send_signal(&self.fd, Signal::USR1);
    }

    fn wait_for_start(&self, spec: &GuardSpec) -> Result<(), GuardError> {
        let begin = Instant::now();
        loop {
            let alive = self.is_alive();
            let status = self.status();
            if status.cause == Cause::SpawnFailed {
                let program = spec.argv.first().map(PathBuf::from).unwrap_or_default();
                let source = io::Error::from_raw_os_error(status.spawn_errno);
                return Err(GuardError::Postmaster { program, source });
            }
            if status.phase != Phase::Starting {
                return Ok(());
            }
            if !alive || begin.elapsed() > START_BOUND {
                self.kill_guard();
                let (pid, log_file) = (raw(self.pid), spec.log_file.clone());
                return Err(GuardError::Silent { pid, log_file });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn open_postmaster(&self) -> Option<OwnedFd> {
        let pid = self.postmaster_pid()?;
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Only now is it certain that the descriptor isn't a later process of the same number.
        let start = self.page.postmaster_start.load(Ordering::SeqCst);
        stat(raw(pid)).filter(|seen| seen.start == start).map(|_| fd)
    }
}

impl Drop for Guard {
    /// The guard lives on without its handle; only a zombie is taken away.
    fn drop(&mut self) {
        let _ = self.is_alive();
    }
}

/// What a guard that ended in order wrote last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastWords {
    /// The term whose deadline passed, if that was the cause.
    pub fired_term: Option<u64>,
    /// The postmaster's wait status.
    pub wait_status: Option<i32>,
}

/// Why the last guard of this run directory ended; `None` when it lives, never was, or was killed.
#[must_use]
pub fn last_words(run_dir: &Path) -> Option<LastWords> {
    let text = fs::read_to_string(run_dir.join("guard")).ok()?;
    let mut words = text.lines().nth(1)?.strip_prefix("ended ")?.split(' ');
    let (cause, term, wait) = (words.next()?, words.next()?, words.next()?);
    let fired = cause.parse() == Ok(Cause::Deadline as u8);
    Some(LastWords {
        fired_term: term.parse().ok().filter(|_| fired),
        wait_status: wait.parse().ok().filter(|&status: &i32| status >= 0),
    })
}

/// The registered guard, if it is alive: its pid and start time.
fn registered(path: &Path) -> Option<(Pid, u64)> {
    let text = fs::read_to_string(path).ok()?;
    let mut words = text.lines().next()?.strip_prefix("pgherd-guard 1 ")?.split(' ');
    let pid = Pid::from_raw(words.next()?.parse().ok()?)?;
    let start = words.next()?.parse().ok()?;
    if words.next() != Some(boot_id().ok()?.as_str()) {
        return None;
    }
    alive(pid, start)?;
    Some((pid, start))
}

fn alive(pid: Pid, start: u64) -> Option<()> {
    let seen = stat(raw(pid))?;
    (seen.start == start && seen.state == ProcessState::Alive).then_some(())
}

fn raw(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}
