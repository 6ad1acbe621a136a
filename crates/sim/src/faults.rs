//! Faults: which families a seed has, how often they strike, and how each one ends.
//! Everything here is undone by `heal`.

use crate::clock::Micros;
use crate::disk::Disk;
use crate::event::{Event, Ix};
use crate::net::Lane;
use crate::pg::{Hang, MAX_NODES, Run};
use crate::world::{World, note};

/// The families of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    AgentCrash,
    AgentFreeze,
    PostmasterDeath,
    TreeDeath,
    Both,
    NodeCrash,
    NodeFreeze,
    NodeHold,
    Hang,
    DataRemoved,
    StoreDown,
    StoreElection,
    WatchCut,
    CutStore,
    CutPeers,
    CutPg,
    CutAll,
    Reset,
    SlowOps,
    SlowReplay,
    BigWrites,
    DiskStall,
    DiskFull,
    DiskReadOnly,
}

/// All of them, in the order of their numbers.
pub(crate) const FAMILIES: [Family; 24] = [
    Family::AgentCrash,
    Family::AgentFreeze,
    Family::PostmasterDeath,
    Family::TreeDeath,
    Family::Both,
    Family::NodeCrash,
    Family::NodeFreeze,
    Family::NodeHold,
    Family::Hang,
    Family::DataRemoved,
    Family::StoreDown,
    Family::StoreElection,
    Family::WatchCut,
    Family::CutStore,
    Family::CutPeers,
    Family::CutPg,
    Family::CutAll,
    Family::Reset,
    Family::SlowOps,
    Family::SlowReplay,
    Family::BigWrites,
    Family::DiskStall,
    Family::DiskFull,
    Family::DiskReadOnly,
];

/// How a fault ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mend {
    AgentStart(Ix),
    AgentThaw(Ix),
    NodeBoot(Ix),
    NodeThaw(Ix, bool),
    Hang(Ix),
    StoreUp,
    StoreElected,
    Way(Lane, Ix, Ix),
    StoreWay(Ix, bool, bool),
    Speed(Ix),
    Replay(Ix),
    Disk(Ix),
    Writes,
}

/// The faults of one seed.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) on: bool,
    /// One bit for each family.
    pub(crate) families: u32,
    /// Mean time between two faults.
    pub(crate) every: Micros,
    /// Per mille of requests, answers, views, messages, operations.
    pub(crate) slow_store: u64,
    pub(crate) lose_answers: u64,
    pub(crate) slow_watch: u64,
    pub(crate) slow_peers: u64,
    pub(crate) fail_ops: u64,
    pub(crate) slow_wal: u32,
    pub(crate) write_bytes: u64,
    pub(crate) watch_cut_until: [Micros; MAX_NODES],
    pub(crate) peer_arrives: [Micros; MAX_NODES * MAX_NODES],
}

impl World {
    /// Draws what will go wrong in this seed, and begins.
    pub(crate) fn faults_begin(&mut self) {
        let mut families = 0;
        let share = self.rng.between(150, 700);
        for family in 0..FAMILIES.len() {
            if self.rng.permille(share) {
                families |= 1 << family;
            }
        }
        let mut rate = |share: u64, low: u64, high: u64| {
            if self.rng.permille(share) { self.rng.between(low, high) } else { 0 }
        };
        let slow_store = rate(300, 5, 60);
        let lose_answers = rate(300, 5, 60);
        let slow_watch = rate(300, 10, 300);
        let slow_peers = rate(300, 5, 100);
        let fail_ops = rate(400, 10, 150);
        let every = self.rng.between(400_000, 12_000_000);
        self.faults.families = families;
        self.faults.every = every;
        self.faults.slow_store = slow_store;
        self.faults.lose_answers = lose_answers;
        self.faults.slow_watch = slow_watch;
        self.faults.slow_peers = slow_peers;
        self.faults.fail_ops = fail_ops;
        self.faults.write_bytes = 2_000;
        self.faults.on = true;
        self.queue.after(every, Event::Fault);
        let whim = self.rng.between(2_000_000, 60_000_000);
        if self.rng.permille(500) {
            self.queue.after(whim, Event::Operator);
        }
    }

    /// The next fault.
    pub(crate) fn fault(&mut self) {
        if !self.faults.on {
            return;
        }
        let next = self.rng.between(self.faults.every / 8, self.faults.every * 2);
        self.queue.after(next, Event::Fault);
        let Some(family) = self.rng.bit(self.faults.families) else { return };
        let mut node = self.rng.below(self.nodes.len() as u64) as usize;
        if self.rng.permille(500)
            && let Some(leader) = self.leader()
        {
            node = leader;
        }
        let long = self.rng.permille(200);
        let lasts = if long {
            self.rng.between(3_000_000, 25_000_000)
        } else {
            self.rng.between(50_000, 4_000_000)
        };
        self.strike(FAMILIES[family], node, lasts);
    }

    /// Who leads by the store.
    pub(crate) fn leader(&self) -> Option<Ix> {
        self.store.view().leader.as_ref().and_then(|l| self.index(&l.value))
    }

    /// One fault, and when it ends.
    pub(crate) fn strike(&mut self, family: Family, node: Ix, lasts: Micros) {
        note!(self, "fault: {family:?} at n{} for {} ms", node + 1, lasts / 1000);
        let some = &mut self.stats.sometimes;
        match family {
            Family::AgentCrash => {
                some.agent_crash += 1;
                self.agent_crash(node);
                self.queue.after(lasts, Event::Mend(Mend::AgentStart(node)));
            }
            Family::AgentFreeze => {
                some.agent_freeze += 1;
                self.agent_freeze(node);
                self.queue.after(lasts, Event::Mend(Mend::AgentThaw(node)));
            }
            Family::PostmasterDeath => self.postmaster_dies(node),
            Family::TreeDeath => self.kill_tree(node, 0, 0),
            Family::Both => {
                some.agent_crash += 1;
                self.agent_crash(node);
                self.postmaster_dies(node);
                self.queue.after(lasts, Event::Mend(Mend::AgentStart(node)));
            }
            Family::NodeCrash => {
                some.node_crash += 1;
                self.node_crash(node);
                self.queue.after(lasts, Event::Mend(Mend::NodeBoot(node)));
            }
            Family::NodeFreeze | Family::NodeHold => {
                let held = family == Family::NodeHold;
                some.node_freeze += u64::from(!held);
                some.node_hold += u64::from(held);
                self.node_freeze(node);
                self.queue.after(lasts, Event::Mend(Mend::NodeThaw(node, held)));
            }
            Family::Hang => self.hang(node, lasts),
            Family::DataRemoved => self.lose_data(node),
            Family::DiskStall => {
                let since = self.queue.now;
                self.strike_disk(Disk::Stalled { since }, node, lasts);
            }
            Family::DiskFull => self.strike_disk(Disk::Full, node, lasts),
            Family::DiskReadOnly => self.strike_disk(Disk::ReadOnly, node, lasts),
            Family::StoreDown
            | Family::StoreElection
            | Family::WatchCut
            | Family::CutStore
            | Family::CutPeers
            | Family::CutPg
            | Family::CutAll
            | Family::Reset
            | Family::SlowOps
            | Family::SlowReplay
            | Family::BigWrites => self.strike_ways(family, node, lasts),
        }
    }

    /// Faults of the store and of the network.
    fn strike_ways(&mut self, family: Family, node: Ix, lasts: Micros) {
        match family {
            Family::StoreDown => self.store_falls(lasts),
            Family::StoreElection => {
                self.stats.sometimes.store_election += 1;
                self.store_down = true;
                let lasts = self.rng.between(200_000, 1_800_000);
                self.queue.after(lasts, Event::Mend(Mend::StoreElected));
            }
            Family::WatchCut => {
                self.stats.sometimes.watch_late += 1;
                self.faults.watch_cut_until[node] = self.queue.now + lasts;
                self.nodes[node].agent.watch_cut = true;
                let life = self.nodes[node].agent.life;
                self.queue.after(lasts, Event::WatchResume { node, life });
            }
            Family::CutStore => {
                self.stats.sometimes.cut_store += 1;
                let asks = self.rng.permille(700);
                let answers = !asks || self.rng.permille(700);
                self.cut_store(node, asks, answers);
                self.queue.after(lasts, Event::Mend(Mend::StoreWay(node, asks, answers)));
            }
            Family::CutPeers => self.cut_ways(Lane::Peer, node, lasts),
            Family::CutPg => self.cut_ways(Lane::Pg, node, lasts),
            Family::CutAll => self.cut_ways(Lane::All, node, lasts),
            Family::Reset => self.tell_peers_closed(node),
            Family::SlowOps => {
                self.nodes[node].slow = self.rng.between(2, 20);
                self.queue.after(lasts * 2, Event::Mend(Mend::Speed(node)));
            }
            Family::SlowReplay => {
                self.nodes[node].pg.replay_delay = self.rng.between(50_000, 3_000_000);
                self.faults.slow_wal |= 1 << node;
                self.queue.after(lasts * 2, Event::Mend(Mend::Replay(node)));
            }
            Family::BigWrites => {
                self.faults.write_bytes = 200_000;
                self.queue.after(lasts * 2, Event::Mend(Mend::Writes));
            }
            Family::AgentCrash
            | Family::AgentFreeze
            | Family::PostmasterDeath
            | Family::TreeDeath
            | Family::Both
            | Family::NodeCrash
            | Family::NodeFreeze
            | Family::NodeHold
            | Family::Hang
            | Family::DataRemoved
            | Family::DiskStall
            | Family::DiskFull
            | Family::DiskReadOnly => {}
        }
    }

    /// A disk stays ill for longer than it takes to notice.
    fn strike_disk(&mut self, disk: Disk, node: Ix, lasts: Micros) {
        self.disk_breaks(node, disk);
        self.queue.after(lasts * 3, Event::Mend(Mend::Disk(node)));
    }

    pub(crate) fn store_falls(&mut self, lasts: Micros) {
        self.stats.sometimes.store_down += 1;
        self.store_down = true;
        self.queue.after(lasts, Event::Mend(Mend::StoreUp));
    }

    pub(crate) fn cut_store(&mut self, node: Ix, asks: bool, answers: bool) {
        if asks {
            self.net.asks |= 1 << node;
        }
        if answers {
            self.net.answers |= 1 << node;
        }
        self.nodes[node].agent.watch_cut = true;
        let life = self.nodes[node].agent.life;
        self.queue.after(100_000, Event::WatchResume { node, life });
    }

    /// Cuts a node from some of the others, one way or both.
    fn cut_ways(&mut self, lane: Lane, node: Ix, lasts: Micros) {
        self.stats.sometimes.cut_peer += u64::from(lane != Lane::Pg);
        self.stats.sometimes.cut_pg += u64::from(lane != Lane::Peer);
        let all = self.rng.permille(500);
        let (out, back) = match self.rng.below(4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        for other in 0..self.nodes.len() {
            if other == node || !(all || self.rng.permille(500)) {
                continue;
            }
            if out {
                self.net.cut(lane, node, other);
                self.queue.after(lasts, Event::Mend(Mend::Way(lane, node, other)));
            }
            if back {
                self.net.cut(lane, other, node);
                self.queue.after(lasts, Event::Mend(Mend::Way(lane, other, node)));
            }
        }
    }

    fn hang(&mut self, node: Ix, lasts: Micros) {
        let all = self.rng.permille(500);
        let pg = &mut self.nodes[node].pg;
        if matches!(pg.run, Run::Primary | Run::Replica) {
            self.stats.sometimes.hang += 1;
            pg.hang = if all { Hang::All } else { Hang::Postmaster };
            self.queue.after(lasts, Event::Mend(Mend::Hang(node)));
        }
    }

    /// Removes a directory, but never the second one at a time: no protocol survives that.
    fn lose_data(&mut self, node: Ix) {
        let intact = |machine: &crate::machine::Machine| {
            machine.pg.wal().is_some() && !machine.pg.removed && machine.up
        };
        let others = (0..self.nodes.len()).filter(|n| *n != node);
        let safe = others.clone().all(|n| intact(&self.nodes[n])) && self.nodes.len() > 1;
        let streaming = self.leader().is_some_and(|leader| {
            leader != node || others.clone().all(|n| self.nodes[n].pg.receiver.is_some())
        });
        if safe && streaming {
            self.remove_data(node);
        }
    }

    pub(crate) fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::AgentStart(node) => self.queue.after(1, Event::AgentStart { node }),
            Mend::AgentThaw(node) => self.agent_thaw(node),
            Mend::NodeBoot(node) => self.node_boot(node),
            Mend::NodeThaw(node, held) => self.node_thaw(node, held),
            Mend::Hang(node) => {
                self.nodes[node].pg.hang = Hang::No;
                self.release_waiting(node);
            }
            Mend::StoreUp => self.store_down = false,
            Mend::StoreElected => {
                self.store_down = false;
                let now = self.queue.now;
                self.store.leader_change(now);
            }
            Mend::Way(lane, from, to) => self.net.mend(lane, from, to),
            Mend::StoreWay(node, asks, answers) => {
                self.net.asks &= !(u32::from(asks) << node);
                self.net.answers &= !(u32::from(answers) << node);
            }
            Mend::Speed(node) => self.nodes[node].slow = 1,
            Mend::Replay(node) => {
                self.nodes[node].pg.replay_delay = 300;
                self.faults.slow_wal &= !(1 << node);
            }
            Mend::Disk(node) => self.disk_breaks(node, Disk::Well),
            Mend::Writes => self.faults.write_bytes = 2_000,
        }
    }

    /// Undoes every fault.
    pub(crate) fn heal(&mut self) {
        note!(self, "everything heals");
        self.faults = Faults {
            write_bytes: 2_000,
            peer_arrives: self.faults.peer_arrives,
            ..Faults::default()
        };
        self.net.heal();
        self.store_down = false;
        for node in 0..self.nodes.len() {
            self.nodes[node].slow = 1;
            self.nodes[node].disk = Disk::Well;
            self.nodes[node].pg.replay_delay = 300;
            let held = self.nodes[node].frozen && self.nodes[node].held_clock;
            self.node_thaw(node, held);
            self.agent_thaw(node);
            self.node_boot(node);
            self.nodes[node].agent.stopped = false;
            self.agent_start(node);
            if self.nodes[node].pg.hang != Hang::No {
                self.nodes[node].pg.hang = Hang::No;
                self.release_waiting(node);
            }
        }
    }
}
