//! The health checks of contract 2.2: the status code is the answer. From memory, in constant time.
//!
//! One word differs from Patroni on purpose: "I hold the lock" here means that this node believes in
//! its term *and* lets clients write, so that a load balancer never sends a client to a primary that
//! could still lose what it answers.

use http::{Method, StatusCode};
use pgherd_core::postgres::{PgRole, PgState, ReplicaFacts, RunningFacts};
use pgherd_core::{Lsn, Time};
use serde_json::Value;

use super::status::{self, Standby};
use super::{Desk, route};
use crate::board::Board;
use crate::clock;

/// The usual spellings; whatever contains their words means the same (contract 2.2).
#[cfg(test)]
pub(super) const PATHS: &[&str] = &[
    "/",
    "/primary",
    "/master",
    "/read-write",
    "/leader",
    "/standby-leader",
    "/standby_leader",
    "/replica",
    "/read-only",
    "/health",
    "/sync",
    "/synchronous",
    "/quorum",
    "/async",
    "/asynchronous",
    "/read-only-quorum",
    "/read-only-sync",
    "/read-only-synchronous",
];

/// What one check is about.
struct Check<'a> {
    desk: &'a Desk,
    board: &'a Board,
    query: Query,
    now: Time,
}

/// The query's conditions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Query {
    pub(super) lag: Option<u64>,
    pub(super) replication_state: Option<String>,
    pub(super) tags: Vec<(String, String)>,
    pub(super) by_received: bool,
}

/// The status code of a health path.
pub(super) fn check(desk: &Desk, method: &Method, path: &str, query: Option<&str>) -> StatusCode {
    let board = desk.board.borrow().clone();
    let query = Query::parse(query.unwrap_or_default());
    let check = Check { desk, board: &board, query, now: clock::now() };
    let route = route::route(method, path);
    let good = if route == route::Route::Liveness {
        // A loop that hangs doesn't publish; one that turns does so each second at least.
        check.alive()
    } else if route == route::Route::Readiness {
        check.ready()
    } else {
        check.by_path(path)
    };
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

impl Check<'_> {
    /// Patroni's table, in its order: the first row whose words occur decides.
    fn by_path(&self, path: &str) -> bool {
        let has = |word: &str| path.contains(word);
        let last = path.trim_matches('/');
        if has("standby_leader") || has("standby-leader") {
            return self.standby_leader();
        }
        if has("leader") {
            return self.leads() || self.standby_leader();
        }
        if last.is_empty() || has("master") || has("primary") || has("read-write") {
            return self.leads();
        }
        if !self.tags_match() {
            return false;
        }
        let leader = || self.leads() || self.standby_leader();
        if has("replica") {
            return self.replica();
        }
        if has("read-only") && !has("sync") && !has("quorum") {
            return leader() || self.replica();
        }
        if has("health") {
            return self.running().is_some();
        }
        match last {
            "sync" | "synchronous" => self.standby(Standby::Sync),
            "quorum" => self.standby(Standby::Quorum),
            "async" | "asynchronous" => self.standby(Standby::None),
            "read-only-quorum" => leader() || self.standby(Standby::Quorum),
            "read-only-sync" | "read-only-synchronous" => leader() || self.standby(Standby::Sync),
            _ => false,
        }
    }

    /// It leads, lets clients write, and PostgreSQL was not seen otherwise. In pause, with nobody
    /// to renew a belief at, PostgreSQL's role has to do.
    fn leads(&self) -> bool {
        if self.standby_cluster() {
            return false;
        }
        let adrift = self.board.paused() && !self.store_is_fresh();
        match self.board.state(self.now) {
            Some(PgState::Running(RunningFacts { role: PgRole::Primary(_), .. })) => {
                self.board.leads_now(self.now) || adrift
            }
            // Frozen for a moment, or killed in the next: belief ends by itself.
            Some(PgState::Unresponsive { .. }) => self.board.leads_now(self.now),
            Some(
                PgState::Running(_)
                | PgState::Absent
                | PgState::Broken(_)
                | PgState::Stopped(_)
                | PgState::NotAccepting(_),
            )
            | None => false,
        }
    }

    /// It holds the key of a cluster that follows another one.
    fn standby_leader(&self) -> bool {
        self.standby_cluster() && self.replica_facts().is_some() && self.board.holds_key(self.now)
    }

    fn standby_cluster(&self) -> bool {
        self.board.cluster.as_ref().is_some_and(|cluster| status::standby_cluster(cluster))
    }

    fn store_is_fresh(&self) -> bool {
        self.board.store.is_some_and(|seen| self.now.since(seen.at) < self.board.ttl())
    }

    fn running(&self) -> Option<&RunningFacts> {
        match self.board.state(self.now)? {
            PgState::Running(running) => Some(running),
            PgState::Absent
            | PgState::Broken(_)
            | PgState::Stopped(_)
            | PgState::NotAccepting(_)
            | PgState::Unresponsive { .. } => None,
        }
    }

    fn replica_facts(&self) -> Option<&ReplicaFacts> {
        match &self.running()?.role {
            PgRole::Replica(replica) => Some(replica),
            PgRole::Primary(_) => None,
        }
    }

    /// A replica that may be read from, near enough for the caller.
    fn replica(&self) -> bool {
        let Some(replica) = self.replica_facts().filter(|_| !self.standby_leader()) else {
            return false;
        };
        let shunned = self.desk.tags.get("noloadbalance").and_then(pgherd_api::config::boolean);
        if shunned == Some(true) {
            return false;
        }
        let state = status::replication_state(self.board, replica);
        let wanted = self.query.replication_state.as_deref();
        let state_fits = wanted.is_none_or(|wanted| state == Some(wanted));
        state_fits && self.lag_fits(replica.replayed)
    }

    fn lag_fits(&self, at: Lsn) -> bool {
        let Some(limit) = self.query.lag else { return true };
        self.leaders_end().is_some_and(|end| at.lag_behind(end) <= limit)
    }

    /// Where the leader's WAL ends, as far as this node knows.
    fn leaders_end(&self) -> Option<Lsn> {
        let view = self.board.cluster.as_ref()?.view();
        let optime = view.status.as_ref().map(|status| status.value.optime);
        let beat = view.current_beat().map(|beat| beat.value.lsn);
        optime.max(beat)
    }

    /// A standby of that kind, by a view of the store that isn't too old.
    fn standby(&self, kind: Standby) -> bool {
        let node = &self.desk.identity.name;
        self.store_is_fresh() && self.replica() && status::standby(self.board, node) == kind
    }

    fn tags_match(&self) -> bool {
        self.query.tags.iter().all(|(name, wanted)| {
            let own = match self.desk.tags.get(name) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string().to_lowercase(),
                None => return false,
            };
            own == *wanted
        })
    }

    fn alive(&self) -> bool {
        // Patroni gives a primary less time: a loop that hangs there endangers more.
        let factor = if self.board.leads.is_some() { 1 } else { 2 };
        let limit = pgherd_core::Duration(self.board.ttl().0 * factor);
        self.board.paused() || self.now.since(self.board.at) < limit
    }

    fn ready(&self) -> bool {
        if self.leads() || self.standby_leader() {
            return true;
        }
        let Some(replica) = self.replica_facts().filter(|replica| replica.streaming) else {
            return false;
        };
        let view = self.board.cluster.as_ref().map(|cluster| cluster.view());
        let policy = view.as_ref().and_then(|view| view.config.as_ref());
        let default = policy.map_or(1 << 20, |config| config.value.maximum_lag_on_failover);
        let at = if self.query.by_received { replica.received } else { replica.replayed };
        let limit = self.query.lag.unwrap_or(default);
        self.leaders_end().is_some_and(|end| at.lag_behind(end) <= limit)
    }
}

impl Query {
    /// Reads `lag`, `replication_state`, `tag_<name>` and `mode`. What can't be read is no limit.
    pub(super) fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            match name {
                "lag" => parsed.lag = pgherd_api::config::bytes(&Value::String(value)),
                "replication_state" => parsed.replication_state = Some(value),
                "mode" => parsed.by_received = value == "write",
                _ => {
                    if let Some(tag) = name.strip_prefix("tag_") {
                        parsed.tags.push((decoded(tag), value));
                    }
                }
            }
        }
        parsed
    }
}

/// Undoes `%20` and `+`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let escaped = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, escaped) {
            (b'+', _) => bytes.push(b' '),
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (other, _) => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
