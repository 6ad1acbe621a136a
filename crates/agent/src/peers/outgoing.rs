//! The stream to one peer: connects for ever, says how a stream ended, never keeps a message for
//! later.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderValue;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use pgherd_core::NodeName;
use pgherd_core::peer::{PeerLost, PeerMessage};
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::{Address, Identity, NODE_HEADER, PROTOCOL, SCOPE_HEADER, SECRET_HEADER, frame};
use crate::event::Event;

const CONNECT_LIMIT: Duration = Duration::from_millis(300);
const UPGRADE_LIMIT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Data that nobody acknowledges for this long ends the connection: what would arrive later is old.
const UNACKNOWLEDGED_MS: u32 = 1_000;

/// Everything that one stream needs.
pub(super) struct Stream {
    pub(super) identity: Arc<Identity>,
    pub(super) to: NodeName,
    pub(super) address: Address,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) messages: mpsc::Receiver<PeerMessage>,
    pub(super) connected: Arc<AtomicBool>,
    pub(super) events: mpsc::Sender<Event>,
}

/// Ends when the loop is gone.
pub(super) async fn run(mut stream: Stream) {
    let mut pause = FIRST_PAUSE;
    loop {
        let end = match connect(&stream).await {
            Ok(connection) => {
                pause = FIRST_PAUSE;
                // What the loop sent before it saw the last connection end.
                while stream.messages.try_recv().is_ok() {}
                stream.connected.store(true, Ordering::Relaxed);
                tracing::debug!(peer = %stream.to, "stream open");
                let end = pump(connection, &mut stream.messages).await;
                stream.connected.store(false, Ordering::Relaxed);
                tracing::debug!(peer = %stream.to, error = %end, "stream ended");
                end
            }
            Err(error) => error,
        };
        if let Some(lost) = evidence(&stream.to, &end)
            && stream.events.send(Event::PeerLost(lost)).await.is_err()
        {
            return;
        }
        if stream.events.is_closed() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What an error proves. Silence proves nothing, and neither does a middle box's refusal.
fn evidence(to: &NodeName, error: &io::Error) -> Option<PeerLost> {
    use io::ErrorKind as Kind;
    let kind = error.kind();
    let ended = [Kind::ConnectionReset, Kind::BrokenPipe, Kind::UnexpectedEof].contains(&kind);
    if kind == Kind::ConnectionRefused {
        Some(PeerLost::Refused(to.clone()))
    } else {
        ended.then(|| PeerLost::Closed(to.clone()))
    }
}

async fn connect(stream: &Stream) -> io::Result<hyper::upgrade::Upgraded> {
    let Address { host, port, secure } = &stream.address;
    let tcp = timeout(CONNECT_LIMIT, TcpStream::connect((host.as_str(), *port))).await??;
    tcp.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&tcp, UNACKNOWLEDGED_MS)?;
    let open = async {
        if !secure {
            return upgrade(stream, TokioIo::new(tcp)).await;
        }
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(Arc::clone(&stream.tls)).connect(name, tcp).await;
        let tls = tls.inspect_err(|error| {
            tracing::warn!(peer = %stream.to, %error, "no TLS with this peer");
        });
        upgrade(stream, TokioIo::new(tls?)).await
    };
    timeout(UPGRADE_LIMIT, open).await?
}

fn request(stream: &Stream) -> Result<http::Request<Empty<bytes::Bytes>>, http::Error> {
    let Address { host, port, .. } = &stream.address;
    let identity = &stream.identity;
    let secret = |text: &str| {
        let mut value = HeaderValue::from_str(text)?;
        value.set_sensitive(true);
        Ok::<_, http::Error>(value)
    };
    let mut request = http::Request::get(pgherd_api::rest::paths::PEER)
        .header(HOST, format!("{host}:{port}"))
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PROTOCOL)
        .header(NODE_HEADER, identity.name.as_str())
        .header(SCOPE_HEADER, &identity.scope);
    if let Some(known) = &identity.secret {
        request = request.header(SECRET_HEADER, secret(known.reveal())?);
    }
    if let Some(login) = &identity.login {
        let basic = pgherd_api::client::basic(&login.username, &login.password);
        request = request.header(AUTHORIZATION, secret(&basic)?);
    }
    request.body(Empty::new())
}

async fn upgrade<S>(stream: &Stream, io: S) -> io::Result<hyper::upgrade::Upgraded>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let request = request(stream).map_err(io::Error::other)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(io::Error::other)?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            tracing::warn!(
                peer = %stream.to, status = %response.status(),
                "the peer refuses this node: compare names, scope, peer secret and REST login"
            );
            return Err(io::Error::other("refused"));
        }
        hyper::upgrade::on(response).await.map_err(io::Error::other)
    };
    // The connection's own future reads the answer, and ends with the upgrade.
    let drive = async { connection.with_upgrades().await.map_err(io::Error::other) };
    tokio::try_join!(talk, drive).map(|(upgraded, ())| upgraded)
}

/// Sends until the connection ends; the peer sends nothing on it, so what can be read is its end.
async fn pump(
    connection: hyper::upgrade::Upgraded,
    messages: &mut mpsc::Receiver<PeerMessage>,
) -> io::Error {
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(connection));
    let mut unexpected = [0; 64];
    loop {
        tokio::select! {
            message = messages.recv() => {
                let Some(message) = message else { return io::Error::other("no longer needed") };
                match frame::write(&mut writer, &message).await {
                    Ok(()) => {}
                    Err(frame::FrameError::Io(error)) => return error,
                    Err(error) => tracing::error!(%error, "a message can't be sent"),
                }
            }
            read = reader.read(&mut unexpected) => match read {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }
}
