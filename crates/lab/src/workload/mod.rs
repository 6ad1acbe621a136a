//! The clients: what they send, when, and what they write down of it. One thread for all of them.
//! `client` is a session; `loops` are the clients; `read_final` looks once more when all is whole.

mod client;
mod loops;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::history::{At, Final, History};
use crate::site::Site;
use client::Session;

/// What the bank's accounts hold together, always.
pub(crate) const MONEY: i64 = 500;
const SETTLED: Duration = Duration::from_secs(60);

/// Where a session goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// How much is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Inserts and reads through the router and directly: for measuring gaps.
    Light,
    /// Also lists, the bank and everything that checks.
    Full,
}

/// What the clients share.
struct Notes {
    begin: Instant,
    stop: AtomicBool,
    history: Mutex<History>,
    /// Ends the names of this workload's tables.
    suffix: u32,
}

impl Notes {
    fn now(&self) -> At {
        self.begin.elapsed()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn table(&self, name: &str) -> String {
        format!("{name}_{}", self.suffix)
    }
}

/// A running workload.
pub(crate) struct Workload {
    notes: Arc<Notes>,
    thread: JoinHandle<()>,
}

impl Workload {
    /// Makes the tables and lets the clients begin.
    pub(crate) fn start(site: &Site<'_>, load: Load, suffix: u32) -> Result<Self> {
        let notes = Arc::new(Notes {
            begin: Instant::now(),
            stop: AtomicBool::new(false),
            history: Mutex::default(),
            suffix,
        });
        let (acks, direct) = (notes.table("acks"), notes.table("direct"));
        let (lists, bank) = (notes.table("lists"), notes.table("bank"));
        let tables = format!(
            "CREATE TABLE {acks} (n bigint PRIMARY KEY); CREATE TABLE {direct} (n bigint); \
             CREATE TABLE {lists} (k bigint PRIMARY KEY, v bigint[]); \
             CREATE TABLE {bank} (id bigint PRIMARY KEY, balance bigint); \
             INSERT INTO {bank} SELECT id, 100 FROM generate_series(1, 5) id"
        );
        rows_until(&site.write_port(), &tables, Duration::from_secs(30))?;
        let clients = loops::Clients {
            write: site.write_port(),
            read: site.read_port(),
            nodes: (0..3).map(|node| site.direct(node)).collect(),
            load,
        };
        let shared = Arc::clone(&notes);
        let thread = std::thread::spawn(move || runtime().block_on(clients.run(&shared)));
        Ok(Self { notes, thread })
    }

    pub(crate) fn now(&self) -> At {
        self.notes.now()
    }

    /// Does something with what was noted until now.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.notes.history())
    }

    /// Ends the clients; what they noted, and what is there in the end.
    pub(crate) fn finish(self, site: &Site<'_>) -> Result<(History, Final)> {
        self.notes.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            bail!("the workload's thread panicked");
        }
        let last = read_final(site, &self.notes)?;
        let history = std::mem::take(&mut *self.notes.history());
        Ok((history, last))
    }
}

fn read_final(site: &Site<'_>, notes: &Notes) -> Result<Final> {
    let (acks, lists, bank) = (notes.table("acks"), notes.table("lists"), notes.table("bank"));
    let write = site.write_port();
    let query = format!("SELECT n FROM {acks} ORDER BY n");
    let numbers = numbers(&rows_until(&write, &query, SETTLED)?)?;
    let mut nodes = Vec::new();
    for node in 0..3 {
        nodes.push(node_numbers(&site.direct(node), &query, &numbers)?);
    }
    let query = format!("SELECT k, array_to_string(v, ',') FROM {lists}");
    let mut found = Vec::new();
    for row in rows_until(&write, &query, SETTLED)? {
        let [key, list] = row.as_slice() else { bail!("two columns, not {row:?}") };
        found.push((key.parse()?, client::list(list)?));
    }
    let query = format!("SELECT sum(balance)::bigint FROM {bank}");
    let sums = rows_until(&write, &query, SETTLED)?;
    let sum = sums.concat().concat().parse().context("the bank's sum")?;
    Ok(Final { numbers, nodes, lists: found, sum })
}

/// What a node has once it has it all, or what it has when the patience is over.
fn node_numbers(node: &Target, query: &str, all: &[i64]) -> Result<Vec<i64>> {
    let until = Instant::now() + SETTLED;
    loop {
        let found = numbers(&rows_until(node, query, SETTLED)?)?;
        if found == all || Instant::now() > until {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn numbers(rows: &[Vec<String>]) -> Result<Vec<i64>> {
    rows.iter().map(|row| row.concat().parse().context("a number")).collect()
}

/// Runs statements; tries again until the limit is over.
fn rows_until(target: &Target, query: &str, limit: Duration) -> Result<Vec<Vec<String>>> {
    let until = Instant::now() + limit;
    loop {
        let answer = runtime().block_on(rows(target, query));
        match answer {
            Ok(rows) => return Ok(rows),
            Err(error) if Instant::now() > until => {
                return Err(error).with_context(|| format!("{query} at {target:?}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

async fn rows(target: &Target, query: &str) -> Result<Vec<Vec<String>>> {
    let session = Session::open(target, "").await.context("no connection")?;
    let answer = session.query_within(query, Duration::from_secs(20)).await;
    answer.map_err(|failure| anyhow::anyhow!("{failure:?}"))
}

/// A query that gives a number, once.
pub(crate) fn number(target: &Target, query: &str) -> Option<i64> {
    runtime().block_on(rows(target, query)).ok()?.concat().concat().parse().ok()
}

/// A statement, once.
pub(crate) fn statement(target: &Target, statement: &str) -> Result<()> {
    runtime().block_on(rows(target, statement)).map(drop)
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.expect("a runtime needs a few file descriptors and nothing else")
}
