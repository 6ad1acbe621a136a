//! The router against fake servers that speak the few bytes needed, and against PostgreSQL when it
//! is installed. Nothing sleeps for luck: conditions are awaited with a deadline.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod backend;
mod cancel;
mod client;
mod hold;
mod http;
mod limits;
mod postgres;
mod read;
mod relay;
mod switch;
mod term;
mod unanswered;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgherd_core::types::{Lsn, NodeName, Term, Timeline};
use pgherd_router::{
    HostPort, LeaderRoute, MemberRoute, Role, Router, RouterConfig, SyncRole, Topology, boottime,
};
use tokio::sync::watch;

/// Longer than anything here takes, shorter than a person's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A router, and the sender of its topology.
pub(crate) struct Fixture {
    pub(crate) router: Router,
    pub(crate) topology: watch::Sender<Arc<Topology>>,
    pub(crate) write: SocketAddr,
    pub(crate) read: SocketAddr,
    pub(crate) http: SocketAddr,
}

pub(crate) fn any_port() -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]
}

pub(crate) fn config() -> RouterConfig {
    RouterConfig { write: any_port(), read: any_port(), http: any_port(), ..Default::default() }
}

pub(crate) fn start(topology: Topology) -> Fixture {
    start_with(config(), topology)
}

pub(crate) fn start_with(config: RouterConfig, topology: Topology) -> Fixture {
    let sender = watch::Sender::new(Arc::new(topology));
    let router = Router::start(config, sender.subscribe()).unwrap();
    let addrs = router.local_addrs();
    let (write, read, http) = (addrs.write[0], addrs.read[0], addrs.http[0]);
    Fixture { router, topology: sender, write, read, http }
}

impl Fixture {
    pub(crate) fn set(&self, topology: Topology) {
        self.topology.send_replace(Arc::new(topology));
    }

    /// Sends a changed copy of the present topology.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Topology)) {
        let mut topology = (**self.topology.borrow()).clone();
        change(&mut topology);
        self.set(topology);
    }
}

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// A cluster that was confirmed just now: the leader, if any, with its term, and the members.
pub(crate) fn cluster(leader: Option<(&str, u64)>, members: &[(&str, SocketAddr)]) -> Topology {
    let address = |of: SocketAddr| HostPort::new(of.ip().to_string(), of.port());
    let leads = |who: &str| leader.is_some_and(|(name, _)| name == who);
    let members = members.iter();
    Topology {
        cluster: "demo".into(),
        revision: 1,
        fresh_at: Some(boottime()),
        leader: members.clone().find(|(who, _)| leads(who)).map(|(who, at)| LeaderRoute {
            name: name(who),
            term: Term(leader.unwrap().1),
            serving: true,
            address: address(*at),
            confirmed_until: None,
        }),
        members: members
            .map(|(who, at)| MemberRoute {
                name: name(who),
                address: address(*at),
                role: if leads(who) { Role::Leader } else { Role::Replica },
                state: if leads(who) { "running" } else { "streaming" }.into(),
                streaming: !leads(who),
                timeline: Some(Timeline(1)),
                lsn: Some(Lsn(0x300_0060)),
                lag_bytes: Some(0),
                noloadbalance: false,
                api_url: None,
                sync: SyncRole::None,
            })
            .collect(),
        max_lag: 1_000_000,
        paused: false,
        sync_mode: "quorum".into(),
        notes: Vec::new(),
    }
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Bounds a wait.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than {PATIENCE:?}"),
    }
}
