//! The router's settings, and what can keep it from starting.
//! Leaves reading files and arguments to the binary.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::confirm::TermCheck;
use crate::table::ReadFallback;

/// What the router listens on and how patient it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouterConfig {
    /// Addresses of the write port.
    pub write: Vec<SocketAddr>,
    /// Addresses of the read port.
    pub read: Vec<SocketAddr>,
    /// Addresses of the dashboard.
    pub http: Vec<SocketAddr>,
    /// How long a new connection waits for a server before it gets an error.
    pub hold: Duration,
    /// How many connections may wait at once.
    pub max_held: usize,
    /// How many connections there may be on both ports together.
    pub max_connections: usize,
    /// Where read sessions go when no replica is eligible.
    pub read_fallback: ReadFallback,
    /// A path under which a proxy shows the dashboard without taking it off, like `/pg`; or empty.
    pub path_prefix: String,
    /// How long a client may take for its start-up packet.
    pub startup_timeout: Duration,
    /// How long one attempt to connect to a server may take.
    pub connect_timeout: Duration,
    /// A view that nobody confirmed for this long is shown as stale.
    pub stale_after: Duration,
    /// Whether write sessions need a term that somebody has confirmed lately.
    pub term_check: TermCheck,
    /// In synchronous modes: cancel requests for a backend whose commit waits for replicas are dropped.
    pub keeps_sync_waits: bool,
}

impl Default for RouterConfig {
    fn default() -> Self {
        let any = |port| vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
        Self {
            write: any(5432),
            read: any(5433),
            http: any(7000),
            hold: Duration::from_secs(30),
            max_held: 10_000,
            max_connections: 10_000,
            read_fallback: ReadFallback::Leader,
            path_prefix: String::new(),
            startup_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            stale_after: Duration::from_secs(3),
            term_check: TermCheck::Off,
            keeps_sync_waits: true,
        }
    }
}

/// Why the router can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error(
        "the {service} port can't listen on {address}: the address is in use; \
         `ss -ltnp 'sport = :{port}'` shows by whom: stop that, or give the router another address",
        port = address.port()
    )]
    AddressInUse {
        /// `write`, `read` or `http`.
        service: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The address can't be bound for another reason.
    #[error("the {service} port can't listen on {address}{}", hint(source))]
    Bind {
        /// `write`, `read` or `http`.
        service: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Neither a write nor a read address was given.
    #[error("the router has nothing to listen on: give it a write or a read address")]
    NoListener,
}

fn hint(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied {
        " (ports below 1024 need CAP_NET_BIND_SERVICE or a larger port number)"
    } else if source.kind() == io::ErrorKind::AddrNotAvailable {
        " (no interface of this machine has that address)"
    } else {
        ""
    }
}
