//! What a node remembers between two inputs: its lease, its reign, its candidacy, its peers.
//! Plain data; what follows from it is decided in `plan`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::{Accession, Purpose, ReignEnd};
use crate::input::{Durable, OpId, RequestId};
use crate::peer::{PatroniAnswer, PeerBeat, PledgeAnswer, PledgeRefusal, Position};
use crate::postgres::{PgFacts, PgOp, SyncNames};
use crate::{Duration, Instance, LeaseId, Lsn, NodeName, Revision, Term, Time, Timeline};

/// This node's lease at the store; `leader` and its member key hang on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Lease {
    None,
    Asked,
    Held {
        id: LeaseId,
        /// When the last confirmed grant or renewal was sent.
        confirmed: Time,
        /// When the next renewal is due.
        next: Time,
    },
}

/// A restart of PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Restart {
    /// Since when it is asked for; since when PostgreSQL is told to stop, once it is.
    pub(crate) since: Time,
    pub(crate) stage: RestartStage,
    #[serde(default)]
    pub(crate) cause: RestartCause,
}

/// Who wants a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) enum RestartCause {
    #[default]
    Operator,
    /// Nobody: it only brings a replica logical slots, and can wait for ever.
    Slots,
}

/// This node is about to stop, and wants off the list first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Leaving {
    pub(crate) since: Time,
    /// The bound passed, and commits may still wait for it.
    pub(crate) in_vain: bool,
}

/// How far a restart has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum RestartStage {
    Asked,
    Stopping,
    /// It is down; a leader needs its new term first.
    Stopped,
    /// What is left is an ordinary start.
    Starting,
}

/// What is known of the local PostgreSQL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Pg {
    /// Not looked at since the last operation.
    Unknown,
    /// The latest observation.
    Facts(PgFacts),
    /// Its postmaster ended; others of its processes may live.
    Exited,
    /// Nothing of it is left; not looked at since.
    Empty,
}

/// One reign of this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Reign {
    pub(crate) term: Term,
    /// What was on disk before it: a reign that ends without a promotion has no WAL.
    pub(crate) before: Durable,
    pub(crate) by: Accession,
    pub(crate) ttl: Duration,
    /// The lease that the leader key hangs on: only its renewals prolong belief.
    pub(crate) lease: LeaseId,
    /// When the last confirmed beat (or the takeover itself) was sent.
    pub(crate) confirmed: Time,
    pub(crate) next_beat: Time,
    /// Where this term's WAL begins, and on which timeline, once PostgreSQL is primary in it.
    pub(crate) start: Option<(Timeline, Lsn)>,
    pub(crate) timelines_ended: u32,
    /// Clients must wait for a list published after this revision.
    pub(crate) gate: Option<Revision>,
    /// By whom commits are acknowledged from the first moment.
    pub(crate) first: FirstList,
    pub(crate) serving: bool,
    /// Recovery ended in this reign: its WAL begins where the new timeline does.
    pub(crate) promoted: bool,
    /// The key vanished though nobody took it.
    pub(crate) key_lost: bool,
    /// It was offered to the others, and none came: nobody can take the place of a start that is slow.
    pub(crate) unheeded: bool,
    /// Set before the release is sent: belief is over.
    pub(crate) ended: Option<ReignEnd>,
    pub(crate) start_failures: u32,
    pub(crate) slots: Option<Vec<NodeName>>,
    pub(crate) list: ListState,
    pub(crate) handover: Option<HandOver>,
    /// Who holds this term: when the question that was answered was sent.
    pub(crate) holds: BTreeMap<NodeName, Time>,
    pub(crate) next_hold: Time,
    /// While PostgreSQL doesn't answer: the furthest position of the replicas, and when it grew.
    pub(crate) wal_seen: Option<(Lsn, Option<Time>)>,
    /// It leads without being primary: the cluster follows another one.
    pub(crate) standby: bool,
    /// PostgreSQL has been primary in this reign: its end is a death, not a beginning.
    pub(crate) was_primary: bool,
}

impl Reign {
    /// Whether a `sync` of this revision names voters of this term.
    pub(crate) fn lists(&self, published: Revision) -> bool {
        let own = self.first == FirstList::Own;
        self.gate.is_none_or(|gate| published > gate || (own && published == gate))
    }

    /// Whether, with a `sync` of this revision, nobody is elected without what this leader began with.
    pub(crate) fn is_safe_to_read(&self, published: Revision) -> bool {
        let old = self.first == FirstList::Old && self.gate == Some(published);
        self.lists(published) || old
    }
}

/// Whose acknowledgements a term's first commits wait for ([`crate::plan::first`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) enum FirstList {
    /// Nobody's: the list is made of who comes to stream.
    #[default]
    Nobody,
    /// Those of the voters that the takeover publishes: they have all that it begins with.
    Own,
    /// Those of the voters that stood before: so few of them lack something of what it begins with that none
    /// is elected without the others.
    Old,
}

/// The leader's view of `synchronous_standby_names`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ListState {
    /// The list in force, since when, and the end of WAL when it came into force.
    pub(crate) effective: Option<(SyncNames, Time, Lsn)>,
    /// Since when nobody could be listed.
    pub(crate) nobody_since: Option<Time>,
    /// Since when a listed node has not been streaming.
    pub(crate) lost_since: BTreeMap<NodeName, Time>,
    /// Voters whose data is in another life than was admitted.
    pub(crate) replaced: BTreeMap<NodeName, Instance>,
}

/// A planned hand-over that has begun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HandOver {
    pub(crate) to: NodeName,
    pub(crate) since: Time,
}

/// How long the leader's keys have stood still.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Silence {
    pub(crate) leader: Revision,
    pub(crate) beat: Revision,
    pub(crate) since: Time,
}

/// Another agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) beat: PeerBeat,
    /// When it was last heard, not counting the time in which this process stood still: for how long
    /// it has been silent.
    pub(crate) heard: Time,
    /// When it said that, by the clock: how old what it said is.
    pub(crate) said: Time,
    /// Its stream ended since it was last heard: its process is gone, or the way to it.
    pub(crate) lost: bool,
    /// Since when it has said the same of its PostgreSQL.
    pub(crate) pg_since: Time,
}

/// A member whose agent is Patroni.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PatroniMember {
    /// When it was asked last.
    pub(crate) asked: Option<Time>,
    /// Its last answer, and when the question was.
    pub(crate) answer: Option<(Time, PatroniAnswer)>,
    /// The one before.
    pub(crate) before: Option<(Time, PatroniAnswer)>,
}

/// This node's attempt to take over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Candidacy {
    /// `None` until the claim is confirmed.
    pub(crate) ballot: Option<Revision>,
    pub(crate) since: Time,
    pub(crate) next_ask: Time,
    /// Whom it asks, itself left out.
    pub(crate) asked: BTreeSet<NodeName>,
    pub(crate) answers: BTreeMap<NodeName, PledgeAnswer>,
    pub(crate) by: Accession,
    /// A voter's WAL that this node lacks.
    pub(crate) fetch: Option<Fetch>,
}

/// WAL that comes from a voter within a ballot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Fetch {
    pub(crate) from: NodeName,
    /// The life of its data directory under which it pledged.
    pub(crate) instance: Instance,
    /// Where its WAL ends.
    pub(crate) end: Position,
}

impl Candidacy {
    pub(crate) fn last_refusal(&self) -> Option<PledgeRefusal> {
        self.answers.values().find_map(|answer| match answer {
            PledgeAnswer::Refused(why) => Some(*why),
            PledgeAnswer::Pledged { .. } => None,
        })
    }
}

/// Another candidate's question, until it is answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) from: NodeName,
    pub(crate) ballot: Revision,
    pub(crate) at: Time,
}

/// An operation on PostgreSQL that has not answered yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RunningOp {
    pub(crate) id: OpId,
    pub(crate) op: PgOp,
    pub(crate) began: Time,
    /// The term that was known when it began: whose leader a copy comes from.
    pub(crate) begun_in: Option<Term>,
}

/// A request to the store that has not answered yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) id: RequestId,
    pub(crate) kind: RequestKind,
    pub(crate) sent: Time,
}

/// What a pending request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum RequestKind {
    GrantLease,
    KeepAlive(LeaseId),
    Read,
    Txn(Purpose),
}

/// A takeover that was sent: what becomes of it is known by its answer, or by the view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// The request's number: its answer's.
    pub(crate) request: RequestId,
    /// The number of the beat that it writes: by it the view tells which of several attempts it was.
    pub(crate) seq: u64,
    /// The term that it was to end: only a later one is this attempt's.
    pub(crate) over: Option<Term>,
    pub(crate) lease: LeaseId,
    pub(crate) by: Accession,
    pub(crate) sent: Time,
    pub(crate) serving: bool,
    pub(crate) gated: bool,
    pub(crate) first: FirstList,
    pub(crate) ttl: Duration,
    /// Nobody took the key that was released for others to go on.
    pub(crate) unheeded: bool,
}
