//! Replication slots: made on every node, moved on, dropped only when they are ours.

use std::collections::BTreeMap;

use libtest_mimic::Trial;
use pgherd_core::Lsn;
use pgherd_core::postgres::{PgOp, Source, Upstream};
use pgherd_postgres::{Configuration, Dropping, LogicalSlot, SlotPattern, SlotWishes, Wanted};

use crate::node::{Herd, Node, configuration, list};
use crate::trial;

pub(crate) fn add(trials: &mut Vec<Trial>) {
    trial(trials, "slots_are_kept_and_ours_are_dropped", kept_and_dropped);
    trial(trials, "slots_of_a_standby_move_on", standby_moves_on);
    trial(trials, "a_lost_slot_is_made_again", lost);
    trial(trials, "a_cascade_streams_from_one_life_alone", one_life_alone);
    trial(trials, "logical_slots_survive_a_failover", logical);
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
    let slot = LogicalSlot { database: "postgres".into(), plugin: "pgoutput".into() };
    SlotWishes { logical: BTreeMap::from([(name.to_owned(), slot)]), ..wishes(&["n1", "n2"]) }
}

async fn logical() {
    let herd = Herd::new();
    let mut wanted = configuration();
    wanted.command_line.insert("wal_level".into(), "logical".into());
    let settings = |name: &str| {
        let mut settings = herd.settings(name);
        let mut all: Configuration = wanted.clone();
        if settings.bin.major >= 17 {
            all.parameters.insert("hot_standby_feedback".into(), "on".into());
            all.parameters.insert("sync_replication_slots".into(), "on".into());
        }
        settings.wanted = Wanted::same(all);
        settings
    };
    let one = herd.open(settings("n1")).await;
    one.done(PgOp::Init).await;
    one.arm_for_ever();
    one.done(PgOp::StartPrimary { names: list(&[]) }).await;
    let wishes = with_logical("feed");
    keep(&one, &wishes).await;
    assert_eq!(there(&one).await, "feed,n1,n2");
    let two = herd.open(settings("n2")).await;
    two.done(PgOp::Clone { source: Source::Leader(one.settings.node.clone()) }).await;
    two.done(PgOp::StartReplica { upstream: Some(Upstream::Leader(one.settings.node.clone())) })
        .await;
    two.until_streaming().await;
    if two.settings.bin.major < 17 {
        // Before 17 a standby has no copy of it: it is made anew after a promotion.
        keep(&two, &wishes).await;
        assert_eq!(there(&two).await, "n1,n2");
        return;
    }
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
