//! The event loop: everything that happens goes into the node, every action comes out of it, one
//! turn at a time. Nothing here waits, except for the next event.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pgherd_api::{Cluster, Keys, PendingChange};
use pgherd_config::WatchdogSettings;
use pgherd_core::disk::DiskFacts;
use pgherd_core::peer::PeerMessage;
use pgherd_core::postgres::{PgOp, PgOpResult};
use pgherd_core::{
    Action, Incarnation, Input, Instance, Node, NodeName, OpId, Reason, RequestId, StoreOutcome,
};
use pgherd_postgres::Pending;
use pgherd_store::{Snapshot, WatchEvent, Watcher};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::board::{Board, Journal, StoreSeen, peers_seen};
use crate::callbacks::{Callbacks, Teller};
use crate::configuration::{Leads, Wishes};
use crate::copy::DynamicCopy;
use crate::disk::Disk;
use crate::event::Event;
use crate::hooks::HookReader;
use crate::http::Desk;
use crate::notify::Notify;
use crate::patroni::{Answered, PatroniLane};
use crate::peers::Peers;
use crate::postgres::{self, Observation, PostgresLane};
use crate::record::Recorder;
use crate::reload::Reloader;
use crate::restart::{Due, Here, Planned};
use crate::schedule::{self, Scheduler};
use crate::slots::Slots;
use crate::store::{self, StoreLane, StoreReply};
use crate::{AgentError, clock, start, trace};

/// An orderly stop includes a checkpoint, a hand-over and PostgreSQL's own fast shutdown, each with
/// its own bound; after this long something is broken, and the guard goes on alone.
const STOP_BOUND: Duration = Duration::from_secs(120);

/// One node at work.
pub(crate) struct Agent {
    pub(crate) node: Node,
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) keys: Keys,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) store_seen: Option<StoreSeen>,
    pub(crate) observed: Option<Arc<Observation>>,
    pub(crate) disks: DiskFacts,
    /// All slots for clients were taken when last seen.
    pub(crate) crowded: bool,
    pub(crate) operation: Option<(OpId, &'static str)>,
    pub(crate) last_failure: Option<String>,
    /// A restart that is due later.
    pub(crate) planned: Option<Arc<Planned>>,
    /// PostgreSQL's version as a number: 170005.
    pub(crate) server_version: u32,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) watcher: Watcher,
    pub(crate) store: StoreLane,
    pub(crate) postgres: PostgresLane,
    pub(crate) wishes: Wishes,
    pub(crate) slots: Slots,
    /// Members that stream from this node though it doesn't lead, as they said last.
    pub(crate) cascading: Vec<(NodeName, Instance)>,
    pub(crate) peers: Peers,
    pub(crate) patroni: PatroniLane,
    /// A Patroni leader that waits for this node's promise.
    pub(crate) hold_for: Option<(NodeName, oneshot::Sender<()>)>,
    pub(crate) disk: Disk,
    pub(crate) recorder: Recorder,
    pub(crate) scheduler: Scheduler,
    pub(crate) copy: DynamicCopy,
    pub(crate) reloader: Reloader,
    pub(crate) desk: watch::Sender<Arc<Desk>>,
    pub(crate) journal: Journal,
    pub(crate) board: watch::Sender<Arc<Board>>,
    pub(crate) http: JoinHandle<()>,
    pub(crate) teller: Teller,
    pub(crate) callbacks: Callbacks,
    pub(crate) hooks: HookReader,
    /// What the settings want of the kernel's watchdog.
    pub(crate) watchdog: WatchdogSettings,
    /// What systemd is told.
    pub(crate) notify: Notify,
    /// The agent stops in order.
    pub(crate) leaving: bool,
    /// A kill was asked for and has not ended.
    pub(crate) killing: bool,
    /// Why there is no point in going on.
    pub(crate) fatal: Option<AgentError>,
    pub(crate) exit: bool,
}

/// What ended a wait.
enum Turn {
    Event(Event),
    Watch(Option<WatchEvent>),
    Store(RequestId, StoreReply),
    Patroni(Answered),
    Persisted(u64),
    Due,
    Hangup,
    Stop,
    Late,
    /// Somebody wants to hear that the loop turns.
    Nothing,
}

impl Agent {
    /// Turns until the node has stopped in order.
    pub(crate) async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut stop_by: Option<Instant> = None;
        self.feed(Input::Tick);
        self.notify.ready();
        while !self.exit {
            self.notify.turned();
            match self.wait(shutdown.as_mut(), stop_by).await {
                Turn::Event(event) => self.on_event(event),
                Turn::Watch(Some(event)) => self.on_watch(event),
                Turn::Watch(None) => return Err(AgentError::WatchEnded),
                Turn::Store(id, reply) => self.on_store(id, reply),
                Turn::Patroni(Answered::Race { from, asked, answer }) => {
                    self.feed(Input::Patroni { from, asked, answer });
                }
                Turn::Patroni(Answered::Held { from, term, at }) => {
                    self.feed(Input::Peer { from, message: PeerMessage::Held { term, at } });
                }
                Turn::Persisted(seq) => self.feed(Input::Persisted { seq }),
                Turn::Due => {
                    self.feed(Input::Tick);
                    self.look_at_plan();
                }
                Turn::Nothing => {}
                Turn::Hangup => self.reload(),
                Turn::Stop => {
                    tracing::info!("stopping in order");
                    self.notify.stopping();
                    stop_by = Some(Instant::now() + STOP_BOUND);
                    self.leaving = true;
                    self.feed(Input::Shutdown);
                }
                Turn::Late => {
                    Box::pin(self.finish()).await;
                    return Err(AgentError::StopTimedOut(STOP_BOUND));
                }
            }
            if let Some(error) = self.fatal.take() {
                Box::pin(self.finish()).await;
                return Err(error);
            }
        }
        Box::pin(self.finish()).await;
        Ok(())
    }

    async fn wait(
        &mut self,
        shutdown: Pin<&mut impl Future<Output = ()>>,
        stop_by: Option<Instant>,
    ) -> Turn {
        let (due, _) = self.node.poll_deadline();
        let late = async {
            match stop_by {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Every branch is cancel-safe: what isn't taken now is there in the next turn.
            Some(event) = self.events.recv() => Turn::Event(event),
            event = self.watcher.next() => Turn::Watch(event),
            (id, reply) = self.store.next() => Turn::Store(id, reply),
            answered = self.patroni.next() => Turn::Patroni(answered),
            seq = self.disk.next() => Turn::Persisted(seq),
            () = sleep(due.since(clock::now()).to_std()) => Turn::Due,
            () = self.reloader.hangup() => Turn::Hangup,
            () = shutdown, if stop_by.is_none() => Turn::Stop,
            () = late => Turn::Late,
            () = self.notify.due() => Turn::Nothing,
        }
    }

    /// One input, and everything that follows from it.
    pub(crate) fn feed(&mut self, input: Input) {
        trace::input(&input);
        let at = clock::now();
        let given = self.recorder.before(&self.node, &input);
        self.node.handle(at, input);
        self.postgres.hurry(self.node.impatient());
        self.postgres.try_disks(self.node.disk_timeout());
        let mut actions = Vec::new();
        while let Some(action) = self.node.poll_action() {
            trace::action(&action);
            // The fence first: whatever else this turn starts, it starts under the new deadline.
            if let Action::Arm { term, deadline } = action {
                self.postgres.arm(term, deadline);
            } else if action == Action::Disarm {
                self.postgres.disarm();
            }
            actions.push(action);
        }
        if let Some(given) = given {
            self.recorder.after(at, given, &actions);
        }
        for action in actions {
            self.carry_out(action);
        }
        self.publish();
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Store { id, request } => {
                let within = self.patience();
                self.store.send(id, request, within);
            }
            Action::Postgres { id, op, term } => {
                self.killing |= op == PgOp::Kill;
                if op != PgOp::Kill {
                    self.operation = Some((id, postgres::name(&op)));
                }
                self.postgres.execute(id, op, term);
            }
            Action::Send { to, message } => self.send(&to, message),
            Action::AskPatroni { node } => self.patroni.ask(node),
            Action::Persist { seq, record } => self.disk.write(seq, record),
            Action::Decided(decision) => {
                tracing::info!(
                    situation = %decision.situation, term = decision.term.map(|term| term.0),
                    "{}", decision.reason
                );
                self.journal.write(&decision);
                self.notify.status(&format!("{}: {}", decision.situation, decision.reason));
                let config = self.node.view().config.as_ref();
                let paused = config.is_some_and(|config| config.value.pause);
                if decision.reason == Reason::ForeignData && !paused {
                    self.fatal = Some(AgentError::ForeignData { name: self.name.clone() });
                }
            }
            Action::Exit => self.exit = true,
            // Done before anything else.
            Action::Arm { .. } | Action::Disarm => {}
        }
    }

    /// How long a request may last: a beat or renewal that takes half the ttl is worth little.
    fn patience(&self) -> Duration {
        let view = self.node.view();
        let ttl = view.config.as_ref().map_or(5_000_000, |config| config.value.ttl.0);
        Duration::from_micros(ttl / 2).clamp(Duration::from_secs(1), Duration::from_secs(10))
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Observed(observation) => {
                let facts = observation.facts.clone();
                self.tell_of_found(&facts);
                self.tell_of_room(observation.shown.room_for_clients);
                self.note_archive(observation.shown.restores);
                self.observed = Some(Arc::new(*observation));
                self.feed(Input::Postgres(facts));
            }
            Event::PostgresKilled { id } => self.feed(Input::PostgresKilled { id }),
            Event::Disks(facts) => {
                self.disks = facts.clone();
                self.feed(Input::Disk(facts));
            }
            Event::PostgresExited => {
                match self.operation {
                    Some((_, during)) => tracing::info!(during, "the postmaster ended"),
                    None => tracing::warn!("the postmaster ended"),
                }
                let stopping = self.operation.is_some_and(|(_, what)| what == "stop");
                if !stopping && !self.killing {
                    self.teller.crashed();
                }
                self.feed(Input::PostgresExited);
                self.postgres.look_now();
            }
            Event::PostgresEmpty => {
                self.feed(Input::PostgresEmpty);
                self.postgres.look_now();
            }
            Event::OpDone { id, op, result } => {
                self.tell_of(&op, &result);
                let done = self.operation.take_if(|(running, _)| *running == id);
                match (&result, done) {
                    (PgOpResult::Failed(failure), Some((_, what))) => {
                        self.last_failure = Some(format!("{what}: {}", failure.detail));
                    }
                    (PgOpResult::Done, Some(_)) => self.last_failure = None,
                    (PgOpResult::Done | PgOpResult::Cancelled | PgOpResult::Failed(_), _) => {}
                }
                // A copy, a rewind: the file with the cluster's settings may be another's.
                self.copy.forget();
                self.feed(Input::OpDone { id, result });
                self.postgres.look_now();
            }
            Event::HoldFor { leader, reply } => self.hold_for(leader, reply),
            Event::Peer { from, message } => {
                self.feed(Input::Peer { from, message });
                self.notice_cascading();
            }
            Event::PeerLost(lost) => self.feed(Input::PeerLost(lost)),
            Event::Reinitialize { force } => {
                tracing::info!(force, "an operator asks for a new copy of the leader's data");
                self.feed(if force { Input::ReinitializeNow } else { Input::Reinitialize });
            }
            Event::Slots(seen) => self.on_slots(&seen),
            Event::RestartForSlots => self.feed(Input::RestartForSlots),
            Event::PendingRestart(pending) => self.on_pending(pending),
            Event::Reload => self.reload(),
            Event::Reread(read) => self.reconfigure(*read),
            Event::Restart => {
                tracing::info!("an operator asks for a restart of PostgreSQL");
                self.feed(Input::Restart);
            }
            Event::PlanRestart { plan, reply } => self.on_plan(plan, reply),
        }
    }

    fn on_plan(&mut self, plan: Option<Box<Planned>>, reply: oneshot::Sender<bool>) {
        let fits = plan.is_some() != self.planned.is_some();
        if fits {
            self.plan_restart(plan.map(|plan| Arc::new(*plan)));
        }
        // Whoever asked may have gone; the plan stands.
        let _ = reply.send(fits);
    }

    /// Keeps a plan, or drops it, and shows that in the member key.
    fn plan_restart(&mut self, plan: Option<Arc<Planned>>) {
        match &plan {
            Some(plan) => tracing::info!(at = ?plan.shown.get("schedule"), "a restart is planned"),
            None => tracing::info!("no restart is planned any more"),
        }
        self.store.member().scheduled_restart = plan.as_ref().map(|plan| plan.shown.clone());
        self.planned = plan;
        self.feed(Input::MemberChanged);
    }

    /// The wall clock's say on a planned restart; in pause nothing that is planned is done.
    fn look_at_plan(&mut self) {
        let (Some(plan), Some(cluster)) = (&self.planned, &self.cluster) else { return };
        if cluster.view().config.as_ref().is_some_and(|config| config.value.pause) {
            return;
        }
        let member = cluster.members().get(&self.name);
        let here = Here {
            observed: self.observed.as_deref(),
            leads: self.node.leads().is_some(),
            server_version: self.server_version,
            pending: member.is_some_and(|member| member.pending_restart),
        };
        match plan.due(here, clock::unix_millis() / 1_000, schedule::patience(cluster)) {
            Due::Later => {}
            Due::Now => {
                tracing::info!("a planned restart is due");
                self.plan_restart(None);
                self.feed(Input::Restart);
            }
            Due::Never(why) => {
                tracing::warn!(why, "a planned restart is dropped");
                self.plan_restart(None);
            }
        }
    }

    fn on_watch(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Reset(snapshot) => self.on_snapshot(snapshot),
            WatchEvent::Changed { revision, events } => {
                self.store_heard();
                let Some(cluster) = &mut self.cluster else { return };
                let changes = events.into_iter().map(store::change);
                if Arc::make_mut(cluster).apply(revision, changes) {
                    self.cluster_changed();
                }
            }
            WatchEvent::Disconnected { endpoint, error } => {
                tracing::warn!(endpoint, %error, "the watch on the store was lost");
                self.judge(&error);
            }
            WatchEvent::Resumed { revision } => {
                tracing::info!(revision, "the watch on the store goes on");
                self.store_heard();
            }
            WatchEvent::ForeignCluster { endpoint, expected, found } => tracing::error!(
                endpoint,
                expected = format_args!("{expected:016x}"),
                found = format_args!("{found:016x}"),
                "this endpoint is another store: its data was replaced, or the address is wrong"
            ),
        }
    }

    /// Settings that never worked won't work later (contract 1.5: fatal at start); once they did, the
    /// store may be put right, and the node goes on without it as long as it may.
    fn judge(&mut self, error: &pgherd_store::Error) {
        if self.store_seen.is_none() && error.is_misconfiguration() {
            self.fatal = Some(AgentError::Store(error.clone()));
        }
    }

    fn on_store(&mut self, id: RequestId, reply: StoreReply) {
        if let StoreReply::Failed(_, error) = &reply {
            self.judge(error);
        }
        match reply {
            StoreReply::Outcome(outcome) | StoreReply::Failed(outcome, _) => {
                if !matches!(outcome, StoreOutcome::NotSent | StoreOutcome::Unknown) {
                    self.store_heard();
                }
                self.feed(Input::Store { id, outcome });
            }
            StoreReply::Read(snapshot) => {
                let revision = pgherd_core::Revision(snapshot.revision);
                self.on_snapshot(snapshot);
                self.feed(Input::Store { id, outcome: StoreOutcome::Applied(revision) });
            }
        }
    }

    fn on_snapshot(&mut self, snapshot: Snapshot) {
        self.store_heard();
        let known = self.cluster.as_ref().map_or(0, |cluster| cluster.view().revision.0);
        if snapshot.revision < known {
            // The watch was faster than this read's answer.
            tracing::debug!(known, read = snapshot.revision, "older than known");
            return;
        }
        let records = snapshot.kvs.into_iter().map(store::record);
        let cluster = Cluster::read(self.keys.clone(), snapshot.revision, records);
        self.cluster = Some(Arc::new(cluster));
        self.cluster_changed();
    }

    fn cluster_changed(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        self.peers.follow(cluster.members());
        self.patroni.follow(cluster.members());
        self.store.members(cluster.members());
        self.postgres.follow(cluster.members());
        if self.node.leads().is_none() {
            self.store.say_slots(cluster.status_slots().clone());
        }
        let view = cluster.view();
        self.wish_slots();
        // Before the decision: what it starts is started with this.
        self.watch();
        self.hook();
        self.wish();
        self.feed(Input::View(view));
    }

    /// Methods and hooks follow the cluster's settings, and the node's.
    pub(crate) fn hook(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        if let Some(hooks) = self.hooks.news(cluster) {
            self.callbacks.set(hooks.callbacks.clone());
            let repair = start::repair(hooks.repair);
            self.postgres.set_hooks(hooks);
            self.feed(Input::Repair(repair));
        }
    }

    /// PostgreSQL's configuration follows the cluster's, and the node's part in it.
    pub(crate) fn wish(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let leads = if self.node.leads().is_some() { Leads::Yes } else { Leads::No };
        if let Some(wanted) = self.wishes.news(cluster, leads) {
            self.postgres.want(wanted);
        }
    }

    fn on_pending(&mut self, pending: Pending) {
        let shown = pending.into_iter().map(|(name, change)| {
            let old_value = change.old.unwrap_or_default();
            (name, PendingChange { old_value, new_value: change.new.unwrap_or_default() })
        });
        let shown = shown.collect();
        if self.store.member().pending_restart != shown {
            let names: Vec<_> = shown.keys().collect();
            tracing::info!(parameters = ?names, "what waits for a restart of PostgreSQL");
            self.store.member().pending_restart = shown;
            self.feed(Input::MemberChanged);
        }
    }

    /// Where a standby's WAL comes from is in the member key.
    fn note_archive(&mut self, restores: bool) {
        if self.store.member().restores != restores {
            self.store.member().restores = restores;
            self.feed(Input::MemberChanged);
        }
    }

    fn store_heard(&mut self) {
        let unix_seconds = clock::unix_millis() / 1_000;
        self.store_seen = Some(StoreSeen { at: clock::now(), unix_seconds });
    }

    fn publish(&mut self) {
        if let Some(cluster) = &self.cluster {
            self.copy.look(cluster, self.node.leads().is_some(), clock::now());
        }
        self.wish();
        if self.node.leads().is_some()
            && let Some(cluster) = &self.cluster
        {
            self.scheduler.look(cluster, clock::unix_millis() / 1_000);
        }
        self.tell_of_waits();
        self.board.send_replace(Arc::new(Board {
            incarnation: self.incarnation,
            at: clock::now(),
            cluster: self.cluster.clone(),
            store: self.store_seen,
            observed: self.observed.clone(),
            decision: self.node.decision().clone(),
            leads: self.node.leads(),
            belief_until: self.node.belief_until(),
            serving: self.node.serving(),
            cancelled_waits: self.node.cancelled_waits(),
            unreplicated: self.node.unreplicated(),
            vouches: self.node.vouches(),
            failsafe: self.node.failsafe_active(),
            peers: peers_seen(&self.node, &self.peers),
            ailment: self.node.ailment(),
            disks: self.disks.clone(),
            operation: self.operation.map(|(_, what)| what),
            last_failure: self.last_failure.clone(),
            restarting: self.node.is_restarting(),
            restarts: self.node.restarts(),
            planned: self.planned.clone(),
        }));
    }

    /// Ends what this agent began; PostgreSQL and its guard are no part of that.
    async fn finish(self) {
        let Self {
            postgres,
            callbacks,
            disk,
            scheduler,
            copy,
            reloader,
            http,
            watcher,
            store,
            peers,
            patroni,
            name,
            ..
        } = self;
        http.abort();
        // Aborted: what it says is no news.
        let _ = http.await;
        drop((watcher, store, peers, patroni));
        scheduler.finish().await;
        copy.finish().await;
        reloader.finish().await;
        postgres.finish().await;
        callbacks.finish().await;
        disk.finish().await;
        tracing::info!(node = %name, "stopped");
    }
}

mod slots;
