//! Connections through the router to whoever takes writes, and which errors pass by themselves.
//! Leaves what is run over them to `job` and `record`.

use std::time::{Duration, Instant};

use pgherd_connect::Security;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use crate::fault::Fault;

/// A text for people, as it happens.
pub(crate) type Say<'a> = &'a mut (dyn FnMut(&str) + Send);

/// How long one try to connect may take: the router holds a connection while there is no leader,
/// and says so only after half a minute.
const TRY: Duration = Duration::from_secs(40);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// How often waiting is mentioned.
const MENTION: Duration = Duration::from_secs(5);
/// A peer that doesn't acknowledge for so long is gone.
const SILENCE: Duration = Duration::from_secs(10);

/// Where to connect.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) config: Config,
    pub(crate) security: Security,
    pub(crate) server: String,
    pub(crate) patience: Duration,
}

/// A connection that takes writes.
pub(crate) struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// How a statement went wrong.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The server or the way to it went away: another try is worth it. What was under way may have
    /// happened.
    Passing(String),
    /// The server says no, and would again.
    Lasting(Box<Refusal>),
}

/// The server's no.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: SqlState,
    pub(crate) words: String,
    /// Which character of the statement, from 1.
    pub(crate) position: Option<usize>,
}

/// Rows as text.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

impl Session {
    /// Waits until a server takes writes in that database.
    pub(crate) async fn open(way: &Way, database: &str, say: Say<'_>) -> Result<Self, Fault> {
        let began = Instant::now();
        let mut last = String::new();
        let mut mentioned: Option<Instant> = None;
        loop {
            let left = way.patience.saturating_sub(began.elapsed());
            let words = match tokio::time::timeout(TRY.min(left), attempt(way, database)).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(Trouble::Lasting(refusal))) => {
                    return Err(Fault::Refused {
                        server: way.server.clone(),
                        database: database.to_owned(),
                        words: refusal.words,
                    });
                }
                Ok(Err(Trouble::Passing(words))) => words,
                Err(_) => "no answer".to_owned(),
            };
            let waited = began.elapsed();
            if waited + PAUSE >= way.patience {
                let server = way.server.clone();
                return Err(Fault::Deadline { waited: waited.as_secs(), server, last: words });
            }
            if words != last || mentioned.is_none_or(|at| at.elapsed() >= MENTION) {
                let (seconds, patience) = (waited.as_secs(), way.patience.as_secs());
                let server = &way.server;
                say(&format!(
                    "waiting for a primary behind {server} ({seconds} of {patience} s): {words}"
                ));
                mentioned = Some(Instant::now());
            }
            last = words;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Runs one statement; the rows of its result.
    pub(crate) async fn run(&self, sql: &str) -> Result<Rows, Trouble> {
        let messages = self.client.simple_query(sql).await.map_err(|error| trouble(&error))?;
        let mut rows = Rows::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
            }
        }
        Ok(rows)
    }
}

async fn attempt(way: &Way, database: &str) -> Result<Session, Trouble> {
    let mut config = way.config.clone();
    config
        .dbname(database)
        .application_name("pgherd init")
        .tcp_user_timeout(SILENCE)
        .keepalives_idle(SILENCE);
    let connected = pgherd_connect::connect(&config, &way.security).await;
    let (client, driver) =
        connected.map_err(|error| error.of_server().map_or_else(|| misfit(&error), trouble))?;
    // Its error is the one that the client's next query sees.
    let driver = tokio::spawn(async {
        let _ = driver.await;
    });
    let session = Session { client, driver };
    let rows = session.run("SHOW transaction_read_only").await?;
    if rows.first().and_then(|row| row.first()) != Some(&Some("off".to_owned())) {
        return Err(Trouble::Passing("the server takes no writes".to_owned()));
    }
    // Statements have passwords in them, which belong in no server's log.
    session
        .run(
            "SELECT set_config(name, value, false) FROM (VALUES ('log_statement', 'none'),
                ('log_min_error_statement', 'panic'), ('log_min_duration_statement', '-1'),
                ('log_min_duration_sample', '-1')) settings(name, value)
             WHERE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
        )
        .await?;
    wait_for_others(&session).await?;
    Ok(session)
}

/// One job at a time in a database.
async fn wait_for_others(session: &Session) -> Result<(), Trouble> {
    let rows = session.run("SELECT pg_try_advisory_lock(hashtext('pgherd init'))").await?;
    if rows.first().and_then(|row| row.first()) == Some(&Some("t".to_owned())) {
        Ok(())
    } else {
        Err(Trouble::Passing("another 'pgherd init' is at work".to_owned()))
    }
}

/// Files and words about TLS don't mend themselves.
fn misfit(error: &pgherd_connect::Error) -> Trouble {
    let code = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
    Trouble::Lasting(Box::new(Refusal { code, words: error.to_string(), position: None }))
}

fn trouble(error: &tokio_postgres::Error) -> Trouble {
    use std::error::Error as _;
    let Some(answer) = error.as_db_error() else {
        let inner = error.source().map(ToString::to_string);
        let words = inner.map_or_else(|| error.to_string(), |inner| format!("{error}: {inner}"));
        return Trouble::Passing(words);
    };
    let mut words = answer.message().to_owned();
    for more in [answer.detail(), answer.hint()].into_iter().flatten() {
        words = format!("{words} ({more})");
    }
    if passes(answer.code()) {
        return Trouble::Passing(words);
    }
    let position = answer.position().and_then(|position| match position {
        tokio_postgres::error::ErrorPosition::Original(at) => usize::try_from(*at).ok(),
        tokio_postgres::error::ErrorPosition::Internal { .. } => None,
    });
    Trouble::Lasting(Box::new(Refusal { code: answer.code().clone(), words, position }))
}

/// Errors of servers that start, stop or were demoted, and of transactions that met others.
fn passes(code: &SqlState) -> bool {
    let passing = [
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
    ];
    code.code().starts_with("08") || passing.contains(code)
}
