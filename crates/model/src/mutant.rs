//! The rules that the models can drop, one at a time, to prove that they would be missed.

/// A rule that is dropped. Those that core can drop too have the names of core's `Mutant`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// Belief and patience are both the ttl, though clocks differ.
    NoMargin,
    /// A leader counts from the answer, not from the sending.
    DeadlineFromReply,
    /// A member that restarts forgets that it holds a term.
    HoldForgotten,
    /// A candidate that restarts, or a voter, forgets its pledge.
    PledgeForgotten,
    /// A takeover compares nothing but its claim.
    TakeoverWithoutCompare,
    /// A candidate goes on with one pledge fewer than needed.
    OnePledgeTooFew,
    /// A leader goes on with one hold fewer than needed.
    OneHoldTooFew,
    /// A voter goes on receiving after its pledge.
    PledgeKeepsReceiving,
    /// A candidate ignores that a voter has more.
    IgnoresMoreAdvanced,
    /// `sync` is published before its voters have caught up.
    ShrinksTooEarly,
    /// A takeover publishes whoever pledged as its voters, also who has less.
    ListsWhoeverPledged,
    /// A member holds though it has pledged.
    HoldsWhilePledged,
    /// A voter pledges though it holds.
    PledgesWhileHolding,
    /// A voter counts whatever became of its data directory.
    IgnoresInstance,
    /// A node that holds takes over.
    TakesWhileHolding,
    /// The key is released while PostgreSQL lives.
    ReleasesBeforeDead,
}
