//! The page of memory that guard and agent share: who they are, the deadline, how far killing is.
//! Leaves what the values lead to, to `watch` (guard) and `handle` (agent).
//!
//! It is a memfd, not a file: no write to it can hang on a disk, and a restarted agent finds it as
//! the guard's standard input in `/proc`. Every field is one atomic word, so a reader never sees
//! half a value; the order of the stores says what a reader may conclude.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::watchdog::WatchdogState;

/// "pgherd" and the layout's version, in one word.
const MAGIC: u64 = u64::from_be_bytes(*b"pgherd\0\x01");
/// One page; the layout needs far less.
const SIZE: usize = 4096;

/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

/// How far the life of a guard is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// The postmaster isn't started yet.
    Starting,
    /// The postmaster runs.
    Running,
    /// Killing has begun.
    Killing,
    /// SIGKILL is pending on every process of the tree, or the process is gone: none can return to
    /// user mode and acknowledge anything.
    Killed,
    /// No process of the tree is left.
    Empty,
}

/// Why the guard began to kill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It hasn't.
    None,
    /// The deadline passed.
    Deadline,
    /// The agent asked.
    Request,
    /// The guard got SIGTERM.
    Signal,
    /// The postmaster ended by itself; what it left was killed.
    PostmasterExit,
    /// The postmaster could not be started.
    SpawnFailed,
}

/// One look at the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// How far it is.
    pub phase: Phase,
    /// Why it began to kill.
    pub cause: Cause,
    /// The term that was armed when the deadline passed.
    pub fired_term: Option<u64>,
    /// The postmaster's wait status (wait(2)), once it is reaped.
    pub wait_status: Option<i32>,
    /// The errno of the failed start, with [`Cause::SpawnFailed`].
    pub spawn_errno: i32,
}

/// The layout. Only words that any bit pattern is valid for.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Page {
    magic: AtomicU64,
    pub(crate) postmaster_pid: AtomicU64,
    pub(crate) postmaster_start: AtomicU64,
    /// The armed term; stored before the deadline it belongs to.
    pub(crate) term: AtomicU64,
    /// CLOCK_BOOTTIME in microseconds.
    pub(crate) deadline: AtomicU64,
    pub(crate) kill_request: AtomicU64,
    phase: AtomicU64,
    cause: AtomicU64,
    /// Armed term + 1 when fired by the deadline; 0 otherwise.
    fired: AtomicU64,
    /// Wait status + 1 of the reaped postmaster; 0 before.
    waited: AtomicU64,
    pub(crate) spawn_errno: AtomicU64,
    /// Seconds after which an unfed watchdog resets the machine; 0: it isn't wanted.
    pub(crate) watchdog_timeout: AtomicU64,
    /// 0 off, 1 running, errno + 2 failed.
    watchdog: AtomicU64,
    /// When to kill because the reset is near, CLOCK_BOOTTIME in microseconds; 0: never.
    pub(crate) watchdog_limit: AtomicU64,
    /// It is given back for good.
    pub(crate) watchdog_over: AtomicU64,
}

impl Page {
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u64, Ordering::SeqCst);
    }

    pub(crate) fn set_cause(&self, cause: Cause) {
        if cause == Cause::Deadline {
            self.fired.store(self.term.load(Ordering::SeqCst).wrapping_add(1), Ordering::SeqCst);
        }
        self.cause.store(cause as u64, Ordering::SeqCst);
    }

    pub(crate) fn set_wait_status(&self, status: i32) {
        self.waited.store(u64::from(status.cast_unsigned()) + 1, Ordering::SeqCst);
    }

    pub(crate) fn set_watchdog(&self, state: WatchdogState) {
        let word = match state {
            WatchdogState::Off => 0,
            WatchdogState::Running => 1,
            WatchdogState::Failed(errno) => u64::from(errno.unsigned_abs()) + 2,
        };
        self.watchdog.store(word, Ordering::SeqCst);
    }

    pub(crate) fn watchdog(&self) -> WatchdogState {
        match self.watchdog.load(Ordering::SeqCst) {
            0 => WatchdogState::Off,
            1 => WatchdogState::Running,
            word => WatchdogState::Failed(i32::try_from(word - 2).unwrap_or(0)),
        }
    }

    /// When to kill: the end of belief, or a moment before the watchdog's reset.
    pub(crate) fn end(&self) -> u64 {
        let limit = self.watchdog_limit.load(Ordering::SeqCst);
        let deadline = self.deadline.load(Ordering::SeqCst);
        if limit == 0 { deadline } else { deadline.min(limit) }
    }

    pub(crate) fn status(&self) -> Status {
        let phase = match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Starting,
            1 => Phase::Running,
            2 => Phase::Killing,
            3 => Phase::Killed,
            _ => Phase::Empty,
        };
        let cause = match self.cause.load(Ordering::SeqCst) {
            0 => Cause::None,
            1 => Cause::Deadline,
            2 => Cause::Request,
            3 => Cause::Signal,
            4 => Cause::PostmasterExit,
            _ => Cause::SpawnFailed,
        };
        let waited = self.waited.load(Ordering::SeqCst);
        let low = u32::try_from(waited.wrapping_sub(1)).ok();
        Status {
            phase,
            cause,
            fired_term: self.fired.load(Ordering::SeqCst).checked_sub(1),
            wait_status: low.map(u32::cast_signed),
            spawn_errno: i32::try_from(self.spawn_errno.load(Ordering::SeqCst)).unwrap_or(0),
        }
    }
}

/// A mapping of the page.
pub(crate) struct Shared {
    page: NonNull<Page>,
}

#[expect(
    unsafe_code,
    reason = "the page holds atomics only, and the mapping lives as long as self"
)]
// SAFETY: `Page` is made of atomics; the mapping isn't bound to a thread.
unsafe impl Send for Shared {}
#[expect(unsafe_code, reason = "see Send")]
// SAFETY: as for Send; all access goes through atomics.
unsafe impl Sync for Shared {}

impl Shared {
    /// A new page with this deadline armed, and the descriptor to hand to the guard.
    pub(crate) fn create(term: u64, deadline: u64) -> io::Result<(Self, OwnedFd)> {
        let fd = rustix::fs::memfd_create(
            c"pgherd-guard",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&fd, SIZE as u64)?;
        // Nobody can shrink it: touching the mapping never raises SIGBUS.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
        let shared = Self::map(&fd)?;
        shared.term.store(term, Ordering::SeqCst);
        shared.deadline.store(deadline, Ordering::SeqCst);
        shared.magic.store(MAGIC, Ordering::SeqCst);
        Ok((shared, fd))
    }

    /// The page behind a descriptor that should be one of ours.
    pub(crate) fn open(fd: impl AsFd) -> io::Result<Self> {
        let size = rustix::fs::fstat(&fd)?.st_size;
        if size != i64::try_from(SIZE).unwrap_or(0) {
            return Err(io::Error::other(format!("not a guard's page: {size} bytes, not {SIZE}")));
        }
        let shared = Self::map(fd)?;
        let magic = shared.magic.load(Ordering::SeqCst);
        if magic != MAGIC {
            let words = format!("not a guard's page of this version: {magic:#x}, not {MAGIC:#x}");
            return Err(io::Error::other(words));
        }
        Ok(shared)
    }

    fn map(fd: impl AsFd) -> io::Result<Self> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        #[expect(unsafe_code, reason = "mapping shared memory can't be expressed safely")]
        // SAFETY: a new mapping at an address of the kernel's choice; SIZE was checked or set.
        let page = unsafe { rustix::mm::mmap(std::ptr::null_mut(), SIZE, prot, flags, fd, 0)? };
        let page = NonNull::new(page.cast()).ok_or_else(|| io::Error::other("mmap gave null"))?;
        Ok(Self { page })
    }
}

impl std::ops::Deref for Shared {
    type Target = Page;
    fn deref(&self) -> &Page {
        #[expect(unsafe_code, reason = "the one place where the mapping is dereferenced")]
        // SAFETY: page-aligned, SIZE >= size_of::<Page>(), alive until drop, atomics only.
        unsafe {
            self.page.as_ref()
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "unmapping what map() mapped")]
        // SAFETY: mapped by `map` with SIZE, and no reference outlives self.
        // An error could only mean that it isn't mapped, and then there is nothing to undo.
        let _ = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), SIZE) };
    }
}

const _: () = assert!(size_of::<Page>() <= SIZE);
