//! Which call a method and path mean (contract 2.1, 2.2). A closed table: what isn't in it is
//! refused, and whatever changes something is [`Route::Unsafe`].

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
    /// A peer's stream; proves itself by its own secret.
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
    PatchConfig,
    PutConfig,
    Reinitialize,
    /// A Patroni leader asks whether it may stay: not ours to grant.
    Failsafe,
}

/// The first segment picks, as in Patroni: `/patroni/anything` is `/patroni`.
pub(super) fn route(method: &Method, path: &str) -> Route {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match *method {
        Method::GET => match first {
            "patroni" => Route::Patroni,
            "cluster" => Route::Cluster,
            "history" => Route::History,
            "config" => Route::Config,
            "failsafe" => Route::Failsafe,
            "metrics" => Route::Metrics,
            "explain" => Route::Explain,
            "peer" => Route::Peer,
            "liveness" => Route::Liveness,
            "readiness" => Route::Readiness,
            _ => Route::Health,
        },
        Method::HEAD | Method::OPTIONS => Route::Health,
        Method::POST => match first {
            "switchover" => Route::Unsafe(Unsafe::Switchover),
            "failover" => Route::Unsafe(Unsafe::Failover),
            "reinitialize" => Route::Unsafe(Unsafe::Reinitialize),
            "failsafe" => Route::Unsafe(Unsafe::Failsafe),
            _ => Route::Unknown,
        },
        Method::DELETE if first == "switchover" => Route::Unsafe(Unsafe::DeleteSwitchover),
        Method::PATCH if first == "config" => Route::Unsafe(Unsafe::PatchConfig),
        Method::PUT if first == "config" => Route::Unsafe(Unsafe::PutConfig),
        _ => Route::Unknown,
    }
}
