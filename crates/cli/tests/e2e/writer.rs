//! A client that writes increasing numbers and remembers which were acknowledged, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgherd_connect::Words;
use tokio::time::timeout;
use tokio_postgres::{Client, Config};

const EVERY: Duration = Duration::from_millis(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const STATEMENT_LIMIT: Duration = Duration::from_secs(2);

/// The writing thread.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(i64, Instant)>>,
}

/// How to get in as the superuser.
pub(crate) fn config(port: u16, password: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("postgres").password(password).dbname("postgres");
    config.application_name("pgherd-e2e");
    config
}

async fn connect(config: &Config) -> Option<Client> {
    // With TLS where the server has it.
    let security = Words::default().security().ok()?;
    let connecting = pgherd_connect::connect(config, &security);
    let (client, connection) = timeout(CONNECT_LIMIT, connecting).await.ok()?.ok()?;
    tokio::spawn(async move { drop(connection.await) });
    Some(client)
}

impl Writer {
    /// Begins to write numbers from `first` on, one each 10 ms.
    pub(crate) fn start(config: Config, first: i64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || runtime().block_on(write(config, first, &stopped)));
        Self { stop, thread }
    }

    /// Stops, and says what was acknowledged.
    pub(crate) fn finish(self) -> Vec<(i64, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn write(config: Config, first: i64, stopped: &AtomicBool) -> Vec<(i64, Instant)> {
    let mut acknowledged = Vec::new();
    let mut client = None;
    let mut number = first;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stopped.load(Ordering::Relaxed) {
        ticks.tick().await;
        if client.is_none() {
            client = connect(&config).await;
        }
        let Some(connected) = &client else { continue };
        let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[&number];
        let insert = connected.execute("INSERT INTO acks VALUES ($1)", values);
        match timeout(STATEMENT_LIMIT, insert).await {
            Ok(Ok(_)) => acknowledged.push((number, Instant::now())),
            // Whether it was written nobody knows; the number is not used again.
            Ok(Err(_)) | Err(_) => client = None,
        }
        number += 1;
    }
    acknowledged
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs a query that gives a number, once.
pub(crate) fn number_now(config: &Config, query: &str) -> Option<i64> {
    runtime().block_on(async {
        let client = connect(config).await?;
        let row = timeout(CONNECT_LIMIT, client.query_one(query, &[])).await.ok()?.ok()?;
        Some(row.get(0))
    })
}

/// Runs a query that gives numbers; tries again until `limit` is over.
pub(crate) fn numbers(config: &Config, query: &str, limit: Duration) -> Vec<i64> {
    let until = Instant::now() + limit;
    runtime().block_on(async {
        loop {
            if let Some(client) = connect(config).await {
                let answer = timeout(Duration::from_secs(10), client.query(query, &[])).await;
                if let Ok(Ok(rows)) = answer {
                    return rows.iter().map(|row| row.get(0)).collect();
                }
            }
            assert!(Instant::now() < until, "no answer to {query} within {limit:?}");
            tokio::time::sleep(EVERY).await;
        }
    })
}

/// Runs a statement; tries again until `limit` is over.
pub(crate) fn execute(config: &Config, statement: &str, limit: Duration) {
    let until = Instant::now() + limit;
    runtime().block_on(async {
        loop {
            if let Some(client) = connect(config).await
                && timeout(Duration::from_secs(10), client.batch_execute(statement))
                    .await
                    .is_ok_and(|r| r.is_ok())
            {
                return;
            }
            assert!(Instant::now() < until, "{statement} failed for {limit:?}");
            tokio::time::sleep(EVERY).await;
        }
    });
}

/// The longest time between two acknowledgements that follow each other.
pub(crate) fn longest_gap(acknowledged: &[(i64, Instant)]) -> Duration {
    let gaps = acknowledged.windows(2).map(|pair| pair[1].1 - pair[0].1);
    gaps.max().unwrap_or_default()
}
