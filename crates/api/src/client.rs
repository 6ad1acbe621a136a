//! A small HTTP/1.1 client: one request, one connection, one deadline for all of it.
//! Deliberately absent: redirects, keeping connections.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Secret;

/// No answer of an agent is longer: `/metrics` of a large cluster is a few hundred kilobytes.
const BODY_LIMIT: usize = 4 << 20;

/// Asks agents.
#[derive(Clone, Debug)]
pub struct Client {
    auth: Option<(String, Secret)>,
    agent: String,
    tls: Option<Arc<rustls::ClientConfig>>,
    timeout: Duration,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address isn't `http://host:port/...`.
    #[error("'{0}' is not an address like http://host:8008/path")]
    Address(String),
    /// HTTPS was not set up.
    #[error("{0} speaks HTTPS, which this client was not told how to trust")]
    NoTls(String),
    /// No TLS with it.
    #[error("{address} can't be trusted, or does not trust this client")]
    Tls {
        /// Whom.
        address: String,
        /// What happened.
        source: std::io::Error,
    },
    /// Nothing listens there, or it can't be reached.
    #[error("no connection to {address}")]
    Connect {
        /// Whom.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("{address} did not answer in full")]
    Broken {
        /// Whom.
        address: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{address} did not answer within {} ms", .after.as_millis())]
    TimedOut {
        /// Whom.
        address: String,
        /// How long it could take.
        after: Duration,
    },
    /// The answer is not what the path promises.
    #[error("{address} answered something else than expected")]
    Decode {
        /// Whom.
        address: String,
        /// The difference.
        source: serde_json::Error,
    },
    /// The answer says no.
    #[error("{address} answered {status}: {text}")]
    Status {
        /// Whom.
        address: String,
        /// How.
        status: StatusCode,
        /// Its words.
        text: String,
    },
}

impl Client {
    /// A client without credentials.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        let agent = concat!("pgherd/", env!("CARGO_PKG_VERSION")).to_owned();
        Self { auth: None, agent, tls: None, timeout }
    }

    /// The same with HTTP Basic credentials.
    #[must_use]
    pub fn with_auth(mut self, username: impl Into<String>, password: Secret) -> Self {
        self.auth = Some((username.into(), password));
        self
    }

    /// The same for somebody, who is named to whoever is asked: `root@host`.
    #[must_use]
    pub fn on_behalf_of(mut self, who: &str) -> Self {
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '(' | ')' | '\\');
        let who: String = who.chars().filter(|c| plain(*c)).collect();
        self.agent = format!("{} ({who})", self.agent);
        self
    }

    /// The same for addresses with https.
    #[must_use]
    pub fn with_tls(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// The same with another deadline.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// One request, with a JSON body or none. Any status is an answer.
    ///
    /// # Errors
    /// [`ClientError`] when there is no complete answer in time.
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response, ClientError> {
        let (scheme, address, path) = split(url)?;
        let tls = match (scheme, &self.tls) {
            (Scheme::Http, _) => None,
            (Scheme::Https, Some(tls)) => Some(Arc::clone(tls)),
            (Scheme::Https, None) => return Err(ClientError::NoTls(address.to_owned())),
        };
        let text = body.map(ToString::to_string).unwrap_or_default();
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address)
            .header(header::CONNECTION, "close")
            .header(header::USER_AGENT, &self.agent);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some((username, password)) = &self.auth {
            request = request.header(header::AUTHORIZATION, basic(username, password));
        }
        let request = request
            .body(Full::new(Bytes::from(text)))
            .map_err(|_| ClientError::Address(url.to_owned()))?;
        tokio::time::timeout(self.timeout, Box::pin(exchange(address, tls, request)))
            .await
            .unwrap_or_else(|_| {
                Err(ClientError::TimedOut { address: address.to_owned(), after: self.timeout })
            })
    }

    /// Gets a JSON body.
    ///
    /// # Errors
    /// [`ClientError`]; an answer of 400 and above is one too.
    pub async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, ClientError> {
        let (_, address, _) = split(url)?;
        let response = self.request(Method::GET, url, None).await?;
        if response.status.as_u16() >= 400 {
            return Err(ClientError::Status {
                address: address.to_owned(),
                status: response.status,
                text: response.text(),
            });
        }
        serde_json::from_slice(&response.body)
            .map_err(|source| ClientError::Decode { address: address.to_owned(), source })
    }
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The value of an `Authorization` header.
#[must_use]
pub fn basic(username: &str, password: &Secret) -> String {
    let plain = format!("{username}:{}", password.reveal());
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
}

/// The origin of an `api_url`: `http://host:port/patroni` -> `http://host:port`.
#[must_use]
pub fn origin(url: &str) -> Option<String> {
    split(url).ok().map(|(scheme, address, _)| match scheme {
        Scheme::Http => format!("http://{address}"),
        Scheme::Https => format!("https://{address}"),
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scheme {
    Http,
    Https,
}

/// Scheme, `host:port` and path of a URL.
fn split(url: &str) -> Result<(Scheme, &str, &str), ClientError> {
    let wrong = || ClientError::Address(url.to_owned());
    let (scheme, rest) = match url.split_once("://").ok_or_else(wrong)? {
        ("http", rest) => (Scheme::Http, rest),
        ("https", rest) => (Scheme::Https, rest),
        _ => return Err(wrong()),
    };
    let at = rest.find('/').unwrap_or(rest.len());
    let (address, path) = rest.split_at(at);
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() {
        return Err(wrong());
    }
    Ok((scheme, address, if path.is_empty() { "/" } else { path }))
}

async fn exchange(
    address: &str,
    tls: Option<Arc<rustls::ClientConfig>>,
    request: http::Request<Full<Bytes>>,
) -> Result<Response, ClientError> {
    let connect = |source| ClientError::Connect { address: address.to_owned(), source };
    let stream = TcpStream::connect(address).await.map_err(connect)?;
    stream.set_nodelay(true).map_err(connect)?;
    let Some(tls) = tls else { return talk(address, TokioIo::new(stream), request).await };
    let failed = |source| ClientError::Tls { address: address.to_owned(), source };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|error| failed(std::io::Error::other(error)))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(failed)?;
    talk(address, TokioIo::new(stream), request).await
}

async fn talk<S>(
    address: &str,
    stream: S,
    request: http::Request<Full<Bytes>>,
) -> Result<Response, ClientError>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Broken {
        address: address.to_owned(),
        source,
    };
    let handshake = hyper::client::conn::http1::handshake(stream).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(error.into()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(broken)?;
        Ok(Response { status: parts.status, body: body.to_bytes() })
    };
    let mut answer = std::pin::pin!(answer);
    let mut connection = std::pin::pin!(connection);
    // The connection is driven here, not in a task of its own; when it ends first (the server
    // closes at once), what it read is still in the answer's hands.
    tokio::select! {
        answer = &mut answer => return answer,
        _ = &mut connection => {}
    }
    answer.await
}
