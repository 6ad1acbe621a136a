//! A node whose agent is Patroni, as far as ours can feel the difference: a loop of a second, a lease
//! and nothing else to believe in, questions over REST, a create of the leader key, no guard.
//! Synchronous lists follow the core's arithmetic, for they are not what is tested here.
//! What it does wrong when it is frozen is its own: the invariants look away (`excused`).

use pgherd_core::cluster::{
    ClusterView, Compare, FailoverRequest, HistoryLine, Key, MemberRecord, MemberRole, MemberState,
    Op, Purpose, Status, SyncState, Txn, Value,
};
use pgherd_core::peer::PatroniAnswer;
use pgherd_core::postgres::{ControlState, PgOp, Source, SyncNames, Upstream};
use pgherd_core::quorum::{self, Published, Step};
use pgherd_core::{Input, LeaseId, Lsn, NodeName, OpId, Revision, Term};

use crate::clock::Micros;
use crate::event::{Event, Ix};
use crate::pg::Run;
use crate::world::{World, note};

const LOOP_WAIT: Micros = 1_000_000;
/// Without the store for this long it demotes its primary.
const RETRY_TIMEOUT: Micros = 3_000_000;
/// How long a question waits for a node that is gone.
const GET: Micros = 2_000_000;

/// What one life of Patroni remembers.
#[derive(Debug, Default)]
pub(crate) struct Patroni {
    pub(crate) alive: bool,
    lease: Option<LeaseId>,
    /// When it last reached the store.
    reached: Micros,
    /// The leader key that it last saw, by its revision.
    seen: Revision,
    handing: bool,
    /// The list in force and the end of WAL when it came.
    list: Option<(SyncNames, Lsn)>,
    member: Option<MemberRecord>,
}

impl World {
    pub(crate) fn is_patroni(&self, node: Ix) -> bool {
        self.options.patroni & (1 << node) != 0
    }

    pub(crate) fn patroni_start(&mut self, node: Ix) {
        let now = self.queue.now;
        let machine = &mut self.nodes[node];
        machine.agent.life += 1;
        machine.agent.frozen = false;
        let life = machine.agent.life;
        machine.patroni = Patroni { alive: true, reached: now, ..Patroni::default() };
        note!(self, "n{} Patroni starts (life {life})", node + 1);
        let delay = self.rng.between(10_000, 500_000);
        self.queue.after(delay, Event::Patroni { node, life, again: true });
    }

    /// The leader key changed: Patroni's watch wakes its loop.
    pub(crate) fn patroni_wakes(&mut self) {
        let leader = self.store.view().modified(&Key::Leader);
        for node in 0..self.nodes.len() {
            let machine = &mut self.nodes[node];
            if machine.patroni.alive && machine.patroni.seen != leader {
                machine.patroni.seen = leader;
                let life = machine.agent.life;
                let delay = self.rng.between(1_000, 20_000);
                self.queue.after(delay, Event::Patroni { node, life, again: false });
            }
        }
    }

    /// Its word and its writes count for nothing any more: what Patroni is, it is.
    pub(crate) fn excused(&self, node: Ix) -> bool {
        let holds = self.leader() == Some(node) && self.store.view().foreign_leader();
        self.is_patroni(node) && !holds
    }

    /// One turn of the loop.
    pub(crate) fn patroni(&mut self, node: Ix, life: u32, again: bool) {
        if self.nodes[node].agent.life != life || !self.nodes[node].patroni.alive {
            return;
        }
        if again {
            let next = LOOP_WAIT + self.rng.below(200_000);
            self.queue.after(next, Event::Patroni { node, life, again });
        }
        let busy = self.nodes[node].ops.iter().any(|op| op.life == life);
        let now = self.queue.now;
        if self.store_down || (self.net.asks | self.net.answers) & (1 << node) != 0 {
            let gone = now - self.nodes[node].patroni.reached > RETRY_TIMEOUT;
            if gone && !busy && self.nodes[node].pg.run == Run::Primary {
                note!(self, "n{} Patroni demotes: no store", node + 1);
                self.patroni_op(node, PgOp::Stop, None);
            }
            return;
        }
        self.nodes[node].patroni.reached = now;
        self.patroni_lease(node);
        self.patroni_member(node);
        let view = self.store.view().clone();
        let paused = view.config.as_ref().is_some_and(|c| c.value.pause);
        if busy || paused {
            return;
        }
        let leader = view.leader.as_ref().and_then(|l| self.index(&l.value));
        match leader {
            Some(ix) if ix == node => self.patroni_leads(node, &view),
            Some(ix) => self.patroni_follows(node, Some(ix)),
            None => self.patroni_races(node, &view),
        }
    }

    fn patroni_op(&mut self, node: Ix, op: PgOp, term: Option<Term>) {
        let id = OpId(u64::from(self.number()));
        self.op_begin(node, id, op, term);
    }

    fn patroni_txn(&mut self, purpose: Purpose, compare: Vec<Compare>, then: Vec<Op>) -> bool {
        let before = self.store.view().revision;
        let done = self.store.txn(&Txn { purpose, compare, then }).is_some();
        if self.store.view().revision != before {
            self.spread();
        }
        done
    }

    fn patroni_lease(&mut self, node: Ix) {
        let now = self.queue.now;
        let held = self.nodes[node].patroni.lease;
        if held.is_none_or(|lease| !self.store.keep_alive(now, lease)) {
            let ttl = self.ttl().0;
            self.nodes[node].patroni.lease = Some(self.store.grant(now, ttl));
            self.nodes[node].patroni.member = None;
        }
        let lease = self.nodes[node].patroni.lease;
        let view = self.store.view().clone();
        let name = self.names[node].clone();
        // Its key on another lease, an earlier life's: re-attached, by its value alone.
        if let Some(leader) = view.leader.as_ref().filter(|l| l.value == name && l.lease != lease) {
            let compare = vec![Compare::Modified(Key::Leader, leader.modified)];
            let put = vec![Op::Put(Key::Leader, Value::Leader(name), lease)];
            self.patroni_txn(Purpose::TakeOver, compare, put);
        }
    }

    fn patroni_member(&mut self, node: Ix) {
        let pg = &self.nodes[node].pg;
        let wal = pg.wal();
        let (role, state) = match pg.run {
            Run::Primary => (MemberRole::Primary, MemberState::Running),
            Run::Replica => (MemberRole::Replica, MemberState::Running),
            Run::Starting { .. } => (MemberRole::Replica, MemberState::Starting),
            Run::Down | Run::Stopping { .. } | Run::Zombie { .. } => {
                (MemberRole::Replica, MemberState::Stopped)
            }
        };
        let record = MemberRecord {
            state,
            role,
            lsn: wal.map(|w| w.end),
            replayed: None,
            timeline: wal.map(|w| self.branches.timeline(w.branch)),
            streaming: pg.receiver.is_some(),
            tags: self.options.tags[node].clone(),
            paused: false,
            checkpoint_pending: false,
            patroni: true,
        };
        let lease = self.nodes[node].patroni.lease;
        if self.nodes[node].patroni.member.as_ref() == Some(&record) {
            return;
        }
        self.nodes[node].patroni.member = Some(record.clone());
        let key = Key::Member(self.names[node].clone());
        self.patroni_txn(
            Purpose::PublishMember,
            Vec::new(),
            vec![Op::Put(key, Value::Member(record), lease)],
        );
    }

    // ---- leading --------------------------------------------------------------------------------

    fn patroni_leads(&mut self, node: Ix, view: &ClusterView) {
        let term = view.current_term();
        match self.nodes[node].pg.run {
            Run::Primary => {
                self.patroni_heartbeat(node, view);
                if !self.patroni_list(node) {
                    self.patroni_asked(node, view);
                }
            }
            Run::Replica => {
                self.nodes[node].patroni.list = None;
                let names =
                    if self.synchronous() { SyncNames::nobody() } else { SyncNames::default() };
                self.ledger_foreign(node, view);
                self.patroni_op(node, PgOp::Promote { names }, term);
            }
            // It was told to hand over, or it crashed: either way it lets go.
            Run::Down => {
                self.nodes[node].patroni.handing = false;
                let end = self.nodes[node].pg.wal().map_or(Lsn::ZERO, |w| w.end);
                let compare = vec![Compare::Modified(Key::Leader, view.modified(&Key::Leader))];
                let then = vec![
                    Op::Put(Key::Status, Value::Status(Status { optime: end }), None),
                    Op::Delete(Key::Leader),
                ];
                self.patroni_txn(Purpose::Release, compare, then);
                self.story(|| format!("n{} (Patroni) lets go of the key", node + 1));
            }
            Run::Starting { .. } | Run::Stopping { .. } | Run::Zombie { .. } => {}
        }
    }

    fn patroni_heartbeat(&mut self, node: Ix, view: &ClusterView) {
        let Some(wal) = self.nodes[node].pg.wal() else { return };
        if view.status.as_ref().is_none_or(|s| s.value.optime != wal.end) {
            let put = Op::Put(Key::Status, Value::Status(Status { optime: wal.end }), None);
            self.patroni_txn(Purpose::Beat, Vec::new(), vec![put]);
        }
        let lines = self.branches.history(wal.branch);
        let lines: Vec<HistoryLine> = lines
            .iter()
            .map(|line| HistoryLine {
                timeline: line.timeline,
                end: line.end,
                reason: "no recovery target specified".to_owned(),
                at: 0,
                leader: None,
            })
            .collect();
        let known = view.history.as_ref().map(|h| h.value.iter().map(|l| (l.timeline, l.end)));
        let same = known.is_some_and(|known| known.eq(lines.iter().map(|l| (l.timeline, l.end))));
        if !same {
            let put = Op::Put(Key::History, Value::History(lines), None);
            self.patroni_txn(Purpose::PublishHistory, Vec::new(), vec![put]);
        }
    }

    /// True when that takes an operation.
    fn patroni_list(&mut self, node: Ix) -> bool {
        if !self.synchronous() {
            return false;
        }
        let pg = &self.nodes[node].pg;
        let (names, end) = (pg.list.clone(), pg.wal().map_or(Lsn::ZERO, |w| w.end));
        let streams = |ix: &Ix| pg.senders[*ix].is_some();
        let wanted = (0..self.nodes.len()).filter(streams).map(|ix| self.names[ix].clone());
        let mut wanted: Vec<NodeName> = wanted.collect();
        let count = self.options.policy.synchronous_node_count;
        if self.options.policy.synchronous_mode == pgherd_core::SynchronousMode::Priority {
            wanted.truncate(count as usize);
        }
        if wanted.is_empty() {
            return false;
        }
        let list = &mut self.nodes[node].patroni.list;
        if list.as_ref().is_none_or(|(known, _)| *known != names) {
            *list = Some((names.clone(), end));
        }
        let since = list.as_ref().map_or(Lsn::ZERO, |(_, end)| *end);
        let view = self.store.view().clone();
        let sync = view.sync.as_ref().map(|s| s.value.clone()).unwrap_or_default();
        let published =
            Published { voters: sync.voters.keys().cloned().collect(), quorum: sync.quorum };
        match quorum::next(&published, &names, &wanted.into_iter().collect(), count) {
            Step::Steady => {}
            Step::SetNames(names) => {
                self.patroni_op(node, PgOp::SetNames { names }, None);
                return true;
            }
            Step::Publish(value) => {
                let pg = &self.nodes[node].pg;
                let has = |name: &NodeName| {
                    let sender = self.index(name).and_then(|ix| pg.senders[ix].as_ref());
                    sender.is_some_and(|s| s.flushed >= since)
                };
                if !quorum::caught_up(&value, has) {
                    return false;
                }
                let voters = value.voters.into_iter().map(|name| (name, None)).collect();
                let leader = Some(self.names[node].clone());
                let state = SyncState { leader, quorum: value.quorum, voters };
                let compare = vec![
                    Compare::Modified(Key::Sync, view.modified(&Key::Sync)),
                    Compare::Modified(Key::Leader, view.modified(&Key::Leader)),
                ];
                let put = vec![Op::Put(Key::Sync, Value::Sync(state), None)];
                self.patroni_txn(Purpose::PublishSync, compare, put);
            }
        }
        false
    }

    /// A switchover is asked for.
    fn patroni_asked(&mut self, node: Ix, view: &ClusterView) {
        let Some(request) = view.failover.as_ref().map(|f| f.value.clone()) else { return };
        let FailoverRequest { leader, member } = &request;
        let mine = leader.as_ref().is_none_or(|l| *l == self.names[node]);
        let fit = |world: &Self, ix: Ix| {
            let streams = world.nodes[node].pg.senders[ix].is_some();
            let named = view.sync.as_ref().is_none_or(|s| {
                !s.value.names_voters() || s.value.voters.contains_key(&world.names[ix])
            });
            ix != node && streams && (named || !world.synchronous())
        };
        let good = match member.as_ref().map(|name| self.index(name)) {
            Some(candidate) => candidate.is_some_and(|ix| fit(self, ix)),
            None => (0..self.nodes.len()).any(|ix| fit(self, ix)),
        };
        if mine && good {
            self.nodes[node].patroni.handing = true;
            self.story(|| format!("n{} (Patroni) hands over", node + 1));
            self.patroni_op(node, PgOp::Stop, None);
        } else {
            let compare = vec![Compare::Modified(Key::Failover, view.modified(&Key::Failover))];
            let put = vec![Op::Put(Key::Failover, Value::Failover(None), None)];
            self.patroni_txn(Purpose::ClearFailover, compare, put);
        }
    }

    // ---- following ------------------------------------------------------------------------------

    fn patroni_follows(&mut self, node: Ix, leader: Option<Ix>) {
        let theirs = leader.and_then(|ix| {
            let pg = &self.nodes[ix].pg;
            (pg.run == Run::Primary).then(|| pg.wal()).flatten()
        });
        let source = leader.map(|ix| self.names[ix].clone());
        let pg = &self.nodes[node].pg;
        match (pg.run, pg.wal(), theirs) {
            (Run::Primary, ..) => {
                note!(self, "n{} Patroni demotes", node + 1);
                self.patroni_op(node, PgOp::Kill, None);
            }
            (Run::Replica, Some(mine), Some(theirs)) => {
                if !self.branches.can_stream(mine, theirs) {
                    self.patroni_op(node, PgOp::Stop, None);
                } else if pg.upstream != leader {
                    self.patroni_op(
                        node,
                        PgOp::Follow { upstream: source.map(Upstream::Leader) },
                        None,
                    );
                }
            }
            (Run::Down, None, Some(_)) => {
                self.patroni_op(
                    node,
                    PgOp::Clone { source: source.map_or(Source::Backup, Source::Leader) },
                    None,
                );
            }
            (Run::Down, Some(mine), Some(theirs)) => {
                self.patroni_rejoins(node, mine, theirs, source);
            }
            (Run::Down, Some(_), None) if leader.is_none() => {
                self.patroni_op(node, PgOp::StartReplica { upstream: None }, None);
            }
            _ => {}
        }
    }

    fn patroni_rejoins(
        &mut self,
        node: Ix,
        mine: crate::wal::Wal,
        theirs: crate::wal::Wal,
        source: Option<NodeName>,
    ) {
        let crashed = self.nodes[node].pg.dir.as_ref().is_some_and(|dir| {
            matches!(dir.control, ControlState::InProduction | ControlState::InCrashRecovery)
        });
        let Some(leader) = source.clone() else { return };
        if self.branches.can_stream(mine, theirs) && !crashed {
            self.patroni_op(
                node,
                PgOp::StartReplica { upstream: source.map(Upstream::Leader) },
                None,
            );
        } else if self.branches.timeline(mine.branch) == self.branches.timeline(theirs.branch) {
            self.patroni_op(
                node,
                PgOp::Clone { source: source.map_or(Source::Backup, Source::Leader) },
                None,
            );
        } else {
            self.patroni_op(node, PgOp::Rewind { source: leader }, None);
        }
    }

    // ---- the race -------------------------------------------------------------------------------

    /// What a question about a node over REST would find; `None`: nobody answers.
    fn rest_says(&self, from: Ix, of: Ix) -> Option<PatroniAnswer> {
        let machine = &self.nodes[of];
        let agent =
            (machine.agent.node.is_some() || machine.patroni.alive) && !machine.agent.frozen;
        let there = machine.up && !machine.frozen && agent;
        if !there || !self.net.peer(from, of) || !self.net.peer(of, from) {
            return None;
        }
        let wal = machine.pg.wal().filter(|_| machine.pg.accepts());
        Some(match (machine.pg.run, wal) {
            (Run::Primary, Some(_)) => PatroniAnswer::Primary,
            (Run::Replica, Some(wal)) => PatroniAnswer::Replica {
                lsn: wal.end,
                timeline: Some(self.branches.timeline(wal.branch)),
                streaming: machine.pg.receiver.is_some(),
                barred: self.options.tags[of].nofailover(),
            },
            _ => PatroniAnswer::Down,
        })
    }

    /// One of ours asks a Patroni.
    pub(crate) fn ask_patroni(&mut self, node: Ix, of: &NodeName) {
        let asked = self.clock(node);
        let from = of.clone();
        let said = self.index(of).and_then(|ix| self.rest_says(node, ix));
        let answer = said.unwrap_or(PatroniAnswer::Unreachable);
        let delay = if said.is_some() { self.rng.between(1_000, 30_000) } else { GET };
        self.tell_agent(node, delay, Input::Patroni { from, asked, answer });
    }

    fn patroni_races(&mut self, node: Ix, view: &ClusterView) {
        let pg = &self.nodes[node].pg;
        let primary = pg.run == Run::Primary;
        let Some(mine) = pg.wal().filter(|_| primary || pg.run == Run::Replica) else {
            return self.patroni_follows(node, None);
        };
        let founded = matches!(
            view.initialize.as_ref().map(|i| i.value),
            Some(pgherd_core::cluster::Initialize::Done(_))
        );
        if !founded || self.options.tags[node].nofailover() {
            return;
        }
        // A running primary looks at the cluster's timeline only.
        let lines = view.history.as_ref().and_then(|h| h.value.last());
        let newest = lines.map_or(1, |line| line.timeline.0 + 1);
        if primary && self.branches.timeline(mine.branch).0 < newest {
            return self.patroni_op(node, PgOp::Kill, None);
        }
        if (primary || self.patroni_healthiest(node, mine.end, view)) && self.patroni_create(node) {
            let view = self.store.view().clone();
            self.patroni_leads(node, &view);
        }
    }

    fn patroni_create(&mut self, node: Ix) -> bool {
        let name = self.names[node].clone();
        let lease = self.nodes[node].patroni.lease;
        let compare = vec![Compare::Modified(Key::Leader, Revision(0))];
        let put = vec![Op::Put(Key::Leader, Value::Leader(name), lease)];
        let won = self.patroni_txn(Purpose::TakeOver, compare, put);
        if won {
            let view = self.store.view().clone();
            if view.failover.is_some() {
                let empty = Op::Put(Key::Failover, Value::Failover(None), None);
                self.patroni_txn(Purpose::ClearFailover, Vec::new(), vec![empty]);
            }
            self.ledger_foreign(node, &view);
        }
        won
    }

    /// Contract 4.4: who is reachable is asked, who isn't is ignored.
    fn patroni_healthiest(&self, node: Ix, mine: Lsn, view: &ClusterView) -> bool {
        let me = &self.names[node];
        let sync = view.sync.as_ref().map(|s| &s.value).filter(|s| s.leader.is_some());
        let sync = sync.filter(|_| self.synchronous());
        let quorum_mode =
            self.options.policy.synchronous_mode == pgherd_core::SynchronousMode::Quorum;
        let former = sync.and_then(|s| s.leader.as_ref());
        let member = |s: &SyncState| s.voters.contains_key(me) || former == Some(me);
        if sync.is_some_and(|s| !quorum_mode && !member(s)) {
            return false;
        }
        let asked = view.failover.as_ref().map(|f| &f.value);
        if let Some(named) = asked.and_then(|f| f.member.as_ref())
            && named != me
            && let Some(ix) = self.index(named)
            && matches!(
                self.rest_says(node, ix),
                Some(PatroniAnswer::Replica { barred: false, .. })
            )
        {
            return false;
        }
        let optime = view.status.as_ref().map_or(Lsn::ZERO, |s| s.value.optime);
        let lag = mine.lag_behind(optime);
        if asked.is_none() && lag > self.options.policy.maximum_lag_on_failover {
            return false;
        }
        let votes_from_me = sync.is_some_and(|s| s.voters.contains_key(me));
        let mut votes = if votes_from_me { 0 } else { -1 };
        let mut ahead = false;
        for other in (0..self.nodes.len()).filter(|ix| *ix != node) {
            match self.rest_says(node, other) {
                Some(PatroniAnswer::Primary) => return false,
                Some(PatroniAnswer::Replica { lsn, barred: false, .. }) if lsn > mine => {
                    ahead = true;
                    if sync.is_none() || former != Some(&self.names[other]) {
                        return false;
                    }
                }
                Some(PatroniAnswer::Replica { barred: false, .. }) => {
                    let name = &self.names[other];
                    votes += i64::from(sync.is_some_and(|s| s.voters.contains_key(name)));
                }
                Some(
                    PatroniAnswer::Replica { barred: true, .. }
                    | PatroniAnswer::Down
                    | PatroniAnswer::Unreachable,
                )
                | None => {}
            }
        }
        let needed = sync.map_or(0, |s| i64::from(s.quorum));
        !quorum_mode || sync.is_none() || votes >= needed || (!ahead && former == Some(me))
    }

    /// The ledger's part of a foreign term.
    fn ledger_foreign(&mut self, node: Ix, view: &ClusterView) {
        let Some(term) = view.current_term() else { return };
        let pg = &mut self.nodes[node].pg;
        if pg.run == Run::Primary {
            pg.term = Some(term);
            self.ledger.carry(pg.reign, term);
        }
        if self.ledger.leaders.insert(term, node).is_none() {
            self.stats.sometimes.patroni_led += 1;
            note!(self, "store: term {term} begins: n{}, Patroni", node + 1);
            self.story(|| format!("term {term}: n{} leads, by Patroni's race", node + 1));
        }
    }
}
