//! Everything that can be waiting in the queue, and whom a freeze keeps from handling it.
//! What an event does is written next to the part of the world that it moves.

use std::sync::Arc;

use pgherd_core::cluster::ClusterView;
use pgherd_core::{Input, Lsn, RequestId, StoreRequest, Time};

use crate::wal::Wal;

/// A node's number, from 0.
pub(crate) type Ix = usize;

/// Something that will happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// An input for one life of an agent.
    Agent {
        node: Ix,
        life: u32,
        input: Box<Input>,
    },
    /// A message from a peer, if the way is still open.
    Peer {
        from: Ix,
        node: Ix,
        life: u32,
        input: Box<Input>,
    },
    /// The agent's named deadline.
    Tick {
        node: Ix,
        life: u32,
    },
    /// The agent looks at PostgreSQL; again later when it does so periodically.
    Observe {
        node: Ix,
        life: u32,
        again: bool,
    },
    /// The supervisor starts the agent.
    /// Patroni's loop turns.
    Patroni {
        /// Where.
        node: Ix,
        /// In which life of it.
        life: u32,
        /// It goes on from here by itself.
        again: bool,
    },
    AgentStart {
        node: Ix,
    },
    /// A record reaches the disk.
    Persisted {
        node: Ix,
        life: u32,
    },
    /// A request reaches the store.
    StoreArrive {
        node: Ix,
        life: u32,
        id: RequestId,
        request: Box<StoreRequest>,
        ask: Ask,
    },
    /// A watch shows a revision.
    Watch {
        node: Ix,
        life: u32,
        view: Arc<ClusterView>,
    },
    /// A watch that was cut reads anew.
    WatchResume {
        node: Ix,
        life: u32,
    },
    /// The store looks at its leases.
    StoreScan,
    /// The guard's deadline.
    Guard {
        node: Ix,
        number: u32,
    },
    /// The last process of PostgreSQL goes.
    Killed {
        node: Ix,
        pg: u32,
    },
    /// PostgreSQL has started.
    Started {
        node: Ix,
        pg: u32,
        op: u32,
    },
    /// A primary's first checkpoint after its promotion.
    Checkpoint {
        node: Ix,
        pg: u32,
    },
    /// The list is seen by some of PostgreSQL's processes.
    NamesSeen {
        node: Ix,
        pg: u32,
        op: u32,
    },
    /// An operation ends.
    OpEnd {
        node: Ix,
        op: u32,
    },
    /// A replica looks after its WAL receiver.
    Receiver {
        node: Ix,
        pg: u32,
    },
    /// WAL reaches a replica.
    Wal {
        node: Ix,
        conn: u32,
        wal: Wal,
    },
    /// A replica's answer reaches its upstream.
    Reply {
        node: Ix,
        of: Ix,
        conn: u32,
        flushed: Lsn,
        replayed: Lsn,
    },
    /// An upstream says where it stands, and looks for senders that are gone.
    Poke {
        node: Ix,
        to: Ix,
        conn: u32,
    },
    /// A connection's other end is gone.
    Hangup {
        node: Ix,
        peer: Ix,
        conn: u32,
    },
    /// A client's next step.
    Client {
        client: usize,
    },
    /// The router sees a revision.
    Router {
        view: Arc<ClusterView>,
    },
    /// The next fault.
    Fault,
    /// A fault ends.
    Mend(crate::faults::Mend),
    /// The operator's next whim.
    Operator,
}

/// What travels with a request to the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// On the asking node's clock.
    pub(crate) sent: Time,
    /// Somebody still waits for the answer.
    pub(crate) wanted: bool,
    /// When it gives up, in world time.
    pub(crate) patience: u64,
}

/// What a freeze can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Agent,
    Machine,
}

impl Event {
    /// Whose event it is, when a freeze would hold it.
    pub(crate) fn target(&self) -> Option<(Ix, Part)> {
        match self {
            Self::Agent { node, .. }
            | Self::Peer { node, .. }
            | Self::Tick { node, .. }
            | Self::Observe { node, .. }
            | Self::Watch { node, .. }
            | Self::Persisted { node, .. }
            | Self::Patroni { node, .. }
            | Self::WatchResume { node, .. } => Some((*node, Part::Agent)),
            Self::Guard { node, .. }
            | Self::Killed { node, .. }
            | Self::Started { node, .. }
            | Self::Checkpoint { node, .. }
            | Self::NamesSeen { node, .. }
            | Self::OpEnd { node, .. }
            | Self::Receiver { node, .. }
            | Self::Wal { node, .. }
            | Self::Reply { node, .. }
            | Self::Poke { node, .. }
            | Self::Hangup { node, .. }
            | Self::AgentStart { node } => Some((*node, Part::Machine)),
            Self::StoreArrive { .. }
            | Self::StoreScan
            | Self::Client { .. }
            | Self::Router { .. }
            | Self::Fault
            | Self::Mend(_)
            | Self::Operator => None,
        }
    }

    /// A number for the hash of a run.
    pub(crate) fn code(&self) -> u64 {
        let kind = match self {
            Self::Agent { .. } => 1,
            Self::Peer { .. } => 2,
            Self::Tick { .. } => 3,
            Self::Observe { .. } => 4,
            Self::AgentStart { .. } => 5,
            Self::Persisted { .. } => 6,
            Self::StoreArrive { .. } => 7,
            Self::Watch { .. } => 8,
            Self::WatchResume { .. } => 9,
            Self::StoreScan => 10,
            Self::Guard { .. } => 11,
            Self::Killed { .. } => 12,
            Self::Started { .. } => 13,
            Self::Checkpoint { .. } => 14,
            Self::NamesSeen { .. } => 15,
            Self::OpEnd { .. } => 16,
            Self::Receiver { .. } => 17,
            Self::Wal { wal, .. } => 18 ^ (wal.end.0 << 8),
            Self::Reply { flushed, .. } => 19 ^ (flushed.0 << 8),
            Self::Poke { .. } => 20,
            Self::Hangup { .. } => 21,
            Self::Client { client } => 22 ^ ((*client as u64) << 8),
            Self::Router { .. } => 23,
            Self::Fault => 24,
            Self::Mend(_) => 25,
            Self::Operator => 26,
            Self::Patroni { .. } => 27,
        };
        kind ^ self.target().map_or(0, |(node, _)| (node as u64 + 1) << 5)
    }
}
