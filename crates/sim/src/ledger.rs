//! What the invariants remember: terms, reigns, acknowledged WAL, pledges, and how long each
//! node may believe. Facts of the whole world, which no node can see.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgherd_core::cluster::{Accession, ClusterView, Key, Op, SyncState, Txn, Value};
use pgherd_core::{Duration, LeaseId, Lsn, Revision, Term, Time};

use crate::clock::Micros;
use crate::event::Ix;
use crate::wal::{BranchId, Wal};
use crate::world::{World, note};

/// How long a node may believe that it leads, by what the store really did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Belief {
    pub(crate) term: Option<Term>,
    pub(crate) ttl: Duration,
    /// On the node's clock, when the last applied beat was sent.
    beat: Time,
    lease: Option<LeaseId>,
    /// When each lease's last applied renewal was sent.
    leases: BTreeMap<LeaseId, Time>,
    /// Who holds the term, and when the leader asked, on its clock.
    pub(crate) holds: BTreeMap<Ix, Time>,
    /// It has let go.
    pub(crate) ended: bool,
}

impl Belief {
    pub(crate) fn lease_sent(&mut self, lease: LeaseId, sent: Time) {
        let known = self.leases.entry(lease).or_default();
        *known = (*known).max(sent);
    }

    pub(crate) fn held(&mut self, by: Ix, term: Term, at: Time) {
        if self.term == Some(term) {
            let known = self.holds.entry(by).or_default();
            *known = (*known).max(at);
        }
    }

    /// When the store's last proof was sent: the earlier of the two.
    fn store_proof(&self) -> Option<Time> {
        self.term?;
        let lease = self.lease.and_then(|l| self.leases.get(&l)).copied().unwrap_or_default();
        Some(self.beat.min(lease))
    }
}

/// One life of a PostgreSQL as primary.
#[derive(Clone, Debug)]
pub(crate) struct Reign {
    pub(crate) node: Ix,
    pub(crate) term: Option<Term>,
    /// What recovery found: all that its first client can read. The record that ends recovery comes after it.
    pub(crate) recovered: Wal,
    pub(crate) acked: bool,
    pub(crate) serving: bool,
}

/// The furthest acknowledged and seen positions of one branch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frontier {
    /// Acknowledged after waiting for standbys.
    pub(crate) waited: Lsn,
    /// Acknowledged at all.
    pub(crate) acked: Lsn,
    /// Read on the write route while standbys were named.
    pub(crate) seen: Lsn,
}

/// Everything that is remembered.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) beliefs: Vec<Belief>,
    pub(crate) reigns: Vec<Reign>,
    pub(crate) frontiers: BTreeMap<BranchId, Frontier>,
    /// The reign of the greatest term that has acknowledged something.
    pub(crate) newest: Option<usize>,
    /// Who has led each term.
    pub(crate) leaders: BTreeMap<Term, Ix>,
    /// How and when each term was followed by another node's.
    pub(crate) deposed: BTreeMap<Term, (Accession, Micros)>,
    /// Who pledged to each ballot.
    pub(crate) pledges: BTreeMap<Revision, u32>,
    /// Each acknowledged write, for the count at the end.
    pub(crate) acks: Vec<(Wal, bool)>,
    pub(crate) last_ack: Micros,
    /// The longest time between two acknowledgements, since a scenario asked to look.
    pub(crate) longest_gap: Micros,
    pub(crate) last_decision: Vec<Option<pgherd_core::Decision>>,
    /// The last decision of each node that a scenario told.
    pub(crate) last_told: Vec<String>,
    pub(crate) operator_until: Micros,
}

impl Ledger {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            beliefs: vec![Belief::default(); nodes],
            reigns: Vec::new(),
            frontiers: BTreeMap::new(),
            newest: None,
            leaders: BTreeMap::new(),
            deposed: BTreeMap::new(),
            pledges: BTreeMap::new(),
            acks: Vec::new(),
            last_ack: 0,
            longest_gap: 0,
            last_decision: vec![None; nodes],
            last_told: vec![String::new(); nodes],
            operator_until: 0,
        }
    }

    pub(crate) fn begin_reign(&mut self, node: Ix, term: Option<Term>, recovered: Wal) -> usize {
        let reign = Reign { node, term, recovered, acked: false, serving: false };
        self.reigns.push(reign);
        self.reigns.len() - 1
    }

    /// The same processes go on under a newer term of the same node.
    pub(crate) fn carry(&mut self, reign: usize, term: Term) {
        if let Some(reign) = self.reigns.get_mut(reign) {
            reign.term = reign.term.max(Some(term));
        }
    }

    pub(crate) fn acknowledged(&mut self, commit: Wal, waited: bool, at: Micros) {
        let frontier = self.frontiers.entry(commit.branch).or_default();
        frontier.acked = frontier.acked.max(commit.end);
        if waited {
            frontier.waited = frontier.waited.max(commit.end);
        }
        self.acks.push((commit, waited));
        self.longest_gap = self.longest_gap.max(at - self.last_ack);
        self.last_ack = at;
    }

    /// Whether a reign is older than the newest that has acknowledged something.
    pub(crate) fn outdated(&self, reign: usize) -> Option<&Reign> {
        let newest = self.reigns.get(self.newest?)?;
        let own = self.reigns.get(reign)?;
        (own.term < newest.term).then_some(newest)
    }

    pub(crate) fn acked_under(&mut self, reign: usize) {
        if self.outdated(reign).is_none() {
            self.newest = Some(reign);
        }
        if let Some(reign) = self.reigns.get_mut(reign) {
            reign.acked = true;
        }
    }

    pub(crate) fn seen(&mut self, seen: Wal) {
        let frontier = self.frontiers.entry(seen.branch).or_default();
        frontier.seen = frontier.seen.max(seen.end);
    }

    pub(crate) fn pledged(&mut self, node: Ix, _to: Ix, ballot: Revision) {
        *self.pledges.entry(ballot).or_default() |= 1 << node;
    }
}

impl World {
    /// The end of a node's belief on its clock: 99 % of the ttl after the store's proof, or after the
    /// members' word, by what really happened.
    pub(crate) fn belief_ends(&self, node: Ix) -> Option<Time> {
        Some(self.proof(node)? + self.ledger.beliefs[node].ttl.percent(99))
    }

    /// When what proves this node's reign was sent, by the store or the members.
    pub(crate) fn proof(&self, node: Ix) -> Option<Time> {
        let store = self.ledger.beliefs[node].store_proof()?;
        Some(store.max(self.members_word(node).unwrap_or_default()))
    }

    /// The end of belief by the store's proofs alone.
    pub(crate) fn store_ends(&self, node: Ix) -> Option<Time> {
        let belief = &self.ledger.beliefs[node];
        Some(belief.store_proof()? + belief.ttl.percent(99))
    }

    /// The latest moment such that whoever could elect another has since promised not to.
    fn members_word(&self, node: Ix) -> Option<Time> {
        let view = self.store.view();
        let holds = &self.ledger.beliefs[node].holds;
        let word = |ix: Ix| {
            if ix == node { Time::NEVER } else { holds.get(&ix).copied().unwrap_or_default() }
        };
        let others = |sync: &SyncState| sync.voters.keys().any(|n| self.index(n) != Some(node));
        let named = view.sync.as_ref().map(|s| &s.value).filter(|s| others(s));
        if let Some(sync) = named.filter(|_| self.synchronous()) {
            // A ballot wins with quorum + 1: the best that it could gather is the earliest words.
            let mut words: Vec<Time> =
                sync.voters.keys().filter_map(|n| self.index(n)).map(word).collect();
            words.sort_unstable();
            return words.get(sync.quorum as usize).copied();
        }
        let map = view.failsafe.as_ref().map(|map| &map.value)?;
        map.iter().filter_map(|n| self.index(n)).map(word).min()
    }

    /// What an applied transaction means for terms and beliefs.
    pub(crate) fn ledger_applied(
        &mut self,
        node: Ix,
        txn: &Txn,
        before: &Arc<ClusterView>,
        after: &Arc<ClusterView>,
        sent: Time,
    ) {
        for op in &txn.then {
            match op {
                Op::Put(Key::Leader, Value::Leader(name), lease) => {
                    let Some(leader) = self.index(name) else { continue };
                    if leader != node {
                        continue;
                    }
                    let term = after.current_term();
                    let belief = &mut self.ledger.beliefs[node];
                    belief.lease = *lease;
                    if belief.term != term {
                        belief.term = term;
                        belief.holds.clear();
                        belief.ended = false;
                    }
                }
                Op::Put(Key::Beat, Value::Beat(beat), _) => {
                    let belief = &mut self.ledger.beliefs[node];
                    belief.ttl = beat.ttl;
                    belief.beat = belief.beat.max(sent);
                    belief.ended |= beat.ended.is_some();
                    let machine = &mut self.nodes[node];
                    if sent >= machine.clock.at(machine.thawed_at) {
                        machine.held_clock = false;
                    }
                }
                Op::Delete(Key::Leader) => self.ledger.beliefs[node].ended = true,
                Op::Put(..) | Op::Delete(_) => {}
            }
        }
        let (old, new) = (before.current_term(), after.current_term());
        if old != new {
            self.new_term(after);
        }
        let named = |v: &ClusterView| v.sync.as_ref().is_some_and(|s| s.value.names_voters());
        self.stats.sometimes.degraded += u64::from(named(before) && !named(after));
        self.stats.sometimes.voters_again += u64::from(!named(before) && named(after));
    }

    fn new_term(&mut self, after: &Arc<ClusterView>) {
        let Some(term) = after.current_term() else { return };
        let Some(record) = after.term.as_ref().filter(|t| t.modified.0 == term.0) else { return };
        let by = record.value.by;
        self.stats.accession(by);
        if let Some(leader) = self.index(&record.value.leader) {
            for (old, by_whom) in &self.ledger.leaders {
                if *by_whom != leader {
                    self.ledger.deposed.entry(*old).or_insert((by, self.queue.now));
                }
            }
            self.ledger.leaders.insert(term, leader);
            note!(self, "store: term {term} begins: n{} by {by:?}", leader + 1);
            let name = leader + 1;
            let how = crate::report::accession(by);
            self.story(|| format!("term {term}: n{name} leads, {how}"));
        }
    }
}
