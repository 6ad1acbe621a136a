//! Where a store member listens: parsing, and opening a byte stream to it. Leaves HTTP/2 and
//! failover to `connection` and the parent. TLS will be a third kind of address here.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// One member's address: `http://host:port`, `host:port` or `unix:///path`.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Endpoint {
    address: Address,
}

#[derive(Clone, PartialEq, Eq, Debug, Hash)]
enum Address {
    Tcp { authority: String },
    Unix { path: PathBuf },
}

/// A text that is not an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{text}' is not a store endpoint: {why}; write http://host:port, host:port or unix:///path"
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
            Address::Tcp { authority } => authority,
            Address::Unix { .. } => "localhost",
        }
    }

    pub(crate) async fn open(&self) -> io::Result<Pin<Box<dyn Stream>>> {
        Ok(match &self.address {
            Address::Tcp { authority } => {
                let stream = TcpStream::connect(authority.as_str()).await?;
                stream.set_nodelay(true)?;
                Box::pin(stream)
            }
            Address::Unix { path } => Box::pin(UnixStream::connect(path).await?),
        })
    }
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
        if text.starts_with("https://") {
            return Err(invalid("TLS to the store is not supported yet"));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
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
        Ok(Self { address: Address::Tcp { authority: authority.to_owned() } })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { authority } => write!(f, "http://{authority}"),
            Address::Unix { path } => write!(f, "unix://{}", path.display()),
        }
    }
}
