//! PostgreSQL's processes: started, promoted, gone; and what a look at them shows the agent.
//! Deaths by signal begin in `machine.rs`, orders in `ops.rs`.

use pgherd_core::postgres::{
    ControlFacts, ControlState, PgFacts, PgOp, PgRole, PgState, PrimaryFacts, ReplicaFacts,
    RunningFacts, SenderFacts, SyncNames, Upstream,
};
use pgherd_core::{Lsn, Term, Timeline};

use crate::event::{Event, Ix};
use crate::invariants;
use crate::machine::DISK_AGAIN;
use crate::pg::{Dir, Hang, Names, Run};
use crate::wal::Wal;
use crate::world::{World, note};

impl World {
    pub(crate) fn started(&mut self, node: Ix, life: u32, op: u32) {
        let pg = &self.nodes[node].pg;
        let Run::Starting { primary } = pg.run else { return };
        if pg.life != life || pg.dying {
            return;
        }
        if self.nodes[node].disk.hangs() {
            self.queue.after(DISK_AGAIN, Event::Started { node, pg: life, op });
            return;
        }
        let running = self.nodes[node].ops.iter().find(|o| o.number == op).cloned();
        let Some(running) = running else {
            // Its agent died or gave up: PostgreSQL starts all the same, as its files say.
            return self.finish_start(node, primary, None, None, None);
        };
        let (mut names, mut upstream) = (None, None);
        if let PgOp::StartPrimary { names: wanted } = &running.op {
            names = Some(wanted);
        } else if let PgOp::StartReplica { upstream: wanted } = &running.op {
            upstream = wanted.as_ref();
        }
        self.finish_start(node, primary, names, upstream, running.term);
    }

    fn finish_start(
        &mut self,
        node: Ix,
        primary: bool,
        names: Option<&SyncNames>,
        upstream: Option<&Upstream>,
        term: Option<Term>,
    ) {
        if primary {
            self.nodes[node].pg.run = Run::Primary;
            let recovered = self.nodes[node].pg.wal();
            self.append(node, 120);
            if let Some(dir) = &mut self.nodes[node].pg.dir {
                dir.checkpoint = Lsn(dir.wal.end.0 - 120);
                dir.control_timeline = self.branches.timeline(dir.wal.branch);
            }
            self.stats.sometimes.restarted += 1;
            self.begin_reign(node, term, recovered);
            if let Some(names) = names {
                self.set_list(node, names);
            }
            return;
        }
        let now = self.queue.now;
        let replay = self.rng.between(1_000, 400_000);
        let pg = &mut self.nodes[node].pg;
        pg.run = Run::Replica;
        pg.replay_at = now + replay;
        if let Some(dir) = &pg.dir {
            pg.replayed = dir.min_recovery_end.max(dir.checkpoint).min(dir.wal.end);
        }
        note!(self, "n{} runs as a replica", node + 1);
        self.set_upstream(node, upstream);
        let pg = self.nodes[node].pg.life;
        self.queue.after(1_000, Event::Receiver { node, pg });
    }

    /// A promotion ends recovery on a new timeline.
    pub(crate) fn promoted(&mut self, node: Ix, names: &SyncNames, term: Option<Term>) {
        self.drop_receiver(node);
        let Some(dir) = self.nodes[node].pg.dir.as_mut() else { return };
        dir.known = Timeline(dir.known.0 + 1);
        let recovered = Some(dir.wal);
        dir.wal = self.branches.fork(dir.wal, dir.known);
        dir.control = ControlState::InProduction;
        let timeline = dir.known;
        let pg = &mut self.nodes[node].pg;
        pg.run = Run::Primary;
        pg.upstream = None;
        let life = pg.life;
        self.append(node, 104);
        note!(self, "n{} is promoted to timeline {timeline}", node + 1);
        self.begin_reign(node, term, recovered);
        self.set_list(node, names);
        let delay = self.rng.between(50_000, 1_000_000);
        self.queue.after(delay, Event::Checkpoint { node, pg: life });
    }

    fn begin_reign(&mut self, node: Ix, term: Option<Term>, recovered: Option<Wal>) {
        let pg = &mut self.nodes[node].pg;
        pg.term = term;
        pg.waiting.clear();
        pg.names = Names::default();
        pg.next_names = None;
        pg.list = SyncNames::default();
        if let Some(dir) = &mut pg.dir {
            dir.control = ControlState::InProduction;
            let recovered = recovered.unwrap_or(dir.wal);
            pg.visible = recovered.end;
            pg.reign = self.ledger.begin_reign(node, term, recovered);
        }
        self.model_promoted(node, term);
        let (name, shown) = (node + 1, term.map_or(0, |t| t.0));
        note!(self, "n{name} is primary under term {shown}");
        self.story(|| format!("n{name} is primary (term {shown})"));
        invariants::at_reign(self, node);
    }

    pub(crate) fn checkpoint(&mut self, node: Ix, life: u32) {
        let pg = &mut self.nodes[node].pg;
        if pg.life != life || pg.run != Run::Primary || pg.killed {
            return;
        }
        if !self.nodes[node].disk.takes_wal() {
            self.queue.after(DISK_AGAIN, Event::Checkpoint { node, pg: life });
            return;
        }
        let pg = &mut self.nodes[node].pg;
        if let Some(dir) = &mut pg.dir {
            dir.checkpoint = dir.wal.end;
            dir.control_timeline = self.branches.timeline(dir.wal.branch);
        }
        self.append(node, 120);
    }

    /// No process is left.
    pub(crate) fn pg_gone(&mut self, node: Ix, clean: bool) {
        if self.nodes[node].pg.run == Run::Down {
            return;
        }
        self.check_belief(node);
        self.forget_waiting(node);
        self.orphan_replication(node, false);
        let pg = &mut self.nodes[node].pg;
        let was = pg.run;
        pg.settle(self.queue.now);
        pg.run = Run::Down;
        pg.life += 1;
        pg.dying = false;
        pg.killed = false;
        pg.hang = Hang::No;
        pg.names = Names::default();
        pg.next_names = None;
        pg.term = None;
        let gone = std::mem::take(&mut pg.removed);
        if gone {
            pg.dir = None;
        }
        let replayed = pg.replayed;
        if let Some(dir) = &mut pg.dir {
            match (was, clean) {
                (Run::Stopping { primary: true }, true) => dir.control = ControlState::ShutDown,
                (Run::Stopping { primary: false }, true) => {
                    dir.control = ControlState::ShutDownInRecovery;
                    dir.min_recovery_end = replayed.min(dir.wal.end);
                    dir.control_timeline = self.branches.timeline(dir.wal.branch);
                }
                (Run::Replica | Run::Zombie { primary: false }, _) => {
                    dir.min_recovery_end = replayed.min(dir.wal.end);
                    dir.checkpoint = dir.checkpoint.max(Lsn(replayed.0.saturating_sub(50_000)));
                    dir.control_timeline = self.branches.timeline(dir.wal.branch);
                }
                _ => {}
            }
        }
        self.model_pg_gone(
            node,
            matches!(
                was,
                Run::Primary | Run::Stopping { primary: true } | Run::Zombie { primary: true }
            ),
        );
        if gone {
            self.model_data(node, true);
        }
    }

    /// The directory vanishes, under running processes or not.
    pub(crate) fn remove_data(&mut self, node: Ix) {
        let pg = &mut self.nodes[node].pg;
        if pg.dir.is_none() {
            return;
        }
        if pg.run == Run::Down {
            pg.dir = None;
        } else {
            pg.removed = true;
        }
        self.model_data(node, !self.nodes[node].pg.removed);
        self.stats.sometimes.removed += 1;
        note!(self, "n{} the data directory is removed", node + 1);
    }

    /// What a look at PostgreSQL shows; `None` when there is nothing honest to say now.
    pub(crate) fn facts(&mut self, node: Ix) -> Option<PgFacts> {
        let now = self.queue.now;
        let at = self.clock(node);
        let life = self.nodes[node].agent.life;
        let foreign_list = self.nodes[node].pg.next_names.is_some()
            && !self.nodes[node].ops.iter().any(|o| o.life == life);
        let pg = &mut self.nodes[node].pg;
        if foreign_list {
            return None;
        }
        pg.settle(now);
        if pg.accepts() {
            pg.probed = now;
        }
        let pg = &self.nodes[node].pg;
        let state = match (&pg.dir, pg.removed) {
            (None, _) | (_, true) => PgState::Absent,
            (Some(dir), _) => match dir.broken {
                Some(broken) => PgState::Broken(broken),
                None => self.facts_of(node, dir)?,
            },
        };
        Some(PgFacts { at, state })
    }

    fn facts_of(&self, node: Ix, dir: &Dir) -> Option<PgState> {
        let pg = &self.nodes[node].pg;
        let control = ControlFacts {
            system_id: dir.system_id,
            instance: dir.instance,
            state: dir.control,
            timeline: dir.control_timeline,
            checkpoint: dir.checkpoint,
            min_recovery_end: dir.min_recovery_end,
        };
        if pg.killed {
            return Some(PgState::NotAccepting(control));
        }
        Some(match pg.run {
            Run::Zombie { .. } => return None,
            Run::Down => PgState::Stopped(control),
            Run::Starting { .. } | Run::Stopping { .. } => PgState::NotAccepting(control),
            Run::Primary | Run::Replica if pg.hang != Hang::No => PgState::Unresponsive {
                since: self.nodes[node].clock.at(pg.probed),
                halted: pg.hang == Hang::Postmaster,
            },
            Run::Primary | Run::Replica => PgState::Running(RunningFacts {
                system_id: dir.system_id,
                instance: dir.instance,
                timeline: self.branches.timeline(dir.wal.branch),
                role: if pg.run == Run::Primary {
                    PgRole::Primary(self.primary_facts(node, dir))
                } else {
                    PgRole::Replica(self.replica_facts(node, dir))
                },
            }),
        })
    }

    fn primary_facts(&self, node: Ix, dir: &Dir) -> PrimaryFacts {
        let pg = &self.nodes[node].pg;
        let row = |(ix, sender): (usize, &Option<crate::pg::Sender>)| {
            sender.as_ref().map(|s| SenderFacts {
                node: self.names[ix].clone(),
                streaming: true,
                flushed: s.flushed,
                replayed: s.replayed,
            })
        };
        PrimaryFacts {
            flushed: dir.wal.end,
            names: pg.list.clone(),
            senders: pg.senders.iter().enumerate().filter_map(row).collect(),
            history: self.branches.history(dir.wal.branch),
            checkpointed: true,
            waiting: Vec::new(),
        }
    }

    fn upstream_of(&self, node: Ix) -> Option<Upstream> {
        let pg = &self.nodes[node].pg;
        let name = pg.upstream.map(|ix| self.names[ix].clone());
        match (name, pg.via) {
            (Some(node), Some(instance)) => Some(Upstream::Member { node, instance }),
            (Some(node), None) => Some(Upstream::Leader(node)),
            (None, _) => pg.archive.then_some(Upstream::Archive),
        }
    }

    fn replica_facts(&self, node: Ix, dir: &Dir) -> ReplicaFacts {
        let pg = &self.nodes[node].pg;
        let received = if pg.received_known { dir.wal.end } else { pg.replayed };
        ReplicaFacts {
            received,
            replayed: pg.replayed,
            streaming: pg.receiver.is_some(),
            upstream: self.upstream_of(node),
            at_end: pg.receiver.is_none() && pg.replayed == dir.wal.end,
        }
    }
}
