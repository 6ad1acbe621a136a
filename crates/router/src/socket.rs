//! Socket options, and binding listeners. Leaves what runs over the sockets to others.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::config::StartError;

/// The kernel cuts it to `net.core.somaxconn`; after a failover every pool reconnects at once.
const BACKLOG: i32 = 4096;
/// How long bytes to a server may stay unacknowledged before the connection counts as dead.
const SERVER_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Listens on `address` for `service`. `others` are the addresses of the same service.
pub(crate) fn listen(
    service: &'static str,
    address: SocketAddr,
    others: &[SocketAddr],
) -> Result<TcpListener, StartError> {
    bind(address, others).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            StartError::AddressInUse { service, address }
        } else {
            StartError::Bind { service, address, source }
        }
    })
}

fn bind(address: SocketAddr, others: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` alone takes IPv4 too; next to an IPv4 address of the same port it must not.
        let v4_listed = others.iter().any(|o| o.is_ipv4() && o.port() == address.port());
        socket.set_only_v6(v4_listed)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Options of a client's socket.
pub(crate) fn tune_client(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&keepalive())
}

/// Options of a server's socket.
pub(crate) fn tune_server(stream: &TcpStream) -> io::Result<()> {
    tune_client(stream)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(SERVER_USER_TIMEOUT))
}

/// 30/10/3: a peer that vanished is noticed after a minute of silence.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3)
}

/// Sends FIN. A socket that is dropped with unread bytes would otherwise only send RST, which can
/// overtake what was written before.
pub(crate) fn finish(stream: &TcpStream) {
    // It may be gone already; then there is nobody to tell.
    let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}

/// Raises the limit of open files as far as the system lets us, and says when that is too little:
/// a session needs two.
pub(crate) fn raise_file_limit(max_connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_err() {
        tracing::debug!("the limit of open files could not be raised");
    }
    let needed = (max_connections as u64).saturating_mul(2).saturating_add(64);
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if have < needed {
        tracing::warn!(
            have,
            needed,
            "the limit of open files (ulimit -n) is too low for max_connections"
        );
    }
}
