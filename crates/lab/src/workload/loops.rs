//! The clients' loops. Each connects again at once when its session breaks, and does one thing at
//! its own pace until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::client::{Failure, Session, list};
use super::{Load, Notes, Target};
use crate::history::{Commit, Direct, Insert, Op, Outcome, Shown, Transaction};

const SERIALIZABLE: &str = "-c default_transaction_isolation=serializable";
/// Transactions on the same four lists, before the next four: lists stay short.
const ROUND: i64 = 100;

/// Where the clients go.
pub(super) struct Clients {
    pub(super) write: Target,
    pub(super) read: Target,
    pub(super) nodes: Vec<Target>,
    pub(super) load: Load,
}

/// A target, and the session with it while there is one.
struct Line {
    target: Target,
    options: &'static str,
    session: Option<Session>,
    pace: Interval,
}

impl Line {
    fn new(target: &Target, options: &'static str, pace_ms: u64) -> Self {
        let mut pace = interval(Duration::from_millis(pace_ms));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { target: target.clone(), options, session: None, pace }
    }

    /// The next turn, with a session; none when nobody lets us in.
    async fn turn(&mut self) -> Option<&Session> {
        self.pace.tick().await;
        if self.session.is_none() {
            self.session = Session::open(&self.target, self.options).await;
        }
        self.session.as_ref()
    }

    fn note(&mut self, failure: Failure) {
        if failure == Failure::Broken {
            self.session = None;
        }
    }
}

impl Clients {
    pub(super) async fn run(self, notes: &Arc<Notes>) {
        let mut tasks = JoinSet::new();
        let shared = || Arc::clone(notes);
        tasks.spawn(insert(Line::new(&self.write, "", 10), shared()));
        tasks.spawn(read(Line::new(&self.read, "", 10), shared()));
        tasks.spawn(see(Line::new(&self.write, "", 50), shared()));
        let line = Line::new(&self.write, "-c synchronous_commit=local", 30);
        tasks.spawn(write_routed(line, shared()));
        for (node, target) in self.nodes.iter().enumerate() {
            let line = Line::new(target, "", 30);
            tasks.spawn(write_directly(line, shared(), node, Commit::Synchronous));
            let line = Line::new(target, "-c synchronous_commit=local", 30);
            tasks.spawn(write_directly(line, shared(), node, Commit::Local));
            tasks.spawn(watch_node(Line::new(target, "", 50), shared(), node));
        }
        if self.load == Load::Full {
            for number in 0..3 {
                let line = Line::new(&self.write, SERIALIZABLE, 20);
                tasks.spawn(change_lists(line, shared(), number));
            }
            tasks.spawn(transfer(Line::new(&self.write, SERIALIZABLE, 20), shared(), 1));
            tasks.spawn(transfer(Line::new(&self.write, SERIALIZABLE, 20), shared(), 2));
            tasks.spawn(audit(Line::new(&self.write, SERIALIZABLE, 100), shared()));
        }
        while tasks.join_next().await.is_some() {}
    }
}

async fn insert(mut line: Line, notes: Arc<Notes>) {
    let table = notes.table("acks");
    let mut number = 0;
    while notes.goes_on() {
        number += 1;
        let Some(session) = line.turn().await else { continue };
        let done = session.query(&format!("INSERT INTO {table} VALUES ({number})")).await;
        let outcome = done.as_ref().map_or_else(|f| f.outcome(), |_| Outcome::Acknowledged);
        notes.history().inserts.push(Insert { number, ended: notes.now(), outcome });
        if let Err(failure) = done {
            line.note(failure);
            if failure == Failure::Refused {
                // A router that leads to a replica: another session is another chance.
                line.session = None;
            }
        }
    }
}

async fn read(mut line: Line, notes: Arc<Notes>) {
    let query = format!("SELECT max(n) FROM {}", notes.table("acks"));
    while notes.goes_on() {
        let Some(session) = line.turn().await else { continue };
        match session.query(&query).await {
            Ok(_) => notes.history().reads.push(notes.now()),
            Err(failure) => line.note(failure),
        }
    }
}

/// Remembers every number that the write port ever showed.
async fn see(mut line: Line, notes: Arc<Notes>) {
    let table = notes.table("acks");
    let mut greatest = 0;
    while notes.goes_on() {
        let Some(session) = line.turn().await else { continue };
        // Older ones may come later than younger ones: their outcome was unknown.
        let query = format!("SELECT n FROM {table} WHERE n > {}", greatest - 20);
        match session.query(&query).await {
            Ok(rows) => {
                let numbers = rows.iter().filter_map(|row| row.first()?.parse::<i64>().ok());
                for number in numbers {
                    greatest = greatest.max(number);
                    notes.history().seen.push(number);
                }
            }
            Err(failure) => line.note(failure),
        }
    }
}

async fn write_directly(mut line: Line, notes: Arc<Notes>, node: usize, commit: Commit) {
    let table = notes.table("direct");
    let query = format!(
        "INSERT INTO {table} VALUES ({node}) \
         RETURNING substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
    );
    while notes.goes_on() {
        let Some(session) = line.turn().await else { continue };
        let begun = notes.now();
        match session.query(&query).await {
            Ok(rows) => {
                let text = rows.concat().concat();
                let timeline = u32::from_str_radix(&text, 16).unwrap_or_default();
                let ended = notes.now();
                notes.history().direct.push(Direct { node, commit, timeline, begun, ended });
            }
            Err(failure) => line.note(failure),
        }
    }
}

/// Through the router, in a session that lasts as long as it is let.
async fn write_routed(mut line: Line, notes: Arc<Notes>) {
    let table = notes.table("direct");
    let query = format!(
        "INSERT INTO {table} VALUES (-1) \
         RETURNING substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), \
         coalesce(substring(host(inet_server_addr()) FROM '[0-9]+$'), '0')"
    );
    while notes.goes_on() {
        let Some(session) = line.turn().await else { continue };
        let begun = notes.now();
        match session.query(&query).await {
            Ok(rows) => {
                let [timeline, node] = rows.concat().try_into().unwrap_or_default();
                let timeline = u32::from_str_radix(&timeline, 16).unwrap_or_default();
                let node = node.parse().unwrap_or_default();
                let (commit, ended) = (Commit::Synchronous, notes.now());
                notes.history().routed.push(Direct { node, commit, timeline, begun, ended });
            }
            Err(failure) => line.note(failure),
        }
    }
}

async fn watch_node(mut line: Line, notes: Arc<Notes>, node: usize) {
    let query = format!(
        "SELECT coalesce(max(n), 0), (extract(epoch FROM pg_postmaster_start_time()) * 1e6)::bigint \
         FROM {}",
        notes.table("acks")
    );
    while notes.goes_on() {
        let Some(session) = line.turn().await else { continue };
        match session.query(&query).await {
            Ok(rows) => {
                let numbers: Vec<i64> =
                    rows.concat().iter().filter_map(|text| text.parse().ok()).collect();
                let [greatest, life] = numbers.as_slice() else { continue };
                let (greatest, life, at) = (*greatest, *life, notes.now());
                notes.history().shown.push(Shown { node, life, greatest, at });
            }
            Err(failure) => line.note(failure),
        }
    }
}

/// Chance that repeats itself: which operation comes next matters, not how random it is.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> i64 {
        // xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit).cast_signed()
    }
}

async fn change_lists(mut line: Line, notes: Arc<Notes>, number: i64) {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ number.cast_unsigned());
    let mut count = 0;
    while notes.goes_on() {
        count += 1;
        let Some(session) = line.turn().await else { continue };
        let mut planned = Vec::new();
        for step in 0..=dice.below(4) {
            let key = count / ROUND * 4 + dice.below(4);
            let element = count * 100 + step * 10 + number;
            planned.push(if dice.below(2) == 0 {
                Op::Append { key, element }
            } else {
                Op::Read { key, list: Vec::new() }
            });
        }
        let begun = notes.now();
        let (ops, done) = transaction(session, &notes.table("lists"), planned).await;
        let outcome = done.map_or_else(|failed| failed.0, |()| Outcome::Acknowledged);
        let ended = notes.now();
        notes.history().transactions.push(Transaction { begun, ended, outcome, ops });
        if let Err((_, failure)) = done {
            line.note(failure);
            if failure == Failure::Refused {
                // The session is in an aborted transaction.
                abort(&mut line).await;
            }
        }
    }
}

/// Carries the operations out; what was read, and how it ended.
async fn transaction(
    session: &Session,
    table: &str,
    mut ops: Vec<Op>,
) -> (Vec<Op>, Result<(), (Outcome, Failure)>) {
    // Nothing is committed before COMMIT is sent.
    let failed = |failure| Err((Outcome::Failed, failure));
    if let Err(failure) = session.query("BEGIN").await {
        return (ops, failed(failure));
    }
    for op in &mut ops {
        match op {
            Op::Append { key, element } => {
                let query = format!(
                    "INSERT INTO {table} AS t VALUES ({key}, '{{{element}}}') \
                     ON CONFLICT (k) DO UPDATE SET v = t.v || excluded.v"
                );
                if let Err(failure) = session.query(&query).await {
                    return (ops, failed(failure));
                }
            }
            Op::Read { key, list: found } => {
                let query = format!("SELECT array_to_string(v, ',') FROM {table} WHERE k = {key}");
                match session.query(&query).await {
                    Ok(rows) => *found = list(&rows.concat().concat()).unwrap_or_default(),
                    Err(failure) => return (ops, failed(failure)),
                }
            }
        }
    }
    let done = session.query("COMMIT").await;
    (ops, done.map(drop).map_err(|failure| (failure.outcome(), failure)))
}

async fn abort(line: &mut Line) {
    if let Some(session) = &line.session
        && session.query("ROLLBACK").await.is_err()
    {
        line.session = None;
    }
}

async fn transfer(mut line: Line, notes: Arc<Notes>, seed: u64) {
    let table = notes.table("bank");
    let mut dice = Dice(seed);
    while notes.goes_on() {
        let Some(session) = line.turn().await else { continue };
        let (from, amount) = (1 + dice.below(5), dice.below(10));
        let to = 1 + (from + dice.below(4)) % 5;
        let halves = [(from, -amount), (to, amount)];
        let mut done = session.query("BEGIN").await.map(drop);
        for (id, change) in halves {
            let query = format!("UPDATE {table} SET balance = balance + {change} WHERE id = {id}");
            if done.is_ok() {
                done = session.query(&query).await.map(drop);
            }
        }
        if done.is_ok() {
            done = session.query("COMMIT").await.map(drop);
        }
        if let Err(failure) = done {
            line.note(failure);
            abort(&mut line).await;
        }
    }
}

async fn audit(mut line: Line, notes: Arc<Notes>) {
    let query = format!("SELECT sum(balance)::bigint FROM {}", notes.table("bank"));
    while notes.goes_on() {
        let Some(session) = line.turn().await else { continue };
        match session.query(&query).await {
            Ok(rows) => {
                let sum = rows.concat().concat().parse().unwrap_or_default();
                notes.history().sums.push((notes.now(), sum));
            }
            Err(failure) => line.note(failure),
        }
    }
}
