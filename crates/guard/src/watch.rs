//! The guard process: starts the postmaster, sleeps until the deadline, kills, ends.
//! Leaves the shared page's layout to `shared`, how to kill a tree to `tree`, the kernel's watchdog to
//! `watchdog`.
//!
//! Nothing after [`Watch::start`] allocates, locks, logs or touches a disk before the last process
//! is dead.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mm::MlockAllFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use crate::cgroup::Cgroup;
use crate::process::{boot_id, boottime_micros, stat};
use crate::shared::{Cause, Phase, Shared};
use crate::tree::{Reaped, Tree};
use crate::watchdog::Watchdog;

/// It looks at the page at least this often, so that no lost wake-up can delay a deadline more.
const LOOK_AGAIN_MICROS: u64 = 500_000;
/// The pause between two looks at processes that are dying.
const DYING_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// The guard process. Arguments: `pg-fence REGISTRATION [--watchdog=PATH] POSTGRES ARGS...`; standard input is the
/// shared page, standard output and error the log that PostgreSQL inherits.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Watch::start(args) {
        Ok(mut watch) => {
            let cause = watch.until_over();
            watch.kill_all(cause);
            watch.last_words();
            watch.wait_for_watchdog();
            if let Some(cgroup) = &watch.cgroup {
                cgroup.remove();
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "pgherd guard: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Watch {
    page: Shared,
    tree: Tree,
    cgroup: Option<Cgroup>,
    registration: std::fs::File,
    signals: OwnedFd,
    timer: OwnedFd,
    postmaster: i32,
    postmaster_fd: OwnedFd,
    postmaster_ended: bool,
    feeds: bool,
}

impl Watch {
    fn start(args: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        let mut args = args.into_iter().skip(1);
        let usage = || io::Error::other("expected: pg-fence REGISTRATION POSTGRES ARGS...");
        let registration = PathBuf::from(args.next().ok_or_else(usage)?);
        let mut program = args.next().ok_or_else(usage)?;
        let watchdog = Watchdog::of_argument(&program);
        if watchdog.is_some() {
            program = args.next().ok_or_else(usage)?;
        }
        let page = Shared::open(io::stdin())?;
        let own = rustix::process::getpid();

        let signals = take_signals()?;
        // Already a leader when started from a shell: then it can't be ended with the agent either.
        let _ = rustix::process::setsid();
        rustix::process::set_child_subreaper(Some(own))?;
        let _ = rustix::thread::set_name(c"pg-fence");
        let cgroup = registration.parent().and_then(Cgroup::of);
        let registration = register(registration, own)?;
        let tree = Tree::new(own);
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;

        let door = cgroup.as_ref().map(Cgroup::door);
        let started = spawn(program, args, own, door).and_then(|pid| {
            let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            Ok((pid.as_raw_nonzero().get(), fd))
        });
        let (postmaster, postmaster_fd) = started.inspect_err(|error| {
            let errno = error.raw_os_error().unwrap_or(0);
            page.spawn_errno.store(u64::from(errno.cast_unsigned()), Ordering::SeqCst);
            page.set_cause(Cause::SpawnFailed);
            page.set_phase(Phase::Empty);
        })?;
        stay_resident();
        let feeds = watchdog.is_some_and(start_feeding);
        let start = stat(postmaster).map_or(0, |seen| seen.start);
        page.postmaster_start.store(start, Ordering::SeqCst);
        page.postmaster_pid.store(u64::from(postmaster.cast_unsigned()), Ordering::SeqCst);
        page.set_phase(Phase::Running);
        let postmaster_ended = false;
        Ok(Self {
            page,
            tree,
            cgroup,
            registration,
            signals,
            timer,
            postmaster,
            postmaster_fd,
            postmaster_ended,
            feeds,
        })
    }

    /// Sleeps until there is a reason to kill.
    fn until_over(&mut self) -> Cause {
        loop {
            if self.page.kill_request.load(Ordering::SeqCst) != 0 {
                return Cause::Request;
            }
            let (now, deadline) = (boottime_micros(), self.page.end());
            if now >= deadline {
                return Cause::Deadline;
            }
            self.reap();
            if self.postmaster_ended {
                return Cause::PostmasterExit;
            }
            self.sleep_until(deadline.min(now + LOOK_AGAIN_MICROS));
            if self.told_to_end() {
                return Cause::Signal;
            }
        }
    }

    /// Kills until nothing is left, telling the page how far it is.
    fn kill_all(&mut self, cause: Cause) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        self.tree.kill(self.postmaster);
        self.page.set_cause(cause);
        self.page.set_phase(Phase::Killing);
        let mut all_have_it = false;
        loop {
            self.tree.walk();
            if !all_have_it && self.tree.scan() {
                all_have_it = true;
                self.page.set_phase(Phase::Killed);
            }
            if self.reap() {
                self.page.set_phase(Phase::Empty);
                return;
            }
            let _ = rustix::event::poll(&mut [], Some(&DYING_PAUSE));
        }
    }

    /// Reaps whatever has ended; true when no child is left.
    fn reap(&mut self) -> bool {
        loop {
            match self.tree.reap() {
                Reaped::One(pid, status) if pid == self.postmaster && !self.postmaster_ended => {
                    self.postmaster_ended = true;
                    self.page.set_wait_status(status);
                }
                Reaped::One(..) => {}
                Reaped::NothingYet => return false,
                Reaped::NoChild => return true,
            }
        }
    }

    /// Waits for the instant, a signal or the postmaster's end. A wake-up for nothing does no harm.
    fn sleep_until(&self, micros: u64) {
        let at = Timespec {
            tv_sec: (micros / 1_000_000).cast_signed(),
            tv_nsec: (micros % 1_000_000 * 1_000).cast_signed(),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        let _ = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once);
        let mut fds = [
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.postmaster_fd.as_fd(), PollFlags::IN),
        ];
        // The timeout stands in for a timer that could not be set.
        let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut fds, Some(&limit));
    }

    /// Takes the signals that arrived; true when SIGTERM is among them. SIGUSR1 only wakes.
    fn told_to_end(&self) -> bool {
        let mut buffer = [0; 128];
        let mut told = false;
        // One signalfd_siginfo (128 bytes) begins with the signal's number (signalfd(2)).
        while let Ok(128) = rustix::io::read(&self.signals, &mut buffer[..]) {
            let signal = i32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
            told |= signal == Signal::TERM.as_raw();
        }
        told
    }

    /// A watchdog that isn't given back resets the machine, although nothing is left to fence. One
    /// that can't be, does that.
    fn wait_for_watchdog(&self) {
        let mut looks = if self.feeds { 1_000 } else { 0 };
        while looks > 0 && self.page.watchdog_over.load(Ordering::SeqCst) == 0 {
            let _ = rustix::event::poll(&mut [], Some(&DYING_PAUSE));
            looks -= 1;
        }
    }

    /// For a later agent: why this life ended. All are dead, so now a slow disk does no harm.
    fn last_words(&mut self) {
        let status = self.page.status();
        let term = status.fired_term.unwrap_or(0);
        let wait = status.wait_status.unwrap_or(-1);
        let mut line = [0; 64];
        let cause = status.cause as u8;
        let words = crate::process::path(&mut line, format_args!("ended {cause} {term} {wait}\n"));
        let _ = self.registration.write_all(words.to_bytes());
    }
}

/// Tells a restarted agent who the guard is: `pgherd-guard 1 PID START BOOT`.
fn register(path: PathBuf, own: Pid) -> io::Result<std::fs::File> {
    let start = stat(own.as_raw_nonzero().get()).map_or(0, |seen| seen.start);
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    writeln!(file, "pgherd-guard 1 {} {start} {}", own.as_raw_nonzero(), boot_id()?)?;
    // No fsync: after a crash of the machine there is no guard to find.
    std::fs::rename(new, path)?;
    Ok(file)
}

/// Starts the postmaster so that the kernel kills it when the guard dies.
fn spawn(
    program: OsString,
    args: impl Iterator<Item = OsString>,
    own: Pid,
    door: Option<RawFd>,
) -> io::Result<Pid> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    #[expect(unsafe_code, reason = "the death signal must be set in the child before it execs")]
    // SAFETY: three system calls, all async-signal-safe, no allocation; the door is open until then.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if let Some(door) = door {
                // Where that is refused, the tree alone is killed.
                let _ = rustix::io::write(BorrowedFd::borrow_raw(door), b"0");
            }
            // The guard may have died before the line above: then nobody would kill this process.
            if rustix::process::getppid() == Some(own) {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
    }
    // The standard library gives the child an empty signal mask; PostgreSQL sets its own handlers.
    let child = command.spawn()?;
    Pid::from_raw(child.id().cast_signed()).ok_or_else(|| io::Error::other("no pid"))
}

/// Blocks every signal that can be, and takes SIGTERM and SIGUSR1 as readable events.
fn take_signals() -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "signal masks and signalfd have no safe wrapper here")]
    // SAFETY: the sets are initialised by sigfillset/sigemptyset before use; the descriptor that
    // signalfd returns is checked and owned by nobody else.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        let mut wanted: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut wanted);
        libc::sigaddset(&raw mut wanted, libc::SIGTERM);
        libc::sigaddset(&raw mut wanted, libc::SIGUSR1);
        match libc::signalfd(-1, &raw const wanted, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// A thread for the watchdog; false, and said so, when there is none.
fn start_feeding(watchdog: Watchdog) -> bool {
    let feed = move || {
        // A mapping of its own: it may outlive the watch by a moment.
        let page = Shared::open(io::stdin());
        if let Ok(page) = page {
            before_others();
            watchdog.feed(&page);
        }
    };
    let started = std::thread::Builder::new().name("watchdog".to_owned()).spawn(feed);
    if let Err(error) = &started {
        let _ = writeln!(io::stderr(), "pgherd guard: nobody feeds the watchdog: {error}");
    }
    started.is_ok()
}

/// Where it is permitted: memory that can't be swapped out, and a place before ordinary processes.
/// After the spawn, so that the postmaster inherits neither.
fn stay_resident() {
    let _ = rustix::mm::mlockall(MlockAllFlags::CURRENT);
    before_others();
}

/// Where it is permitted, this thread has its turn before ordinary ones.
fn before_others() {
    #[expect(unsafe_code, reason = "no safe wrapper for sched_setscheduler")]
    // SAFETY: a valid parameter block for this thread; failure (no permission) changes nothing.
    unsafe {
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = 1;
        let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        libc::sched_setscheduler(0, policy, &raw const parameters);
    }
}
