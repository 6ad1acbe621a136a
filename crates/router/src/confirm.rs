//! Whether the leader's term is confirmed, as a pure value, and when write sessions end for want of
//! that. Leaves asking to whoever fills the topology, and holding bytes back to `relay`.

use std::fmt;

use pgherd_core::time::{Duration, Time};
use pgherd_core::types::{NodeName, Term};

use crate::topology::Topology;

/// Whether write sessions need a term that somebody has confirmed lately.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TermCheck {
    /// No: the view is enough.
    #[default]
    Off,
    /// Yes. What comes when nobody confirms is held back at once; sessions end after so much more.
    On {
        /// Counted only while this process is awake: what it didn't hear while it was frozen or
        /// starved proves nothing.
        patience: Duration,
    },
}

/// How the leader's term stands at one instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// There is no leader, or nobody asks.
    Unchecked,
    /// Somebody who knows vouches for it.
    Confirmed {
        /// Until when.
        until: Time,
    },
    /// Nobody does any more.
    Lapsed(Lapsed),
}

/// A term that nobody vouches for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lapsed {
    /// Whose.
    pub leader: NodeName,
    /// Which.
    pub term: Term,
}

impl Standing {
    /// How the term that a view shows stands now.
    #[must_use]
    pub fn of(topology: &Topology, check: TermCheck, now: Time) -> Self {
        let (TermCheck::On { .. }, Some(leader)) = (check, &topology.leader) else {
            return Self::Unchecked;
        };
        match leader.confirmed_until.filter(|until| *until > now) {
            Some(until) => Self::Confirmed { until },
            None => Self::Lapsed(Lapsed { leader: leader.name.clone(), term: leader.term }),
        }
    }

    /// Until when bytes may pass.
    #[must_use]
    pub fn passes_until(&self) -> Time {
        match self {
            Self::Unchecked => Time::NEVER,
            Self::Confirmed { until } => *until,
            Self::Lapsed(_) => Time::default(),
        }
    }
}

impl fmt::Display for Lapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leader, term } = self;
        write!(f, "neither {leader}'s agent nor the store confirms {leader}'s term {term}")
    }
}

/// Counts for how long nobody has vouched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lapse {
    awake: Duration,
    looked: Option<Time>,
}

/// What follows from a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing; look again then.
    Look(Time),
    /// Nothing, until the view changes.
    Rest,
    /// The write sessions end; look again then.
    Close(Time),
}

impl Lapse {
    /// Between two looks at a term that nobody vouches for.
    pub const STEP: Duration = Duration::millis(100);

    /// Looks at how the term stands now.
    pub fn look(&mut self, standing: &Standing, check: TermCheck, now: Time) -> Next {
        let TermCheck::On { patience } = check else { return Next::Rest };
        match standing {
            Standing::Unchecked => {
                *self = Self::default();
                Next::Rest
            }
            Standing::Confirmed { until } => {
                *self = Self::default();
                Next::Look(*until)
            }
            Standing::Lapsed(_) => {
                let passed = self.looked.map_or(Duration::ZERO, |at| now.since(at));
                self.awake = self.awake + passed.min(Self::STEP + Self::STEP);
                self.looked = Some(now);
                let next = now + Self::STEP;
                if self.awake >= patience { Next::Close(next) } else { Next::Look(next) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{leader, topology};

    const CHECK: TermCheck = TermCheck::On { patience: Duration::millis(300) };

    fn at(ms: u64) -> Time {
        Time(1_000_000) + Duration::millis(ms)
    }

    fn confirmed(until: u64) -> Topology {
        let mut view = topology(leader("a", 3), &["a", "b"]);
        if let Some(leader) = &mut view.leader {
            leader.confirmed_until = Some(at(until));
        }
        view
    }

    #[test]
    fn a_term_stands_until_its_last_word_is_over() {
        let view = confirmed(1_000);
        let standing = Standing::of(&view, CHECK, at(999));
        assert_eq!(standing, Standing::Confirmed { until: at(1_000) });
        assert_eq!(standing.passes_until(), at(1_000));
        let lapsed = Standing::of(&view, CHECK, at(1_000));
        assert!(matches!(lapsed, Standing::Lapsed(_)));
        assert_eq!(lapsed.passes_until(), Time::default());
    }

    #[test]
    fn nobody_asks_without_the_check_or_a_leader() {
        let view = topology(leader("a", 3), &["a"]);
        assert_eq!(Standing::of(&view, TermCheck::Off, at(0)), Standing::Unchecked);
        assert_eq!(Standing::of(&topology(None, &["a"]), CHECK, at(0)), Standing::Unchecked);
        assert!(matches!(Standing::of(&view, CHECK, at(0)), Standing::Lapsed(_)));
    }

    #[test]
    fn sessions_end_only_after_so_much_time_awake() {
        let view = confirmed(1_000);
        let mut lapse = Lapse::default();
        let mut look = |ms| lapse.look(&Standing::of(&view, CHECK, at(ms)), CHECK, at(ms));
        assert_eq!(look(500), Next::Look(at(1_000)));
        // Frozen for a minute: nothing was heard, and nothing is held against the leader yet.
        assert_eq!(look(61_000), Next::Look(at(61_100)));
        assert_eq!(look(61_100), Next::Look(at(61_200)));
        assert_eq!(look(120_000), Next::Close(at(120_100)));
    }

    #[test]
    fn a_word_in_time_begins_anew() {
        let (late, fresh) = (confirmed(0), confirmed(5_000));
        let mut lapse = Lapse::default();
        let mut look =
            |view: &Topology, ms| lapse.look(&Standing::of(view, CHECK, at(ms)), CHECK, at(ms));
        look(&late, 0);
        assert_eq!(look(&late, 200), Next::Look(at(300)));
        assert_eq!(look(&fresh, 250), Next::Look(at(5_000)));
        assert_eq!(look(&late, 300), Next::Look(at(400)));
        assert_eq!(look(&late, 400), Next::Look(at(500)));
    }
}
