//! What a run reached. Numbers only; the words for the reader are in `report.rs`.

use pgherd_core::cluster::Accession;

use crate::refine::Judged;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $words:literal,)*) => {
        /// Counters of things that must sometimes happen, or the run showed nothing.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Sometimes { $($(#[$doc])* pub(crate) $name: u64,)* }

        impl Sometimes {
            /// The counters with their words, in the order of the report.
            pub(crate) fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$(($words, self.$name)),*]
            }

            fn add(&mut self, other: &Self) { $(self.$name += other.$name;)* }
        }
    };
}

counters! {
    founded: "cluster founded",
    hand_over: "hand-over",
    pledges: "failover by pledges",
    silence: "failover by silence",
    returned: "return of the former leader",
    operator: "failover by the operator",
    patroni_led: "Patroni led",
    restarted: "restart in place",
    rewound: "rewind",
    cloned: "clone",
    adopted: "agent adopted PostgreSQL",
    guard_fired: "guard killed at its deadline",
    degraded: "degraded to no voters",
    voters_again: "voters named again",
    blocked: "commit waited for 5 s",
    zombies: "backends outlived their postmaster",
    agent_crash: "agent crashed",
    agent_freeze: "agent frozen",
    node_crash: "node crashed",
    node_freeze: "node frozen",
    node_hold: "node held by its hypervisor",
    hang: "PostgreSQL hung",
    removed: "data directory removed",
    disk_stalled: "disk stalled",
    disk_full: "disk full",
    disk_read_only: "disk read-only",
    killed_not_empty: "PostgreSQL was killed and hung in its disk",
    gave_up: "leader gave up for its disk",
    store_down: "store unavailable",
    store_election: "store leader change",
    store_unknown: "store outcome unknown",
    store_late: "transaction applied after its asker gave up",
    watch_late: "watch cut",
    cut_peer: "agents cut apart",
    cut_pg: "replication cut",
    cut_store: "node cut from the store",
    op_failed: "operation failed",
    switchover: "switchover asked",
    paused: "pause",
    shutdown: "orderly stop",
    reinitialize: "reinitialize asked",
    restart: "restart asked",
    held: "hold given",
    failsafe: "write acknowledged without the store",
    pledged: "pledge given",
    refused: "pledge refused",
    fetched: "candidate got WAL from a voter that was ahead",
    stale_facts: "facts older than an operation's end",
    last_resort: "operator as the last resort",
    thaw_ack: "acknowledged in the moment after a thaw (async)",
}

/// The sums of one run or many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) seeds: u64,
    pub(crate) events: u64,
    pub(crate) micros: u64,
    pub(crate) failovers: u64,
    pub(crate) writes: u64,
    pub(crate) acks: u64,
    pub(crate) reads: u64,
    pub(crate) lost_async: u64,
    pub(crate) sometimes: Sometimes,
    pub(crate) judged: Judged,
}

impl Stats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.micros += other.micros;
        self.failovers += other.failovers;
        self.writes += other.writes;
        self.acks += other.acks;
        self.reads += other.reads;
        self.lost_async += other.lost_async;
        self.sometimes.add(&other.sometimes);
        self.judged.add(&other.judged);
    }

    pub(crate) fn accession(&mut self, by: Accession) {
        let counter = match by {
            Accession::Founding => &mut self.sometimes.founded,
            Accession::HandOver => &mut self.sometimes.hand_over,
            Accession::Pledges => &mut self.sometimes.pledges,
            Accession::Silence => &mut self.sometimes.silence,
            Accession::Return => &mut self.sometimes.returned,
            Accession::Operator => &mut self.sometimes.operator,
        };
        *counter += 1;
        if !matches!(by, Accession::Founding | Accession::Return) {
            self.failovers += 1;
        }
    }
}
