//! Which sessions there are, whose, and how to end them; and the cancel keys that lead to them.
//! Leaves moving bytes to `relay` and deciding what ends to `table`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use pgherd_core::time::Time;
use pgherd_core::types::{NodeName, Term};

use crate::answer::Bond;
use crate::clock::boottime;
use crate::table::{Closures, Port, Target, WriteClosure};
use crate::topology::{HostPort, Topology};

/// Tallies of members that are gone are kept, so that counters don't jump back, up to this many:
/// node names that are never used again must not pile up.
const TALLIES_MAX: usize = 256;

/// All sessions that have a server. Sessions that wait for one are not here: nothing ends them
/// but their own deadline.
#[derive(Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    next_id: AtomicU64,
}

#[derive(Default)]
struct Inner {
    /// Whom a session may join; changed in the same lock that ends sessions, so that none slips
    /// in behind a closure.
    leader: Option<(NodeName, Term)>,
    /// Of the leader's write sessions; another leader has another one.
    gate: Arc<Gate>,
    members: HashSet<NodeName>,
    closed: bool,
    /// Grouped so that ending one leader's sessions touches no others.
    groups: HashMap<Group, HashMap<u64, Arc<Session>>>,
    keys: HashMap<Arc<[u8]>, Arc<Session>>,
    tallies: BTreeMap<(Port, NodeName), Tally>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Group {
    port: Port,
    member: NodeName,
    /// Of write sessions only: read sessions survive a change of leader.
    term: Option<Term>,
}

/// What one member did for one port.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sessions: u64,
    pub(crate) sessions_max: u64,
    pub(crate) sessions_total: u64,
    /// From clients to servers.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) connect_errors: u64,
    /// Sessions that the router ended.
    pub(crate) closed_total: u64,
    /// Sessions that it hadn't answered when they lost it, and that looked for another server.
    pub(crate) moved_total: u64,
    /// Sessions that ended because a side broke off instead of closing.
    pub(crate) client_aborts: u64,
    pub(crate) server_aborts: u64,
    pub(crate) last_session: Option<Instant>,
    /// Smoothed time that a connect takes, in microseconds.
    pub(crate) connect_us: u64,
}

/// Lets bytes of one leader's write sessions pass until an instant of CLOCK_BOOTTIME: also a session
/// that was frozen, and knows nothing of what happened meanwhile, looks here first.
#[derive(Default)]
struct Gate(AtomicU64);

/// The session is bound to its server.
const BOUND: u8 = 0x80;

/// One session: a client and a server joined.
pub(crate) struct Session {
    id: u64,
    pub(crate) port: Port,
    pub(crate) target: Arc<Target>,
    pub(crate) client: SocketAddr,
    pub(crate) started: Instant,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    /// [`BOUND`], and why it ended: in one word, so that whoever ends it knows whether its client
    /// loses it. A reason is written once, with SeqCst, before the waker is woken.
    state: AtomicU8,
    waker: AtomicWaker,
    key: OnceLock<Arc<[u8]>>,
    /// Of write sessions only.
    gate: Option<Arc<Gate>>,
}

/// Why the router ended a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Closed {
    /// The reign that it belonged to is over.
    LeaderChanged,
    /// Its member left the cluster.
    MemberGone,
    /// The router stops.
    Shutdown,
    /// Nobody confirms the reign any more.
    Unconfirmed,
}

impl Closed {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::LeaderChanged => "leader_changed",
            Self::MemberGone => "member_gone",
            Self::Shutdown => "shutdown",
            Self::Unconfirmed => "term_unconfirmed",
        }
    }

    /// Whether a session that nobody has answered yet may go to another server.
    pub(crate) const fn lets_move(self) -> bool {
        match self {
            Self::LeaderChanged | Self::MemberGone | Self::Unconfirmed => true,
            Self::Shutdown => false,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::LeaderChanged => 1,
            Self::MemberGone => 2,
            Self::Shutdown => 3,
            Self::Unconfirmed => 4,
        }
    }

    const fn of(state: u8) -> Option<Self> {
        match state & !BOUND {
            1 => Some(Self::LeaderChanged),
            2 => Some(Self::MemberGone),
            3 => Some(Self::Shutdown),
            4 => Some(Self::Unconfirmed),
            _ => None,
        }
    }
}

impl Session {
    /// Ends it; true when its client loses it by that.
    fn end(&self, why: Closed) -> bool {
        // The first reason stays.
        let ended = self.state.fetch_update(SeqCst, SeqCst, |state| {
            Closed::of(state).is_none().then_some(state | why.code())
        });
        self.waker.wake();
        ended.is_ok_and(|state| state & BOUND != 0 || !why.lets_move())
    }

    fn closed(&self) -> Option<Closed> {
        Closed::of(self.state.load(SeqCst))
    }

    /// Whether it may still have another server.
    pub(crate) fn bond(&self) -> Bond {
        if self.state.load(SeqCst) & BOUND == 0 { Bond::Free } else { Bond::Bound }
    }

    /// Binds it to its server, before the client gets anything from there; or says that it ended before.
    pub(crate) fn bind(&self) -> Result<(), Closed> {
        let bound = self.state.fetch_update(SeqCst, SeqCst, |state| {
            Closed::of(state).is_none().then_some(state | BOUND)
        });
        match bound {
            Ok(_) => Ok(()),
            Err(state) => Closed::of(state).map_or(Ok(()), Err),
        }
    }

    /// Whether bytes may pass now. Who is refused is woken when they may again; ask after
    /// [`Self::poll_closed`], which takes the waker.
    pub(crate) fn passes(&self) -> bool {
        self.gate.as_ref().is_none_or(|gate| Time(gate.0.load(SeqCst)) > boottime())
    }

    /// Ready when the router wants the session to end. One task may wait at a time.
    pub(crate) fn poll_closed(&self, cx: &Context<'_>) -> Poll<Closed> {
        self.waker.register(cx.waker());
        self.closed().map_or(Poll::Pending, Poll::Ready)
    }
}

/// A session's place in the registry; it leaves when this is dropped.
pub(crate) struct Seat {
    registry: Arc<Registry>,
    session: Arc<Session>,
    aborted_by: Option<Side>,
    moves: bool,
}

/// Which side of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Seat {
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Remembers the backend's key, so that a cancel request finds its server.
    pub(crate) fn learn_key(&self, key: Vec<u8>) {
        let key: Arc<[u8]> = key.into();
        if self.session.key.set(Arc::clone(&key)).is_ok() {
            self.registry.lock().keys.insert(key, Arc::clone(&self.session));
        }
    }

    /// Notes which side broke off.
    pub(crate) fn aborted_by(&mut self, side: Side) {
        self.aborted_by = Some(side);
    }

    /// Notes that the session goes on to another server.
    pub(crate) fn moves(&mut self) {
        self.moves = true;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let session = &self.session;
        let mut guard = self.registry.lock();
        let inner = &mut *guard;
        let group = Group::of(session.port, &session.target);
        if let Some(sessions) = inner.groups.get_mut(&group) {
            sessions.remove(&session.id);
            if sessions.is_empty() {
                inner.groups.remove(&group);
            }
        }
        if let Some(key) = session.key.get()
            && inner.keys.get(key).is_some_and(|holder| holder.id == session.id)
        {
            inner.keys.remove(key);
        }
        let tally = inner.tally(session.port, &session.target.name);
        tally.sessions = tally.sessions.saturating_sub(1);
        tally.bytes_in += session.bytes_in.load(Relaxed);
        tally.bytes_out += session.bytes_out.load(Relaxed);
        tally.closed_total += u64::from(session.closed().is_some() && !self.moves);
        tally.moved_total += u64::from(self.moves);
        match self.aborted_by {
            Some(Side::Client) => tally.client_aborts += 1,
            Some(Side::Server) => tally.server_aborts += 1,
            None => {}
        }
    }
}

impl Group {
    fn of(port: Port, target: &Target) -> Self {
        let term = match port {
            Port::Write => target.term,
            Port::Read => None,
        };
        Self { port, member: target.name.clone(), term }
    }
}

impl Inner {
    fn tally(&mut self, port: Port, member: &NodeName) -> &mut Tally {
        self.tallies.entry((port, member.clone())).or_default()
    }

    fn admits(&self, port: Port, target: &Target) -> bool {
        !self.closed
            && match port {
                Port::Write => self
                    .leader
                    .as_ref()
                    .is_some_and(|(name, term)| *name == target.name && Some(*term) == target.term),
                Port::Read => {
                    self.members.contains(&target.name)
                        || self.leader.as_ref().is_some_and(|(name, _)| *name == target.name)
                }
            }
    }

    fn wake_writers(&self) {
        let writers = self.groups.iter().filter(|(group, _)| group.port == Port::Write);
        writers.flat_map(|(_, all)| all.values()).for_each(|session| session.waker.wake());
    }

    /// Returns how many clients lose their session.
    fn end(&self, which: impl Fn(&Group) -> Option<Closed>) -> usize {
        let mut ended = 0;
        for (group, sessions) in &self.groups {
            if let Some(why) = which(group) {
                ended += sessions.values().filter(|session| session.end(why)).count();
            }
        }
        ended
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The maps are whole after every step, so a panic elsewhere doesn't spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a new topology and ends what it ends. Returns how many clients lose their session.
    /// `passes_until`: how long bytes of the leader's write sessions may pass.
    pub(crate) fn apply(
        &self,
        topology: &Topology,
        closures: &Closures,
        passes_until: Time,
    ) -> usize {
        let mut inner = self.lock();
        let leader = topology.leader.as_ref().map(|l| (l.name.clone(), l.term));
        let name =
            |leader: &Option<(NodeName, Term)>| leader.as_ref().map(|(name, _)| name.clone());
        if name(&leader) != name(&inner.leader) {
            inner.gate = Arc::default();
        }
        inner.leader = leader;
        let before = Time(inner.gate.0.swap(passes_until.0, SeqCst));
        if before <= boottime() && passes_until > before {
            inner.wake_writers();
        }
        inner.members = topology.members.iter().map(|m| m.name.clone()).collect();
        if inner.tallies.len() > TALLIES_MAX {
            let Inner { members, tallies, .. } = &mut *inner;
            tallies.retain(|(_, name), tally| tally.sessions > 0 || members.contains(name));
        }
        inner.end(|group| match group.port {
            Port::Write => match &closures.write {
                WriteClosure::Nothing => None,
                WriteClosure::All => Some(Closed::LeaderChanged),
                WriteClosure::AllBut(name) => {
                    (group.member != *name).then_some(Closed::LeaderChanged)
                }
            },
            Port::Read => closures.read.contains(&group.member).then_some(Closed::MemberGone),
        })
    }

    /// Ends all write sessions: nobody confirms their term.
    pub(crate) fn close_unconfirmed(&self) -> usize {
        self.lock().end(|group| match group.port {
            Port::Write => Some(Closed::Unconfirmed),
            Port::Read => None,
        })
    }

    /// Ends everything and lets nobody in any more.
    pub(crate) fn close_all(&self) -> usize {
        let mut inner = self.lock();
        inner.closed = true;
        inner.end(|_| Some(Closed::Shutdown))
    }

    /// Gives a session its seat; `None` when the topology has moved on since the target was chosen.
    pub(crate) fn admit(
        self: &Arc<Self>,
        port: Port,
        target: &Arc<Target>,
        client: SocketAddr,
        connect_time: std::time::Duration,
    ) -> Option<Seat> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if !inner.admits(port, target) {
            return None;
        }
        let id = self.next_id.fetch_add(1, Relaxed);
        let session = Arc::new(Session {
            id,
            port,
            target: Arc::clone(target),
            client,
            started: Instant::now(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            state: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            key: OnceLock::new(),
            gate: match port {
                Port::Write => Some(Arc::clone(&inner.gate)),
                Port::Read => None,
            },
        });
        let group = Group::of(port, target);
        inner.groups.entry(group).or_default().insert(id, Arc::clone(&session));
        let tally = inner.tally(port, &target.name);
        tally.sessions += 1;
        tally.sessions_max = tally.sessions_max.max(tally.sessions);
        tally.sessions_total += 1;
        tally.last_session = Some(session.started);
        let sample = u64::try_from(connect_time.as_micros()).unwrap_or(u64::MAX);
        tally.connect_us =
            if tally.sessions_total == 1 { sample } else { (tally.connect_us * 7 + sample) / 8 };
        Some(Seat { registry: Arc::clone(self), session, aborted_by: None, moves: false })
    }

    /// Counts a connect that failed.
    pub(crate) fn connect_failed(&self, port: Port, member: &NodeName) {
        self.lock().tally(port, member).connect_errors += 1;
    }

    /// The server of the backend with this key.
    pub(crate) fn find_key(&self, key: &[u8]) -> Option<HostPort> {
        self.lock().keys.get(key).map(|session| session.target.address.clone())
    }

    /// Every server that holds sessions of the port.
    pub(crate) fn servers(&self, port: Port) -> HashSet<HostPort> {
        let inner = self.lock();
        let groups = inner.groups.iter().filter(|(group, _)| group.port == port);
        let addresses: HashSet<&HostPort> =
            groups.flat_map(|(_, sessions)| sessions.values().map(|s| &s.target.address)).collect();
        addresses.into_iter().cloned().collect()
    }

    /// The tallies of every member, live sessions included.
    pub(crate) fn tallies(&self) -> BTreeMap<(Port, NodeName), Tally> {
        let inner = self.lock();
        let mut tallies = inner.tallies.clone();
        for (group, sessions) in &inner.groups {
            if let Some(tally) = tallies.get_mut(&(group.port, group.member.clone())) {
                for session in sessions.values() {
                    tally.bytes_in += session.bytes_in.load(Relaxed);
                    tally.bytes_out += session.bytes_out.load(Relaxed);
                }
            }
        }
        tallies
    }
}
