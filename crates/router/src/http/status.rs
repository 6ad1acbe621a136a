//! Everything that the router knows, as one value: `GET /api/status`, and the source of the
//! metrics, the CSV and the dashboard. The field names are an interface.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pgherd_core::types::{Lsn, NodeName, Term, Timeline};
use serde::Serialize;

use super::health::{Health, View, health};
use crate::clock::boottime;
use crate::history::{Change, LeaderChange};
use crate::registry::Tally;
use crate::router::LocalAddrs;
use crate::shared::{Phase, Shared};
use crate::table::{Port, ReadFallback, ReadSource, Routes, is_lagging};
use crate::topology::{MemberRoute, Role, SyncRole, Topology};

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) cluster: String,
    pub(crate) revision: u64,
    pub(crate) health: Health,
    pub(crate) freshness: Freshness,
    pub(crate) paused: bool,
    pub(crate) sync_mode: String,
    pub(crate) max_lag: u64,
    pub(crate) leader: Option<LeaderStatus>,
    /// How long there has (or hasn't) been a route for writes.
    pub(crate) primary_for_seconds: f64,
    pub(crate) members: Vec<MemberStatus>,
    pub(crate) write: PortStatus,
    pub(crate) read: PortStatus,
    pub(crate) held: HeldStatus,
    pub(crate) leader_change: Option<LeaderChange>,
    pub(crate) changes: Vec<Change>,
    pub(crate) notes: Vec<String>,
    pub(crate) router: RouterStatus,
    /// The router's clock, so that a reader can turn times into ages.
    pub(crate) now: Timestamp,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Freshness {
    /// `null`: never confirmed.
    pub(crate) age_seconds: Option<f64>,
    pub(crate) stale: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct LeaderStatus {
    pub(crate) name: NodeName,
    pub(crate) term: Term,
    pub(crate) serving: bool,
    pub(crate) address: String,
}

/// What a member is, seen from the router.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    /// Leader, and accepts writes.
    Primary,
    /// Leader, and doesn't yet.
    Promoting,
    Replica,
    /// A replica too far behind for new read sessions.
    Lagging,
    /// A replica that runs but doesn't stream.
    Detached,
    /// Anything else; `state` says what.
    Other,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemberStatus {
    pub(crate) name: NodeName,
    pub(crate) condition: Condition,
    pub(crate) state: String,
    pub(crate) timeline: Option<Timeline>,
    pub(crate) lsn: Option<String>,
    pub(crate) lag_bytes: Option<u64>,
    pub(crate) sync: &'static str,
    pub(crate) noloadbalance: bool,
    pub(crate) address: String,
    pub(crate) api_url: Option<String>,
    pub(crate) write: MemberPort,
    pub(crate) read: MemberPort,
}

/// What one member does for one port.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct MemberPort {
    /// Whether new sessions go there.
    pub(crate) routed: bool,
    pub(crate) sessions: u64,
    pub(crate) sessions_max: u64,
    pub(crate) sessions_total: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) connect_errors_total: u64,
    pub(crate) closed_by_router_total: u64,
    /// Went on to another server, for this one hadn't answered.
    pub(crate) sessions_moved_total: u64,
    pub(crate) client_aborts_total: u64,
    pub(crate) server_aborts_total: u64,
    pub(crate) connect_ms: f64,
    pub(crate) last_session_seconds: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct PortStatus {
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where its new sessions go: `primary`, `replicas`, `leader`, `waiting` or `nobody`.
    pub(crate) source: &'static str,
    /// Over all members, also those that are gone.
    pub(crate) total: MemberPort,
    pub(crate) connections_total: u64,
    pub(crate) held: usize,
    pub(crate) held_max: u64,
    pub(crate) held_total: u64,
    pub(crate) held_longest_seconds: f64,
    pub(crate) rate: u64,
    pub(crate) rate_max: u64,
    pub(crate) refused: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct HeldStatus {
    pub(crate) now: usize,
    pub(crate) limit: usize,
    pub(crate) longest_seconds: f64,
    /// After this a connection that waits gets an error.
    pub(crate) patience_seconds: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct RouterStatus {
    pub(crate) version: &'static str,
    pub(crate) phase: &'static str,
    pub(crate) started_at: Timestamp,
    pub(crate) uptime_seconds: f64,
    pub(crate) connections: usize,
    pub(crate) max_connections: usize,
    pub(crate) read_fallback: &'static str,
    pub(crate) leader_changes_total: u64,
    pub(crate) sessions_closed_total: u64,
    pub(crate) term_lapses_total: u64,
    pub(crate) sessions_unconfirmed_total: u64,
    pub(crate) accept_errors_total: u64,
    pub(crate) cancels_routed_total: u64,
    pub(crate) cancels_broadcast_total: u64,
    pub(crate) cancels_dropped_total: u64,
}

type Tallies = BTreeMap<(Port, NodeName), Tally>;

impl Status {
    /// Gathers everything.
    pub(crate) fn of(shared: &Shared, addrs: &LocalAddrs) -> Self {
        let topology = shared.applied();
        let routes = shared.routes.borrow().clone();
        let tallies = shared.registry.tallies();
        let age = topology.fresh_at.map(|at| boottime().since(at).to_std());
        let stale = age.is_none_or(|age| age > shared.config.stale_after);
        let history = shared.history();
        let (_, primary_for) = history.primary_for();
        let (leader_change, changes) = (history.leader_change().cloned(), history.changes());
        drop(history);
        let write = port_status(shared, &addrs.write, Port::Write, &routes, &tallies);
        let read = port_status(shared, &addrs.read, Port::Read, &routes, &tallies);
        let held = HeldStatus {
            now: write.held + read.held,
            limit: shared.config.max_held,
            longest_seconds: write.held_longest_seconds.max(read.held_longest_seconds),
            patience_seconds: shared.config.hold.as_secs_f64(),
        };
        let stale_for = age.filter(|_| stale);
        let view =
            View { topology: &topology, routes: &routes, stale_for, primary_for, held: held.now };
        Self {
            cluster: topology.cluster.clone(),
            revision: topology.revision,
            health: health(&view),
            freshness: Freshness { age_seconds: age.map(|age| age.as_secs_f64()), stale },
            paused: topology.paused,
            sync_mode: topology.sync_mode.clone(),
            max_lag: topology.max_lag,
            leader: leader_status(&topology),
            primary_for_seconds: primary_for.as_secs_f64(),
            members: topology
                .members
                .iter()
                .map(|m| member(&topology, m, &routes, &tallies))
                .collect(),
            write,
            read,
            held,
            leader_change,
            changes,
            notes: topology.notes.clone(),
            router: router_status(shared),
            now: Timestamp::now(),
        }
    }

    /// One port's part.
    pub(crate) fn port(&self, port: Port) -> &PortStatus {
        match port {
            Port::Write => &self.write,
            Port::Read => &self.read,
        }
    }
}

impl MemberStatus {
    /// What it does for one port.
    pub(crate) fn port(&self, port: Port) -> &MemberPort {
        match port {
            Port::Write => &self.write,
            Port::Read => &self.read,
        }
    }
}

fn leader_status(topology: &Topology) -> Option<LeaderStatus> {
    topology.leader.as_ref().map(|leader| LeaderStatus {
        name: leader.name.clone(),
        term: leader.term,
        serving: leader.serving,
        address: leader.address.to_string(),
    })
}

fn condition(topology: &Topology, member: &MemberRoute) -> Condition {
    let leader = topology.leader.as_ref().filter(|leader| leader.name == member.name);
    match (leader, member.role, member.state.as_str()) {
        (Some(leader), _, _) if leader.serving => Condition::Primary,
        (Some(_), _, _) => Condition::Promoting,
        (None, Role::Replica, "running" | "streaming") if is_lagging(topology, member) => {
            Condition::Lagging
        }
        (None, Role::Replica, "running" | "streaming") if member.streaming => Condition::Replica,
        (None, Role::Replica, "running" | "streaming") => Condition::Detached,
        (None, Role::Leader | Role::Replica | Role::Other, _) => Condition::Other,
    }
}

fn member(
    topology: &Topology,
    member: &MemberRoute,
    routes: &Routes,
    tallies: &Tallies,
) -> MemberStatus {
    let port = |port: Port| {
        let tally = tallies.get(&(port, member.name.clone())).copied().unwrap_or_default();
        let routed = routes.targets(port).iter().any(|target| target.name == member.name);
        MemberPort { routed, ..member_port(&tally) }
    };
    MemberStatus {
        name: member.name.clone(),
        condition: condition(topology, member),
        state: member.state.clone(),
        timeline: member.timeline,
        lsn: member.lsn.map(|lsn: Lsn| lsn.to_string()),
        lag_bytes: member.lag_bytes,
        sync: match member.sync {
            SyncRole::None => "none",
            SyncRole::Sync => "sync",
            SyncRole::Quorum => "quorum",
        },
        noloadbalance: member.noloadbalance,
        address: member.address.to_string(),
        api_url: member.api_url.clone(),
        write: port(Port::Write),
        read: port(Port::Read),
    }
}

fn member_port(tally: &Tally) -> MemberPort {
    MemberPort {
        routed: false,
        sessions: tally.sessions,
        sessions_max: tally.sessions_max,
        sessions_total: tally.sessions_total,
        bytes_in: tally.bytes_in,
        bytes_out: tally.bytes_out,
        connect_errors_total: tally.connect_errors,
        closed_by_router_total: tally.closed_total,
        sessions_moved_total: tally.moved_total,
        client_aborts_total: tally.client_aborts,
        server_aborts_total: tally.server_aborts,
        connect_ms: Duration::from_micros(tally.connect_us).as_secs_f64() * 1e3,
        last_session_seconds: tally.last_session.map(|at: Instant| at.elapsed().as_secs()),
    }
}

fn port_status(
    shared: &Shared,
    addresses: &[SocketAddr],
    port: Port,
    routes: &Routes,
    tallies: &Tallies,
) -> PortStatus {
    let stats = shared.stats.port(port);
    let mut total =
        MemberPort { routed: !routes.targets(port).is_empty(), ..MemberPort::default() };
    for ((_, _), tally) in tallies.iter().filter(|((of, _), _)| *of == port) {
        add(&mut total, &member_port(tally));
    }
    let (held, longest) = stats.held();
    let (rate, rate_max) = stats.rate(shared.second());
    let refused = [
        ("no_server", &stats.refused_no_server),
        ("held_limit", &stats.refused_held_limit),
        ("connection_limit", &stats.refused_connection_limit),
        ("protocol", &stats.protocol_errors),
        ("startup_timeout", &stats.startup_timeouts),
        ("client_gone", &stats.gone_early),
    ];
    PortStatus {
        addresses: addresses.to_vec(),
        source: source(port, routes),
        total,
        connections_total: stats.connections.load(Relaxed),
        held,
        held_max: stats.held_max(),
        held_total: stats.held_total.load(Relaxed),
        held_longest_seconds: longest.as_secs_f64(),
        rate,
        rate_max,
        refused: refused.into_iter().map(|(why, n)| (why, n.load(Relaxed))).collect(),
    }
}

fn source(port: Port, routes: &Routes) -> &'static str {
    match (port, &routes.write, routes.read_source) {
        (Port::Write, Ok(_), _) => "primary",
        (Port::Write, Err(_), _) | (Port::Read, _, ReadSource::Nobody) => "nobody",
        (Port::Read, _, ReadSource::Replicas) => "replicas",
        (Port::Read, _, ReadSource::Leader) => "leader",
        (Port::Read, _, ReadSource::Waiting) => "waiting",
    }
}

fn add(total: &mut MemberPort, part: &MemberPort) {
    total.sessions += part.sessions;
    total.sessions_max = total.sessions_max.max(part.sessions_max);
    total.sessions_total += part.sessions_total;
    total.bytes_in += part.bytes_in;
    total.bytes_out += part.bytes_out;
    total.connect_errors_total += part.connect_errors_total;
    total.closed_by_router_total += part.closed_by_router_total;
    total.sessions_moved_total += part.sessions_moved_total;
    total.client_aborts_total += part.client_aborts_total;
    total.server_aborts_total += part.server_aborts_total;
    total.connect_ms = total.connect_ms.max(part.connect_ms);
    total.last_session_seconds = match (total.last_session_seconds, part.last_session_seconds) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

fn router_status(shared: &Shared) -> RouterStatus {
    let stats = &shared.stats;
    RouterStatus {
        version: env!("CARGO_PKG_VERSION"),
        phase: match *shared.phase.borrow() {
            Phase::Running => "running",
            Phase::Draining => "draining",
            Phase::Stopped => "stopped",
        },
        started_at: shared.started_at,
        uptime_seconds: shared.started.elapsed().as_secs_f64(),
        connections: stats.connections(),
        max_connections: shared.config.max_connections,
        read_fallback: match shared.config.read_fallback {
            ReadFallback::Leader => "leader",
            ReadFallback::None => "none",
        },
        leader_changes_total: stats.leader_changes.load(Relaxed),
        sessions_closed_total: stats.sessions_closed.load(Relaxed),
        term_lapses_total: stats.term_lapses.load(Relaxed),
        sessions_unconfirmed_total: stats.sessions_unconfirmed.load(Relaxed),
        accept_errors_total: stats.accept_errors.load(Relaxed),
        cancels_routed_total: stats.cancels_routed.load(Relaxed),
        cancels_broadcast_total: stats.cancels_broadcast.load(Relaxed),
        cancels_dropped_total: stats.cancels_dropped.load(Relaxed),
    }
}
