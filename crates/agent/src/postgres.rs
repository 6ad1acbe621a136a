//! PostgreSQL's lane: operations, the fence, and the sampler that looks every 100 ms.
//! Leaves what anything means to the core, and how it is done to `pgherd-postgres`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pgherd_api::MemberInfo;
use pgherd_config::lifecycle::Hooks;
use pgherd_core::postgres::{PgFacts, PgFailureKind, PgOp, PgOpFailure, PgOpResult, PgState};
use pgherd_core::{NodeName, OpId, Term, Time};
use pgherd_postgres::{
    Address, Carried, DiskProbe, Found, Progress, Server, Shown, SlotWishes, Wanted, WatchPlan,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::event::Event;

const INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks while a decision waits for what they show.
const HURRIED: Duration = Duration::from_millis(6);
/// A look at files that takes longer isn't waited for; the observation goes on without it.
const LOOK_LIMIT: Duration = Duration::from_millis(200);

/// Between two writes that try a disk.
const TRY_DISKS: pgherd_core::Duration = pgherd_core::Duration::secs(1);
const LOOK_AT_DISKS: Duration = Duration::from_millis(250);
/// Between two looks at slots: Patroni looks once in its cycle of 10 s.
const KEEP_SLOTS: Duration = Duration::from_secs(5);
/// Before a configuration that could not be brought is tried again.
const BRING_AGAIN: Duration = Duration::from_secs(2);

/// One look at PostgreSQL: the core's facts, and what only readers want.
#[derive(Clone, Debug)]
pub(crate) struct Observation {
    pub(crate) facts: PgFacts,
    /// When the postmaster started, in unix seconds.
    pub(crate) started: Option<i64>,
    /// How far a copy is that runs now.
    pub(crate) copied: Option<Progress>,
    /// What the server says to readers, as long as it runs.
    pub(crate) shown: Shown,
}

/// Where the members' PostgreSQLs are, as the store has it now.
pub(crate) type Addresses = Arc<RwLock<BTreeMap<NodeName, Address>>>;

/// The event loop's hold on PostgreSQL.
pub(crate) struct PostgresLane {
    server: Arc<Server>,
    events: mpsc::Sender<Event>,
    addresses: Addresses,
    nudge: Arc<Notify>,
    hurry: Arc<AtomicBool>,
    /// How long a write may take before its disk counts as stalled; 0: none is tried.
    disk_timeout: Arc<AtomicU64>,
    /// Another configuration is wanted.
    wish: Arc<Notify>,
    /// The slots that are wanted; `None` while nobody knows.
    slots: watch::Sender<Option<SlotWishes>>,
    operations: JoinSet<()>,
    watchers: JoinSet<()>,
    armed: Option<(Term, Time)>,
}

impl PostgresLane {
    /// Begins to look. What was found unguarded is stopped first: nothing of PostgreSQL may run
    /// without a guard.
    pub(crate) fn start(
        server: Server,
        found: &Found,
        data_dir: &Path,
        addresses: Addresses,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let server = Arc::new(server);
        let nudge = Arc::new(Notify::new());
        let hurry = Arc::new(AtomicBool::new(false));
        let mut watchers = JoinSet::new();
        let stop_first = match found {
            Found::Nothing => false,
            Found::Adopted { term, deadline } => {
                let left = (*deadline < Time::NEVER).then(|| deadline.since(clock::now()));
                let left_ms = left.map(pgherd_core::Duration::as_millis);
                tracing::info!(%term, left_ms, "PostgreSQL runs; its guard was adopted");
                false
            }
            Found::Unguarded { pids } => {
                tracing::warn!(
                    ?pids,
                    "PostgreSQL runs and nobody guards it: it was started by hand or by another \
                     program; it is stopped in order, and started again under a guard"
                );
                true
            }
        };
        let sampler = Sampler {
            server: Arc::clone(&server),
            data_dir: data_dir.to_owned(),
            events: events.clone(),
            nudge: Arc::clone(&nudge),
            hurry: Arc::clone(&hurry),
            look: None,
            stopped_since: None,
        };
        watchers.spawn(sampler.run(stop_first));
        watchers.spawn(watch_end(Arc::clone(&server), events.clone()));
        let disk_timeout = Arc::new(AtomicU64::new(0));
        let tried = try_disks(data_dir.to_owned(), Arc::clone(&disk_timeout), events.clone());
        watchers.spawn(tried);
        let wish = Arc::new(Notify::new());
        watchers.spawn(bring_wishes(Arc::clone(&server), Arc::clone(&wish)));
        watchers.spawn(watch_pending(Arc::clone(&server), events.clone()));
        let slots = watch::Sender::new(None);
        watchers.spawn(keep_slots(Arc::clone(&server), slots.subscribe(), events.clone()));
        let operations = JoinSet::new();
        Self {
            server,
            events,
            addresses,
            nudge,
            hurry,
            disk_timeout,
            wish,
            slots,
            operations,
            watchers,
            armed: None,
        }
    }

    /// Has PostgreSQL take another configuration, as soon as nothing else is done to it.
    pub(crate) fn want(&self, wanted: Wanted) {
        self.server.want(wanted);
        self.wish.notify_one();
    }

    /// Has the slots kept that are wanted from now on.
    pub(crate) fn want_slots(&self, wishes: SlotWishes) {
        self.server.want_slots(&wishes);
        let wishes = Some(wishes);
        self.slots.send_if_modified(|now| {
            let other = *now != wishes;
            *now = wishes;
            other
        });
    }

    /// Moves the guard's deadline. A store to shared memory: it waits for nothing.
    pub(crate) fn arm(&mut self, term: Term, deadline: Time) {
        self.armed = Some((term, deadline));
        if !self.server.arm(term, deadline) {
            tracing::debug!(%term, "no guard to arm, or it fires already");
        }
    }

    /// No deadline: PostgreSQL is no primary.
    pub(crate) fn disarm(&mut self) {
        if let Some((term, _)) = self.armed.take() {
            self.server.arm(term, Time::NEVER);
        }
    }

    /// What holds for the kernel's watchdog from now on.
    pub(crate) fn watch(&self, plan: WatchPlan) {
        self.server.watch(plan);
    }

    /// The methods and hooks that hold from now on.
    pub(crate) fn set_hooks(&self, hooks: Hooks) {
        self.server.set_hooks(hooks);
    }

    /// Begins an operation; its end comes as an event. A kill is asked for before this returns.
    pub(crate) fn execute(&mut self, id: OpId, op: PgOp, term: Option<Term>) {
        if op == PgOp::Kill {
            self.server.kill();
        }
        while self.operations.try_join_next().is_some() {}
        let refused = self.stale(&op, term);
        tracing::info!(operation = name(&op), "operation begins");
        let (server, events) = (Arc::clone(&self.server), self.events.clone());
        self.operations.spawn(async move {
            let what = name(&op);
            let begin = clock::now();
            if op == PgOp::Kill {
                server.killed().await;
                let _ = events.send(Event::PostgresKilled { id }).await;
            }
            let result = match refused {
                Some(failure) => PgOpResult::Failed(failure),
                None => server.execute(op.clone()).await,
            };
            let took = clock::now().since(begin);
            match &result {
                PgOpResult::Done => tracing::info!(operation = what, %took, "operation done"),
                PgOpResult::Cancelled => {
                    tracing::info!(operation = what, %took, "operation cancelled");
                }
                PgOpResult::Failed(failure) => tracing::warn!(
                    operation = what, %took, kind = ?failure.kind, detail = failure.detail,
                    "operation failed"
                ),
            }
            // The loop is gone only when the agent is.
            let _ = events.send(Event::OpDone { id, op, result }).await;
        });
    }

    /// Looks again at once. Called after the core knows what has changed: an observation that began
    /// before that is too old for it.
    pub(crate) fn look_now(&self) {
        self.nudge.notify_one();
    }

    /// Look more often, while a decision waits for what is seen.
    pub(crate) fn hurry(&self, hurry: bool) {
        if self.hurry.swap(hurry, Ordering::Relaxed) != hurry && hurry {
            self.nudge.notify_one();
        }
    }

    /// Has the disks tried, by the cluster's `disk_timeout`.
    pub(crate) fn try_disks(&self, timeout: pgherd_core::Duration) {
        self.disk_timeout.store(timeout.0, Ordering::Relaxed);
    }

    /// What would make PostgreSQL primary runs only under the term that the guard is armed for.
    fn stale(&self, op: &PgOp, term: Option<Term>) -> Option<PgOpFailure> {
        if !matches!(op, PgOp::StartPrimary { .. } | PgOp::Promote { .. }) {
            return None;
        }
        let alive = self.armed.filter(|(_, deadline)| clock::now() < *deadline);
        let planned = term?;
        if alive.is_some_and(|(armed, _)| armed == planned) {
            return None;
        }
        let detail = format!("planned under term {planned}, which the guard is not armed for");
        Some(PgOpFailure { kind: PgFailureKind::ToolFailed, detail })
    }

    /// Takes the members' addresses from the store's news.
    pub(crate) fn follow(&self, members: &BTreeMap<NodeName, MemberInfo>) {
        let mut known = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        for (name, info) in members {
            // A member whose key expired keeps its address: it may be copied from a moment later.
            if let (Some(host), Some(port)) = (info.host.clone(), info.port) {
                known.insert(name.clone(), Address { host, port });
            }
        }
    }

    /// Ends the watching, and gives operations a moment to end by themselves.
    pub(crate) async fn finish(mut self) {
        self.watchers.shutdown().await;
        let wait = async { while self.operations.join_next().await.is_some() {} };
        if timeout(Duration::from_secs(2), wait).await.is_err() {
            self.operations.shutdown().await;
        }
    }
}

/// The operation in a word, for logs and readers.
pub(crate) fn name(op: &PgOp) -> &'static str {
    match op {
        PgOp::Init => "init",
        PgOp::StartPrimary { .. } => "start as primary",
        PgOp::StartReplica { .. } => "start as replica",
        PgOp::Follow { .. } => "follow",
        PgOp::Promote { .. } => "promote",
        PgOp::Stop => "stop",
        PgOp::Kill => "kill",
        PgOp::Rewind { .. } => "rewind",
        PgOp::Clone { .. } => "clone",
        PgOp::SetNames { .. } => "set names",
        PgOp::EnsureSlots { .. } => "ensure slots",
    }
}

/// Brings each configuration to the server; what failed is tried again.
async fn bring_wishes(server: Arc<Server>, wish: Arc<Notify>) {
    loop {
        wish.notified().await;
        while let Err(error) = server.bring().await {
            tracing::warn!(%error, "the configuration could not be brought to PostgreSQL");
            sleep(BRING_AGAIN).await;
        }
    }
}

/// Keeps slots: at once when others are wanted, and now and then, for what they hold moves on.
async fn keep_slots(
    server: Arc<Server>,
    mut wishes: watch::Receiver<Option<SlotWishes>>,
    events: mpsc::Sender<Event>,
) {
    loop {
        // An error: the lane is gone, and this task with it.
        let _ = timeout(KEEP_SLOTS, wishes.changed()).await;
        let wanted = wishes.borrow_and_update().clone();
        let Some(wanted) = wanted else { continue };
        match server.keep_slots(&wanted).await {
            Ok(seen) => {
                if events.send(Event::Slots(seen)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "the slots could not be kept"),
        }
        match server.carry_slots(&wanted).await {
            Ok(Carried::Settled) => {}
            Ok(Carried::WantsRestart(_)) => {
                if events.send(Event::RestartForSlots).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "logical slots could not be carried on"),
        }
    }
}

/// Tries the disks each tenth of the time that a write may take, once a second at most, and tells what
/// came of it more often than that.
async fn try_disks(data_dir: PathBuf, timeout: Arc<AtomicU64>, events: mpsc::Sender<Event>) {
    let probe = match DiskProbe::start(&data_dir) {
        Ok(probe) => probe,
        Err(error) => {
            tracing::error!(%error, "no thread for trying the disks: a stalled one goes unnoticed");
            return;
        }
    };
    let mut told = None;
    loop {
        sleep(LOOK_AT_DISKS).await;
        let timeout = timeout.load(Ordering::Relaxed);
        if timeout == 0 {
            continue;
        }
        probe.try_again(pgherd_core::Duration(timeout / 10).min(TRY_DISKS));
        let facts = probe.look();
        if told.as_ref() == Some(&facts) {
            continue;
        }
        told = Some(facts.clone());
        if events.send(Event::Disks(facts)).await.is_err() {
            return;
        }
    }
}

/// Tells what waits for a restart, whenever that may be something else.
async fn watch_pending(server: Arc<Server>, events: mpsc::Sender<Event>) {
    loop {
        let pending = server.pending_restart().await;
        if events.send(Event::PendingRestart(pending)).await.is_err() {
            return;
        }
    }
}

/// Tells each end of a postmaster, and when nothing of it is left.
async fn watch_end(server: Arc<Server>, events: mpsc::Sender<Event>) {
    loop {
        server.exited().await;
        if events.send(Event::PostgresExited).await.is_err() {
            return;
        }
        server.empty().await;
        if events.send(Event::PostgresEmpty).await.is_err() {
            return;
        }
    }
}

struct Sampler {
    server: Arc<Server>,
    data_dir: PathBuf,
    events: mpsc::Sender<Event>,
    nudge: Arc<Notify>,
    hurry: Arc<AtomicBool>,
    /// A look at files that has not returned yet: a hung disk holds one thread, not many.
    look: Option<JoinHandle<Look>>,
    stopped_since: Option<Time>,
}

/// What files say beside PostgreSQL.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// The data directory has lost its PG_VERSION.
    vanished: bool,
    /// The postmaster is stopped by a signal (state T).
    stopped: bool,
    started: Option<i64>,
}

impl Sampler {
    async fn run(mut self, stop_first: bool) {
        if stop_first {
            let result = self.server.execute(PgOp::Stop).await;
            tracing::info!(?result, "stopped what had no guard");
        }
        loop {
            let at = clock::now();
            let look = self.look().await;
            let mut facts = self.server.facts(at).await;
            self.correct(&mut facts, look);
            let observation = {
                let (copied, shown) = (self.server.progress(), self.server.shown());
                Box::new(Observation { facts, started: look.started, copied, shown })
            };
            if self.events.send(Event::Observed(observation)).await.is_err() {
                return;
            }
            let hurried = self.hurry.load(Ordering::Relaxed);
            tokio::select! {
                () = sleep(if hurried { HURRIED } else { INTERVAL }) => {}
                () = self.nudge.notified() => {}
            }
        }
    }

    async fn look(&mut self) -> Look {
        let data_dir = self.data_dir.clone();
        let pending = self.look.take();
        let mut task =
            pending.unwrap_or_else(|| tokio::task::spawn_blocking(move || look_at(&data_dir)));
        match timeout(LOOK_LIMIT, &mut task).await {
            Ok(look) => look.unwrap_or_default(),
            Err(_) => {
                self.look = Some(task);
                Look::default()
            }
        }
    }

    /// A process that lives on without its files, or that can't run, is no PostgreSQL.
    fn correct(&mut self, facts: &mut PgFacts, look: Look) {
        let lives = matches!(
            facts.state,
            PgState::Running(_) | PgState::NotAccepting(_) | PgState::Unresponsive { .. }
        );
        if !look.stopped || !lives {
            self.stopped_since = None;
        }
        if lives && look.vanished {
            facts.state = PgState::Absent;
        } else if lives && look.stopped {
            let since = *self.stopped_since.get_or_insert(facts.at);
            facts.state = PgState::Unresponsive { since, halted: true };
        }
    }
}

fn look_at(data_dir: &Path) -> Look {
    let missing = |path: PathBuf| match std::fs::metadata(path) {
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    let lock = std::fs::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
    // Lines: pid, data directory, start time in unix seconds, ... (PostgreSQL's miscadmin.h).
    let mut lines = lock.lines();
    let pid = lines.next().and_then(|line| line.trim().parse::<u32>().ok());
    let started = lines.nth(1).and_then(|line| line.trim().parse().ok());
    Look {
        vanished: missing(data_dir.join("PG_VERSION")),
        stopped: pid.is_some_and(stopped),
        started,
    }
}

/// State T of proc(5): a signal or a debugger holds it.
fn stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}
