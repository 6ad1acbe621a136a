//! From words to rustls' configuration, by libpq's rules (PostgreSQL docs, "SSL Support" of libpq).
//! Blocks on files when it loads them; leaves judging certificates to `verify`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{ChannelBinding, SslNegotiation};

use crate::verify::{Names, Verifier};
use crate::{Error, Words};

/// `sslmode`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// Never.
    Disable,
    /// When the server refuses without.
    Allow,
    /// When the server can.
    Prefer,
    /// Or not at all; whoever answers.
    Require,
    /// And signed by an authority.
    VerifyCa,
    /// And for the name that was asked.
    VerifyFull,
}

/// How a connection is secured. Its files are read for each connection: new ones count at once.
#[derive(Clone, Debug)]
pub struct Security {
    pub(crate) mode: Mode,
    pub(crate) negotiation: SslNegotiation,
    pub(crate) binding: ChannelBinding,
    words: Words,
}

impl Words {
    /// What the words mean.
    ///
    /// # Errors
    /// [`Error::Word`] for a value that libpq doesn't know, or that only libpq can fulfil.
    pub fn security(self) -> Result<Security, Error> {
        let system = self.get("sslrootcert") == Some("system");
        let mode = match self.get("sslmode") {
            None if system => Mode::VerifyFull,
            None | Some("prefer") => Mode::Prefer,
            Some("disable") => Mode::Disable,
            Some("allow") => Mode::Allow,
            Some("require") => Mode::Require,
            Some("verify-ca") => Mode::VerifyCa,
            Some("verify-full") => Mode::VerifyFull,
            Some(found) => {
                let wanted = "disable, allow, prefer, require, verify-ca or verify-full";
                return Err(word("sslmode", wanted, found));
            }
        };
        if system && mode != Mode::VerifyFull {
            let found = self.get("sslmode").unwrap_or_default();
            return Err(word("sslmode", "verify-full, as sslrootcert is 'system'", found));
        }
        let negotiation = match self.get("sslnegotiation") {
            None | Some("postgres") => SslNegotiation::Postgres,
            Some("direct") if mode >= Mode::Require => SslNegotiation::Direct,
            Some("direct") => {
                let found = "direct, with a weaker sslmode than require";
                return Err(word("sslnegotiation", "postgres", found));
            }
            Some(found) => return Err(word("sslnegotiation", "postgres or direct", found)),
        };
        let binding = match self.get("channel_binding") {
            None | Some("prefer") => ChannelBinding::Prefer,
            Some("disable") => ChannelBinding::Disable,
            Some("require") => ChannelBinding::Require,
            Some(found) => {
                return Err(word("channel_binding", "disable, prefer or require", found));
            }
        };
        match self.get("gssencmode") {
            None | Some("prefer" | "disable") => {}
            Some(found) => {
                let wanted = "disable or prefer: pgherd's own connections speak TLS, not GSSAPI";
                return Err(word("gssencmode", wanted, found));
            }
        }
        Ok(Security { mode, negotiation, binding, words: self })
    }
}

fn word(word: &'static str, wanted: &'static str, found: &str) -> Error {
    Error::Word { word, wanted, found: found.to_owned() }
}

impl Security {
    /// The plainest: for a socket of the own machine.
    #[must_use]
    pub fn none() -> Self {
        Self {
            mode: Mode::Disable,
            negotiation: SslNegotiation::Postgres,
            binding: ChannelBinding::Prefer,
            words: Words::default(),
        }
    }

    /// rustls' configuration for one connection.
    pub(crate) fn load(&self) -> Result<Arc<ClientConfig>, Error> {
        let unfit = |error: rustls::Error| Error::Unfit(error.to_string());
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unfit)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier()?));
        let mut config = match self.client_certificate() {
            Some(cert) => {
                let chain = certificates("sslcert", &cert)?;
                builder.with_client_auth_cert(chain, self.key(&cert)?).map_err(unfit)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Arc::new(config))
    }

    fn verifier(&self) -> Result<Verifier, Error> {
        let names = if self.mode == Mode::VerifyFull { Names::Checked } else { Names::Any };
        let (authorities, kept) = match self.words.get("sslrootcert") {
            Some("system") => (system(), Vec::new()),
            said => {
                let path = said.map(PathBuf::from).or_else(|| self.at_home("root.crt"));
                // As libpq has it: a file that isn't there only counts where it has to.
                let Some(path) = path.filter(|path| path.exists() || self.mode >= Mode::VerifyCa)
                else {
                    return self.without_authorities();
                };
                let kept = certificates("sslrootcert", &path)?;
                let mut roots = RootCertStore::empty();
                // One that isn't an authority's may still be the server's own.
                roots.add_parsable_certificates(kept.iter().cloned());
                (roots, kept)
            }
        };
        if authorities.is_empty() {
            return Ok(Verifier { chain: None, kept, names, provider: provider() });
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), provider())
            .with_crls(self.revoked()?)
            .build()
            .map_err(|error| Error::Unfit(error.to_string()))?;
        Ok(Verifier { chain: Some(chain), kept, names, provider: provider() })
    }

    /// `require` and weaker believe everybody; the others nobody.
    fn without_authorities(&self) -> Result<Verifier, Error> {
        let mode = match self.mode {
            Mode::VerifyCa => "verify-ca",
            Mode::VerifyFull => "verify-full",
            Mode::Disable | Mode::Allow | Mode::Prefer | Mode::Require => {
                return Ok(Verifier::of_everybody(provider()));
            }
        };
        Err(Error::NoAuthorities { mode })
    }

    fn at_home(&self, name: &str) -> Option<PathBuf> {
        self.words.home.as_ref().map(|home| home.join(name)).filter(|path| path.exists())
    }

    /// As libpq has it: one that isn't there is not sent, and no other one in its place.
    fn client_certificate(&self) -> Option<PathBuf> {
        match self.words.get("sslcert").map(PathBuf::from) {
            Some(said) => said.exists().then_some(said),
            None => self.at_home("postgresql.crt"),
        }
    }

    fn key(&self, cert: &Path) -> Result<PrivateKeyDer<'static>, Error> {
        let said = self.words.get("sslkey").map(PathBuf::from);
        let path = said.or_else(|| self.at_home("postgresql.key"));
        let path = path.unwrap_or_else(|| cert.to_owned());
        let pem = read("sslkey", &path)?;
        if let Ok(key) = PrivateKeyDer::from_pem_slice(&pem) {
            return Ok(key);
        }
        let text = String::from_utf8_lossy(&pem);
        let failed = |why: String| Error::Key { path: path.clone(), why };
        match (encrypted_block(&text), self.words.get("sslpassword")) {
            (Some(block), Some(password)) => {
                decrypted(block, password).map_err(|why| failed(why.to_string()))
            }
            (Some(_), None) => Err(failed("its password is not set (sslpassword)".to_owned())),
            (None, _) if text.contains("ENCRYPTED") => {
                Err(failed("not in PKCS#8 form; 'openssl pkcs8 -topk8' converts it".to_owned()))
            }
            (None, _) => Err(Error::Empty { word: "sslkey", path, wanted: "private key" }),
        }
    }

    /// Lists of certificates that no longer count.
    fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
        let mut files = Vec::new();
        let said = self.words.get("sslcrl").map(PathBuf::from);
        files.extend(said.map(|path| ("sslcrl", path)));
        if let Some(dir) = self.words.get("sslcrldir").map(PathBuf::from) {
            let found = std::fs::read_dir(&dir);
            let found =
                found.map_err(|source| Error::File { word: "sslcrldir", path: dir, source })?;
            files.extend(found.flatten().map(|entry| ("sslcrldir", entry.path())));
        } else if files.is_empty() {
            files.extend(self.at_home("root.crl").map(|path| ("sslcrl", path)));
        }
        let mut lists = Vec::new();
        for (word, path) in files {
            let pem = read(word, &path)?;
            let found: Result<Vec<_>, _> =
                CertificateRevocationListDer::pem_slice_iter(&pem).collect();
            match found {
                Ok(found) if !found.is_empty() => lists.extend(found),
                Ok(_) | Err(_) => {
                    return Err(Error::Empty { word, path, wanted: "revocation list" });
                }
            }
        }
        Ok(lists)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn read(word: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { word, path: path.to_owned(), source })
}

fn certificates(word: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(word, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(Error::Empty { word, path: path.to_owned(), wanted: "certificate" }),
    }
}

/// The encrypted key of a file that may hold certificates too.
fn encrypted_block(text: &str) -> Option<&str> {
    const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
    let begin = text.find("-----BEGIN ENCRYPTED PRIVATE KEY-----")?;
    let end = text[begin..].find(END)?;
    Some(&text[begin..begin + end + END.len()])
}

fn decrypted(block: &str, password: &str) -> Result<PrivateKeyDer<'static>, pkcs8::Error> {
    let (_, document) = SecretDocument::from_pem(block)?;
    let key = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())?.decrypt(password)?;
    Ok(PrivateKeyDer::Pkcs8(key.as_bytes().to_vec().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(said: &[(&str, &str)]) -> Result<Mode, String> {
        let words = Words::of(said.iter().copied());
        words.security().map(|security| security.mode).map_err(|error| error.to_string())
    }

    #[test]
    fn modes_are_libpqs() {
        assert_eq!(mode(&[]), Ok(Mode::Prefer));
        assert_eq!(mode(&[("sslmode", "verify-ca")]), Ok(Mode::VerifyCa));
        assert_eq!(mode(&[("sslrootcert", "system")]), Ok(Mode::VerifyFull));
        assert!(mode(&[("sslrootcert", "system"), ("sslmode", "require")]).is_err());
        let wrong = mode(&[("sslmode", "on")]).unwrap_err();
        assert!(wrong.contains("disable, allow, prefer") && wrong.contains("'on'"), "{wrong}");
        assert!(mode(&[("gssencmode", "require")]).unwrap_err().contains("GSSAPI"));
        assert!(mode(&[("sslnegotiation", "direct")]).is_err());
    }

    #[test]
    fn to_verify_wants_authorities() {
        let full = Words::of([("sslmode", "verify-full")]).security().unwrap();
        let words = full.load().unwrap_err().to_string();
        assert!(words.contains("sslrootcert"), "{words}");
        let gone = Words::of([("sslmode", "verify-ca"), ("sslrootcert", "/nowhere/ca.pem")]);
        let words = gone.security().unwrap().load().unwrap_err().to_string();
        assert!(words.contains("/nowhere/ca.pem"), "{words}");
        // libpq doesn't miss it where nothing is verified.
        let gone = Words::of([("sslmode", "require"), ("sslrootcert", "/nowhere/ca.pem")]);
        assert!(gone.security().unwrap().load().is_ok());
    }

    #[test]
    fn the_certificate_at_home_is_for_who_names_none() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".postgresql");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("postgresql.crt"), "").unwrap();
        let variable =
            |name: &str| (name == "HOME").then(|| home.path().to_string_lossy().into_owned());
        let sends =
            |words: Words| words.or_environment(&variable).security().unwrap().client_certificate();
        assert_eq!(sends(Words::default()), Some(dir.join("postgresql.crt")));
        assert_eq!(sends(Words::of([("sslcert", "/nowhere/me.crt")])), None);
    }
}
