//! Counters of the router as a whole. Those of single servers are in `registry`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::table::Port;

/// What is counted; shared by everything.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) write: PortStats,
    pub(crate) read: PortStats,
    /// Connections of both ports, waiting ones included; bounded by `max_connections`.
    connections: AtomicUsize,
    pub(crate) leader_changes: AtomicU64,
    /// Sessions ended because of a change of the topology.
    pub(crate) sessions_closed: AtomicU64,
    /// Times that nobody confirmed the leader's term in time.
    pub(crate) term_lapses: AtomicU64,
    /// Write sessions ended because of that.
    pub(crate) sessions_unconfirmed: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    pub(crate) cancels_routed: AtomicU64,
    pub(crate) cancels_broadcast: AtomicU64,
    /// Not delivered: the backend's commit waits for replicas.
    pub(crate) cancels_dropped: AtomicU64,
}

/// What is counted for each port.
#[derive(Default)]
pub(crate) struct PortStats {
    pub(crate) connections: AtomicU64,
    /// Refused because no server could be had in time.
    pub(crate) refused_no_server: AtomicU64,
    /// Refused because too many connections were waiting already.
    pub(crate) refused_held_limit: AtomicU64,
    /// Refused because of `max_connections`.
    pub(crate) refused_connection_limit: AtomicU64,
    pub(crate) protocol_errors: AtomicU64,
    pub(crate) startup_timeouts: AtomicU64,
    /// Clients that left before they had a server.
    pub(crate) gone_early: AtomicU64,
    pub(crate) held_total: AtomicU64,
    held_max: AtomicU64,
    held: Mutex<BTreeMap<u64, Instant>>,
    rate: Mutex<Rate>,
}

/// Connections in the current and the last whole second.
#[derive(Default)]
struct Rate {
    second: u64,
    current: u64,
    last: u64,
    max: u64,
}

/// One connection's place among `max_connections`, given back when dropped.
pub(crate) struct Slot(Arc<Stats>);

/// One connection that waits for a server.
pub(crate) struct Held {
    stats: Arc<Stats>,
    port: Port,
    ticket: u64,
}

impl Stats {
    pub(crate) fn port(&self, port: Port) -> &PortStats {
        match port {
            Port::Write => &self.write,
            Port::Read => &self.read,
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Takes a slot, and says whether it is one of the first `limit`. Those beyond get one too,
    /// so that they can be told why they are refused; `None` when even that is too many.
    pub(crate) fn take_slot(self: &Arc<Self>, limit: usize, spare: usize) -> Option<(Slot, bool)> {
        let before = self.connections.fetch_add(1, Relaxed);
        let slot = Slot(Arc::clone(self));
        (before < limit.saturating_add(spare)).then_some((slot, before < limit))
    }

    /// Notes that a connection waits; `None` when `limit` connections do already.
    pub(crate) fn hold(self: &Arc<Self>, port: Port, limit: usize) -> Option<Held> {
        let waiting: usize = Port::ALL.iter().map(|p| self.port(*p).lock_held().len()).sum();
        if waiting >= limit {
            return None;
        }
        let stats = self.port(port);
        let ticket = stats.held_total.fetch_add(1, Relaxed);
        let mut held = stats.lock_held();
        held.insert(ticket, Instant::now());
        stats.held_max.fetch_max(held.len() as u64, Relaxed);
        Some(Held { stats: Arc::clone(self), port, ticket })
    }
}

impl PortStats {
    fn lock_held(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections wait now, and the longest time that one has waited.
    pub(crate) fn held(&self) -> (usize, Duration) {
        let held = self.lock_held();
        let longest = held.first_key_value().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        (held.len(), longest)
    }

    pub(crate) fn held_max(&self) -> u64 {
        self.held_max.load(Relaxed)
    }

    /// Counts a new connection; `second` is the time since the start.
    pub(crate) fn connected(&self, second: u64) {
        self.connections.fetch_add(1, Relaxed);
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.advance(second);
        rate.current += 1;
        rate.max = rate.max.max(rate.current);
    }

    /// Connections in the last whole second, and the most in any.
    pub(crate) fn rate(&self, second: u64) -> (u64, u64) {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.advance(second);
        (rate.last, rate.max)
    }
}

impl Rate {
    fn advance(&mut self, second: u64) {
        if second != self.second {
            self.last = if second == self.second + 1 { self.current } else { 0 };
            self.current = 0;
            self.second = second;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stats.port(self.port).lock_held().remove(&self.ticket);
    }
}
