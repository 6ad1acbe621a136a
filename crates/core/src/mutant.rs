//! Laws broken on purpose, one at a time: the simulator must notice each of them.
//! Nothing but the simulator sets one; the agent has no way to.

use serde::{Deserialize, Serialize};

/// One broken law.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Mutant {
    /// The deadline counts from the reply of a beat, not from its sending.
    DeadlineFromReply,
    /// The guard is never armed, and belief never ends.
    NoFence,
    /// Promotes when the leader key is seen free, without a confirmed transaction.
    PromoteWithoutKey,
    /// Goes on with one pledge fewer than needed.
    OnePledgeTooFew,
    /// A pledge is answered without stopping the WAL receiver.
    PledgeKeepsReceiving,
    /// A pledge is not persisted before it is answered.
    PledgeForgotten,
    /// A candidate ignores that another voter has more.
    IgnoresMoreAdvanced,
    /// Asynchronous: ignores `maximum_lag_on_failover`.
    IgnoresLag,
    /// Takes over by silence counted from half the ttl.
    ImpatientSilence,
    /// `sync` is published before PostgreSQL has the list.
    PublishesSyncFirst,
    /// A voter is removed from `sync` without waiting for the others to catch up.
    ShrinksTooEarly,
    /// Hands over before the candidate has the last record.
    HandsOverTooEarly,
    /// Releases the key while PostgreSQL's processes still live.
    ReleasesBeforeDead,
    /// Rejoins without a rewind when its WAL has diverged.
    NeverRewinds,
    /// A takeover doesn't compare the revisions of leader and beat.
    TakeoverWithoutCompare,
    /// Opens for clients before the voters have the end of recovery.
    ServesTooEarly,
    /// A takeover publishes whoever pledged as its voters, also who has less.
    ListsWhoeverPledged,
    /// A member forgets that it holds the leader's term.
    HoldForgotten,
    /// A leader without the store goes on with one hold fewer than needed.
    OneHoldTooFew,
    /// A leader whose disk stalls lets go before its PostgreSQL is killed.
    GivesUpUnkilled,
    /// A leader whose voters may elect another vouches for its term as long as it believes.
    VouchesByBelief,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::DeadlineFromReply,
        Self::NoFence,
        Self::PromoteWithoutKey,
        Self::OnePledgeTooFew,
        Self::PledgeKeepsReceiving,
        Self::PledgeForgotten,
        Self::IgnoresMoreAdvanced,
        Self::IgnoresLag,
        Self::ImpatientSilence,
        Self::PublishesSyncFirst,
        Self::ShrinksTooEarly,
        Self::HandsOverTooEarly,
        Self::ReleasesBeforeDead,
        Self::NeverRewinds,
        Self::TakeoverWithoutCompare,
        Self::ServesTooEarly,
        Self::ListsWhoeverPledged,
        Self::HoldForgotten,
        Self::OneHoldTooFew,
        Self::GivesUpUnkilled,
        Self::VouchesByBelief,
    ];
}
