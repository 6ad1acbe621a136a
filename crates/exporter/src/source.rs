//! Which server to ask, in postgres_exporter's words: `DATA_SOURCE_NAME`, or `DATA_SOURCE_URI` with
//! `DATA_SOURCE_USER` and `DATA_SOURCE_PASS`, each also as a file (`..._FILE`).
//! Leaves connecting to `scrape`.

use std::path::Path;

use pgherd_connect::{Security, Words};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// The variables, looked up by name.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A server to ask. Its password is never shown.
#[derive(Clone)]
pub struct Source {
    config: Config,
    security: Security,
    server: String,
}

/// Why the variables name no server.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing says which server.
    #[error(
        "no server to ask: set DATA_SOURCE_NAME=postgresql://USER:PASSWORD@HOST:5432/postgres, or \
         DATA_SOURCE_URI=HOST:5432/postgres with DATA_SOURCE_USER and DATA_SOURCE_PASS_FILE"
    )]
    Missing,
    /// A file that a variable names can't be read.
    #[error("{variable}: {path} can't be read: {source}")]
    File {
        /// Which variable.
        variable: String,
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not a connection string. The text isn't repeated, it may hold a password.
    #[error(
        "{variable} is no connection string: {source}; write postgresql://USER@HOST:5432/postgres"
    )]
    Unreadable {
        /// Which variable.
        variable: &'static str,
        /// What is wrong with it.
        source: tokio_postgres::Error,
    },
    /// More than one server, or none.
    #[error("{variable} must name one host, and names {found}: an exporter asks one server")]
    Hosts {
        /// Which variable.
        variable: &'static str,
        /// How many.
        found: usize,
    },
    /// What it says of TLS can't be.
    #[error("{variable}: {source}")]
    Tls {
        /// Which variable.
        variable: &'static str,
        /// What is wrong with it.
        source: pgherd_connect::Error,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Source {
    /// What the environment says.
    ///
    /// # Errors
    /// [`SourceError`] when it names no server that can be asked.
    pub fn from_words(words: Variables<'_>) -> Result<Self, SourceError> {
        if let Some(text) = word_or_file(words, "DATA_SOURCE_NAME")? {
            return Self::parse("DATA_SOURCE_NAME", &text, words);
        }
        let text = word_or_file(words, "DATA_SOURCE_URI")?.ok_or(SourceError::Missing)?;
        let url = if text.contains("://") { text } else { format!("postgresql://{text}") };
        let mut source = Self::parse("DATA_SOURCE_URI", &url, words)?;
        if let Some(user) = word_or_file(words, "DATA_SOURCE_USER")? {
            source.config.user(&user);
        }
        if let Some(password) = word_or_file(words, "DATA_SOURCE_PASS")? {
            source.config.password(password);
        }
        Ok(source)
    }

    fn parse(
        variable: &'static str,
        text: &str,
        words: Variables<'_>,
    ) -> Result<Self, SourceError> {
        let (rest, said) = Words::split(text);
        let mut config: Config =
            rest.parse().map_err(|source| SourceError::Unreadable { variable, source })?;
        let security = said.or_environment(words).security();
        let security = security.map_err(|source| SourceError::Tls { variable, source })?;
        if config.get_user().is_none() {
            config.user("postgres");
        }
        if config.get_dbname().is_none() {
            config.dbname("postgres");
        }
        let [host] = config.get_hosts() else {
            return Err(SourceError::Hosts { variable, found: config.get_hosts().len() });
        };
        let host = match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let server = format!("{host}:{}", config.get_ports().first().unwrap_or(&5432));
        Ok(Self { config, security, server })
    }

    /// `host:port`, the value of the label `server`.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// How the connection is secured.
    pub(crate) fn security(&self) -> &Security {
        &self.security
    }

    /// How to connect.
    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }
}

/// The first line of the file that `NAME_FILE` names, or the variable itself.
fn word_or_file(words: Variables<'_>, name: &str) -> Result<Option<String>, SourceError> {
    let variable = format!("{name}_FILE");
    let Some(path) = words(&variable).filter(|path| !path.is_empty()) else {
        return Ok(words(name).filter(|word| !word.is_empty()));
    };
    match std::fs::read_to_string(Path::new(&path)) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(source) => Err(SourceError::File { variable, path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(words: &[(&str, &str)]) -> Result<Source, SourceError> {
        let lookup = |name: &str| {
            words.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Source::from_words(&lookup)
    }

    #[test]
    fn both_forms_name_a_server() {
        let one = source(&[("DATA_SOURCE_NAME", "postgresql://m:p@db:5433/x?sslmode=disable")]);
        assert_eq!(one.unwrap().server(), "db:5433");
        let words = [("DATA_SOURCE_NAME", "host=/run/postgresql user=m dbname=x")];
        assert_eq!(source(&words).unwrap().server(), "/run/postgresql:5432");
        let parts = [
            ("DATA_SOURCE_URI", "db/postgres?sslmode=disable"),
            ("DATA_SOURCE_USER", "m"),
            ("DATA_SOURCE_PASS", "it's"),
        ];
        let found = source(&parts).unwrap();
        assert_eq!(found.server(), "db:5432");
        assert_eq!(found.config().get_user(), Some("m"));
        assert_eq!(found.config().get_password(), Some("it's".as_bytes()));
    }

    #[test]
    fn secrets_come_from_files_and_are_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "geheim\n").unwrap();
        let path = file.path().to_str().unwrap();
        let words = [("DATA_SOURCE_URI", "db:1/postgres"), ("DATA_SOURCE_PASS_FILE", path)];
        let found = source(&words).unwrap();
        assert_eq!(found.config().get_password(), Some("geheim".as_bytes()));
        assert!(!format!("{found:?}").contains("geheim"));
        let gone = [("DATA_SOURCE_URI", "db:1/x"), ("DATA_SOURCE_PASS_FILE", "/nowhere")];
        assert!(source(&gone).unwrap_err().to_string().starts_with("DATA_SOURCE_PASS_FILE: /now"));
    }

    #[test]
    fn mistakes_say_what_to_write() {
        assert!(source(&[]).unwrap_err().to_string().contains("DATA_SOURCE_NAME=postgresql://"));
        let words = source(&[("DATA_SOURCE_NAME", "postgresql://m:geheim@[")]).unwrap_err();
        assert!(!words.to_string().contains("geheim"), "{words}");
        let tls = source(&[("DATA_SOURCE_NAME", "postgresql://db/x?sslmode=on")]);
        assert!(tls.unwrap_err().to_string().contains("expected disable, allow"));
        let tls =
            source(&[("DATA_SOURCE_NAME", "postgresql://db/x"), ("PGSSLMODE", "verify-full")]);
        assert!(format!("{:?}", tls.unwrap().security()).contains("VerifyFull"));
        let two = source(&[("DATA_SOURCE_NAME", "postgresql://a,b/x")]);
        assert!(matches!(two, Err(SourceError::Hosts { found: 2, .. })));
    }
}
