//! The server as the agent sees it: opening, observing, executing one operation at a time, killing.
//! Leaves each operation to its file in `ops`.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pgherd_config::lifecycle::Hooks;
use pgherd_core::postgres::{PgFacts, PgOp, PgOpResult};
use pgherd_core::{Instance, Term, Time};
use pgherd_guard::Guard;
use tokio::sync::watch;

use crate::carry::{Carried, Carry};
use crate::conf::Shape;
use crate::facts::{Memory, Shown, blocking};
use crate::life::Fence;
use crate::pending::Pending;
use crate::slots::{SlotSeen, SlotWishes};
use crate::sql::{Sql, Task};
use crate::vet::Confs;
use crate::watch::WatchPlan;
use crate::{Peers, PgError, Settings, Wanted, files};

/// One PostgreSQL and everything the agent holds of it. Dropping it stops nothing: PostgreSQL and
/// its guard go on.
pub struct Server {
    core: Arc<Core>,
    _keeper: Task,
    /// How many ends [`Self::exited`] has reported.
    reported: AtomicU64,
    /// How much news [`Self::pending_restart`] has told.
    pending_seen: AtomicU64,
}

/// What the operations share.
pub(crate) struct Core {
    pub(crate) settings: Arc<Settings>,
    pub(crate) peers: Peers,
    /// What the configuration should be.
    pub(crate) wanted: Mutex<Wanted>,
    /// The configurations in use.
    pub(crate) confs: Mutex<Arc<Confs>>,
    /// The shape that was written last.
    pub(crate) shape: Mutex<Option<Shape>>,
    /// A cancelled operation's thread may still write the files: whoever comes next waits for it.
    pub(crate) writing: Mutex<()>,
    /// One configuration is tried at a time.
    pub(crate) trying: tokio::sync::Mutex<()>,
    /// Counts what may have changed the answer to "what waits for a restart".
    pub(crate) news: watch::Sender<u64>,
    pub(crate) fence: Fence,
    pub(crate) memory: Memory,
    pub(crate) progress: Mutex<Option<Progress>>,
    hooks: Mutex<Arc<Hooks>>,
    /// The checkpoint after a promotion, which nothing waits for.
    pub(crate) checkpoint: Mutex<Option<Task>>,
    /// One operation at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// The connection that keeps slots, and the turn to do it.
    pub(crate) slots: tokio::sync::Mutex<Option<Sql>>,
    /// What is known of logical slots that come from the leader.
    pub(crate) carry: Carry,
    _lock: File,
}

/// What [`Server::open`] found running.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A PostgreSQL under a guard of ours; it was adopted.
    Adopted {
        /// The term its guard is armed for.
        term: Term,
        /// Its deadline.
        deadline: Time,
    },
    /// Processes without a living guard. [`PgOp::Stop`] stops them in order, [`PgOp::Kill`] and
    /// every start kill them. Until then the facts say [`NotAccepting`].
    ///
    /// [`NotAccepting`]: pgherd_core::postgres::PgState::NotAccepting
    Unguarded {
        /// Their pids.
        pids: Vec<i32>,
    },
}

/// How far a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes received.
    pub done: u64,
    /// Bytes expected; grows when the source grows.
    pub total: u64,
}

impl Server {
    /// Takes hold of a data directory: locks it, adopts what runs under a guard. Changes nothing
    /// else on disk except the run and socket directories and the passfile.
    ///
    /// # Errors
    /// [`PgError::Locked`] when another agent has it, [`PgError::Guard`] when a living guard can't be
    /// adopted, [`PgError::Io`].
    pub async fn open(settings: Settings, peers: Peers) -> Result<(Self, Found), PgError> {
        let (core, found) = blocking(move || Core::open(settings, peers)).await??;
        let core = Arc::new(core);
        let keeper = Task::spawn(Arc::clone(&core).keep());
        Ok((
            Self {
                core,
                _keeper: keeper,
                reported: AtomicU64::new(0),
                pending_seen: AtomicU64::new(0),
            },
            found,
        ))
    }

    /// Observes. Takes a few milliseconds, and about two seconds at most when PostgreSQL or the disk
    /// hangs. `now` is the time that the facts carry: read the clock just before.
    pub async fn facts(&self, now: Time) -> PgFacts {
        self.core.observe(now).await
    }

    /// What the latest observation of a running server says to readers, and to no decision.
    #[must_use]
    pub fn shown(&self) -> Shown {
        self.core.memory.shown()
    }

    /// Executes one operation to its end; a second one waits for the first, except
    /// [`PgOp::Kill`], which cancels whatever runs or waits.
    pub async fn execute(&self, op: PgOp) -> PgOpResult {
        if op == PgOp::Kill {
            self.kill();
            self.empty().await;
            return PgOpResult::Done;
        }
        let mut kills = self.core.fence.kills();
        let seen = *kills.borrow_and_update();
        let work = async {
            let _turn = self.core.turn.lock().await;
            self.core.run(&op, seen).await
        };
        tokio::select! {
            biased;
            _ = kills.changed() => PgOpResult::Cancelled,
            result = Box::pin(work) => match result {
                Ok(()) => PgOpResult::Done,
                Err(PgError::Cancelled) => PgOpResult::Cancelled,
                Err(error) => PgOpResult::Failed(error.into_failure()),
            }
        }
    }

    /// Kills the whole process tree, and cancels the running operation with its tools. Returns at
    /// once; see [`Self::killed`] and [`Self::empty`].
    pub fn kill(&self) {
        self.core.fence.kill();
    }

    /// After [`Self::kill`]: until SIGKILL is pending on every process of the tree, or it is gone.
    /// None can acknowledge anything from then on. Milliseconds, whatever the disk does.
    pub async fn killed(&self) {
        self.core.fence.killed().await;
    }

    /// Until no process is left; pending for as long as one is.
    pub async fn empty(&self) {
        self.core.fence.killed().await;
        self.core.fence.empty().await;
        // The tools of a cancelled operation are gone when its turn is over.
        drop(self.core.turn.lock().await);
    }

    /// Until a postmaster has ended since the last time that this said so. No end is lost between
    /// two calls. Cancel-safe.
    pub async fn exited(&self) {
        let mut ends = self.core.fence.ends();
        let reported = self.reported.load(Ordering::SeqCst);
        // The sender lives in the fence: no error is possible.
        if let Ok(ends) = ends.wait_for(|&ends| ends > reported).await {
            self.reported.store(*ends, Ordering::SeqCst);
        }
    }

    /// Arms the running guard and the next [`PgOp::StartPrimary`]'s; a term's first arming must come
    /// before its start or promotion. A deadline that passed kills. False when it is too late: the
    /// guard kills already.
    pub fn arm(&self, term: Term, deadline: Time) -> bool {
        self.core.fence.arm(term, deadline)
    }

    /// What holds for the kernel's watchdog from now on. To be said before the first start.
    pub fn watch(&self, plan: WatchPlan) {
        self.core.fence.watch(plan);
    }

    /// The methods and hooks that hold from now on.
    pub fn set_hooks(&self, hooks: Hooks) {
        *self.core.hooks.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(hooks);
    }

    /// How far the copy is that runs now.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        *self.core.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the configuration should be from now on: every start takes it, and [`Self::bring`]
    /// brings it to a server that runs.
    pub fn want(&self, wanted: Wanted) {
        *self.core.wanted.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
    }

    /// Brings what is wanted to the server: tries it, writes it, and has PostgreSQL read it again
    /// when something changed. Never restarts; what needs that is in [`Self::pending_restart`].
    /// Gives what could not be taken, in words; each such parameter keeps its last good value. Waits
    /// for an operation that runs; a kill ends it.
    ///
    /// # Errors
    /// [`PgError`] when it could not be tried or written: call it again then.
    pub async fn bring(&self) -> Result<Vec<String>, PgError> {
        self.core.bring().await
    }

    /// What waits for a restart of PostgreSQL, asked once after everything that can change it: waits
    /// for that. The first call answers when a server runs. Cancel-safe.
    pub async fn pending_restart(&self) -> Pending {
        self.core.pending_restart(&self.pending_seen).await
    }

    /// Brings the slots to what is wanted, and gives those that were there before.
    ///
    /// # Errors
    /// [`PgError`] when the server doesn't run or refuses; what was done before stays done.
    pub async fn keep_slots(&self, wishes: &SlotWishes) -> Result<Vec<SlotSeen>, PgError> {
        self.core.keep_slots(wishes).await
    }

    /// The slots that are wanted from now on, as far as a start brings them: logical ones, before
    /// PostgreSQL 17, to a replica.
    pub fn want_slots(&self, wishes: &SlotWishes) {
        self.core.want_logical(wishes);
    }

    /// Before PostgreSQL 17: moves a replica's logical slots on, and says whether a restart would bring
    /// those that it lacks. For nothing else, on a primary too, it does nothing.
    ///
    /// # Errors
    /// [`PgError`] when this server or the leader doesn't answer.
    pub async fn carry_slots(&self, wishes: &SlotWishes) -> Result<Carried, PgError> {
        self.core.carry_slots(wishes).await
    }

    /// The data directory's identity.
    ///
    /// # Errors
    /// [`PgError::Io`].
    pub fn instance(&self) -> Result<Instance, PgError> {
        files::instance(&self.core.settings)
    }

    /// What it was opened with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.core.settings
    }
}

impl Core {
    /// The methods and hooks that hold now.
    pub(crate) fn hooks(&self) -> Arc<Hooks> {
        Arc::clone(&self.hooks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn open(settings: Settings, peers: Peers) -> Result<(Self, Found), PgError> {
        let lock = files::lock(&settings)?;
        files::make_private(&settings.run_dir)?;
        files::make_private(&settings.socket_dir)?;
        files::write_passfile(&settings)?;
        let guard = Guard::adopt(&settings.run_dir)?;
        let adopted = guard.as_ref().map(Guard::armed);
        let fence = Fence::new(settings.data_dir.clone(), guard);
        let pids = fence.look_for_unguarded();
        let found = match adopted {
            Some((term, deadline)) => Found::Adopted { term: Term(term), deadline: Time(deadline) },
            None if pids.is_empty() => Found::Nothing,
            None => Found::Unguarded { pids },
        };
        let settings = Arc::new(settings);
        let confs = Confs::untried(&settings, settings.wanted.clone());
        let core = Self {
            hooks: Mutex::new(Arc::new(settings.lifecycle.hooks.clone())),
            settings,
            peers,
            wanted: Mutex::new(confs.wanted.clone()),
            confs: Mutex::new(Arc::new(confs)),
            shape: Mutex::default(),
            trying: tokio::sync::Mutex::default(),
            writing: Mutex::new(()),
            news: watch::Sender::new(0),
            fence,
            memory: Memory::default(),
            progress: Mutex::default(),
            checkpoint: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            slots: tokio::sync::Mutex::default(),
            carry: Carry::default(),
            _lock: lock,
        };
        Ok((core, found))
    }
}
