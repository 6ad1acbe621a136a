//! Where a store member listens: parsing, and opening a byte stream to it. Leaves certificates to
//! `tls`, HTTP/2 to `connection`, and failover to the parent.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::tls::Tls;
use crate::error::Obstacle;

/// One member's address: `http://host:port`, `https://host:port`, `host:port` or `unix:///path`.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Endpoint {
    address: Address,
}

#[derive(Clone, PartialEq, Eq, Debug, Hash)]
enum Address {
    Tcp { authority: String, scheme: Scheme },
    Unix { path: PathBuf },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
enum Scheme {
    Http,
    Https,
}

/// A text that is not an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{text}' is not a store endpoint: {why}; write http://host:port, https://host:port, host:port or unix:///path"
)]
pub struct InvalidEndpoint {
    text: String,
    why: &'static str,
}

/// A byte stream to a member, whatever it runs over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

impl Endpoint {
    /// The `:authority` of requests. A Unix socket has none, and etcd wants one that looks like a host.
    pub(crate) fn authority(&self) -> &str {
        match &self.address {
            Address::Tcp { authority, .. } => authority,
            Address::Unix { .. } => "localhost",
        }
    }

    /// Host and port; none: a socket of this machine.
    pub(crate) fn tcp(&self) -> Option<&str> {
        match &self.address {
            Address::Tcp { authority, .. } => Some(authority),
            Address::Unix { .. } => None,
        }
    }

    /// The `:scheme` of requests.
    pub(crate) fn scheme(&self) -> &'static str {
        match &self.address {
            Address::Tcp { scheme: Scheme::Https, .. } => "https",
            Address::Tcp { scheme: Scheme::Http, .. } | Address::Unix { .. } => "http",
        }
    }

    pub(crate) async fn open(&self, tls: &Tls) -> Result<Pin<Box<dyn Stream>>, Obstacle> {
        let unreachable = |error: std::io::Error| Obstacle::Unreachable(error.to_string());
        let (authority, scheme) = match &self.address {
            Address::Tcp { authority, scheme } => (authority.as_str(), scheme),
            Address::Unix { path } => {
                return Ok(Box::pin(UnixStream::connect(path).await.map_err(unreachable)?));
            }
        };
        let stream = TcpStream::connect(authority).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        match scheme {
            Scheme::Http => Ok(Box::pin(stream)),
            Scheme::Https => match tls.handshake(host(authority), stream).await {
                Ok(stream) => Ok(Box::pin(stream)),
                Err(Obstacle::Broken(_)) if speaks_plain(authority).await => {
                    Err(Obstacle::SpeaksPlain)
                }
                Err(obstacle) => Err(obstacle),
            },
        }
    }

    /// After a connection without TLS was closed without a word: does the member want TLS?
    pub(crate) async fn wants_tls(&self, tls: &Tls) -> bool {
        let Address::Tcp { authority, scheme: Scheme::Http } = &self.address else { return false };
        let Ok(stream) = TcpStream::connect(authority.as_str()).await else { return false };
        match tls.handshake(host(authority), stream).await {
            // Whatever it thinks of certificates: it answered in TLS.
            Ok(_)
            | Err(
                Obstacle::ServerCertificate(_) | Obstacle::ClientCertificate(_) | Obstacle::Tls(_),
            ) => true,
            Err(
                Obstacle::NoEndpoint
                | Obstacle::Lookup(_)
                | Obstacle::TimeUp
                | Obstacle::Unreachable(_)
                | Obstacle::Silent(_)
                | Obstacle::Broken(_)
                | Obstacle::NoLeader
                | Obstacle::Stale { .. }
                | Obstacle::SpeaksTls
                | Obstacle::SpeaksPlain
                | Obstacle::File { .. },
            ) => false,
        }
    }
}

/// Whether a server that hung up on TLS answers to HTTP/2 without it: its first frame is settings.
async fn speaks_plain(authority: &str) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const SETTINGS: u8 = 4;
    let asked = async {
        let mut stream = TcpStream::connect(authority).await?;
        stream.write_all(PREFACE).await?;
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await?;
        Ok::<_, std::io::Error>(frame[3] == SETTINGS)
    };
    asked.await.unwrap_or(false)
}

/// The host of an authority, without the brackets of an IPv6 address.
fn host(authority: &str) -> &str {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = |why| InvalidEndpoint { text: text.to_owned(), why };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(invalid("the socket's path must be absolute"));
            }
            return Ok(Self { address: Address::Unix { path: path.into() } });
        }
        let (scheme, rest) = match text.strip_prefix("https://") {
            Some(rest) => (Scheme::Https, rest),
            None => (Scheme::Http, text.strip_prefix("http://").unwrap_or(text)),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let parsed: http::uri::Authority =
            authority.parse().map_err(|_| invalid("it has no legal host and port"))?;
        if parsed.port_u16().is_none() {
            return Err(invalid("it has no port"));
        }
        if authority.contains('@') {
            return Err(InvalidEndpoint {
                text: "(text with a user in it)".to_owned(),
                why: "user and password are settings of their own",
            });
        }
        Ok(Self { address: Address::Tcp { authority: authority.to_owned(), scheme } })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { authority, scheme: Scheme::Http } => write!(f, "http://{authority}"),
            Address::Tcp { authority, scheme: Scheme::Https } => write!(f, "https://{authority}"),
            Address::Unix { path } => write!(f, "unix://{}", path.display()),
        }
    }
}
