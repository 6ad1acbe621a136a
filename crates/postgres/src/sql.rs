//! Connections and queries: every one has a deadline, `search_path = pg_catalog`, and a task that
//! ends with it. Leaves what is asked to the callers.

use std::future::Future;
use std::time::Duration;

use pgherd_connect::{Security, Words};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use crate::PgError;
use crate::settings::{Address, Credentials, Settings};
use crate::tool::home;

/// A task that ends with its owner.
pub(crate) struct Task(JoinHandle<()>);

impl Task {
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection.
pub(crate) struct Sql {
    client: Client,
    _connection: Task,
}

/// A row as text.
pub(crate) type Row = Vec<Option<String>>;

impl Sql {
    /// To the local server, as superuser, over the Unix socket. Its commits wait for no standby
    /// unless it asks for that.
    pub(crate) async fn local(settings: &Settings, bound: Duration) -> Result<Self, PgError> {
        Self::local_to(settings, "postgres", bound).await
    }

    /// The same, to a database.
    pub(crate) async fn local_to(
        settings: &Settings,
        database: &str,
        bound: Duration,
    ) -> Result<Self, PgError> {
        let mut config = Config::new();
        config.host_path(&settings.socket_dir).port(settings.port).dbname(database);
        Self::open(config, &settings.superuser, &Security::none(), bound).await
    }

    /// To another node, with TLS as far as the account's options say.
    pub(crate) async fn remote(
        at: &Address,
        user: &Credentials,
        bound: Duration,
    ) -> Result<Self, PgError> {
        let mut config = Config::new();
        config.host(&at.host).port(at.port).dbname("postgres").connect_timeout(bound);
        let said = user.options.iter().map(|(name, value)| (*name, value.as_str()));
        let environment = |name: &str| {
            if name == "HOME" { home().and_then(|home| home.into_string().ok()) } else { None }
        };
        let security = Words::of(said).or_environment(&environment).security();
        let security = security.map_err(|error| words("connecting", &error))?;
        Self::open(config, user, &security, bound).await
    }

    async fn open(
        mut config: Config,
        user: &Credentials,
        security: &Security,
        bound: Duration,
    ) -> Result<Self, PgError> {
        config
            .user(&user.username)
            .password(user.password.reveal())
            .application_name("pgherd")
            .options(
                "-c search_path=pg_catalog -c synchronous_commit=local -c statement_timeout=0",
            );
        let connecting =
            tokio::time::timeout(bound, pgherd_connect::connect(&config, security)).await;
        let (client, connection) = match connecting {
            Ok(result) => result.map_err(|error| words("connecting", &error))?,
            Err(_) => return Err(late("connecting", bound)),
        };
        // Its error is the one that the client's next query sees.
        let connection = Task::spawn(async {
            let _ = connection.await;
        });
        Ok(Self { client, _connection: connection })
    }

    /// All rows of the last statement that has any.
    pub(crate) async fn rows(
        &self,
        what: &'static str,
        query: &str,
        bound: Duration,
    ) -> Result<Vec<Row>, PgError> {
        let messages = match tokio::time::timeout(bound, self.client.simple_query(query)).await {
            Ok(result) => result.map_err(|error| words(what, &error.into()))?,
            Err(_) => return Err(late(what, bound)),
        };
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
            }
        }
        Ok(rows)
    }

    /// The first cell; empty when there is none or it is NULL.
    pub(crate) async fn cell(
        &self,
        what: &'static str,
        query: &str,
        bound: Duration,
    ) -> Result<String, PgError> {
        let rows = self.rows(what, query, bound).await?;
        Ok(rows
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next())
            .flatten()
            .unwrap_or_default())
    }
}

/// A text as an SQL literal.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') {
        return format!(" E'{}'", doubled.replace('\\', "\\\\"));
    }
    format!("'{doubled}'")
}

/// A name as an SQL identifier.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn words(what: &'static str, error: &pgherd_connect::Error) -> PgError {
    let answer = error.of_server().and_then(tokio_postgres::Error::as_db_error);
    let Some(answer) = answer else {
        return PgError::Sql { what, words: error.to_string(), sqlstate: None };
    };
    let sqlstate = answer.code().code().to_owned();
    let words = format!("{} {sqlstate}: {}", answer.severity(), answer.message());
    PgError::Sql { what, words, sqlstate: Some(sqlstate) }
}

fn late(what: &'static str, bound: Duration) -> PgError {
    PgError::Sql { what, words: format!("no answer within {bound:?}"), sqlstate: None }
}
