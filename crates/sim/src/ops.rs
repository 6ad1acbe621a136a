//! What an agent asks of PostgreSQL: how long it takes, what it changes, how it fails.
//! The rules are PostgreSQL's; the durations are measured ones, drawn anew each time.

use pgherd_core::postgres::{
    BrokenData, ControlState, PgFailureKind, PgOp, PgOpFailure, PgOpResult, Source, SyncNames,
};
use pgherd_core::{Input, Instance, Lsn, NodeName, OpId, SystemId, Term, Timeline};

use crate::clock::Micros;
use crate::event::{Event, Ix};
use crate::invariants;
use crate::machine::{DISK_AGAIN, Running};
use crate::pg::{Dir, Hang, Names, Run};
use crate::world::{World, note};

impl World {
    pub(crate) fn op_begin(&mut self, node: Ix, id: OpId, op: PgOp, term: Option<Term>) {
        let life = self.nodes[node].agent.life;
        invariants::before_operation(self, node, &op, term);
        if op == PgOp::Kill {
            self.cancel_ops(node, life);
        } else if self.nodes[node].ops.iter().any(|o| o.life == life) {
            invariants::one_operation::broken(self, node, &op);
        }
        if term.is_some() && self.nodes[node].guard.fired >= term {
            let detail = "the guard has fired for this term";
            self.op_answer(node, id, life, failure(PgFailureKind::ToolFailed, detail), 100);
            return;
        }
        // As the agent: what would make a primary begins only under the term that the guard knows.
        let armed = self.nodes[node].guard.armed.map(|(term, _)| term);
        let primary = matches!(op, PgOp::StartPrimary { .. } | PgOp::Promote { .. });
        if primary && term.is_some() && armed != term && !self.is_patroni(node) {
            let detail = "the guard is not armed for this term";
            self.op_answer(node, id, life, failure(PgFailureKind::ToolFailed, detail), 100);
            return;
        }
        let (low, high) = bounds(&op);
        let mut takes = self.rng.between(low, high) * self.nodes[node].slow;
        let may_fail = !matches!(op, PgOp::Kill);
        let fails = (may_fail && self.rng.permille(self.faults.fail_ops))
            .then_some(PgFailureKind::ToolFailed);
        let number = self.number();
        let promotes = matches!(op, PgOp::Promote { .. });
        let refuses =
            promotes && (self.nodes[node].refuses || fails.is_some() && number.is_multiple_of(2));
        let fails = if refuses { Some(PgFailureKind::Refused) } else { fails };
        let pg = self.nodes[node].pg.life;
        let anyway = (self.rng.permille(300) || op == PgOp::Stop) && !refuses;
        let mut running = Running { number, id, op, term, life, pg, fails, anyway };
        if let Err(kind) = self.op_effect_begin(node, &mut running, takes) {
            running.fails = Some(kind);
            running.anyway = false;
            takes = takes.min(20_000);
        }
        if running.op == PgOp::Kill && self.nodes[node].pg.dying {
            // The answer comes when nothing is left.
            if self.nodes[node].pg.killed {
                self.tell_agent(node, 500, Input::PostgresKilled { id: running.id });
            }
            self.nodes[node].ops.push(running);
            return;
        }
        self.nodes[node].ops.push(running);
        self.queue.after(takes, Event::OpEnd { node, op: number });
    }

    fn cancel_ops(&mut self, node: Ix, life: u32) {
        let (mine, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.nodes[node].ops).into_iter().partition(|o| o.life == life);
        self.nodes[node].ops = rest;
        for op in mine {
            self.op_answer(node, op.id, life, PgOpResult::Cancelled, 50);
        }
    }

    /// What happens at once. An error: it can't be done here and now.
    fn op_effect_begin(
        &mut self,
        node: Ix,
        op: &mut Running,
        takes: Micros,
    ) -> Result<(), PgFailureKind> {
        if let Some(kind) = self.nodes[node].disk.refuses(&op.op) {
            return Err(kind);
        }
        let run = self.nodes[node].pg.run;
        let number = op.number;
        match &op.op {
            PgOp::Init => {
                let leftover = |d: &Dir| d.broken != Some(BrokenData::InitInterrupted);
                if run != Run::Down || self.nodes[node].pg.dir.as_ref().is_some_and(leftover) {
                    return Err(PgFailureKind::ToolFailed);
                }
                let dir = self.new_cluster();
                self.nodes[node].pg.dir = Some(dir);
            }
            PgOp::StartPrimary { .. } | PgOp::StartReplica { .. } => {
                let usable = self.nodes[node].pg.wal().is_some();
                if run != Run::Down || !usable {
                    return Err(PgFailureKind::ToolFailed);
                }
                let primary = matches!(op.op, PgOp::StartPrimary { .. });
                self.begin_start(node, primary);
                op.pg = self.nodes[node].pg.life;
                if op.fails.is_none() || op.anyway {
                    let pg = op.pg;
                    self.queue.after(takes * 9 / 10, Event::Started { node, pg, op: number });
                }
            }
            PgOp::Follow { .. } => {
                if run != Run::Replica {
                    return Err(PgFailureKind::QueryFailed);
                }
            }
            PgOp::Promote { .. } => {
                if run != Run::Replica {
                    return Err(PgFailureKind::QueryFailed);
                }
            }
            PgOp::Stop => self.begin_stop(node),
            PgOp::Kill => {
                self.kill_tree(node, 5_000, 40_000);
            }
            PgOp::Rewind { source }
            | PgOp::Clone { source: Source::Leader(source) | Source::Member(source) } => {
                self.begin_copy(node, &source.clone(), &op.op)?;
            }
            // There is no archive in this world, and no other cluster.
            PgOp::Clone { source: Source::Backup | Source::Remote } => {
                return Err(PgFailureKind::SourceUnreachable);
            }
            PgOp::SetNames { .. } => {
                if run != Run::Primary || self.nodes[node].pg.hang != Hang::No {
                    return Err(PgFailureKind::QueryFailed);
                }
                let seen = self.rng.below(takes);
                let pg = op.pg;
                self.queue.after(seen, Event::NamesSeen { node, pg, op: number });
            }
            PgOp::EnsureSlots { .. } => {
                if run != Run::Primary && run != Run::Replica {
                    return Err(PgFailureKind::QueryFailed);
                }
            }
        }
        Ok(())
    }

    fn new_cluster(&mut self) -> Dir {
        let wal = self.branches.found();
        Dir {
            system_id: SystemId(self.rng.next() >> 1),
            instance: Instance(self.rng.next() >> 1),
            wal,
            known: Timeline(1),
            broken: Some(BrokenData::InitInterrupted),
            control: ControlState::ShutDown,
            control_timeline: Timeline(1),
            checkpoint: Lsn(wal.end.0 - 120),
            min_recovery_end: Lsn::ZERO,
        }
    }

    fn begin_start(&mut self, node: Ix, primary: bool) {
        let now = self.queue.now;
        let pg = &mut self.nodes[node].pg;
        pg.life += 1;
        pg.run = Run::Starting { primary };
        pg.hang = Hang::No;
        pg.dying = false;
        pg.killed = false;
        pg.probed = now;
        pg.received_known = false;
        pg.next_names = None;
        pg.upstream = None;
        if let Some(dir) = &mut pg.dir {
            pg.replayed = dir.checkpoint;
            dir.control = match (primary, dir.control) {
                (true, ControlState::ShutDown) => ControlState::StartingUp,
                (true, _) => ControlState::InCrashRecovery,
                (false, _) => ControlState::InArchiveRecovery,
            };
        }
    }

    /// A fast shutdown: sessions end, a primary writes its shutdown checkpoint and sends it.
    fn begin_stop(&mut self, node: Ix) {
        let run = self.nodes[node].pg.run;
        let primary = match run {
            Run::Primary => true,
            Run::Replica | Run::Starting { .. } => false,
            Run::Down | Run::Stopping { .. } | Run::Zombie { .. } => return,
        };
        if self.nodes[node].pg.killed {
            return;
        }
        self.forget_waiting(node);
        self.nodes[node].pg.run = Run::Stopping { primary };
        if primary {
            if let Some(dir) = &mut self.nodes[node].pg.dir {
                dir.control = ControlState::ShuttingDown;
                dir.checkpoint = dir.wal.end;
            }
            self.append(node, 120);
        }
    }

    fn begin_copy(&mut self, node: Ix, source: &NodeName, op: &PgOp) -> Result<(), PgFailureKind> {
        let from = self.index(source).ok_or(PgFailureKind::SourceUnreachable)?;
        let down = self.nodes[node].pg.run == Run::Down;
        if !down {
            return Err(PgFailureKind::ToolFailed);
        }
        if !self.copy_source_ok(node, from) {
            return Err(PgFailureKind::SourceUnreachable);
        }
        let rewind = matches!(op, PgOp::Rewind { .. });
        let theirs = self.nodes[from].pg.wal().ok_or(PgFailureKind::SourceUnreachable)?;
        if !rewind {
            self.nodes[node].pg.dir = None;
            self.nodes[node].pg.removed = false;
            self.model_data(node, true);
            return Ok(());
        }
        let branches = &self.branches;
        let dir = self.nodes[node].pg.dir.as_mut().ok_or(PgFailureKind::RewindImpossible)?;
        let common = branches.common(dir.wal, theirs);
        let numbers = branches.timeline(dir.wal.branch) == branches.timeline(theirs.branch);
        if common.is_none()
            || (numbers && common != Some(dir.wal) && dir.wal.branch != theirs.branch)
        {
            return Err(PgFailureKind::RewindImpossible);
        }
        dir.broken = Some(BrokenData::RewindInterrupted);
        self.model_data(node, true);
        Ok(())
    }

    fn copy_source_ok(&self, node: Ix, from: Ix) -> bool {
        let source = &self.nodes[from];
        source.up && !source.frozen && source.pg.accepts() && self.net.pg_both(node, from)
    }

    pub(crate) fn names_seen(&mut self, node: Ix, pg: u32, op: u32) {
        let Some(running) = self.nodes[node].ops.iter().find(|o| o.number == op) else { return };
        if self.nodes[node].pg.life != pg || self.nodes[node].pg.run != Run::Primary {
            return;
        }
        if self.nodes[node].disk.hangs() {
            self.queue.after(DISK_AGAIN, Event::NamesSeen { node, pg, op });
            return;
        }
        if let PgOp::SetNames { names } = &running.op
            && (running.fails.is_none() || running.anyway)
        {
            let names = self.names_of(&names.clone());
            self.nodes[node].pg.next_names = Some(names);
            self.model_list(node, &names, false);
            invariants::sync_covers_list::check(self, node);
            self.release_waiting(node);
        }
    }

    pub(crate) fn op_end(&mut self, node: Ix, number: u32) {
        let Some(at) = self.nodes[node].ops.iter().position(|o| o.number == number) else { return };
        let stopping = matches!(self.nodes[node].ops[at].op, PgOp::Stop);
        let hangs = self.op_hangs(node, &self.nodes[node].ops[at]);
        if hangs || (stopping && self.stop_must_wait(node)) {
            self.queue.after(DISK_AGAIN, Event::OpEnd { node, op: number });
            return;
        }
        let op = self.nodes[node].ops.remove(at);
        let failed = match op.fails {
            Some(kind) if !op.anyway => Err(kind),
            _ => self.op_effect_end(node, &op),
        };
        self.stats.sometimes.op_failed += u64::from(op.fails.is_some());
        let result = match failed.err().or(op.fails) {
            None => PgOpResult::Done,
            Some(kind) => {
                if matches!(op.op, PgOp::StartPrimary { .. } | PgOp::StartReplica { .. })
                    && !op.anyway
                    && self.nodes[node].pg.life == op.pg
                    && self.nodes[node].pg.run != Run::Down
                {
                    self.kill_tree(node, 1_000, 10_000);
                }
                failure(kind, "drawn or caused by the world")
            }
        };
        self.op_answer(node, op.id, op.life, result, 100);
        self.op_observe(node, op.life);
    }

    /// It waits for its disk, or for a server whose start waited for it.
    fn op_hangs(&self, node: Ix, op: &Running) -> bool {
        let machine = &self.nodes[node];
        let starts = matches!(op.op, PgOp::StartPrimary { .. } | PgOp::StartReplica { .. });
        let starting = machine.pg.life == op.pg && matches!(machine.pg.run, Run::Starting { .. });
        let will_start = starts && starting && (op.fails.is_none() || op.anyway);
        (machine.disk.hangs() && op.op != PgOp::Kill) || will_start
    }

    /// A stopping primary waits for its standbys to have the last record, but not for ever.
    fn stop_must_wait(&mut self, node: Ix) -> bool {
        let pg = &self.nodes[node].pg;
        let Run::Stopping { primary: true } = pg.run else { return false };
        let end = pg.dir.as_ref().map_or(Lsn::ZERO, |d| d.wal.end);
        let must = pg.senders.iter().flatten().any(|s| s.flushed < end);
        note!(self, "n{} stop: must wait {must} {end} {:?}", node + 1, self.nodes[node].pg.senders);
        must
    }

    pub(crate) fn op_observe(&mut self, node: Ix, life: u32) {
        let delay = self.rng.between(500, 5_000);
        self.queue.after(delay, Event::Observe { node, life, again: false });
    }

    /// What has happened when it ends.
    fn op_effect_end(&mut self, node: Ix, op: &Running) -> Result<(), PgFailureKind> {
        let same = self.nodes[node].pg.life == op.pg;
        match &op.op {
            PgOp::Init => {
                let name = node + 1;
                self.story(|| format!("n{name} made the first data directory"));
                let dir = self.nodes[node].pg.dir.as_mut().ok_or(PgFailureKind::ToolFailed)?;
                dir.broken = None;
                self.model_data(node, false);
            }
            PgOp::StartPrimary { .. } => {
                let running = self.nodes[node].pg.run == Run::Primary;
                return if same && running { Ok(()) } else { Err(PgFailureKind::ToolFailed) };
            }
            PgOp::StartReplica { .. } => {
                let running = self.nodes[node].pg.run == Run::Replica;
                return if same && running { Ok(()) } else { Err(PgFailureKind::ToolFailed) };
            }
            PgOp::Follow { upstream } => {
                if !same || self.nodes[node].pg.run != Run::Replica {
                    return Err(PgFailureKind::QueryFailed);
                }
                self.set_upstream(node, upstream.as_ref());
            }
            PgOp::Promote { names } => {
                if !same || self.nodes[node].pg.run != Run::Replica {
                    return Err(PgFailureKind::QueryFailed);
                }
                self.promoted(node, names, op.term);
            }
            PgOp::Stop => self.stopped(node, same),
            PgOp::Kill => {}
            PgOp::Rewind { source } => self.rewound(node, &source.clone())?,
            PgOp::Clone { source: Source::Leader(source) | Source::Member(source) } => {
                self.cloned(node, &source.clone())?;
            }
            PgOp::Clone { source: Source::Backup | Source::Remote } => {
                return Err(PgFailureKind::SourceUnreachable);
            }
            PgOp::SetNames { names } => {
                if !same || self.nodes[node].pg.run != Run::Primary {
                    return Err(PgFailureKind::QueryFailed);
                }
                let names = names.clone();
                self.set_list(node, &names);
            }
            PgOp::EnsureSlots { .. } => {}
        }
        Ok(())
    }

    fn stopped(&mut self, node: Ix, same: bool) {
        let run = self.nodes[node].pg.run;
        if !same || !matches!(run, Run::Stopping { .. }) {
            return;
        }
        self.pg_gone(node, true);
        self.tell_agent(node, 50, Input::PostgresExited);
        self.tell_agent(node, 80, Input::PostgresEmpty);
    }

    fn rewound(&mut self, node: Ix, source: &NodeName) -> Result<(), PgFailureKind> {
        let from = self.index(source).ok_or(PgFailureKind::SourceUnreachable)?;
        if !self.copy_source_ok(node, from) {
            return Err(PgFailureKind::SourceUnreachable);
        }
        let theirs = self.nodes[from].pg.dir.clone().ok_or(PgFailureKind::SourceUnreachable)?;
        self.stats.sometimes.rewound += 1;
        let name = node + 1;
        self.story(|| format!("n{name} rewound"));
        let instance = Instance(self.rng.next() >> 1);
        // A crashed primary is first recovered in single-user mode, which writes: it always diverges.
        let needed = self.nodes[node].pg.dir.as_ref().is_some_and(|d| {
            d.control != ControlState::ShutDown || !self.branches.contains(theirs.wal, d.wal)
        });
        if let Some(dir) = &mut self.nodes[node].pg.dir {
            dir.broken = None;
            dir.instance = instance;
            if needed {
                *dir = Dir { instance, broken: None, ..theirs };
                dir.control = ControlState::InArchiveRecovery;
                dir.min_recovery_end = dir.wal.end;
            }
        }
        self.model_data(node, false);
        Ok(())
    }

    fn cloned(&mut self, node: Ix, source: &NodeName) -> Result<(), PgFailureKind> {
        let from = self.index(source).ok_or(PgFailureKind::SourceUnreachable)?;
        if !self.copy_source_ok(node, from) {
            return Err(PgFailureKind::SourceUnreachable);
        }
        let theirs = self.nodes[from].pg.dir.clone().ok_or(PgFailureKind::SourceUnreachable)?;
        self.stats.sometimes.cloned += 1;
        let name = node + 1;
        self.story(|| format!("n{name} copied n{}", from + 1));
        let instance = Instance(self.rng.next() >> 1);
        let end = theirs.wal.end;
        self.nodes[node].pg.dir = Some(Dir {
            instance,
            broken: None,
            control: ControlState::InArchiveRecovery,
            min_recovery_end: end,
            ..theirs
        });
        self.nodes[node].pg.removed = false;
        self.model_data(node, false);
        Ok(())
    }

    /// A Kill is done when nothing is left.
    pub(crate) fn end_kills(&mut self, node: Ix) {
        let kills: Vec<u32> =
            self.nodes[node].ops.iter().filter(|o| o.op == PgOp::Kill).map(|o| o.number).collect();
        for op in kills {
            self.queue.after(1_500, Event::OpEnd { node, op });
        }
    }

    pub(crate) fn op_answer(
        &mut self,
        node: Ix,
        id: OpId,
        life: u32,
        result: PgOpResult,
        after: Micros,
    ) {
        note!(self, "n{} operation {} ends: {result:?}", node + 1, id.0);
        let input = Box::new(Input::OpDone { id, result });
        self.queue.after(after, Event::Agent { node, life, input });
    }

    /// The list as a set of numbers.
    pub(crate) fn names_of(&self, names: &SyncNames) -> Names {
        let mut out = Names {
            count: names.count,
            first: self.options.policy.synchronous_mode == pgherd_core::SynchronousMode::Priority,
            ..Names::default()
        };
        for name in &names.names {
            match self.index(name) {
                Some(node) => out.mask |= 1 << node,
                None => out.placeholder = true,
            }
        }
        out
    }

    pub(crate) fn set_list(&mut self, node: Ix, names: &SyncNames) {
        let set = self.names_of(names);
        let pg = &mut self.nodes[node].pg;
        pg.names = set;
        pg.next_names = None;
        pg.list = names.clone();
        self.model_list(node, &set, true);
        note!(
            self,
            "n{} synchronous_standby_names: {} of {:?}",
            node + 1,
            names.count,
            names.names
        );
        invariants::sync_covers_list::check(self, node);
        self.release_waiting(node);
    }
}

fn failure(kind: PgFailureKind, detail: &str) -> PgOpResult {
    PgOpResult::Failed(PgOpFailure { kind, detail: detail.to_owned() })
}

/// How long an operation takes, in microseconds.
fn bounds(op: &PgOp) -> (Micros, Micros) {
    match op {
        PgOp::Init => (500_000, 2_000_000),
        PgOp::StartPrimary { .. } | PgOp::StartReplica { .. } => (100_000, 3_000_000),
        PgOp::Follow { .. } => (5_000, 50_000),
        PgOp::Promote { .. } => (50_000, 300_000),
        PgOp::Stop => (100_000, 2_000_000),
        PgOp::Kill => (2_000, 5_000),
        PgOp::Rewind { .. } => (200_000, 2_000_000),
        PgOp::Clone { .. } => (500_000, 5_000_000),
        PgOp::SetNames { .. } => (5_000, 50_000),
        PgOp::EnsureSlots { .. } => (2_000, 20_000),
    }
}
