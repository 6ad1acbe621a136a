//! One node: feed it inputs, drain its actions. See the crate's description for the order of calls.
//! This file takes inputs in and keeps the state; `requests` talks to the store, `plan` decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterView, SyncState};
use crate::input::{Action, Durable, Input, OpId};
use crate::mutant::Mutant;
use crate::peer::{PeerBeat, PeerLost, PeerPg};
use crate::plan::Health;
use crate::policy::{Policy, Repair};
use crate::postgres::PgOp;
use crate::reason::{Decision, Reason, Situation};
use crate::state::{
    Asked, Attempt, Candidacy, Lease, Leaving, PatroniMember, Peer, Pending, Pg, Reign, Restart,
    RunningOp, Silence,
};
use crate::waits::Waits;
use crate::{Duration, Incarnation, Lsn, NodeName, Revision, Tags, Term, Time};

/// What a node is told at its birth and keeps for its life.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Its name.
    pub name: NodeName,
    /// What it is fit for; [`Input::Tags`] changes that.
    pub tags: Tags,
    /// What may be done to data that diverged; [`Input::Repair`] changes that.
    pub repair: Repair,
    /// It can make its data from a backup, though nobody leads.
    pub restores_alone: bool,
    /// What a new cluster's `config` key gets when this node founds it.
    pub founding_policy: Policy,
    /// This node may make the first data directory.
    pub may_found: bool,
    /// A random number, for the order of candidates that are equal and for jitter.
    pub seed: u64,
    /// Laws that this node breaks on purpose: only ever set by the simulator, to prove that it
    /// notices.
    pub mutant: Option<Mutant>,
}

/// The name of the deadline that [`Node::poll_deadline`] returns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Timer {
    /// The next beat.
    Beat,
    /// The next renewal of the lease.
    Lease,
    /// The next sign of life to the peers; everything that waits is looked at again.
    PeerBeat,
    /// The end of this node's belief.
    BeliefEnd,
}

/// How often agents tell each other that they live (docs/protocol.md, Pledges).
pub(crate) const PEER_BEAT: Duration = Duration::millis(100);
/// A sign of life or WAL younger than this is "hearing" (docs/protocol.md, Pledges).
pub(crate) const HEARING: Duration = Duration::millis(300);
/// A gap between two inputs longer than this means that this process stood still: what it didn't
/// hear meanwhile proves nothing.
const STALLED: Duration = Duration::millis(250);
/// What a leader's PostgreSQL that goes down still sends has come within this.
const GOING_DOWN: Duration = Duration::secs(1);

/// The state of one node. [`Self::handle`] is the only thing that changes it; the rest reads or
/// drains.
#[derive(Debug, Serialize, Deserialize)]
pub struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) incarnation: Incarnation,
    pub(crate) durable: Durable,
    pub(crate) persist_seq: u64,
    pub(crate) persisted_seq: u64,
    pub(crate) now: Time,
    pub(crate) born: Time,
    pub(crate) view: Arc<ClusterView>,
    pub(crate) seen_view: bool,
    pub(crate) pg: Pg,
    /// A process of PostgreSQL may live, whatever the directory looks like.
    pub(crate) maybe_alive: bool,
    /// Observations begun before this are older than what is known.
    pub(crate) facts_from: Time,
    pub(crate) wal_advanced: Option<(Lsn, Time)>,
    pub(crate) stream_lost: Option<Time>,
    /// Since when it streams without a break.
    pub(crate) streams_since: Option<Time>,
    /// Since when nothing has come by streaming: one that breaks off again at once is none.
    pub(crate) fruitless: Option<Time>,
    /// Commits of this primary that wait for replicas.
    pub(crate) waits: Waits,
    pub(crate) lease: Lease,
    pub(crate) reign: Option<Reign>,
    /// Takeovers that were sent and may be applied yet, or have been.
    pub(crate) attempts: Vec<Attempt>,
    /// Counts this life's beats.
    pub(crate) beat_seq: u64,
    pub(crate) silence: Silence,
    pub(crate) vacant_since: Option<Time>,
    /// Since when nothing but the others keeps this node from trying.
    pub(crate) open_since: Option<Time>,
    /// The operator's latest request, and when it was seen.
    pub(crate) asked_failover: (Revision, Time),
    /// Since when this node points at the ready leader of that term.
    pub(crate) followed: Option<(Term, Time)>,
    /// Whether the member that `replicatefrom` names can be streamed from, and since when.
    pub(crate) member_fit: Option<(bool, Time)>,
    /// Nothing came from that member: the leader is streamed from until then.
    pub(crate) member_avoided: Time,
    /// The latest claim, and when it was seen.
    pub(crate) claim_seen: (Revision, Time),
    /// Since when PostgreSQL neither answers nor is down.
    pub(crate) busy_since: Option<Time>,
    pub(crate) peers: BTreeMap<NodeName, Peer>,
    /// Members whose agent is Patroni, and what they said last.
    pub(crate) patroni: BTreeMap<NodeName, PatroniMember>,
    /// The first position that was seen of a foreign leader, in its term.
    pub(crate) foreign_start: Option<(Term, Lsn)>,
    /// Since when the present foreign leader is known.
    pub(crate) foreign_seen: Option<(Term, Time)>,
    pub(crate) op: Option<RunningOp>,
    pub(crate) kill: Option<OpId>,
    pub(crate) health: Health,
    pub(crate) backoff: Backoff,
    pub(crate) pending: Vec<Pending>,
    /// The latest change of this node's own that the view must show before the next is decided.
    pub(crate) await_view: Revision,
    /// A change was refused or lost at this revision and time: the view has to move first.
    pub(crate) in_vain: Option<(Revision, Time)>,
    /// A change of `sync` has an unknown outcome: it may still land.
    pub(crate) sync_uncertain: bool,
    /// Each `sync` that was sent, and may stand in the store by now: until the view shows another revision.
    pub(crate) sent_syncs: Vec<SyncState>,
    /// Names that were sent for `failsafe`, until the view shows them.
    pub(crate) sent_failsafe: BTreeSet<NodeName>,
    /// Until when this node holds another's term.
    pub(crate) held_until: Time,
    /// A promise to hold that waits to be on disk: to whom, of which term, asked when.
    pub(crate) hold_answer: Option<(NodeName, Term, Time)>,
    /// What stands is written again to settle that: it says nothing of who has caught up.
    pub(crate) sync_rewriting: bool,
    pub(crate) candidacy: Option<Candidacy>,
    /// For whom this replica made slots in the election under way: who follows a new leader finds its
    /// own at once.
    pub(crate) slots_ahead: Option<Vec<NodeName>>,
    /// Who was further ahead in this election, and had the time to lead.
    pub(crate) yielded_to: Option<NodeName>,
    /// Since when this node holds its start back for the first commits of a term.
    pub(crate) gives_way: Option<(Term, Time)>,
    pub(crate) stand_back_until: Time,
    /// The user's script refused a promotion: this node doesn't lead before then.
    pub(crate) refused_until: Time,
    pub(crate) asked: Option<Asked>,
    pub(crate) armed: Option<(Term, Time)>,
    pub(crate) shutdown: Option<Time>,
    /// Since when PostgreSQL is known to be stopped for that.
    pub(crate) shut_down: Option<Time>,
    pub(crate) reinitialize: bool,
    /// The last settings that the store had.
    pub(crate) policy_said: Option<Policy>,
    pub(crate) restart: Option<Restart>,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) restarts: Restarts,
    /// This WAL was seen to go past the leader's branch: stopping PostgreSQL doesn't change that.
    pub(crate) diverged: bool,
    pub(crate) member: Option<crate::cluster::MemberRecord>,
    pub(crate) member_next: Time,
    /// The shell has something new to say in the member key.
    pub(crate) member_stale: bool,
    /// The revision of this life's latest own write of its member key.
    pub(crate) member_at: Revision,
    pub(crate) told: Option<PeerBeat>,
    pub(crate) next_peer_beat: Time,
    pub(crate) next_id: u64,
    actions: VecDeque<Action>,
    decision: Decision,
    exited: bool,
}

/// Restarts that were asked for and have ended, since the node's birth. Who asks for one compares
/// before and after.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Restarts {
    /// PostgreSQL runs again.
    pub done: u64,
    /// It did not stop, or did not start.
    pub failed: u64,
}

/// Failures of operations, and the patience that grows with them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Backoff {
    pub(crate) until: Time,
    pub(crate) failures: u32,
    pub(crate) rewind_impossible: bool,
    /// pg_rewind or a copy just succeeded: the directory is fit to follow, whatever it was before.
    pub(crate) repaired: bool,
    pub(crate) start_failures: u32,
}

impl Node {
    /// A node as it begins: knows its configuration and what it wrote to disk in earlier lives.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a line for each field")]
    pub fn new(config: NodeConfig, incarnation: Incarnation, durable: Durable, now: Time) -> Self {
        let decision = Decision {
            at: now,
            term: None,
            situation: Situation::Starting,
            reason: Reason::WaitingForStore,
        };
        // How much of it has passed is lost with the process: it is served in full.
        let held_until = durable.hold.as_ref().map_or(now, |hold| now + hold.ttl.percent(101));
        Self {
            config,
            incarnation,
            durable,
            persist_seq: 0,
            persisted_seq: 0,
            now,
            born: now,
            view: Arc::default(),
            seen_view: false,
            pg: Pg::Unknown,
            maybe_alive: true,
            facts_from: Time::default(),
            wal_advanced: None,
            stream_lost: None,
            streams_since: None,
            fruitless: None,
            waits: Waits::default(),
            lease: Lease::None,
            reign: None,
            attempts: Vec::new(),
            beat_seq: 0,
            silence: Silence { leader: Revision(0), beat: Revision(0), since: now },
            vacant_since: None,
            open_since: None,
            asked_failover: (Revision(0), now),
            followed: None,
            member_fit: None,
            member_avoided: Time::default(),
            claim_seen: (Revision(0), now),
            busy_since: None,
            peers: BTreeMap::new(),
            patroni: BTreeMap::new(),
            foreign_start: None,
            foreign_seen: None,
            op: None,
            kill: None,
            health: Health::default(),
            backoff: Backoff::default(),
            pending: Vec::new(),
            await_view: Revision(0),
            in_vain: None,
            sync_uncertain: false,
            sync_rewriting: false,
            sent_syncs: Vec::new(),
            sent_failsafe: BTreeSet::new(),
            held_until,
            hold_answer: None,
            candidacy: None,
            slots_ahead: None,
            yielded_to: None,
            gives_way: None,
            stand_back_until: Time::default(),
            refused_until: Time::default(),
            asked: None,
            armed: None,
            shutdown: None,
            shut_down: None,
            reinitialize: false,
            policy_said: None,
            restart: None,
            leaving: None,
            restarts: Restarts::default(),
            diverged: false,
            member: None,
            member_next: now,
            member_stale: false,
            member_at: Revision(0),
            told: None,
            next_peer_beat: now,
            next_id: 0,
            actions: VecDeque::new(),
            decision,
            exited: false,
        }
    }

    /// Takes one input at an instant that never goes back.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.advance(now);
        match input {
            Input::Tick => {}
            Input::View(view) => self.on_view(view),
            Input::Store { id, outcome } => self.on_store(id, &outcome),
            Input::Postgres(facts) => self.on_facts(facts),
            Input::PostgresExited => self.on_exited(),
            Input::PostgresEmpty => self.on_empty(),
            Input::PostgresKilled { id } => self.on_killed(id),
            Input::Disk(facts) => self.on_disk(&facts),
            Input::OpDone { id, result } => self.on_op_done(id, &result),
            Input::Peer { from, message } => self.on_peer(from, message),
            Input::PeerLost(PeerLost::Closed(node) | PeerLost::Refused(node)) => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.lost = true;
                }
            }
            Input::Patroni { from, asked, answer } => self.on_patroni(&from, asked, answer),
            Input::Persisted { seq } => self.persisted_seq = self.persisted_seq.max(seq),
            Input::Shutdown => self.shutdown = self.shutdown.or(Some(now)),
            Input::Reinitialize => self.reinitialize = self.reign.is_none(),
            Input::MemberChanged => self.member_stale = true,
            Input::Tags(tags) => {
                self.config.tags = tags;
                self.member_stale = true;
            }
            Input::Repair(repair) => self.config.repair = repair,
            Input::ReinitializeNow => self.reinitialize_now(),
            Input::Restart => self.ask_restart(),
            Input::RestartForSlots => self.offer_restart(),
        }
        self.drive();
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest, and why.
    #[must_use]
    pub fn poll_deadline(&self) -> (Time, Timer) {
        let mut next = (self.next_peer_beat, Timer::PeerBeat);
        let mut sooner = |at: Time, timer| {
            if at < next.0 {
                next = (at, timer);
            }
        };
        if let Lease::Held { next, .. } = self.lease {
            sooner(next, Timer::Lease);
        }
        if let Some(reign) = self.reign.as_ref().filter(|r| r.ended.is_none()) {
            sooner(reign.next_beat, Timer::Beat);
        }
        if let Some(end) = self.belief_until() {
            sooner(end, Timer::BeliefEnd);
        }
        (next.0.max(self.now + Duration::millis(1)), next.1)
    }

    /// What it decided last.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The term under which this node leads, belief or not.
    #[must_use]
    pub fn leads(&self) -> Option<Term> {
        self.reign.as_ref().filter(|r| r.ended.is_none()).map(|r| r.term)
    }

    /// Until when this node believes that it leads: counted from the sending of the last confirmed
    /// beat or renewal, whichever is earlier (docs/protocol.md, Belief), or of what enough members
    /// have answered (Failsafe), whichever is later.
    #[must_use]
    pub fn belief_until(&self) -> Option<Time> {
        let reign = self.reign.as_ref().filter(|r| r.ended.is_none())?;
        let proof = self.store_proof().max(self.held_since())?;
        let margin = reign.ttl.percent(1) + Duration::millis(100);
        Some(proof + (reign.ttl - margin))
    }

    /// When the store's last proof of this reign was sent: the earlier of lease and beat.
    pub(crate) fn store_proof(&self) -> Option<Time> {
        let reign = self.reign.as_ref().filter(|r| r.ended.is_none())?;
        let Lease::Held { id, confirmed, .. } = self.lease else { return None };
        (id == reign.lease).then(|| confirmed.min(reign.confirmed))
    }

    /// Clients may write here, as far as this node knows.
    #[must_use]
    pub fn serving(&self) -> bool {
        self.reign.as_ref().is_some_and(|r| r.serving && r.ended.is_none())
            && self.belief_until().is_some_and(|end| self.now < end)
    }

    /// Something waits for the next observation of PostgreSQL: look more often than each 100 ms.
    #[must_use]
    pub fn impatient(&self) -> bool {
        let gate = self.reign.as_ref().is_some_and(|r| !r.serving && r.ended.is_none());
        gate || self.candidacy.is_some()
            || self.asked.is_some()
            || self.vacant_since.is_some()
            || self.pg == Pg::Unknown
            || self.pg == Pg::Empty
            || self.stream_lost.is_some()
            || self.leader_goes_down()
    }

    /// Its PostgreSQL is no primary any more, as of this moment: whoever streamed from it is about to
    /// have all that there is.
    fn leader_goes_down(&self) -> bool {
        let leader = self.other_leader().and_then(|leader| self.peers.get(leader));
        leader.is_some_and(|peer| {
            let ends = matches!(peer.beat.pg, PeerPg::Down | PeerPg::Busy);
            ends && !self.passed(peer.pg_since, GOING_DOWN)
        })
    }

    /// Synchronous waits that ended without the replicas, since the agent's start.
    #[must_use]
    pub fn cancelled_waits(&self) -> u64 {
        self.waits.cancelled()
    }

    /// Commits up to here are visible on this primary, and too few have them: their wait was
    /// cancelled. `None`: there are none.
    #[must_use]
    pub fn unreplicated(&self) -> Option<Lsn> {
        self.waits.uncovered()
    }

    /// The cluster as this node last saw it.
    #[must_use]
    pub fn view(&self) -> &Arc<ClusterView> {
        &self.view
    }

    /// The last sign of life of each peer, and when it came.
    pub fn peers(&self) -> impl Iterator<Item = (&NodeName, &PeerBeat, Time)> {
        self.peers.iter().map(|(name, peer)| (name, &peer.beat, peer.heard))
    }

    /// An operator's restart is asked for or under way.
    #[must_use]
    pub fn is_restarting(&self) -> bool {
        self.restart.is_some()
    }

    /// The restarts that have ended.
    #[must_use]
    pub fn restarts(&self) -> Restarts {
        self.restarts
    }

    /// The term under which this node leads, while its PostgreSQL has not been seen to be a primary.
    #[must_use]
    pub fn leads_unseen(&self) -> Option<Term> {
        let unseen = self.reign.as_ref().is_some_and(|reign| !reign.was_primary);
        self.leads().filter(|_| unseen)
    }

    /// What it has on disk beside PostgreSQL's data.
    #[must_use]
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    // === outputs ===

    pub(crate) fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(crate) fn persist(&mut self) {
        self.persist_seq += 1;
        let (seq, record) = (self.persist_seq, self.durable.clone());
        self.push(Action::Persist { seq, record });
    }

    /// Everything that was to be written is on disk.
    pub(crate) fn all_persisted(&self) -> bool {
        self.persisted_seq == self.persist_seq
    }

    /// Begins an operation, unless another one runs or failures ask for patience.
    pub(crate) fn start_op(&mut self, op: PgOp) -> bool {
        if self.op.is_some() || self.kill.is_some() || self.now < self.backoff.until {
            return false;
        }
        let id = OpId(self.fresh_id());
        let term = self.leads();
        if matches!(op, PgOp::StartPrimary { .. } | PgOp::StartReplica { .. }) {
            self.maybe_alive = true;
        }
        let begun_in = self.view.current_term();
        self.op = Some(RunningOp { id, op: op.clone(), began: self.now, begun_in });
        self.push(Action::Postgres { id, op, term });
        true
    }

    /// Kills PostgreSQL now, whatever else runs.
    pub(crate) fn kill_now(&mut self) {
        if self.kill.is_none() {
            let id = OpId(self.fresh_id());
            self.kill = Some(id);
            self.health.killed = None;
            let term = self.leads();
            self.push(Action::Postgres { id, op: PgOp::Kill, term });
        }
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn exit(&mut self) {
        if !self.exited {
            self.exited = true;
            self.push(Action::Exit);
        }
    }

    pub(crate) fn decide(&mut self, situation: Situation, reason: Reason) {
        let term = self.view.current_term();
        // Between an operation and the next look at PostgreSQL nothing is decided: what was holds.
        let pending = matches!(reason, Reason::WaitingForFacts | Reason::Busy);
        if pending && self.decision.situation == situation && self.decision.term == term {
            return;
        }
        if self.decision.situation != situation
            || self.decision.reason != reason
            || self.decision.term != term
        {
            self.decision = Decision { at: self.now, term, situation, reason };
            self.push(Action::Decided(self.decision.clone()));
        }
    }

    pub(crate) fn breaks(&self, law: Mutant) -> bool {
        self.config.mutant == Some(law)
    }
}

mod inputs;
#[cfg(test)]
pub(crate) mod tests;
