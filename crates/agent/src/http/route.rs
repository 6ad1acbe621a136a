//! Which call a method and path mean (contract 2.1, 2.2), and with which codes each may be answered.
//! A closed table: what isn't in it is refused, and whatever changes something is [`Route::Unsafe`].
//! `docs/reference/openapi.json` says the same to others; a test compares the two.

use http::Method;

/// A call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// The path decides the status; `health` knows how.
    Health,
    /// The agent lives.
    Liveness,
    /// The node is fit to be used.
    Readiness,
    Patroni,
    Cluster,
    History,
    Config,
    Failsafe,
    Metrics,
    Explain,
    /// What a router may rely on.
    Term,
    /// Backends whose commit waits for replicas.
    Waiting,
    /// A peer's stream; proves itself.
    Peer,
    /// Changes something: access is checked.
    Unsafe(Unsafe),
    Unknown,
}

/// A call that changes something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unsafe {
    Switchover,
    DeleteSwitchover,
    Failover,
    Restart,
    DeleteRestart,
    PatchConfig,
    PutConfig,
    Reinitialize,
    /// A Patroni leader asks whether it may stay: not ours to grant.
    Failsafe,
    /// Read the configuration again.
    Reload,
    Sigterm,
}

/// One row: method, first segment of the path, what it means, and the codes of its answers beside
/// those of access control.
pub(super) struct Row {
    pub(super) method: Method,
    pub(super) segment: &'static str,
    pub(super) route: Route,
    #[cfg_attr(not(test), expect(dead_code, reason = "the description is compared with it"))]
    pub(super) answers: &'static [u16],
}

const fn row(method: Method, segment: &'static str, route: Route, answers: &'static [u16]) -> Row {
    Row { method, segment, route, answers }
}

/// Every call but the health checks, which match by parts of words.
pub(super) static TABLE: &[Row] = &[
    row(Method::GET, "patroni", Route::Patroni, &[200]),
    row(Method::GET, "cluster", Route::Cluster, &[200, 503]),
    row(Method::GET, "history", Route::History, &[200]),
    row(Method::GET, "config", Route::Config, &[200, 502]),
    row(Method::GET, "failsafe", Route::Failsafe, &[200, 502]),
    row(Method::GET, "metrics", Route::Metrics, &[200]),
    row(Method::GET, "explain", Route::Explain, &[200]),
    row(Method::GET, "term", Route::Term, &[200, 503]),
    row(Method::GET, "waiting", Route::Waiting, &[200, 503]),
    row(Method::GET, "peer", Route::Peer, &[101, 401, 403, 426, 503]),
    row(Method::GET, "liveness", Route::Liveness, &[200, 503]),
    row(Method::GET, "readiness", Route::Readiness, &[200, 503]),
    row(
        Method::POST,
        "switchover",
        Route::Unsafe(Unsafe::Switchover),
        &[200, 202, 400, 411, 412, 422, 503],
    ),
    row(
        Method::DELETE,
        "switchover",
        Route::Unsafe(Unsafe::DeleteSwitchover),
        &[200, 400, 404, 409, 503],
    ),
    row(
        Method::POST,
        "failover",
        Route::Unsafe(Unsafe::Failover),
        &[200, 202, 400, 411, 412, 422, 503],
    ),
    row(
        Method::POST,
        "restart",
        Route::Unsafe(Unsafe::Restart),
        &[200, 202, 400, 409, 422, 500, 503],
    ),
    row(Method::DELETE, "restart", Route::Unsafe(Unsafe::DeleteRestart), &[200, 400, 404, 503]),
    row(Method::POST, "reload", Route::Unsafe(Unsafe::Reload), &[202, 400, 503]),
    row(
        Method::PATCH,
        "config",
        Route::Unsafe(Unsafe::PatchConfig),
        &[200, 400, 409, 411, 502, 503],
    ),
    row(Method::PUT, "config", Route::Unsafe(Unsafe::PutConfig), &[200, 400, 411, 502]),
    row(Method::POST, "reinitialize", Route::Unsafe(Unsafe::Reinitialize), &[200, 400, 503]),
    row(Method::POST, "failsafe", Route::Unsafe(Unsafe::Failsafe), &[200, 400, 500, 502, 503]),
    row(Method::POST, "sigterm", Route::Unsafe(Unsafe::Sigterm), &[202, 400]),
];

/// The first segment picks, as in Patroni: `/patroni/anything` is `/patroni`.
pub(super) fn route(method: &Method, path: &str) -> Route {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let row = TABLE.iter().find(|row| row.method == *method && row.segment == first);
    match (row, method) {
        (Some(row), _) => row.route,
        (None, &Method::GET | &Method::HEAD | &Method::OPTIONS) => Route::Health,
        (None, _) => Route::Unknown,
    }
}

impl Unsafe {
    /// Whether a request without a body is a mistake (contract 2.1: 411).
    pub(super) fn needs_body(self) -> bool {
        match self {
            Self::Switchover | Self::Failover | Self::PatchConfig | Self::PutConfig => true,
            Self::DeleteSwitchover
            | Self::Restart
            | Self::DeleteRestart
            | Self::Reinitialize
            | Self::Reload
            | Self::Failsafe
            | Self::Sigterm => false,
        }
    }
}
