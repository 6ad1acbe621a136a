//! One session with a PostgreSQL, and how its errors are to be understood.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, SimpleQueryMessage};

use super::Target;
use crate::history::Outcome;
use crate::site::PASSWORD;

/// As the reference measures outages.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const STATEMENT_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct Session {
    client: Client,
    driver: JoinHandle<()>,
    /// The server gave up waiting for the replicas, and said so in a warning.
    waived: Arc<AtomicBool>,
}

/// A statement that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server refused it and the session goes on.
    Refused,
    /// The session is of no use any more; it may have happened.
    Broken,
}

impl Failure {
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Refused => Outcome::Failed,
            Self::Broken => Outcome::Unknown,
        }
    }
}

impl Session {
    pub(super) async fn open(target: &Target, options: &str) -> Option<Self> {
        let mut config = Config::new();
        config.host(&target.host).port(target.port).user("postgres").password(PASSWORD);
        config.dbname("postgres").application_name("pgherd-lab").options(options);
        let opened = timeout(CONNECT_LIMIT, config.connect(NoTls)).await.ok()?.ok()?;
        let (client, mut connection) = opened;
        let waived = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&waived);
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message
                    && notice.message().contains("canceling wait for synchronous replication")
                {
                    noted.store(true, Ordering::Relaxed);
                }
            }
        });
        Some(Self { client, driver, waived })
    }

    pub(super) async fn query(&self, query: &str) -> Result<Vec<Vec<String>>, Failure> {
        self.query_within(query, STATEMENT_LIMIT).await
    }

    pub(super) async fn query_within(
        &self,
        query: &str,
        limit: Duration,
    ) -> Result<Vec<Vec<String>>, Failure> {
        let answer = timeout(limit, self.client.simple_query(query)).await;
        let messages = match answer {
            Ok(Ok(messages)) => messages,
            Ok(Err(error)) => return Err(understand(&error)),
            Err(_) => return Err(Failure::Broken),
        };
        if self.waived.load(Ordering::Relaxed) {
            return Err(Failure::Broken);
        }
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                let text = |column| row.get(column).unwrap_or_default().to_owned();
                rows.push((0..row.len()).map(text).collect());
            }
        }
        Ok(rows)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Whoever is told that he is disconnected doesn't know what became of his commit.
fn understand(error: &Error) -> Failure {
    let Some(code) = error.code() else { return Failure::Broken };
    let disconnected = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    ];
    let broken = disconnected.contains(code) || code.code().starts_with("08");
    if broken { Failure::Broken } else { Failure::Refused }
}

/// `1,2,3`, or nothing.
pub(super) fn list(text: &str) -> Result<Vec<i64>> {
    let elements = text.split(',').filter(|element| !element.is_empty());
    elements.map(|element| element.parse().with_context(|| format!("a list: '{text}'"))).collect()
}
