//! Which ways are cut: each direction apart. Delays are drawn where a message is sent.

use crate::event::Ix;
use crate::pg::MAX_NODES;

/// Cut ways, as masks of destinations per origin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net {
    peer: [u32; MAX_NODES],
    pg: [u32; MAX_NODES],
    /// Nodes whose requests don't reach the store.
    pub(crate) asks: u32,
    /// Nodes that the store's answers don't reach.
    pub(crate) answers: u32,
}

/// What is cut between two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    /// Agents' streams.
    Peer,
    /// Replication, copies, rewinds.
    Pg,
    /// Both.
    All,
}

impl Net {
    pub(crate) fn peer(&self, from: Ix, to: Ix) -> bool {
        self.peer[from] & (1 << to) == 0
    }

    pub(crate) fn pg(&self, from: Ix, to: Ix) -> bool {
        self.pg[from] & (1 << to) == 0
    }

    /// Both ways between two PostgreSQLs.
    pub(crate) fn pg_both(&self, a: Ix, b: Ix) -> bool {
        self.pg(a, b) && self.pg(b, a)
    }

    pub(crate) fn cut(&mut self, lane: Lane, from: Ix, to: Ix) {
        if lane != Lane::Pg {
            self.peer[from] |= 1 << to;
        }
        if lane != Lane::Peer {
            self.pg[from] |= 1 << to;
        }
    }

    pub(crate) fn mend(&mut self, lane: Lane, from: Ix, to: Ix) {
        if lane != Lane::Pg {
            self.peer[from] &= !(1 << to);
        }
        if lane != Lane::Peer {
            self.pg[from] &= !(1 << to);
        }
    }

    pub(crate) fn heal(&mut self) {
        *self = Self::default();
    }
}
