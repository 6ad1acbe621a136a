//! Judges a server's certificate as far as `sslmode` says. Leaves chains and names to rustls.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Whether the name in the certificate counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Names {
    /// `verify-full`.
    Checked,
    /// Whatever it is.
    Any,
}

#[derive(Debug)]
pub(crate) struct Verifier {
    /// The authorities; none and nothing kept: everybody is believed.
    pub(crate) chain: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of `sslrootcert`: one that signed itself is its own authority.
    pub(crate) kept: Vec<CertificateDer<'static>>,
    pub(crate) names: Names,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(crate) fn of_everybody(provider: Arc<CryptoProvider>) -> Self {
        Self { chain: None, kept: Vec::new(), names: Names::Any, provider }
    }

    fn believes_everybody(&self) -> bool {
        self.chain.is_none() && self.kept.is_empty()
    }

    /// Certificates of the first version are read by nobody here, and believed by who believes
    /// everybody: whoever could forge the signature could have sent another certificate.
    fn can_not_read(&self, cert: &CertificateDer<'_>) -> bool {
        self.believes_everybody() && ParsedCertificate::try_from(cert).is_err()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.believes_everybody() {
            return Ok(ServerCertVerified::assertion());
        }
        if self.kept.iter().any(|kept| kept == cert) {
            let parsed = ParsedCertificate::try_from(cert)?;
            if self.names == Names::Checked {
                verify_server_name(&parsed, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let Some(chain) = &self.chain else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        match chain.verify_server_cert(cert, intermediates, name, ocsp, now) {
            // Names are looked at last: the chain is good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.names == Names::Any => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.can_not_read(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.can_not_read(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
