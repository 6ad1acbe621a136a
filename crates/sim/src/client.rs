//! Clients and the router between them: writers on the write route, one writer at each node itself
//! (the sampler of split brains), readers on the write route.
//! A write is acknowledged, failed, or nobody knows.

use std::sync::Arc;

use pgherd_core::cluster::{ClusterView, MemberRole};
use pgherd_core::{Lsn, Term};

use crate::clock::Micros;
use crate::event::{Event, Ix};
use crate::invariants;
use crate::pg::{Run, Waiting};
use crate::wal::Wal;
use crate::world::{World, note};

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Writes on the write route.
    Writer,
    /// Writes at one node, whatever the router says.
    Direct(Ix),
    /// Reads on the write route.
    Reader,
    /// A scenario's: writes when told to.
    Told,
}

/// A session with one life of a PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Session {
    node: Ix,
    life: u32,
}

/// One client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) kind: Kind,
    every: Micros,
    session: Option<Session>,
    /// The write that it waits for, and since when.
    waits: Option<(u64, Micros)>,
    writes: u64,
}

/// The router: the write route and who may use it.
#[derive(Debug, Default)]
pub(crate) struct Router {
    pub(crate) route: Option<(Ix, Term)>,
    pub(crate) arrives: Micros,
    revision: u64,
}

/// How long a client waits for a commit.
const PATIENCE: Micros = 5_000_000;

impl World {
    pub(crate) fn add_clients(&mut self) {
        let told = Client { kind: Kind::Told, every: 0, session: None, waits: None, writes: 0 };
        self.clients.push(told);
        if !self.options.clients {
            return;
        }
        let mut kinds = vec![Kind::Writer, Kind::Writer, Kind::Reader];
        kinds.extend((0..self.nodes.len()).map(Kind::Direct));
        for kind in kinds {
            let every = self.rng.between(40_000, 250_000);
            let client = self.clients.len();
            self.clients.push(Client { kind, every, session: None, waits: None, writes: 0 });
            let first = self.rng.between(0, 1_000_000);
            self.queue.after(first, Event::Client { client });
        }
    }

    /// The router's look at the store.
    pub(crate) fn router_sees(&mut self, view: &Arc<ClusterView>) {
        if view.revision.0 < self.router.revision {
            return;
        }
        self.router.revision = view.revision.0;
        let foreign = view.leader.as_ref().filter(|l| {
            let member = view.members.get(&l.value).map(|m| m.value.role);
            view.foreign_leader() && member == Some(MemberRole::Primary)
        });
        let serving = view
            .current_beat()
            .filter(|b| b.value.serving && b.value.ended.is_none())
            .and(view.leader.as_ref())
            .or(foreign)
            .and_then(|l| self.index(&l.value));
        let route = serving.zip(view.current_term());
        if route != self.router.route {
            note!(self, "router: the write route is {route:?}");
            self.router.route = route;
            for client in &mut self.clients {
                if !matches!(client.kind, Kind::Direct(_)) {
                    client.session = None;
                }
            }
        }
    }

    pub(crate) fn client(&mut self, client: usize) {
        let now = self.queue.now;
        let every = self.clients[client].every;
        let next = every / 2 + self.rng.below(every);
        self.queue.after(next, Event::Client { client });
        if let Some((_, since)) = self.clients[client].waits {
            if now.saturating_sub(since) > PATIENCE {
                self.clients[client].waits = None;
                self.clients[client].session = None;
                self.stats.sometimes.blocked += 1;
            }
            return;
        }
        let wanted = match self.clients[client].kind {
            Kind::Direct(node) => Some(node),
            Kind::Writer | Kind::Reader | Kind::Told => self.router.route.map(|(node, _)| node),
        };
        let Some(session) = self.session(client, wanted) else { return };
        if self.clients[client].kind == Kind::Reader {
            self.read(session.node);
        } else {
            let bytes = 100 + self.rng.below(self.faults.write_bytes.max(1));
            self.write(client, session.node, bytes);
        }
    }

    /// The open session, or a new one where connections are taken.
    fn session(&mut self, client: usize, wanted: Option<Ix>) -> Option<Session> {
        if let Some(open) = self.clients[client].session {
            let machine = &self.nodes[open.node];
            if machine.pg.life == open.life && machine.up {
                let takes = machine.pg.writable() && machine.disk.takes_wal();
                return (!machine.frozen && takes).then_some(open);
            }
            self.clients[client].session = None;
        }
        let node = wanted?;
        let machine = &self.nodes[node];
        let works = machine.pg.accepts() && machine.disk.takes_wal();
        let takes = machine.up && !machine.frozen && works;
        if !takes || machine.pg.run != Run::Primary {
            return None;
        }
        let session = Session { node, life: machine.pg.life };
        self.clients[client].session = Some(session);
        Some(session)
    }

    /// One write at a primary.
    fn write(&mut self, client: usize, node: Ix, bytes: u64) {
        let now = self.queue.now;
        self.stats.writes += 1;
        self.clients[client].writes += 1;
        let write = self.clients[client].writes;
        self.clients[client].waits = Some((write, now));
        self.append(node, bytes);
        let pg = &mut self.nodes[node].pg;
        let end = pg.dir.as_ref().map_or(Lsn::ZERO, |d| d.wal.end);
        pg.waiting.push_back(Waiting { end, client, write });
        self.release_waiting(node);
    }

    /// A scenario's write on the write route; true when somebody took it.
    pub(crate) fn write_now(&mut self, bytes: u64) -> bool {
        let Some((node, _)) = self.router.route else { return false };
        let (pg, disk) = (&self.nodes[node].pg, self.nodes[node].disk);
        if pg.run != Run::Primary || pg.killed || !disk.takes_wal() {
            return false;
        }
        self.write(0, node, bytes);
        true
    }

    /// Whether the scenario's client has its answer.
    pub(crate) fn told_waits(&self) -> bool {
        self.clients[0].waits.is_some()
    }

    /// Acknowledges what may be acknowledged by now.
    pub(crate) fn release_waiting(&mut self, node: Ix) {
        loop {
            let pg = &mut self.nodes[node].pg;
            if !pg.writable() || self.nodes[node].frozen {
                return;
            }
            let pg = &mut self.nodes[node].pg;
            let Some(first) = pg.waiting.front().copied() else { return };
            if !pg.releases(first.end) {
                return;
            }
            pg.waiting.pop_front();
            pg.visible = pg.visible.max(first.end);
            self.acknowledged(node, first);
        }
    }

    fn acknowledged(&mut self, node: Ix, commit: Waiting) {
        let now = self.queue.now;
        self.stats.acks += 1;
        let client = &mut self.clients[commit.client];
        if client.waits.is_some_and(|(write, _)| write == commit.write) {
            client.waits = None;
        }
        let pg = &self.nodes[node].pg;
        let Some(wal) = pg.wal().or(pg.dir.as_ref().map(|d| d.wal)) else { return };
        let commit = Wal { branch: wal.branch, end: commit.end };
        let waited = pg.names.waits() && pg.next_names.is_none_or(|n| n.waits());
        note!(
            self,
            "n{} acknowledges {}{}",
            node + 1,
            commit.end,
            if waited { "" } else { ", alone" }
        );
        if self.excused(node) {
            return; // nobody promised that a Patroni without its lease is fenced
        }
        invariants::at_ack(self, node, commit, waited);
        self.model_acknowledged(node, commit);
        self.ledger.acknowledged(commit, waited, now);
    }

    /// The sessions end: nobody will know what came of these.
    pub(crate) fn forget_waiting(&mut self, node: Ix) {
        let waiting = std::mem::take(&mut self.nodes[node].pg.waiting);
        for commit in waiting {
            let client = &mut self.clients[commit.client];
            if client.waits.is_some_and(|(write, _)| write == commit.write) {
                client.waits = None;
                client.session = None;
            }
        }
    }

    fn read(&mut self, node: Ix) {
        let pg = &self.nodes[node].pg;
        let Some(dir) = pg.dir.as_ref() else { return };
        self.stats.reads += 1;
        let seen = self.branches.upto(dir.wal, pg.visible);
        invariants::no_visible_commit_vanishes::check(self, node, seen);
        let protected = self.nodes[node].pg.names.waits()
            && self.store.view().sync.as_ref().is_some_and(|s| s.value.names_voters())
            // Patroni lets readers in before its voters have what they see.
            && !self.is_patroni(node);
        if protected {
            self.ledger.seen(seen);
        }
    }
}
