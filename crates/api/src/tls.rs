//! TLS of the REST API, for those who serve it and those who ask: files in, rustls' configurations
//! out. Blocks on files; leaves when to read them again to the caller.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgherd_config::Secret;
use pgherd_config::rest::{RestClient, RestTls, VerifyClient};
use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};

/// Where Debian, Ubuntu, Fedora and Alpine keep the authorities that the system trusts.
const SYSTEM: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Why TLS can't be had from these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{} can't be read", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {wanted} in PEM form", .path.display())]
    Empty {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// A key's password is wrong, or its cipher isn't known.
    #[error("the key in {} can't be decrypted: {why}", .path.display())]
    Encrypted {
        /// Which.
        path: PathBuf,
        /// What is wrong, without the password.
        why: String,
    },
    /// The parts don't fit together.
    #[error("{} can't be used for TLS", .path.display())]
    Refused {
        /// The certificate's or authority's file.
        path: PathBuf,
        /// Why.
        source: Error,
    },
}

/// How much of a member's certificate counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Signed by the authority, for the name that was asked.
    Named,
    /// Signed by the authority, for whatever name: how agents ask each other, whose addresses are
    /// often in no certificate. Without an authority, nothing counts.
    Signed,
}

/// For whoever serves the API.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn server(files: &RestTls) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(offering(&files.ciphers));
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Refused { path, source }
    };
    let builder =
        builder.with_safe_default_protocol_versions().map_err(refused(&files.certfile))?;
    let builder = match (&files.cafile, files.verify_client) {
        (Some(cafile), VerifyClient::Optional | VerifyClient::Required) => {
            let roots = Arc::new(roots(cafile)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = if files.verify_client == VerifyClient::Required {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            let verifier = verifier
                .build()
                .map_err(|error| refused(cafile)(Error::General(error.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        }
        (_, VerifyClient::None) | (None, _) => builder.with_no_client_auth(),
    };
    let chain = certificates(&files.certfile)?;
    let keyfile = files.keyfile.as_ref().unwrap_or(&files.certfile);
    let key = key(keyfile, files.keyfile_password.as_ref())?;
    let mut config = builder.with_single_cert(chain, key).map_err(refused(&files.certfile))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For whoever asks.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn client(files: &RestClient, trust: Trust) -> Result<Arc<ClientConfig>, TlsError> {
    let general = |source| TlsError::Refused { path: PathBuf::new(), source };
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(general)?;
    let verifier = Arc::new(Verifier::new(files, trust)?);
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match &files.certfile {
        Some(certfile) => {
            let keyfile = files.keyfile.as_ref().unwrap_or(certfile);
            let key = key(keyfile, files.keyfile_password.as_ref())?;
            builder
                .with_client_auth_cert(certificates(certfile)?, key)
                .map_err(|source| TlsError::Refused { path: certfile.clone(), source })?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// With these suites of TLS 1.2 only, where some are named.
fn offering(ciphers: &[&str]) -> Arc<CryptoProvider> {
    let mut all = aws_lc_rs::default_provider();
    if !ciphers.is_empty() {
        all.cipher_suites.retain(|suite| {
            suite.tls13().is_some() || ciphers.contains(&openssl_name(suite.suite()))
        });
    }
    Arc::new(all)
}

/// What OpenSSL calls a suite of TLS 1.2; one that the library gets later has no name here.
fn openssl_name(suite: CipherSuite) -> &'static str {
    use CipherSuite as S;
    const NAMES: [(CipherSuite, &str); 6] = [
        (S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
        (S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
        (S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384"),
        (S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
        (S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305"),
    ];
    NAMES.iter().find(|(known, _)| *known == suite).map_or("", |(_, name)| name)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.unwrap_or_default();
    if found.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), wanted: "certificate" });
    }
    Ok(found)
}

fn key(path: &Path, password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path)?;
    if let Ok(key) = PrivateKeyDer::from_pem_slice(&pem) {
        return Ok(key);
    }
    let text = String::from_utf8_lossy(&pem);
    match (encrypted_block(&text), password) {
        (Some(block), Some(password)) => decrypted(block, password)
            .map_err(|why| TlsError::Encrypted { path: path.to_owned(), why: why.to_string() }),
        (Some(_), None) => {
            let why = "its password is not set (keyfile_password)".to_owned();
            Err(TlsError::Encrypted { path: path.to_owned(), why })
        }
        (None, _) if text.contains("ENCRYPTED") => {
            let why = "not in PKCS#8 form; 'openssl pkcs8 -topk8' converts it".to_owned();
            Err(TlsError::Encrypted { path: path.to_owned(), why })
        }
        (None, _) => Err(TlsError::Empty { path: path.to_owned(), wanted: "private key" }),
    }
}

/// The encrypted key of a file that may hold certificates too.
fn encrypted_block(text: &str) -> Option<&str> {
    const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
    let begin = text.find("-----BEGIN ENCRYPTED PRIVATE KEY-----")?;
    let end = text[begin..].find(END)?;
    Some(&text[begin..begin + end + END.len()])
}

fn decrypted(block: &str, password: &Secret) -> Result<PrivateKeyDer<'static>, pkcs8::Error> {
    let (_, document) = SecretDocument::from_pem(block)?;
    let key = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())?;
    let key = key.decrypt(password.reveal())?;
    Ok(PrivateKeyDer::Pkcs8(key.as_bytes().to_vec().into()))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 {
        return Err(TlsError::Empty { path: path.to_owned(), wanted: "usable certificate" });
    }
    Ok(roots)
}

/// Judges a member's certificate.
#[derive(Debug)]
struct Verifier {
    /// None: everything is believed.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The authorities as they are: a certificate that signed itself is its own.
    authorities: Vec<CertificateDer<'static>>,
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(files: &RestClient, trust: Trust) -> Result<Self, TlsError> {
        let system = || SYSTEM.iter().map(PathBuf::from).find(|path| path.exists());
        let cacert = match (&files.cacert, trust) {
            _ if files.insecure => None,
            (Some(cacert), _) => Some(cacert.clone()),
            (None, Trust::Named) => Some(system().unwrap_or_else(|| PathBuf::from(SYSTEM[0]))),
            (None, Trust::Signed) => None,
        };
        let Some(cacert) = cacert else {
            return Ok(Self { chain: None, authorities: Vec::new(), trust, provider: provider() });
        };
        let refused = |source| TlsError::Refused { path: cacert.clone(), source };
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(&cacert)?), provider());
        let verifier =
            verifier.build().map_err(|error| refused(Error::General(error.to_string())))?;
        // Of the system's hundreds none is a member's.
        let authorities = if files.cacert.is_some() { certificates(&cacert)? } else { Vec::new() };
        Ok(Self { chain: Some(verifier), authorities, trust, provider: provider() })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        member: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if self.authorities.iter().any(|authority| authority == member) {
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(member, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.trust == Trust::Signed => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        member: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, member, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        member: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, member, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_tls_1_2_has_its_name() {
        let all = aws_lc_rs::default_provider().cipher_suites;
        let old = all.iter().filter(|suite| suite.tls13().is_none());
        let mut names: Vec<_> = old.map(|suite| openssl_name(suite.suite())).collect();
        names.sort_unstable();
        let mut known = pgherd_config::rest::SUITES;
        known.sort_unstable();
        assert_eq!(names, known);
        let few = offering(&["ECDHE-RSA-AES256-GCM-SHA384"]).cipher_suites.len();
        assert_eq!(few, all.len() - known.len() + 1);
    }
}
