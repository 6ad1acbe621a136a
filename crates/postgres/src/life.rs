//! The life of one postmaster, and the way of killing that waits for nothing: shared memory, a
//! signal, and flags. Leaves starting in order and everything about SQL to others.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgherd_core::postgres::PgFailureKind;
use pgherd_core::{Term, Time};
use pgherd_guard::{Guard, GuardError, GuardSpec, NEVER, Phase, boottime_micros, living_in, sweep};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::PgError;
use crate::watch::WatchPlan;

/// How long a guard may take to kill before it is killed itself.
const GUARD_PATIENCE: Duration = Duration::from_millis(100);
/// The pause between two looks at a shared page.
const LOOK: Duration = Duration::from_millis(2);

/// One postmaster with its guard.
pub(crate) struct Life {
    pub(crate) guard: Guard,
    /// When it was started or adopted.
    pub(crate) began: Time,
    /// It has taken a connection.
    pub(crate) accepted: AtomicBool,
    /// When a probe last succeeded, CLOCK_BOOTTIME microseconds.
    pub(crate) last_probe: AtomicU64,
    /// The last probe failed though the postmaster lives.
    pub(crate) probe_failed: AtomicBool,
    /// How many more clients it takes, as the last probe saw; negative: nobody knows.
    pub(crate) room_for_clients: AtomicI64,
    /// A commit has been seen waiting: the checkpointer knows that the list isn't empty.
    pub(crate) waits_proven: AtomicBool,
}

impl Life {
    fn new(guard: Guard) -> Arc<Self> {
        let now = boottime_micros();
        Arc::new(Self {
            guard,
            began: Time(now),
            accepted: AtomicBool::new(false),
            last_probe: AtomicU64::new(now),
            probe_failed: AtomicBool::new(false),
            room_for_clients: AtomicI64::new(-1),
            waits_proven: AtomicBool::new(false),
        })
    }

    /// Nothing of it is left, as the guard says.
    pub(crate) fn is_empty(&self) -> bool {
        self.guard.status().phase == Phase::Empty
    }

    /// The postmaster runs and nobody is killing it.
    pub(crate) fn is_running(&self) -> bool {
        self.guard.status().phase == Phase::Running && self.guard.is_alive()
    }

    /// Until the postmaster or its guard has ended.
    pub(crate) async fn ended(&self) {
        let fds = [self.guard.postmaster_pidfd(), self.guard.pidfd()];
        let watch = |fd: BorrowedFd<'_>| {
            let own = fd.try_clone_to_owned().ok()?;
            #[expect(unsafe_code, reason = "tokio has no safe way to watch a descriptor")]
            // SAFETY: an OwnedFd stays open, and the same, for as long as AsyncFd owns it.
            unsafe {
                AsyncFd::register_with_interest(own, Interest::READABLE).ok()
            }
        };
        let (Some(postmaster), Some(guard)) = (watch(fds[0]), watch(fds[1])) else {
            // No descriptor left in the process: look now and then instead.
            while self.is_running() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return;
        };
        tokio::select! {
            _ = postmaster.readable() => {}
            _ = guard.readable() => {}
        }
    }
}

/// What killing and arming need: no lock that is held across anything slow.
pub(crate) struct Fence {
    data_dir: PathBuf,
    life: watch::Sender<Option<Arc<Life>>>,
    /// A guard is being started.
    starting: watch::Sender<bool>,
    /// Counts the kills; a change cancels what runs.
    kills: watch::Sender<u64>,
    /// Counts the postmasters that ended.
    ends: watch::Sender<u64>,
    armed: Mutex<Option<(u64, u64)>>,
    watch: Mutex<Option<WatchPlan>>,
    /// Processes without a guard may live in the data directory.
    pub(crate) unguarded: AtomicBool,
}

impl Fence {
    pub(crate) fn new(data_dir: PathBuf, adopted: Option<Guard>) -> Self {
        let armed = adopted.as_ref().map(Guard::armed);
        Self {
            data_dir,
            life: watch::Sender::new(adopted.map(Life::new)),
            starting: watch::Sender::new(false),
            kills: watch::Sender::new(0),
            ends: watch::Sender::new(0),
            armed: Mutex::new(armed),
            watch: Mutex::new(None),
            unguarded: AtomicBool::new(false),
        }
    }

    pub(crate) fn life(&self) -> Option<Arc<Life>> {
        self.life.borrow().clone()
    }

    pub(crate) fn lives(&self) -> watch::Receiver<Option<Arc<Life>>> {
        self.life.subscribe()
    }

    pub(crate) fn kills(&self) -> watch::Receiver<u64> {
        self.kills.subscribe()
    }

    pub(crate) fn ends(&self) -> watch::Receiver<u64> {
        self.ends.subscribe()
    }

    pub(crate) fn count_end(&self) {
        self.ends.send_modify(|ends| *ends += 1);
    }

    pub(crate) fn is_starting(&self) -> bool {
        *self.starting.borrow()
    }

    /// Forgets a life that is over.
    pub(crate) fn bury(&self, dead: &Arc<Life>) {
        self.life.send_if_modified(|life| {
            let same = life.as_ref().is_some_and(|life| Arc::ptr_eq(life, dead));
            if same {
                *life = None;
            }
            same
        });
    }

    /// Kills now: never waits.
    pub(crate) fn kill(&self) {
        self.kills.send_modify(|kills| *kills += 1);
        if let Some(life) = self.life() {
            life.guard.kill();
        }
    }

    /// Sets term and deadline of the running guard, and of the next primary's. False when it is too
    /// late for the running one.
    pub(crate) fn arm(&self, term: Term, deadline: Time) -> bool {
        let wanted = (term.0, deadline.0);
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        self.life().is_none_or(|life| life.guard.arm(wanted.0, wanted.1))
    }

    /// What holds for the kernel's watchdog from now on.
    pub(crate) fn watch(&self, plan: WatchPlan) {
        if let Some(life) = self.life() {
            life.guard.set_watchdog(plan.timeout.unwrap_or(0));
        }
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
    }

    pub(crate) fn watch_plan(&self) -> Option<WatchPlan> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts a guard and postmaster. Blocks. A kill that comes meanwhile is obeyed.
    pub(crate) fn start(
        &self,
        mut spec: GuardSpec,
        primary: bool,
        kills_seen: u64,
    ) -> Result<Arc<Life>, PgError> {
        self.starting.send_replace(true);
        let armed = || *self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let spawned = (|| {
            if primary {
                (spec.term, spec.deadline) = armed().ok_or_else(|| {
                    let words = "no primary starts before its guard is armed with a term";
                    PgError::failed(PgFailureKind::ToolFailed, words)
                })?;
            } else {
                (spec.term, spec.deadline) = (0, NEVER);
            }
            if *self.kills.borrow() != kills_seen {
                return Err(PgError::Cancelled);
            }
            let guard = match spawn_after_the_last(&spec) {
                // A kill that came in between took the guard along before it had a postmaster.
                Err(_) if *self.kills.borrow() != kills_seen => return Err(PgError::Cancelled),
                spawned => spawned?,
            };
            let life = Life::new(guard);
            self.life.send_replace(Some(Arc::clone(&life)));
            // What was asked while it started.
            if *self.kills.borrow() != kills_seen {
                life.guard.kill();
                return Err(PgError::Cancelled);
            }
            if let (true, Some((term, deadline))) = (primary, armed()) {
                life.guard.arm(term, deadline);
            }
            Ok(life)
        })();
        self.starting.send_replace(false);
        spawned
    }

    /// Until SIGKILL is pending on every process of the tree, or it is gone.
    pub(crate) async fn killed(&self) {
        let begin = Instant::now();
        loop {
            self.no_start_under_way().await;
            let Some(life) = self.life() else {
                self.sweep_unguarded(Duration::from_millis(50)).await;
                return;
            };
            let alive = life.guard.is_alive();
            if life.guard.status().phase >= Phase::Killed {
                return;
            }
            if !alive || begin.elapsed() > GUARD_PATIENCE {
                // Either somebody killed the guard, or it can't run: then the kernel kills the
                // postmaster, and we the others.
                life.guard.kill_guard();
                self.unguarded.store(true, Ordering::SeqCst);
                self.sweep_unguarded(Duration::from_millis(50)).await;
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Until no process is left, for as long as that takes.
    pub(crate) async fn empty(&self) {
        loop {
            self.no_start_under_way().await;
            match self.life() {
                Some(life) if life.is_empty() => self.bury(&life),
                Some(life) if !life.guard.is_alive() => {
                    if life.guard.status().phase != Phase::Empty {
                        self.unguarded.store(true, Ordering::SeqCst);
                    }
                    self.bury(&life);
                }
                Some(_) => tokio::time::sleep(LOOK).await,
                None if self.sweep_unguarded(Duration::from_secs(1)).await => return,
                None => {}
            }
        }
    }

    /// Kills what lives in the data directory without a guard. True when nothing is left.
    pub(crate) async fn sweep_unguarded(&self, bound: Duration) -> bool {
        if !self.unguarded.load(Ordering::SeqCst) {
            return true;
        }
        let data_dir = self.data_dir.clone();
        let swept = tokio::task::spawn_blocking(move || sweep(&data_dir, bound)).await;
        match swept {
            Ok(Ok(killed)) => {
                tracing::warn!(killed, "killed what a dead guard or somebody else left running");
                self.unguarded.store(false, Ordering::SeqCst);
                true
            }
            Ok(Err(error)) => {
                tracing::error!("{error}");
                false
            }
            Err(_) => false,
        }
    }

    /// Looks for processes that no guard knows.
    pub(crate) fn look_for_unguarded(&self) -> Vec<i32> {
        let pids = if self.life().is_some() { Vec::new() } else { living_in(&self.data_dir) };
        self.unguarded.store(!pids.is_empty(), Ordering::SeqCst);
        pids
    }

    async fn no_start_under_way(&self) {
        // The sender lives in self: no error is possible.
        let _ = self.starting.subscribe().wait_for(|starting| !starting).await;
    }
}

/// The guard before may be writing its last words.
fn spawn_after_the_last(spec: &GuardSpec) -> Result<Guard, GuardError> {
    let begin = Instant::now();
    loop {
        match Guard::spawn(spec) {
            Err(GuardError::AlreadyRunning { .. }) if begin.elapsed() < Duration::from_secs(2) => {
                std::thread::sleep(LOOK); // blocking thread
            }
            result => return result,
        }
    }
}
