//! Replication: who streams from whom, what arrives, and which commits that releases.
//! Replicas follow timelines by number, as PostgreSQL does; the branches know better.

use pgherd_core::Lsn;
use pgherd_core::postgres::Upstream;

use crate::clock::Micros;
use crate::event::{Event, Ix};
use crate::invariants;
use crate::pg::{Hang, MAX_NODES, Receiver, Run, Sender};
use crate::wal::Wal;
use crate::world::{World, note};

/// How often a connection says where it stands.
const POKE: Micros = 100_000;
/// wal_sender_timeout and wal_receiver_timeout.
const TIMEOUT: Micros = 3_000_000;
/// How often a replica looks after its receiver.
const RETRY: Micros = 200_000;

impl World {
    /// A primary writes WAL.
    pub(crate) fn append(&mut self, node: Ix, bytes: u64) {
        if let Some(dir) = self.nodes[node].pg.dir.as_mut() {
            self.branches.append(&mut dir.wal, bytes);
            self.model_wrote(node);
            self.forward(node);
        }
    }

    /// Sends what a node has to everybody who streams from it.
    fn forward(&mut self, node: Ix) {
        let Some(wal) = self.nodes[node].pg.wal() else { return };
        for to in 0..self.nodes.len() {
            self.forward_to(node, to, wal);
        }
    }

    fn forward_to(&mut self, node: Ix, to: Ix, wal: Wal) {
        if self.nodes[node].pg.senders[to].is_none() || !self.net.pg(node, to) {
            return;
        }
        let mut delay = self.rng.between(100, 1_000);
        if self.faults.slow_wal & (1 << to) != 0 {
            delay += self.rng.between(10_000, 300_000);
        }
        let at = self.queue.now + delay;
        if let Some(sender) = self.nodes[node].pg.senders[to].as_mut() {
            sender.arrives = sender.arrives.max(at);
            let (conn, at) = (sender.conn, sender.arrives);
            self.queue.push(at, Event::Wal { node: to, conn, wal });
        }
    }

    pub(crate) fn wal_arrives(&mut self, node: Ix, conn: u32, wal: Wal) {
        let now = self.queue.now;
        let disk = self.nodes[node].disk;
        let pg = &mut self.nodes[node].pg;
        let Some(receiver) = pg.receiver.as_mut() else { return };
        let from = receiver.from;
        if receiver.conn != conn || pg.hang == Hang::All || !self.net.pg(from, node) {
            return;
        }
        receiver.heard = now;
        if !disk.takes_wal() || pg.killed {
            return; // nothing is flushed, and nothing is answered
        }
        pg.settle(now);
        let mut grown = false;
        if let Some(dir) = pg.dir.as_mut()
            && wal.end > dir.wal.end
        {
            dir.wal = wal;
            dir.known = dir.known.max(self.branches.timeline(wal.branch));
            grown = true;
            if now >= pg.replay_at {
                pg.replay_at = now + pg.replay_delay;
            }
        }
        if grown {
            invariants::promise_kept::check_received(self, node, from);
            self.model_flushed(node, from, wal);
            self.forward(node);
        }
        self.reply(node, from, conn);
    }

    fn reply(&mut self, node: Ix, to: Ix, conn: u32) {
        let pg = &self.nodes[node].pg;
        let flushed = pg.dir.as_ref().map_or(Lsn::ZERO, |d| d.wal.end);
        let replayed = pg.replayed;
        if self.net.pg(node, to) {
            let delay = self.rng.between(100, 1_000);
            let event = Event::Reply { node: to, of: node, conn, flushed, replayed };
            self.queue.after(delay, event);
        }
    }

    pub(crate) fn reply_arrives(
        &mut self,
        node: Ix,
        of: Ix,
        conn: u32,
        flushed: Lsn,
        replayed: Lsn,
    ) {
        let now = self.queue.now;
        if !self.net.pg(of, node) || self.nodes[node].pg.hang == Hang::All {
            return;
        }
        let Some(sender) = self.nodes[node].pg.senders[of].as_mut() else { return };
        if sender.conn != conn {
            return;
        }
        sender.heard = now;
        let news = flushed > sender.flushed;
        sender.flushed = sender.flushed.max(flushed);
        sender.replayed = sender.replayed.max(replayed);
        if news {
            self.model_heard(node, of, flushed);
            self.release_waiting(node);
        }
    }

    /// Once for each connection and each tenth of a second, at the upstream's end.
    pub(crate) fn poke(&mut self, node: Ix, to: Ix, conn: u32) {
        let now = self.queue.now;
        let pg = &mut self.nodes[node].pg;
        let Some(sender) = pg.senders[to] else { return };
        if sender.conn != conn {
            return;
        }
        if now.saturating_sub(sender.heard) > TIMEOUT && pg.hang != Hang::All {
            note!(self, "n{} gives up its sender to n{}", node + 1, to + 1);
            self.nodes[node].pg.senders[to] = None;
            return;
        }
        if pg.hang != Hang::All
            && !pg.killed
            && let Some(wal) = self.nodes[node].pg.wal()
        {
            self.forward_to(node, to, wal);
        }
        self.queue.after(POKE, Event::Poke { node, to, conn });
    }

    /// The replica's look at its WAL receiver.
    pub(crate) fn receiver(&mut self, node: Ix, life: u32) {
        let now = self.queue.now;
        let pg = &self.nodes[node].pg;
        if pg.life != life || pg.run != Run::Replica {
            return;
        }
        self.queue.after(RETRY, Event::Receiver { node, pg: life });
        if pg.hang == Hang::All || pg.dying {
            return;
        }
        match pg.receiver {
            Some(receiver) if now.saturating_sub(receiver.heard) > TIMEOUT => {
                note!(self, "n{} gives up its receiver", node + 1);
                self.drop_receiver(node);
            }
            Some(_) => {}
            None => self.connect(node),
        }
    }

    /// Tries to stream from the upstream that the configuration names.
    fn connect(&mut self, node: Ix) {
        let now = self.queue.now;
        let Some(up) = self.nodes[node].pg.upstream else { return };
        if now < self.nodes[node].pg.replay_at && !self.nodes[node].pg.received_known {
            return; // it first replays what it has
        }
        let via = self.nodes[node].pg.via;
        let ready = |world: &Self| {
            let upstream = &world.nodes[up];
            upstream.up
                && !upstream.frozen
                && upstream.pg.accepts()
                && match via {
                    // target_session_attrs in primary_conninfo: a standby is refused as upstream
                    None => upstream.pg.run == Run::Primary,
                    // the slot's name: another life of the directory doesn't have it
                    Some(life) => upstream.pg.dir.as_ref().is_some_and(|dir| dir.instance == life),
                }
                && !upstream.pg.dying
                && world.net.pg_both(node, up)
                && upstream.pg.senders[node].is_none()
        };
        if up == node || !ready(self) {
            return;
        }
        let (Some(own), Some(theirs)) = (self.nodes[node].pg.wal(), self.nodes[up].pg.wal()) else {
            return;
        };
        let same = self.nodes[node].pg.dir.as_ref().map(|d| d.system_id)
            == self.nodes[up].pg.dir.as_ref().map(|d| d.system_id);
        if !same || !self.branches.can_stream(own, theirs) {
            return;
        }
        invariants::no_silent_divergence::check(self, node, up);
        self.connections += 1;
        let conn = self.connections;
        let sender =
            Sender { conn, flushed: Lsn::ZERO, replayed: Lsn::ZERO, heard: now, arrives: now };
        self.nodes[up].pg.senders[node] = Some(sender);
        let pg = &mut self.nodes[node].pg;
        pg.receiver = Some(Receiver { conn, from: up, heard: now });
        pg.received_known = true;
        let timeline = self.branches.timeline(theirs.branch);
        if let Some(dir) = pg.dir.as_mut() {
            dir.known = dir.known.max(timeline);
        }
        note!(self, "n{} streams from n{}", node + 1, up + 1);
        self.story(|| format!("n{} streams from n{}", node + 1, up + 1));
        self.model_streams(node, Some(up));
        self.reply(node, up, conn);
        self.queue.after(1_000, Event::Poke { node: up, to: node, conn });
    }

    pub(crate) fn set_upstream(&mut self, node: Ix, upstream: Option<&Upstream>) {
        let up = upstream.and_then(Upstream::node).and_then(|name| self.index(name));
        let via = match upstream {
            Some(Upstream::Member { instance, .. }) => Some(*instance),
            // No world has another cluster.
            Some(
                Upstream::Leader(_)
                | Upstream::StandbyLeader(_)
                | Upstream::Remote
                | Upstream::Archive,
            )
            | None => None,
        };
        let pg = &mut self.nodes[node].pg;
        let changed = pg.upstream != up || pg.via != via;
        pg.upstream = up;
        pg.via = via;
        pg.archive = upstream == Some(&Upstream::Archive);
        if changed || pg.receiver.is_some_and(|r| Some(r.from) != up) {
            self.drop_receiver(node);
        }
        if up.is_some() && self.nodes[node].pg.receiver.is_none() {
            self.connect(node);
        }
    }

    /// The WAL receiver's process ends; its upstream notices when the way is open.
    pub(crate) fn drop_receiver(&mut self, node: Ix) {
        let Some(receiver) = self.nodes[node].pg.receiver.take() else { return };
        self.model_streams(node, None);
        if self.net.pg(node, receiver.from) {
            let delay = self.rng.between(200, 3_000);
            let (node, peer, conn) = (receiver.from, node, receiver.conn);
            self.queue.after(delay, Event::Hangup { node, peer, conn });
        }
    }

    /// The connections of a PostgreSQL end, both as replica and as upstream. Without its postmaster
    /// a walsender that is busy doesn't notice yet.
    pub(crate) fn orphan_replication(&mut self, node: Ix, some_stay: bool) {
        self.drop_receiver(node);
        for peer in 0..MAX_NODES {
            let Some(sender) = self.nodes[node].pg.senders[peer] else { continue };
            if some_stay && self.rng.permille(500) {
                continue;
            }
            self.nodes[node].pg.senders[peer] = None;
            if self.nodes[node].up && self.net.pg(node, peer) {
                let delay = self.rng.between(200, 3_000);
                let (node, peer, conn) = (peer, node, sender.conn);
                self.queue.after(delay, Event::Hangup { node, peer, conn });
            }
        }
    }

    pub(crate) fn hangup(&mut self, node: Ix, peer: Ix, conn: u32) {
        let pg = &mut self.nodes[node].pg;
        if pg.receiver.is_some_and(|r| r.conn == conn) {
            pg.receiver = None;
            self.model_streams(node, None);
        }
        let pg = &mut self.nodes[node].pg;
        if pg.senders[peer].is_some_and(|s| s.conn == conn) {
            pg.senders[peer] = None;
            self.release_waiting(node);
        }
    }
}
