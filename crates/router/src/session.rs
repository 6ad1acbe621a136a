//! One connection's control plane: its head, a server for it, the negotiation of encryption, the
//! login up to the first ReadyForQuery; or a proper PostgreSQL error. Leaves the bytes after that
//! to `relay`, finding the server to `connect`, and for how long another one will do to `answer`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::answer::{Heard, Loss, Next, after, first_word};
use crate::cancel;
use crate::connect::{NoServer, Search};
use crate::registry::{Closed, Seat, Session, Side};
use crate::relay::{Ending, Relay};
use crate::shared::Shared;
use crate::socket::{finish, tune_client};
use crate::stats::{PortStats, Slot};
use crate::table::Port;
use crate::wire::{HEAD_MAX, Head, HeadError, LoginWalk, fatal, head};

/// A client may ask for TLS and for GSSAPI, once each, before it starts up.
const REQUESTS_MAX: usize = 2;
/// How long a client that was refused has to take its error.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection that was just accepted.
pub(crate) struct Arrival {
    pub(crate) client: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) port: Port,
    pub(crate) slot: Slot,
    /// False: `max_connections` is reached; it may only cancel, or be told so.
    pub(crate) admitted: bool,
}

/// Why a connection doesn't become a session.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("no start-up packet came within {} s", .0.as_secs())]
    StartupTimeout(Duration),
    #[error("the client left")]
    ClientGone,
    #[error("too many encryption requests")]
    TooManyRequests,
    #[error("sorry, too many clients already: the router's limit is {0} connections")]
    ConnectionLimit(usize),
    #[error(transparent)]
    NoServer(#[from] NoServer),
    #[error("{0} accepts connections but doesn't answer")]
    ServerSilent(String),
}

/// Serves one connection from its first byte to its last.
///
/// The opening's state is large, and gone before the session's long life begins: it is boxed, and
/// so is what lives on, because a future keeps room for everything that it ever held.
pub(crate) fn serve(shared: Arc<Shared>, arrival: Arrival) -> impl Future<Output = ()> + Send {
    let opening = Box::pin(open(shared, arrival));
    async move {
        let Some(mut opened) = opening.await else { return };
        let ending = match opened.ended {
            Some(ending) => ending,
            None => opened.relay.run().await,
        };
        if let Ending::Aborted(side) = ending {
            opened.seat.aborted_by(side);
        }
        log(opened.seat.session(), ending);
    }
}

/// One line for each session, like HAProxy's `tcplog`.
fn log(session: &Session, ending: Ending) {
    let (how, by) = match ending {
        Ending::Finished(side) => ("closed", format!("{side:?}")),
        Ending::Aborted(side) => ("aborted", format!("{side:?}")),
        Ending::Closed(why) => ("closed", format!("router: {}", why.as_str())),
    };
    tracing::info!(
        client = %session.client,
        port = %session.port,
        server = %session.target.name,
        address = %session.target.address,
        term = session.target.term.map(|term| term.0),
        seconds = session.started.elapsed().as_secs_f32(),
        bytes_in = session.bytes_in.load(Relaxed),
        bytes_out = session.bytes_out.load(Relaxed),
        by,
        "session {how}"
    );
}

fn log_move(session: &Session, loss: Loss) {
    tracing::info!(
        client = %session.client,
        port = %session.port,
        server = %session.target.name,
        address = %session.target.address,
        term = session.target.term.map(|term| term.0),
        seconds = session.started.elapsed().as_secs_f32(),
        why = match loss {
            Loss::Ended(why) => why.as_str(),
            Loss::Failed => "server_failed",
        },
        "session moves: its server hadn't answered yet"
    );
}

/// A session that may be left to the data plane.
struct Opened {
    relay: Relay,
    seat: Seat,
    ended: Option<Ending>,
    _slot: Slot,
}

async fn open(shared: Arc<Shared>, arrival: Arrival) -> Option<Box<Opened>> {
    let shared = &shared;
    let Arrival { client, peer, port, slot, admitted } = arrival;
    let patience = shared.config.startup_timeout;
    let mut opening = Opening { client, bytes: Vec::new(), head: None, requests: 0, patience };
    let limit = shared.config.max_connections;
    match opening.join(shared, port, peer, admitted.then_some(()).ok_or(limit)).await {
        Ok(Joined::Session { server, seat, login }) => {
            let mut relay = Relay::new(opening.client, server, Arc::clone(seat.session()));
            let ended = match login {
                Login::Plain => watch_login(&mut relay, &seat).await,
                Login::Blind => None,
            };
            Some(Box::new(Opened { relay, seat, ended, _slot: slot }))
        }
        Ok(Joined::Cancelled) => None,
        Ok(Joined::Closed(seat, ending)) => {
            finish(&opening.client);
            log(seat.session(), ending);
            None
        }
        Err(refusal) => {
            count(shared.stats.port(port), &refusal);
            tracing::debug!(client = %peer, port = %port, %refusal, "connection refused");
            opening.refuse(&refusal).await;
            None
        }
    }
}

/// Relays the login and catches the backend's key on its way.
async fn watch_login(relay: &mut Relay, seat: &Seat) -> Option<Ending> {
    let mut walk = LoginWalk::new();
    relay
        .run_watched(|bytes| {
            walk.feed(bytes);
            if let Some(key) = walk.take_key() {
                seat.learn_key(key);
            }
            walk.is_done()
        })
        .await
}

fn count(stats: &PortStats, refusal: &Refusal) {
    let counter = match refusal {
        Refusal::Head(_) | Refusal::TooManyRequests => &stats.protocol_errors,
        Refusal::StartupTimeout(_) => &stats.startup_timeouts,
        Refusal::ClientGone | Refusal::NoServer(NoServer::ClientGone) => &stats.gone_early,
        Refusal::ConnectionLimit(_) => &stats.refused_connection_limit,
        Refusal::NoServer(NoServer::TooManyWait { .. }) => &stats.refused_held_limit,
        Refusal::NoServer(NoServer::InTime(_) | NoServer::Stopping) | Refusal::ServerSilent(_) => {
            &stats.refused_no_server
        }
    };
    counter.fetch_add(1, Relaxed);
}

impl Refusal {
    fn silent(session: &Session) -> Self {
        Self::ServerSilent(session.target.name.to_string())
    }

    /// SQLSTATE and hint; `None` when there is nobody to tell.
    fn sqlstate(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Head(_) | Self::TooManyRequests => Some(("08P01", "")),
            Self::StartupTimeout(_) | Self::ClientGone | Self::NoServer(NoServer::ClientGone) => {
                None
            }
            Self::ConnectionLimit(_) => Some(("53300", "")),
            Self::NoServer(NoServer::Stopping) => Some(("57P03", "")),
            Self::NoServer(NoServer::InTime(_) | NoServer::TooManyWait { .. })
            | Self::ServerSilent(_) => {
                Some(("57P03", "The router's dashboard shows the state of the cluster."))
            }
        }
    }
}

/// What a connection became.
enum Joined {
    Session {
        server: TcpStream,
        seat: Seat,
        login: Login,
    },
    /// It was a cancel request, and is done.
    Cancelled,
    /// A session that ended before its start-up packet.
    Closed(Seat, Ending),
}

/// What came of a server.
enum Begun {
    /// The session is bound to it.
    Bound(Login),
    /// The client wants a query cancelled after all.
    Cancel,
    /// It is gone.
    Lost(Loss),
}

impl From<Closed> for Begun {
    fn from(why: Closed) -> Self {
        Self::Lost(Loss::Ended(why))
    }
}

/// Whether the login can be watched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Login {
    Plain,
    /// Encrypted, or not understood: nothing to see.
    Blind,
}

/// The client before it has a session.
struct Opening {
    client: TcpStream,
    /// Bytes read from the client that no server has answered; at most one head and what came with it.
    bytes: Vec<u8>,
    /// The head in `bytes`, as long as it is unanswered.
    head: Option<Head>,
    requests: usize,
    patience: Duration,
}

impl Opening {
    async fn join(
        &mut self,
        shared: &Arc<Shared>,
        port: Port,
        peer: SocketAddr,
        admitted: Result<(), usize>,
    ) -> Result<Joined, Refusal> {
        // A socket that can't be tuned is one that is gone.
        tune_client(&self.client).map_err(|_| Refusal::ClientGone)?;
        if self.next_head().await? == Head::Cancel {
            cancel::forward(shared, port, &self.bytes).await;
            return Ok(Joined::Cancelled);
        }
        admitted.map_err(Refusal::ConnectionLimit)?;
        let mut search = Search::begin(shared, port, peer);
        let mut failures = 0;
        loop {
            let (mut server, mut seat) = search.find(&self.client).await?;
            let session = Arc::clone(seat.session());
            let loss = match self.begin(&mut server, &session).await? {
                Begun::Bound(login) => return Ok(Joined::Session { server, seat, login }),
                // It belongs to one backend, and is never sent anew.
                Begun::Cancel => {
                    drop((server, seat));
                    cancel::forward(shared, port, &self.bytes).await;
                    return Ok(Joined::Cancelled);
                }
                Begun::Lost(loss) => loss,
            };
            let next = after(loss, session.bond(), failures);
            if loss == Loss::Failed {
                failures += 1;
                seat.aborted_by(Side::Server);
                search.broke_off(&session.target);
            }
            match next {
                Next::Move => seat.moves(),
                Next::End(why) => return Ok(Joined::Closed(seat, Ending::Closed(why))),
                Next::Refuse => return Err(Refusal::silent(&session)),
            }
            log_move(&session, loss);
        }
    }

    /// Talks to a server until the session is bound to it, or has lost it.
    async fn begin(&mut self, server: &mut TcpStream, session: &Session) -> Result<Begun, Refusal> {
        tokio::select! {
            biased;
            why = std::future::poll_fn(|cx| session.poll_closed(cx)) => Ok(why.into()),
            begun = self.negotiate(server, session) => begun,
        }
    }

    /// Forwards the client's requests and the server's answers up to the start-up packet, or to
    /// where encryption hides it. May be dropped anywhere, and begun again with another server.
    async fn negotiate(
        &mut self,
        server: &mut TcpStream,
        session: &Session,
    ) -> Result<Begun, Refusal> {
        loop {
            let head = match self.head {
                Some(head) => head,
                None => self.next_head().await?,
            };
            let login = match head {
                Head::Ssl | Head::Gss => None,
                Head::Startup => Some(Login::Plain),
                Head::DirectTls => Some(Login::Blind),
                Head::Cancel => return Ok(Begun::Cancel),
            };
            if let Some(login) = login {
                return Ok(self.start_up(server, session, login).await);
            }
            if self.forward(server, session).await.is_err() {
                return Ok(Begun::Lost(Loss::Failed));
            }
            let mut answer = [0];
            let read = timeout(self.patience, server.read_exact(&mut answer)).await;
            if read.map_err(|_| Refusal::silent(session))?.is_err() {
                return Ok(Begun::Lost(Loss::Failed));
            }
            session.bytes_out.fetch_add(1, Relaxed);
            if answer[0] == b'N' {
                self.answer(b'N').await?;
                continue;
            }
            // 'S' or 'G', or the error of a server from before encryption.
            if let Err(why) = session.bind() {
                return Ok(why.into());
            }
            self.answer(answer[0]).await?;
            return Ok(Begun::Bound(Login::Blind));
        }
    }

    /// Forwards the last head, and waits for the server's first word, so that another server can be
    /// had until then. The head stays in `bytes`, which are never more than [`HEAD_MAX`].
    async fn start_up(&self, server: &mut TcpStream, session: &Session, login: Login) -> Begun {
        let bare = matches!(head(&self.bytes), Ok(Some((_, len))) if len == self.bytes.len());
        // What came behind it may be a statement, which mustn't be sent twice.
        if !bare && let Err(why) = session.bind() {
            return why.into();
        }
        if self.forward(server, session).await.is_err() {
            return Begun::Lost(Loss::Failed);
        }
        if bare {
            match first_word(&self.client, server, session).await {
                Heard::Something => {}
                Heard::Failure => return Begun::Lost(Loss::Failed),
            }
        }
        session.bind().map_or_else(Begun::from, |()| Begun::Bound(login))
    }

    async fn forward(&self, server: &mut TcpStream, session: &Session) -> io::Result<()> {
        session.bytes_in.fetch_add(self.bytes.len() as u64, Relaxed);
        server.write_all(&self.bytes).await
    }

    async fn answer(&mut self, byte: u8) -> Result<(), Refusal> {
        self.client.write_all(&[byte]).await.map_err(|_| Refusal::ClientGone)?;
        self.bytes.clear();
        self.head = None;
        Ok(())
    }

    /// Reads the next head as a whole, within the deadline.
    async fn next_head(&mut self) -> Result<Head, Refusal> {
        let patience = self.patience;
        let found = timeout(patience, self.read_head()).await;
        let found = found.map_err(|_| Refusal::StartupTimeout(patience))??;
        self.head = Some(found);
        if matches!(found, Head::Ssl | Head::Gss) {
            self.requests += 1;
            if self.requests > REQUESTS_MAX {
                return Err(Refusal::TooManyRequests);
            }
        }
        Ok(found)
    }

    async fn read_head(&mut self) -> Result<Head, Refusal> {
        loop {
            if let Some((head, _)) = head(&self.bytes)? {
                return Ok(head);
            }
            // The head is never longer than this, so it is never longer behind it either.
            let room = HEAD_MAX.saturating_sub(self.bytes.len()).max(1);
            let mut limited = (&mut self.client).take(room as u64);
            match limited.read_buf(&mut self.bytes).await {
                Ok(0) | Err(_) => return Err(Refusal::ClientGone),
                Ok(_) => {}
            }
        }
    }

    /// Says why not, in PostgreSQL's words. Who asked for encryption is first told that there is
    /// none: libpq shows no error that comes in the place of that answer.
    async fn refuse(mut self, refusal: &Refusal) {
        let Some((sqlstate, hint)) = refusal.sqlstate() else { return };
        while matches!(self.head, Some(Head::Ssl | Head::Gss))
            && !matches!(refusal, Refusal::Head(_) | Refusal::TooManyRequests)
        {
            if self.answer(b'N').await.is_err() || self.next_head().await.is_err() {
                return;
            }
        }
        if self.head == Some(Head::DirectTls) {
            return;
        }
        let packet = fatal(sqlstate, &refusal.to_string(), hint);
        let farewell = async {
            if self.client.write_all(&packet).await.is_err() {
                return;
            }
            finish(&self.client);
            // Unread bytes would turn the close into an RST that overtakes the error.
            let mut sink = [0; 512];
            while matches!(self.client.read(&mut sink).await, Ok(n) if n > 0) {}
        };
        if timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!("a refused client didn't leave by itself");
        }
    }
}
