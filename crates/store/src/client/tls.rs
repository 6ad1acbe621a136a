//! TLS to the store's members: certificates from files, looked at again for each new connection, so
//! that whoever rotates them restarts nobody. Leaves opening connections to `endpoint`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, Error as TlsError, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{CertificateTrouble, Obstacle};

/// The files of TLS; all PEM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsFiles {
    /// Who may have signed the members' certificates; none: the system's authorities.
    pub ca: Option<PathBuf>,
    /// Our certificate with its chain, for members that ask for one.
    pub cert: Option<PathBuf>,
    /// Its key, not encrypted; none: it is in the certificate's file.
    pub key: Option<PathBuf>,
}

/// The files, and what was made of their last contents.
#[derive(Default)]
pub(crate) struct Tls {
    files: TlsFiles,
    made: Mutex<Option<(Contents, Arc<ClientConfig>)>>,
}

#[derive(PartialEq, Eq, Default)]
struct Contents {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Tls {
    pub(crate) fn new(files: TlsFiles) -> Self {
        Self { files, made: Mutex::default() }
    }

    /// The handshake with `host` over a connection that stands.
    pub(crate) async fn handshake(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Obstacle> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| Obstacle::Tls(format!("'{host}': {error}")))?;
        let connector = TlsConnector::from(self.config().await?);
        connector.connect(name, stream).await.map_err(|error| self.obstacle(&error))
    }

    async fn config(&self) -> Result<Arc<ClientConfig>, Obstacle> {
        let TlsFiles { ca, cert, key } = &self.files;
        let contents =
            Contents { ca: read(ca).await?, cert: read(cert).await?, key: read(key).await? };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, config)) = &*made
            && *known == contents
        {
            return Ok(config.clone());
        }
        let config = Arc::new(self.make(&contents)?);
        *made = Some((contents, config.clone()));
        Ok(config)
    }

    fn make(&self, contents: &Contents) -> Result<ClientConfig, Obstacle> {
        let roots = match (&self.files.ca, &contents.ca) {
            (Some(path), Some(pem)) => authorities(path, pem)?,
            (None, _) | (_, None) => system_authorities()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Obstacle::Tls(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match (&self.files.cert, &contents.cert) {
            (Some(path), Some(pem)) => {
                let (key_path, key_pem) = match (&self.files.key, &contents.key) {
                    (Some(key_path), Some(key_pem)) => (key_path, key_pem),
                    (None, _) | (_, None) => (path, pem),
                };
                let key = PrivateKeyDer::from_pem_slice(key_pem)
                    .map_err(|_| file(key_path, "it holds no private key that is not encrypted"))?;
                builder
                    .with_client_auth_cert(certificates(path, pem)?, key)
                    .map_err(|error| file(key_path, format!("not the certificate's: {error}")))?
            }
            (None, _) | (_, None) => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// What a failed handshake means.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum, which may grow")]
    fn obstacle(&self, error: &io::Error) -> Obstacle {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        let Some(inner) = inner else {
            // The end of the stream among others: whether it speaks TLS at all is found out there.
            return Obstacle::Broken(error.to_string());
        };
        match inner {
            TlsError::InvalidCertificate(error) => Obstacle::ServerCertificate(self.trouble(error)),
            TlsError::InvalidMessage(_) => Obstacle::SpeaksPlain,
            TlsError::AlertReceived(alert) if about_us(*alert) => {
                Obstacle::ClientCertificate(format!("{alert:?}"))
            }
            other => Obstacle::Tls(other.to_string()),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum, which may grow")]
    fn trouble(&self, error: &CertificateError) -> CertificateTrouble {
        match error {
            CertificateError::UnknownIssuer => CertificateTrouble::UnknownIssuer {
                ca: match &self.files.ca {
                    Some(path) => path.display().to_string(),
                    None => "the system's authorities".to_owned(),
                },
            },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                CertificateTrouble::Expired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                CertificateTrouble::NotValidYet
            }
            CertificateError::NotValidForName => {
                CertificateTrouble::WrongName { names: Vec::new() }
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                CertificateTrouble::WrongName { names: presented.clone() }
            }
            other => CertificateTrouble::Other(other.to_string()),
        }
    }
}

/// Alerts by which a member says that it does not like our certificate, or that we have none.
fn about_us(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    [
        Alert::CertificateRequired,
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::UnknownCA,
        Alert::AccessDenied,
    ]
    .contains(&alert)
}

/// TLS 1.3 refuses a client's certificate after the handshake, as an error of the first request.
pub(crate) fn refused_later(words: &str) -> Option<Obstacle> {
    let (_, alert) = words.split_once("received fatal alert: ")?;
    let alert = alert.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    Some(Obstacle::ClientCertificate(alert.to_owned()))
}

async fn read(path: &Option<PathBuf>) -> Result<Option<Vec<u8>>, Obstacle> {
    let Some(path) = path else { return Ok(None) };
    match tokio::fs::read(path).await {
        Ok(contents) => Ok(Some(contents)),
        Err(error) => Err(file(path, format!("it can't be read: {error}"))),
    }
}

fn file(path: &Path, why: impl Into<String>) -> Obstacle {
    Obstacle::File { path: path.to_owned(), why: why.into() }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Obstacle> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| file(path, format!("it is no PEM file: {error}")))?;
    if found.is_empty() { Err(file(path, "it holds no certificate in PEM")) } else { Ok(found) }
}

fn authorities(path: &Path, pem: &[u8]) -> Result<RootCertStore, Obstacle> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots
            .add(certificate)
            .map_err(|error| file(path, format!("a certificate in it can't be used: {error}")))?;
    }
    Ok(roots)
}

/// Read once per process: these are many, and nobody rotates them under running programs.
fn system_authorities() -> Result<RootCertStore, Obstacle> {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    });
    if roots.is_empty() {
        let words = "the system has no certificate authorities (package ca-certificates), and no \
                     file with one is configured";
        return Err(Obstacle::Tls(words.to_owned()));
    }
    Ok(roots.clone())
}
