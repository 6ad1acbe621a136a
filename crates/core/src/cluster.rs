//! The cluster as the store tells it: keys, their values, and the transactions that change them.
//! Leaves bytes and JSON to `api`, and the wire to `store`. Key names and meanings: contract
//! section 1; `term`, `beat` and `claim` are ours (docs/protocol.md).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::{
    Duration, Incarnation, Instance, LeaseId, Lsn, NodeName, Revision, SystemId, Tags, Term,
    Timeline,
};

/// A value with the revisions that decisions compare.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keyed<T> {
    /// The value.
    pub value: T,
    /// When the key came to be.
    pub created: Revision,
    /// When it was last written.
    pub modified: Revision,
    /// The lease that it hangs on.
    pub lease: Option<LeaseId>,
}

/// Everything that the store says of this cluster, as of one revision.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterView {
    /// The revision of this view.
    pub revision: Revision,
    /// `initialize`.
    pub initialize: Option<Keyed<Initialize>>,
    /// `config`.
    pub config: Option<Keyed<Policy>>,
    /// `leader`.
    pub leader: Option<Keyed<NodeName>>,
    /// `term`.
    pub term: Option<Keyed<TermRecord>>,
    /// `beat`.
    pub beat: Option<Keyed<Beat>>,
    /// `claim`.
    pub claim: Option<Keyed<Claim>>,
    /// `sync`.
    pub sync: Option<Keyed<SyncState>>,
    /// `status`.
    pub status: Option<Keyed<Status>>,
    /// `failover`, when it asks for something.
    pub failover: Option<Keyed<FailoverRequest>>,
    /// `history`.
    pub history: Option<Keyed<Vec<HistoryLine>>>,
    /// `failsafe`: the names in it.
    pub failsafe: Option<Keyed<BTreeSet<NodeName>>>,
    /// `members/*`.
    pub members: BTreeMap<NodeName, Keyed<MemberRecord>>,
    /// The latest reign of an agent that writes no `term` (Patroni's), when it is newer than `term`.
    /// Not a key: the node adds what it remembers, for nothing tells of such a term once its leader
    /// key is gone.
    pub foreign: Option<ForeignTerm>,
}

/// A reign of an agent that writes no `term`: Patroni's. Judged by its lease alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ForeignTerm {
    /// The leader key's create revision; for a reign that only left traces, their revision.
    pub term: Term,
    /// Who led, when that was seen.
    pub leader: Option<NodeName>,
}

/// The keys below a cluster's prefix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Key {
    /// `initialize`.
    Initialize,
    /// `config`.
    Config,
    /// `leader`.
    Leader,
    /// `term`.
    Term,
    /// `beat`.
    Beat,
    /// `claim`.
    Claim,
    /// `sync`.
    Sync,
    /// `status`.
    Status,
    /// `failover`.
    Failover,
    /// `history`.
    History,
    /// `failsafe`.
    Failsafe,
    /// `members/<name>`.
    Member(NodeName),
}

/// A value to be written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Value {
    /// For [`Key::Initialize`].
    Initialize(Initialize),
    /// For [`Key::Config`], as a new cluster gets it.
    Config(Policy),
    /// For [`Key::Leader`].
    Leader(NodeName),
    /// For [`Key::Term`].
    Term(TermRecord),
    /// For [`Key::Beat`].
    Beat(Beat),
    /// For [`Key::Claim`].
    Claim(Claim),
    /// For [`Key::Sync`].
    Sync(SyncState),
    /// For [`Key::Status`].
    Status(Status),
    /// For [`Key::Failover`]; `None` is the empty object that means "nothing asked".
    Failover(Option<FailoverRequest>),
    /// For [`Key::History`].
    History(Vec<HistoryLine>),
    /// For [`Key::Failsafe`]: the names; their addresses are the shell's.
    Failsafe(BTreeSet<NodeName>),
    /// For [`Key::Member`].
    Member(MemberRecord),
}

/// `initialize`: empty while somebody makes the first data directory, then its system identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Initialize {
    /// Somebody runs initdb; the key hangs on that agent's lease.
    Bootstrapping,
    /// The cluster's identity.
    Done(SystemId),
}

/// `term`: who reigns, and how that came about. The term's number is not in it: see
/// [`ClusterView::current_term`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TermRecord {
    /// The leader.
    pub leader: NodeName,
    /// How it became leader.
    pub by: Accession,
    /// The terms whose WAL it continues, newest last, at most [`TermRecord::LINEAGE`] of them: a node
    /// that holds WAL of another term has diverged, whatever its timeline's number says.
    #[serde(default)]
    pub lineage: Vec<Term>,
    /// Commits up to here were visible on the leader before, their synchronous wait cancelled, and this
    /// term's WAL doesn't reach so far: some of them are not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without: Option<Lsn>,
    /// Where terms before it began, newest last, at most [`TermRecord::BEGUN`] of them: who heard of none of
    /// them while they lasted, and holds their WAL, learns it here. The beat says it of the present
    /// term, and forgets it with the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub begun: Vec<TermStart>,
}

/// Where a term's WAL began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TermStart {
    /// The term.
    pub term: Term,
    /// Its leader.
    pub leader: NodeName,
    /// The timeline of its leader's PostgreSQL.
    pub timeline: Timeline,
    /// The end of recovery, or of the timeline before: what its beat said.
    pub start: Lsn,
}

impl TermRecord {
    /// How many terms a lineage goes back. What is older counts as continued.
    pub const LINEAGE: usize = 64;
    /// How many beginnings are remembered. A voter that hears of none of so many terms, streaming all the
    /// while from the node that led in each, is not thought of.
    pub const BEGUN: usize = 16;

    /// Whether this term's WAL continues that term's, as far as the lineage goes back.
    #[must_use]
    pub fn continues(&self, term: Term) -> bool {
        self.lineage.contains(&term)
            || (self.lineage.len() >= Self::LINEAGE && self.lineage.first() > Some(&term))
    }
}

/// How a term began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accession {
    /// The first leader of a new cluster.
    Founding,
    /// Planned: the former leader handed over.
    HandOver,
    /// Enough voters pledged.
    Pledges,
    /// Asynchronous: the beat had been silent for longer than the ttl, or the leader had released.
    Silence,
    /// The former leader again, with everything it had.
    Return,
    /// An operator named the candidate and accepted loss.
    Operator,
}

/// `beat`: the leader's sign of life, one each ttl/5.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Beat {
    /// Which life of the leader's agent wrote it.
    pub incarnation: Incarnation,
    /// Counts up within an incarnation.
    pub seq: u64,
    /// How long silence must last before the term can be deposed.
    pub ttl: Duration,
    /// The leader's flushed position.
    pub lsn: Lsn,
    /// The leader's timeline, once it is primary under this term.
    pub timeline: Option<Timeline>,
    /// How many timelines ended before the leader's: `history` is complete with as many lines.
    #[serde(default)]
    pub timelines_ended: u32,
    /// Where this term's WAL begins, once the leader is primary under it: a node whose WAL ends
    /// before it holds only an earlier term's.
    pub start: Option<Lsn>,
    /// Clients may be let in: PostgreSQL is primary, and in synchronous modes the voters have
    /// everything that recovery found.
    pub serving: bool,
    /// Commits up to here are visible on the leader and on too few others: their wait was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreplicated: Option<Lsn>,
    /// The reign is over.
    pub ended: Option<ReignEnd>,
}

/// How a reign ended by the leader's own hand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReignEnd {
    /// PostgreSQL is dead and killed there; anyone fit may follow at once.
    Died,
    /// An orderly stop; the same node comes first when it returns soon.
    Stopped {
        /// The end of its WAL.
        lsn: Lsn,
    },
    /// PostgreSQL is stopped and `to` has everything up to `lsn`.
    HandedOver {
        /// The only one who may follow without pledges.
        to: NodeName,
        /// The end of the old leader's WAL.
        lsn: Lsn,
    },
}

/// `claim`: somebody wants to take over; its modification revision is the ballot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// Who asks for pledges.
    pub candidate: NodeName,
    /// Which life of its agent.
    pub incarnation: Incarnation,
    /// Withdrawn claims stay as a tombstone: a ballot that can never succeed.
    pub withdrawn: bool,
}

/// `sync` (contract 1.3): whose acknowledgement a commit may have waited for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SyncState {
    /// The leader that wrote it.
    pub leader: Option<NodeName>,
    /// A candidate needs the pledges of this many voters and one more.
    pub quorum: u32,
    /// The voters, sorted, with the data-directory instance that was admitted.
    pub voters: BTreeMap<NodeName, Option<Instance>>,
}

/// `status` (contract 1.3).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The leader's last WAL position.
    pub optime: Lsn,
}

/// `failover` (contract 1.3). With a leader it asks for a switchover, without for a failover.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FailoverRequest {
    /// The leader to be relieved.
    pub leader: Option<NodeName>,
    /// The candidate; anyone fit when absent.
    pub member: Option<NodeName>,
}

/// One line of `history` (contract 1.3): a timeline that ended, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HistoryLine {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where the next one branched off.
    pub end: Lsn,
    /// Words from PostgreSQL's history file.
    pub reason: String,
    /// Unix seconds; 0 when unknown.
    pub at: i64,
    /// Who was promoted.
    pub leader: Option<NodeName>,
}

/// `members/<name>` (contract 1.3): what a node says of itself. The addresses are the shell's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// `state`.
    pub state: MemberState,
    /// `role`.
    pub role: MemberRole,
    /// `xlog_location`: flushed (primary), or on disk (replica).
    pub lsn: Option<Lsn>,
    /// `replay_lsn` of a replica.
    pub replayed: Option<Lsn>,
    /// `timeline`.
    pub timeline: Option<Timeline>,
    /// `replication_state = "streaming"`.
    pub streaming: bool,
    /// `tags`: what it is fit for.
    pub tags: Tags,
    /// `pause`: this agent has seen that management is paused.
    pub paused: bool,
    /// `checkpoint_after_promote: false`: a promoted primary whose pg_control doesn't name its
    /// timeline yet, so that pg_rewind would take it for the old one.
    pub checkpoint_pending: bool,
    /// Its agent is Patroni: it sends no signs of life and gives no pledges.
    pub patroni: bool,
}

/// `state` of a member (contract 2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemberState {
    /// "initializing new cluster".
    Initializing,
    /// "creating replica".
    CreatingReplica,
    /// "starting".
    Starting,
    /// "running".
    Running,
    /// "stopping".
    Stopping,
    /// "stopped".
    Stopped,
    /// "crashed".
    Crashed,
    /// Any other word.
    Other,
}

/// `role` of a member (contract 1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemberRole {
    /// No data yet.
    Uninitialized,
    /// In recovery.
    Replica,
    /// Not in recovery.
    Primary,
    /// Was primary and gave it up.
    Demoted,
    /// In recovery, and the leader of a cluster that follows another one.
    StandbyLeader,
}

/// One transaction: all of `compare` hold, or nothing happens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Txn {
    /// What it is for, in one word of a closed vocabulary.
    pub purpose: Purpose,
    /// All must hold.
    pub compare: Vec<Compare>,
    /// Done together, at one revision. No key twice.
    pub then: Vec<Op>,
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Compare {
    /// The key was last written at this revision; 0: it is absent.
    Modified(Key, Revision),
    /// The key hangs on this lease.
    Lease(Key, LeaseId),
}

/// An effect of a transaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Op {
    /// Write a value, on a lease or on none.
    Put(Key, Value, Option<LeaseId>),
    /// Remove a key.
    Delete(Key),
}

/// What a transaction is for: for logs, metrics and the explanation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Reserve the right to make the first data directory.
    ReserveBootstrap,
    /// Give that right back.
    AbandonBootstrap,
    /// Write the new cluster's keys and its first leader.
    Found,
    /// Take the leader key under a new term.
    TakeOver,
    /// Say that the leader lives.
    Beat,
    /// Let go of the leader key.
    Release,
    /// Open a ballot.
    Claim,
    /// Close one's own ballot, or one that nobody follows up.
    WithdrawClaim,
    /// Change `sync`.
    PublishSync,
    /// Give `initialize` back to a cluster that lost it.
    PublishInitialize,
    /// Change `history`.
    PublishHistory,
    /// Change `failsafe`.
    PublishFailsafe,
    /// Say what this node is.
    PublishMember,
    /// Answer an operator's request by emptying it.
    ClearFailover,
}

impl ClusterView {
    /// The current term: the greater of `term`'s modification and `leader`'s create revision.
    /// `None` before the first leader.
    #[must_use]
    pub fn current_term(&self) -> Option<Term> {
        let created = self.leader.as_ref().map(|l| Term(l.created.0));
        self.written_term().max(created).max(self.foreign.as_ref().map(|f| f.term))
    }

    /// The latest term that an agent of ours began.
    #[must_use]
    pub fn written_term(&self) -> Option<Term> {
        self.term.as_ref().map(|t| Term(t.modified.0))
    }

    /// The leader key was taken by an agent that writes no `term`.
    #[must_use]
    pub fn foreign_leader(&self) -> bool {
        self.leader.as_ref().is_some_and(|l| Some(Term(l.created.0)) > self.written_term())
    }

    /// The latest reign was of an agent that writes no `term`, and its lease is over or it let go.
    #[must_use]
    pub fn foreign_over(&self) -> bool {
        self.leader.is_none() && self.foreign.is_some()
    }

    /// Who led last, or leads.
    #[must_use]
    pub fn last_leader(&self) -> Option<&NodeName> {
        if self.foreign_leader() {
            return self.leader.as_ref().map(|l| &l.value);
        }
        match &self.foreign {
            Some(foreign) => foreign.leader.as_ref(),
            None => self.term.as_ref().map(|t| &t.value.leader),
        }
    }

    /// The beat, when it belongs to the current term.
    #[must_use]
    pub fn current_beat(&self) -> Option<&Keyed<Beat>> {
        let term = self.current_term()?;
        self.beat.as_ref().filter(|b| b.modified.0 >= term.0)
    }

    /// How the last reign ended, when nobody reigns and its leader said so.
    #[must_use]
    pub fn reign_end(&self) -> Option<&ReignEnd> {
        if self.leader.is_some() {
            return None;
        }
        self.current_beat().and_then(|b| b.value.ended.as_ref())
    }

    /// The modification revision of a key, 0 when it is absent: what a compare wants.
    #[must_use]
    pub fn modified(&self, key: &Key) -> Revision {
        let revision = match key {
            Key::Initialize => self.initialize.as_ref().map(|k| k.modified),
            Key::Config => self.config.as_ref().map(|k| k.modified),
            Key::Leader => self.leader.as_ref().map(|k| k.modified),
            Key::Term => self.term.as_ref().map(|k| k.modified),
            Key::Beat => self.beat.as_ref().map(|k| k.modified),
            Key::Claim => self.claim.as_ref().map(|k| k.modified),
            Key::Sync => self.sync.as_ref().map(|k| k.modified),
            Key::Status => self.status.as_ref().map(|k| k.modified),
            Key::Failover => self.failover.as_ref().map(|k| k.modified),
            Key::History => self.history.as_ref().map(|k| k.modified),
            Key::Failsafe => self.failsafe.as_ref().map(|k| k.modified),
            Key::Member(name) => self.members.get(name).map(|k| k.modified),
        };
        revision.unwrap_or_default()
    }
}

impl SyncState {
    /// Whether somebody is named, so that an acknowledged commit is on more than the leader.
    #[must_use]
    pub fn names_voters(&self) -> bool {
        !self.voters.is_empty()
    }
}
