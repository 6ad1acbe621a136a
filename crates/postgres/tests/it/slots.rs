//! Replication slots: made on every node, moved on, dropped only when they are ours.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use pgherd_core::Lsn;
use pgherd_core::postgres::{PgOp, Source, Upstream};
use pgherd_postgres::{
    Carried, Configuration, Dropping, LogicalSlot, Settings, SlotPattern, SlotWishes, Wanted,
};

use crate::node::{Herd, Node, configuration, list};
use crate::trial;

pub(crate) fn add(trials: &mut Vec<Trial>) {
    trial(trials, "slots_are_kept_and_ours_are_dropped", kept_and_dropped);
    trial(trials, "slots_of_a_standby_move_on", standby_moves_on);
    trial(trials, "a_lost_slot_is_made_again", lost);
    trial(trials, "a_cascade_streams_from_one_life_alone", one_life_alone);
    trial(trials, "logical_slots_survive_a_failover", logical);
    trial(trials, "logical_slots_come_with_their_place", carried);
    trial(trials, "a_new_copy_gets_its_logical_slots", copied);
}

fn wishes(physical: &[&str]) -> SlotWishes {
    SlotWishes {
        physical: physical.iter().map(|name| (*name).to_owned()).collect(),
        dropping: Dropping::Yes,
        ..SlotWishes::default()
    }
}

async fn keep(node: &Node, wishes: &SlotWishes) -> Vec<(String, Option<Lsn>)> {
    let seen = node.server.keep_slots(wishes).await.unwrap();
    seen.into_iter().map(|slot| (slot.name, slot.at)).collect()
}

async fn there(node: &Node) -> String {
    let query = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";
    node.sql(query).await
}

async fn kept_and_dropped() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    node.sql("SELECT pg_create_physical_replication_slot('theirs', true)").await;
    keep(&node, &wishes(&["a", "b", "c"])).await;
    assert_eq!(there(&node).await, "a,b,c,theirs");
    let paused = SlotWishes { dropping: Dropping::No, ..wishes(&["a"]) };
    keep(&node, &paused).await;
    let pattern = SlotPattern { name: Some("b".into()), ..SlotPattern::default() };
    let ignoring = SlotWishes { untouched: vec![pattern], ..wishes(&["a"]) };
    keep(&node, &ignoring).await;
    assert_eq!(there(&node).await, "a,b,theirs");
    // After a restart of the agent it is still known whose is whose.
    let settings = node.agent_ends().await;
    let node = herd.open(settings).await;
    let seen = keep(&node, &wishes(&["a"])).await;
    assert_eq!(there(&node).await, "a,theirs");
    assert!(seen.iter().all(|(_, at)| at.is_some()), "{seen:?}");
}

/// The middle one's directory is replaced under the same name and address: who streamed from it gets
/// nothing before it has said that it means the new one.
async fn one_life_alone() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let two = herd.replica("n2", &one).await;
    let three = herd.replica("n3", &one).await;
    let below = three.settings.node.clone();
    let wanted = |life| SlotWishes {
        cascading: BTreeMap::from([(below.cascade_slot(life), life)]),
        ..wishes(&[])
    };
    let go = async |upstream| three.done(PgOp::Follow { upstream }).await;
    let member = |life| Some(Upstream::Member { node: two.settings.node.clone(), instance: life });
    let first = two.server.instance().unwrap();
    keep(&two, &wanted(first)).await;
    go(None).await;
    go(member(first)).await;
    three.until_streaming().await;
    assert_eq!(three.as_replica().await.upstream, member(first));
    let slot = "SELECT slot_name FROM pg_replication_slots WHERE active";
    assert_eq!(two.sql(slot).await, below.cascade_slot(first));

    two.done(PgOp::Stop).await;
    two.done(PgOp::Clone { source: Source::Leader(one.settings.node.clone()) }).await;
    let leader = Some(Upstream::Leader(one.settings.node.clone()));
    two.done(PgOp::StartReplica { upstream: leader }).await;
    two.until_streaming().await;
    keep(&two, &wanted(first)).await;
    assert_eq!(there(&two).await, "");
    let refused = format!("\"{}\" does not exist", below.cascade_slot(first));
    let log = || std::fs::read_to_string(&three.settings.log_file).unwrap_or_default();
    three.until("refused", async || log().contains(&refused)).await;
    assert!(!three.as_replica().await.streaming);
    let second = two.server.instance().unwrap();
    keep(&two, &wanted(second)).await;
    go(None).await;
    go(member(second)).await;
    three.until_streaming().await;
}

async fn standby_moves_on() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let two = herd.replica("n2", &one).await;
    keep(&two, &wishes(&["n3"])).await;
    one.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)").await;
    let end = one.as_primary().await.flushed;
    two.until("replayed", async || two.as_replica().await.replayed >= end).await;
    // Further than it has itself it doesn't go.
    for (to, least) in [(end, end), (Lsn(u64::MAX), end)] {
        let moving = SlotWishes { advance: BTreeMap::from([("n3".into(), to)]), ..wishes(&["n3"]) };
        keep(&two, &moving).await;
        let at = keep(&two, &wishes(&["n3"])).await[0].1.unwrap();
        assert!(at >= least && at <= two.as_replica().await.replayed, "{at} {least}");
    }
}

async fn lost() {
    let herd = Herd::new();
    let node = herd.primary_with_little_wal("n1").await;
    keep(&node, &wishes(&["a"])).await;
    let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'a'";
    node.until_wal_is_lost().await;
    keep(&node, &wishes(&["a"])).await;
    assert_eq!(node.sql(status).await, "reserved");
}

fn with_logical(name: &str) -> SlotWishes {
    let slot = LogicalSlot { database: "postgres".into(), plugin: "test_decoding".into() };
    let nodes = ["n1", "n2", "n3"];
    SlotWishes { logical: BTreeMap::from([(name.to_owned(), slot)]), ..wishes(&nodes) }
}

/// Settings with which logical slots are kept.
fn for_logical(herd: &Herd, name: &str) -> Settings {
    let mut settings = herd.settings(name);
    let mut all: Configuration = configuration();
    all.command_line.insert("wal_level".into(), "logical".into());
    all.parameters.insert("hot_standby_feedback".into(), "on".into());
    if settings.bin.major >= 17 {
        all.parameters.insert("sync_replication_slots".into(), "on".into());
    }
    settings.wanted = Wanted::same(all);
    settings
}

fn without(wishes: &SlotWishes, name: &str) -> SlotWishes {
    let mut wishes = wishes.clone();
    wishes.physical.remove(name);
    wishes
}

/// A primary n1 with a slot for a consumer and one for each replica.
async fn primary_with_feed(herd: &Herd) -> Node {
    let one = herd.open(for_logical(herd, "n1")).await;
    one.done(PgOp::Init).await;
    one.arm_for_ever();
    one.done(PgOp::StartPrimary { names: list(&[]) }).await;
    one.sql("CREATE TABLE t (n int PRIMARY KEY)").await;
    keep(&one, &without(&with_logical("feed"), "n1")).await;
    assert_eq!(there(&one).await, "feed,n2,n3");
    one
}

async fn clone_of(one: &Node, settings: Settings, herd: &Herd) -> Node {
    let node = herd.open(settings).await;
    node.server.want_slots(&with_logical("feed"));
    node.done(PgOp::Clone { source: Source::Leader(one.settings.node.clone()) }).await;
    node
}

async fn start_below(node: &Node, one: &Node) {
    let leader = Some(Upstream::Leader(one.settings.node.clone()));
    node.done(PgOp::StartReplica { upstream: leader }).await;
    node.until_streaming().await;
}

/// Takes what the slot has.
async fn consume(node: &Node) -> BTreeSet<u32> {
    let query = "SELECT string_agg(substring(data FROM 'INSERT: n.integer.:([0-9]+)'), ',') \
        FROM pg_logical_slot_get_changes('feed', NULL, NULL)";
    node.sql(query).await.split(',').filter_map(|n| n.parse().ok()).collect()
}

async fn place(node: &Node, column: &str) -> Lsn {
    let query = format!("SELECT {column} FROM pg_replication_slots WHERE slot_name = 'feed'");
    node.sql(&query).await.parse().unwrap_or_default()
}

/// Writes and consumes until decoding would begin behind `at`; gives the next number.
async fn move_past(one: &Node, at: Lsn, mut n: u32) -> u32 {
    let begin = Instant::now();
    while place(one, "restart_lsn").await <= at {
        assert!(begin.elapsed() < Duration::from_secs(30), "the slot doesn't move past {at}");
        one.sql(&format!("INSERT INTO t VALUES ({n})")).await;
        // It writes down which transactions run.
        one.sql("CHECKPOINT").await;
        assert!(consume(one).await.contains(&n));
        n += 1;
    }
    n
}

fn range(from: u32, to: u32) -> BTreeSet<u32> {
    (from..to).collect()
}

/// A restart brings the slot, it follows, and nothing is missing behind the failover; a transaction ran
/// where decoding begins.
async fn carried() {
    let herd = Herd::new();
    let two = for_logical(&herd, "n2");
    if two.bin.major >= 17 {
        return eprintln!("SKIPPED: PostgreSQL 17 carries logical slots itself");
    }
    let one = primary_with_feed(&herd).await;
    let two = herd.open(two).await;
    two.done(PgOp::Clone { source: Source::Leader(one.settings.node.clone()) }).await;
    start_below(&two, &one).await;
    let runs = one.client().await;
    runs.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    let n = move_past(&one, one.as_primary().await.flushed, 1).await;

    let all = without(&with_logical("feed"), "n2");
    two.server.want_slots(&all);
    let carry = async |wishes: &SlotWishes| two.server.carry_slots(wishes).await.unwrap();
    let paused = SlotWishes { dropping: Dropping::No, ..all.clone() };
    assert_eq!(carry(&paused).await, Carried::Settled);
    let wants = async || carry(&all).await == Carried::WantsRestart(vec!["feed".into()]);
    two.until("wants a restart", wants).await;
    let turns = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(one.sql(turns).await, "1", "one replica at a time");
    two.done(PgOp::Stop).await;
    start_below(&two, &one).await;
    keep(&two, &all).await;
    assert_eq!(there(&two).await, "feed,n1,n3");
    two.until("gives the turn back", async || {
        assert_eq!(carry(&all).await, Carried::Settled);
        one.sql(turns).await == "0"
    })
    .await;
    let held = "SELECT catalog_xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'n2'";
    two.until("held on the leader", async || one.sql(held).await == "t").await;

    // It follows what the leader publishes, and not further than that.
    one.sql(&format!("INSERT INTO t VALUES ({n})")).await;
    assert_eq!(consume(&one).await, range(n, n + 1));
    let published = place(&one, "confirmed_flush_lsn").await;
    let advance = BTreeMap::from([("feed".to_owned(), published)]);
    let moving = SlotWishes { advance, ..all.clone() };
    one.sql(&format!("INSERT INTO t SELECT generate_series({}, {})", n + 1, n + 9)).await;
    let end = one.as_primary().await.flushed;
    two.until("replayed", async || two.as_replica().await.replayed >= end).await;
    two.until("moved on", async || {
        carry(&moving).await;
        place(&two, "confirmed_flush_lsn").await == published
    })
    .await;

    one.done(PgOp::Kill).await;
    two.arm_for_ever();
    two.done(PgOp::Promote { names: list(&[]) }).await;
    keep(&two, &without(&with_logical("feed"), "n2")).await;
    assert_eq!(carry(&all).await, Carried::Settled);
    two.sql(&format!("INSERT INTO t VALUES ({})", n + 10)).await;
    assert_eq!(consume(&two).await, range(n + 1, n + 11), "each change once");

    // The former primary crashed with its slot: pg_rewind recovers it, takes the slot, and the start
    // brings the new leader's.
    one.server.want_slots(&all);
    one.done(PgOp::Rewind { source: two.settings.node.clone() }).await;
    start_below(&one, &two).await;
    keep(&one, &without(&with_logical("feed"), "n1")).await;
    assert_eq!(there(&one).await, "feed,n2,n3");
    // Nobody wants it any more.
    keep(&two, &wishes(&["n1"])).await;
    assert_eq!(there(&two).await, "n1");
}

/// A copy that begins behind the slot's WAL waits until the slot has moved; one that doesn't has it from
/// its first start.
async fn copied() {
    let herd = Herd::new();
    let two = for_logical(&herd, "n2");
    if two.bin.major >= 17 {
        return eprintln!("SKIPPED: PostgreSQL 17 carries logical slots itself");
    }
    let one = primary_with_feed(&herd).await;
    one.sql("INSERT INTO t VALUES (1); SELECT pg_switch_wal()").await;
    one.sql("INSERT INTO t VALUES (2); SELECT pg_switch_wal()").await;
    let two = clone_of(&one, two, &herd).await;
    start_below(&two, &one).await;
    let all = without(&with_logical("feed"), "n2");
    keep(&two, &all).await;
    assert_eq!(there(&two).await, "n1,n3", "without its WAL it would be good for nothing");
    assert_eq!(two.server.carry_slots(&all).await.unwrap(), Carried::Settled);

    let three = clone_of(&one, for_logical(&herd, "n3"), &herd).await;
    let n = move_past(&one, one.as_primary().await.flushed, 3).await;
    start_below(&three, &one).await;
    let wishes = without(&with_logical("feed"), "n3");
    keep(&three, &wishes).await;
    assert_eq!(there(&three).await, "feed,n1,n2");
    let carry = async || two.server.carry_slots(&all).await.unwrap();
    let wants = Carried::WantsRestart(vec!["feed".into()]);
    two.until("wants a restart", async || carry().await == wants).await;

    one.sql(&format!("INSERT INTO t VALUES ({n})")).await;
    let end = one.as_primary().await.flushed;
    three.until("replayed", async || three.as_replica().await.replayed >= end).await;
    one.done(PgOp::Kill).await;
    three.arm_for_ever();
    three.done(PgOp::Promote { names: list(&[]) }).await;
    keep(&three, &wishes).await;
    let got = consume(&three).await;
    assert!(got.contains(&n), "{got:?}");
}

/// Before 17: `carried`.
async fn logical() {
    let herd = Herd::new();
    let one = for_logical(&herd, "n1");
    if one.bin.major < 17 {
        return eprintln!("SKIPPED: failover slots are PostgreSQL 17's");
    }
    let one = herd.open(one).await;
    one.done(PgOp::Init).await;
    one.arm_for_ever();
    one.done(PgOp::StartPrimary { names: list(&[]) }).await;
    let mut wishes = with_logical("feed");
    wishes.physical.remove("n3");
    keep(&one, &wishes).await;
    assert_eq!(there(&one).await, "feed,n1,n2");
    let two = herd.open(for_logical(&herd, "n2")).await;
    two.done(PgOp::Clone { source: Source::Leader(one.settings.node.clone()) }).await;
    start_below(&two, &one).await;
    let synced = "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary";
    let moving = async || {
        one.sql("SELECT pg_log_standby_snapshot()").await;
        one.sql("SELECT pg_replication_slot_advance('feed', pg_current_wal_lsn())").await;
        keep(&two, &wishes).await;
        two.sql(synced).await == "1"
    };
    two.until("synchronised", moving).await;
    one.done(PgOp::Stop).await;
    two.arm_for_ever();
    two.done(PgOp::Promote { names: list(&[]) }).await;
    keep(&two, &wishes).await;
    assert_eq!(two.sql("SELECT slot_name FROM pg_replication_slots WHERE failover").await, "feed");
    // The former primary's own gives way to the one that is kept in step.
    two.done(PgOp::EnsureSlots { nodes: vec![one.settings.node.clone()] }).await;
    one.done(PgOp::StartReplica { upstream: Some(Upstream::Leader(two.settings.node.clone())) })
        .await;
    one.until_streaming().await;
    keep(&one, &wishes).await;
    let stale =
        "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical' AND NOT synced";
    assert_eq!(one.sql(stale).await, "0");
}
