//! Holds each step of a run against the model's rules (`pgherd_model::ballot`): what core did under
//! faults must be a step that the model allows in the state that was reached, so that what was shown
//! of all the model's states holds for core's too. `events.rs` says which step an event is; `belief.rs` asks
//! the rules of clocks.
//!
//! Where a run does what the model leaves out, the state is taken as it is, and that is counted:
//! hand-over, the founding, an operator's failover, copied data. Clusters without synchronous mode and
//! those with Patroni's agents are not judged.

use std::collections::{BTreeMap, BTreeSet};

use pgherd_core::RequestId;
use pgherd_core::cluster::{Accession, Op, SyncState, Txn, Value};
use pgherd_core::mutant::Mutant;
use pgherd_model::ballot::{Action, Laws, List, Publish, Rule, State, Sync, Take};

use crate::event::Ix;
use crate::invariants;
use crate::pg::{MAX_NODES, Run};
use crate::world::World;

mod belief;
mod events;
mod histories;

use histories::Histories;

pub(crate) const RULE: invariants::Rule = invariants::Rule {
    name: "model",
    sentence: "each step is one that the model of docs/protocol.md allows in the state that was reached",
};

/// The broken laws of core that break a rule of the model: it must notice them by itself.
pub(crate) const NOTICES: [Mutant; 16] = [
    Mutant::DeadlineFromReply,
    Mutant::ImpatientSilence,
    Mutant::ReleasesBeforeDead,
    Mutant::GivesUpUnkilled,
    Mutant::PromoteWithoutKey,
    Mutant::OnePledgeTooFew,
    Mutant::PledgeKeepsReceiving,
    Mutant::PledgeForgotten,
    Mutant::IgnoresMoreAdvanced,
    Mutant::PublishesSyncFirst,
    Mutant::ShrinksTooEarly,
    Mutant::ListsWhoeverPledged,
    Mutant::NeverRewinds,
    Mutant::TakeoverWithoutCompare,
    Mutant::HoldForgotten,
    Mutant::OneHoldTooFew,
];

type Step = Action<Histories>;

macro_rules! counted {
    ($($(#[$doc:meta])* $name:ident: $words:literal,)*) => {
        /// How many steps were judged, and what was not.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Judged { $($(#[$doc])* pub(crate) $name: u64,)* }

        impl Judged {
            /// With their words, in the order of the report.
            pub(crate) fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$(($words, self.$name)),*]
            }

            pub(crate) fn add(&mut self, other: &Self) { $(self.$name += other.$name;)* }
        }
    };
}

counted! {
    worlds: "worlds judged",
    skipped: "worlds not judged: asynchronous, or with Patroni",
    wal: "WAL written, flushed, heard of",
    acks: "commits acknowledged",
    lists: "changes of PostgreSQL's list, and their end",
    syncs: "changes of sync sent, applied, refused or unanswered",
    claims: "claims, and their ends",
    promises: "promises on disk, and their ends",
    pledges: "pledges that could count",
    takes: "takeovers sent, applied, refused or unanswered",
    reigns: "beginnings and ends of reigns",
    follows: "beginnings and ends of streams",
    holds: "holds, and their ends",
    relies: "deadlines that rest on holds",
    data: "data directories lost or replaced",
    others: "views, deaths of agents",
    clocks: "takeovers, releases, holds and deadlines, by their clocks",
    dead_ballots: "not judged: pledges to a ballot that can't win",
    deposed: "not judged: changes of the list of a leader of yesterday",
    in_vain: "not judged: sent over what was no more, and refused",
    paused: "not judged: deadlines in pause",
    understated: "not judged: a position said before its term's beginning was seen",
    reopened: "taken as it is: a PostgreSQL that died before its agent saw it open",
    copied: "taken as it is: data copied or repaired",
    founded: "taken as it is: the founding",
    handed_over: "taken as it is: hand-over",
    operator: "taken as it is: an operator's failover",
}

/// A takeover or a write of `sync` that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent<T> {
    what: T,
    life: u32,
    /// The state's [`Refine::changes`] that it compares; `None`: none any more.
    over: Option<u64>,
    landed: bool,
    /// On the node's clock.
    at: pgherd_core::Time,
}

/// The model's state of a run.
#[derive(Debug)]
pub(crate) struct Refine {
    on: bool,
    laws: Laws,
    state: State<Histories, MAX_NODES>,
    /// Counts the changes of term and `sync`.
    changes: u64,
    takes: BTreeMap<(Ix, RequestId), Sent<Take<u64>>>,
    last_take: [Option<RequestId>; MAX_NODES],
    syncs: BTreeMap<(Ix, RequestId), Sent<Publish>>,
    last_sync: [Option<RequestId>; MAX_NODES],
    uncertain: [Option<RequestId>; MAX_NODES],
    claims: BTreeMap<(Ix, RequestId), u64>,
    /// Requests of whose outcome an agent has been told that nobody knows it.
    unanswered: BTreeSet<(Ix, RequestId, u32)>,
    /// What each node's view showed last: the term, and the revisions of `sync`.
    views: [(u64, u64); MAX_NODES],
    /// Under which term each PostgreSQL opened for writes, or was seen to be open.
    opened: [u64; MAX_NODES],
    branches: usize,
    /// The rules of clocks are asked too; in every mode.
    clocks_on: bool,
    clocks: belief::Clocks,
    pub(crate) judged: Judged,
}

impl Refine {
    pub(crate) fn new() -> Self {
        Self {
            on: false,
            laws: Laws::new(1),
            state: State::new(Histories::default()),
            changes: 0,
            takes: BTreeMap::new(),
            last_take: [None; MAX_NODES],
            syncs: BTreeMap::new(),
            last_sync: [None; MAX_NODES],
            uncertain: [None; MAX_NODES],
            claims: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            views: [(0, 0); MAX_NODES],
            opened: [0; MAX_NODES],
            branches: 0,
            clocks_on: false,
            clocks: belief::Clocks::default(),
            judged: Judged::default(),
        }
    }

    fn count(&mut self, step: &Step) {
        let judged = &mut self.judged;
        let counter = match step {
            Action::Write { .. } | Action::Flush { .. } | Action::Hear { .. } => &mut judged.wal,
            Action::Acknowledge { .. } => &mut judged.acks,
            Action::Settle { .. } | Action::SetNames { .. } => &mut judged.lists,
            Action::Publish { .. }
            | Action::PublishLands { .. }
            | Action::PublishRefused { .. }
            | Action::PublishUnanswered { .. } => &mut judged.syncs,
            Action::Claim { .. }
            | Action::Stand { .. }
            | Action::Withdraw { .. }
            | Action::GiveUp { .. } => &mut judged.claims,
            Action::Promise { .. } | Action::Forget { .. } => &mut judged.promises,
            Action::Pledge { .. } => &mut judged.pledges,
            Action::Take { .. }
            | Action::TakeLands { .. }
            | Action::TakeRefused { .. }
            | Action::TakeUnanswered { .. } => &mut judged.takes,
            Action::Promote { .. } | Action::Resign { .. } => &mut judged.reigns,
            Action::Follow { .. }
            | Action::Fetch { .. }
            | Action::Unfollow { .. }
            | Action::Rewind { .. } => &mut judged.follows,
            Action::Hold { .. } | Action::HoldEnds { .. } => &mut judged.holds,
            Action::Rely { .. } => &mut judged.relies,
            Action::Replaced { .. } | Action::Lost { .. } => &mut judged.data,
            Action::Look { .. } | Action::AgentDies { .. } => &mut judged.others,
        };
        *counter += 1;
    }

    fn stale<T>(&self, sent: &Sent<T>) -> bool {
        sent.over != Some(self.changes)
    }
}

/// How the leader of the term that this transaction begins comes to lead.
fn accession(txn: &Txn) -> Option<Accession> {
    txn.then.iter().find_map(|op| match op {
        Op::Put(_, Value::Term(record), _) => Some(record.by),
        Op::Put(..) | Op::Delete(_) => None,
    })
}

impl World {
    /// From now on the run is held against the model, when it is one that the model speaks of.
    pub(crate) fn judge_by_model(&mut self) {
        let on = self.synchronous() && self.options.patroni == 0;
        self.refine.on = on;
        self.refine.clocks_on = self.options.patroni == 0;
        self.refine.laws = Laws::new(self.options.policy.synchronous_node_count);
        self.refine.judged.worlds = u64::from(on);
        self.refine.judged.skipped = u64::from(!on);
    }

    /// A step must be allowed; then it is taken.
    fn model_step(&mut self, step: &Step) {
        self.model_steps(std::slice::from_ref(step));
    }

    /// One of these must be allowed: they differ in what an outsider can't see.
    fn model_steps(&mut self, steps: &[Step]) {
        if self.violation.is_some() {
            return;
        }
        let refine = &self.refine;
        let mut verdict = Err(Rule::Impossible);
        let mut taken = steps.first();
        for step in steps {
            match refine.laws.allowed(&refine.state, step) {
                Ok(()) => {
                    (verdict, taken) = (Ok(()), Some(step));
                    break;
                }
                Err(rule) => verdict = Err(rule),
            }
        }
        let Some(step) = taken else { return };
        if let Err(rule) = verdict {
            return self.model_broken(&rule.to_string(), step);
        }
        self.refine.count(step);
        self.refine.state.apply(step);
        let judges = matches!(step, Action::Acknowledge { .. } | Action::TakeLands { .. });
        if let Some(law) = self.refine.state.broken().filter(|_| judges) {
            self.model_broken(law, step);
        }
    }

    fn model_broken(&mut self, what: &str, step: &Step) {
        let state = &self.refine.state;
        let nodes: Vec<String> = (0..self.nodes.len())
            .map(|n| {
                let (node, (term, end)) = (&state.nodes[n], state.position(n));
                format!("n{}: WAL of {term} to {end:#x}, {node:?}", n + 1)
            })
            .collect();
        let found = format!(
            "{what}; step {step:?}; term {} of n{}, lineage {}, {:?}, claim {} of {:?}; {}",
            state.term,
            state.leader + 1,
            state.lineage,
            state.sync,
            state.claim,
            state.candidate.map(|c| c + 1),
            nodes.join("; ")
        );
        self.broken(RULE, found);
    }

    /// `sync` in bits; whose directory is still the one that it names.
    fn sync_bits(&self, sync: &SyncState) -> Sync {
        let (mut voters, mut admitted) = (0, 0);
        for (name, instance) in &sync.voters {
            let Some(ix) = self.index(name) else { continue };
            voters |= 1 << ix;
            let pg = &self.nodes[ix].pg;
            let same = |d: &crate::pg::Dir| instance.is_none_or(|i| i == d.instance);
            if pg.dir.as_ref().is_some_and(same) && !pg.removed {
                admitted |= 1 << ix;
            }
        }
        Sync { voters, quorum: sync.quorum as u8, admitted }
    }

    /// The voters that a takeover publishes, when they are others than those that stand.
    fn first_voters(&self, txn: &Txn) -> Option<Sync> {
        let value = txn.then.iter().find_map(|op| match op {
            Op::Put(_, Value::Sync(sync), _) => Some(sync),
            Op::Put(..) | Op::Delete(_) => None,
        })?;
        let stands = self.store.view().sync.as_ref().map(|sync| &sync.value);
        let same = stands.is_some_and(|s| (&s.voters, s.quorum) == (&value.voters, value.quorum));
        (!same).then(|| self.sync_bits(value))
    }

    /// A voter that hasn't seen where a term begins says less of its WAL than is true. As long as
    /// nothing was acknowledged under that term, or when it is over, what is true is taken: who is ahead
    /// shows at the takeover. A term that another agent of the same node carries on is the same WAL under
    /// another number.
    fn position_said(&mut self, node: Ix, said: (u64, u64)) -> (u64, u64) {
        let state = &self.refine.state;
        let truth = state.position(node);
        let reign = state.nodes.iter().filter_map(|n| n.reign.as_ref()).find(|r| r.term == truth.0);
        let nothing = reign.is_none_or(|r| r.names == List::Nobody && r.before.is_none());
        if said.0 < truth.0 && said.1 == truth.1 && nothing {
            self.refine.judged.understated += 1;
            return truth;
        }
        if said.1 == truth.1 && self.carried(truth.0, said.0) {
            return truth;
        }
        said
    }

    fn carried(&self, from: u64, to: u64) -> bool {
        let record = self.store.view().term.as_ref().map(|term| &term.value);
        let begun = |of: u64| {
            let begun = record?.begun.iter().find(|begun| begun.term.0 == of)?;
            Some((&begun.leader, begun.timeline, begun.start))
        };
        begun(from).is_some() && begun(from) == begun(to)
    }

    /// An operator made another node the leader, and accepted what comes of it.
    pub(crate) fn forced_out(&self, node: Ix) -> bool {
        let term = self.store.view().term.as_ref();
        let forced = term.is_some_and(|term| term.value.by == Accession::Operator);
        forced && self.ledger.outdated(self.nodes[node].pg.reign).is_some()
    }

    /// A PostgreSQL that died before its agent saw it open is started again under the same term.
    fn model_reopens(&mut self, node: Ix, term: u64) {
        let unseen = self.nodes[node].agent.node.as_ref().and_then(|n| n.leads_unseen());
        let state = &mut self.refine.state;
        let ended = state.nodes[node].reign.is_none() && state.term == term;
        if ended && unseen == Some(pgherd_core::Term(term)) {
            self.refine.judged.reopened += 1;
            state.begin_reign(node, term);
        }
    }

    /// PostgreSQL takes writes, or something of it still may.
    fn is_open(&self, node: Ix) -> bool {
        match self.nodes[node].pg.run {
            Run::Primary => true,
            Run::Stopping { primary } | Run::Zombie { primary } => primary,
            Run::Starting { .. } | Run::Down | Run::Replica => false,
        }
    }

    /// PostgreSQL is, or is about to become, a primary.
    fn opens_for_writes(&self, node: Ix) -> bool {
        use pgherd_core::postgres::PgOp;
        let machine = &self.nodes[node];
        let starts = machine.pg.run == Run::Starting { primary: true };
        let promotes = |op: &PgOp| matches!(op, PgOp::Promote { .. } | PgOp::StartPrimary { .. });
        starts || self.is_open(node) || machine.ops.iter().any(|o| promotes(&o.op))
    }

    /// What may have ended unseen before a node does something else: its reign, when its PostgreSQL is
    /// no primary; its candidacy; the hold that nobody counts on any more; the wait for an answer.
    fn model_settles(&mut self, node: Ix) {
        self.model_holds_end();
        if self.refine.state.nodes[node].reign.is_some() && !self.opens_for_writes(node) {
            self.model_step(&Action::Resign { node });
        }
        let sent = self.refine.last_take[node].and_then(|id| self.refine.takes.get(&(node, id)));
        let forgotten = pgherd_core::Duration::secs(4);
        let old = sent.is_some_and(|s| self.clock(node).since(s.at) >= forgotten);
        if old && self.refine.state.nodes[node].take.is_some_and(|t| t.waits) {
            self.model_step(&Action::TakeUnanswered { node });
        }
    }

    /// Holds that no leader counts on any more have ended.
    fn model_holds_end(&mut self) {
        for node in 0..self.nodes.len() {
            let term = self.refine.state.nodes[node].hold;
            if term != 0 && !self.counts_on(node, term) {
                self.model_step(&Action::HoldEnds { node });
            }
        }
    }

    /// The leader of a term may still count on a member's hold.
    fn counts_on(&self, member: Ix, term: u64) -> bool {
        let term = pgherd_core::Term(term);
        let Some(leader) = self.ledger.leaders.get(&term).copied() else { return false };
        let (machine, belief) = (&self.nodes[leader], &self.ledger.beliefs[leader]);
        let Some(at) = belief.holds.get(&member).copied() else { return false };
        // Asked since its clock has been right again.
        let clock = at > machine.held_until;
        let counts = at + belief.ttl.percent(99);
        let reign = self.refine.state.nodes[leader].reign.as_ref();
        let counted = reign.is_some_and(|r| r.term == term.0 && r.holds >> member & 1 == 1);
        let open = counted && !machine.pg.killed && self.opens_for_writes(leader);
        let lives = open && belief.term == Some(term) && !belief.ended;
        lives && clock && self.clock(leader) < counts
    }
}
