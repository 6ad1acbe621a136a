//! What a step of an agent may rest on, where clocks decide. The exploration asks in every state, in ticks;
//! the simulator asks of each step that core takes, in its own time (`sim/src/refine/belief.rs`). Both
//! say what the step rests on; what that may be stands here, once.

use std::fmt;

/// How a node comes to lead: core's `Accession`, as far as clocks have a part in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum By {
    /// Nobody led before.
    Founding,
    /// The leader has been silent for long enough.
    Silence,
    /// The leader said that its reign is over: its PostgreSQL is dead, or it handed over.
    Released,
    /// The last leader again.
    Return,
}

/// What is broken by a step that isn't allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Who holds a term takes no other.
    FreeToTake,
    /// Who still leads, or whose PostgreSQL may take writes, takes no other's place.
    NoPrimary,
    /// A takeover by silence waits until the leader's belief has ended.
    LongSilence,
    /// A takeover after a release rests on the leader's own word.
    ReleaseSeen,
    /// Only the last leader returns, and not while it leads and its PostgreSQL lives.
    OwnTerm,
    /// A takeover lands only over what its node had seen.
    OverWhatWasSeen,
    /// A reign is let go of when its PostgreSQL can take no write.
    DeadFirst,
    /// Who has a part in another term holds none.
    FreeToHold,
    /// PostgreSQL lives no longer than its latest proof is good.
    LivesByProof,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = match self {
            Self::FreeToTake => "who holds a term takes no other",
            Self::NoPrimary => {
                "who leads, or whose PostgreSQL may take writes, takes no other's place"
            }
            Self::LongSilence => "a takeover by silence waits for the end of the leader's belief",
            Self::ReleaseSeen => "a takeover after a release rests on the leader's word",
            Self::OwnTerm => {
                "only the last leader returns, when it doesn't lead or its PostgreSQL is dead"
            }
            Self::OverWhatWasSeen => "a takeover lands only over what its node had seen",
            Self::DeadFirst => "a reign is let go of when its PostgreSQL can take no write",
            Self::FreeToHold => "who has a part in another term holds none",
            Self::LivesByProof => "PostgreSQL lives no longer than its latest proof is good",
        };
        write!(f, "{self:?}: {sentence}")
    }
}

/// What the sending of a takeover rests on, as its node knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taker {
    /// How.
    pub by: By,
    /// It holds a term whose leader may count on it.
    pub holds: bool,
    /// It leads, under a key that stands.
    pub leads: bool,
    /// Its PostgreSQL may take writes.
    pub alive: bool,
    /// The last term was its own.
    pub last: bool,
    /// The last leader's word: its reign is over.
    pub ended: bool,
    /// The leader has been silent for as long as any clock may take for its belief.
    pub patient: bool,
}

/// Whether a takeover may be sent.
///
/// # Errors
/// The rule that it breaks.
pub fn takes(taker: &Taker) -> Result<(), Rule> {
    let of_another = !taker.leads && !taker.alive;
    let (fine, rule) = match taker.by {
        _ if taker.holds => (false, Rule::FreeToTake),
        By::Founding => (true, Rule::OwnTerm),
        By::Return => (taker.last && !(taker.leads && taker.alive), Rule::OwnTerm),
        By::Released | By::Silence if !of_another => (false, Rule::NoPrimary),
        By::Released => (taker.ended, Rule::ReleaseSeen),
        By::Silence => (taker.patient, Rule::LongSilence),
    };
    if fine { Ok(()) } else { Err(rule) }
}

/// Whether a takeover may land: `stale` when something that it compares has changed since its node saw it.
///
/// # Errors
/// [`Rule::OverWhatWasSeen`].
pub fn takes_effect(stale: bool) -> Result<(), Rule> {
    if stale { Err(Rule::OverWhatWasSeen) } else { Ok(()) }
}

/// Whether a leader may let go: `alive` while its PostgreSQL may take writes.
///
/// # Errors
/// [`Rule::DeadFirst`].
pub fn lets_go(alive: bool) -> Result<(), Rule> {
    if alive { Err(Rule::DeadFirst) } else { Ok(()) }
}

/// What a member's promise to hold a term rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// It knows of a newer term.
    pub knows_newer: bool,
    /// It knows itself to lead.
    pub leads: bool,
    /// A takeover of its own, over this term or a later one, may still succeed.
    pub takes: bool,
}

/// Whether a member may promise to hold.
///
/// # Errors
/// [`Rule::FreeToHold`].
pub fn holds(member: &Holder) -> Result<(), Rule> {
    let part = member.knows_newer || member.leads || member.takes;
    if part { Err(Rule::FreeToHold) } else { Ok(()) }
}

/// Whether a PostgreSQL may live at this age of its latest proof, counted from the sending of what was proven.
/// `belief`: at this age it has been killed; both in the same unit.
///
/// # Errors
/// [`Rule::LivesByProof`].
pub fn lives(age: u64, belief: u64) -> Result<(), Rule> {
    if age < belief { Ok(()) } else { Err(Rule::LivesByProof) }
}
