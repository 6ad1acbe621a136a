//! Half-dead servers: a `pg_wal` on a disk of its own that fills, and clients who take every slot.
//! What the core makes of it is told by `scenarios/80` to `85`, frozen disks by the lab.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use pgherd_core::disk::DiskFacts;
use pgherd_core::postgres::{PgFailureKind, PgOp, PgOpResult, PgState, Upstream};
use pgherd_postgres::DiskProbe;

use crate::node::{Herd, list, small_file_system};
use crate::trial;

pub(crate) fn add(trials: &mut Vec<Trial>) {
    trial(trials, "wal_on_its_own_disk_is_tried_too", wal_on_its_own_disk);
    trial(trials, "a_full_disk_keeps_nobody_from_pledging", full_disk_pledges);
    trial(trials, "all_slots_taken_is_no_death", all_slots_taken);
}

/// Tries until what is found is as wanted.
async fn until(probe: &DiskProbe, wanted: impl Fn(&DiskFacts) -> bool) -> DiskFacts {
    let begin = Instant::now();
    loop {
        probe.try_again(pgherd_core::Duration::ZERO);
        let found = probe.look();
        if wanted(&found) {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn wal_on_its_own_disk() {
    let Some(small) = small_file_system().await else { return };
    let herd = Herd::new();
    let node = herd.node("n1").await;
    node.done(PgOp::Init).await;
    let (inside, outside) = (node.settings.data_dir.join("pg_wal"), small.path.join("wal"));
    let copied = std::process::Command::new("cp").arg("-a").args([&inside, &outside]).status();
    assert!(copied.unwrap().success());
    std::fs::remove_dir_all(&inside).unwrap();
    std::os::unix::fs::symlink(&outside, &inside).unwrap();
    node.arm_for_ever();
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
    let probe = DiskProbe::start(&node.settings.data_dir).unwrap();
    let works = |found: &DiskFacts| {
        found.data.good.is_some() && found.wal.is_some_and(|wal| wal.good.is_some())
    };
    until(&probe, works).await;
    // The file in pg_wal is in nobody's way.
    let replica = herd.replica("n2", &node).await;
    node.sql("CREATE TABLE t (i int); SELECT pg_switch_wal(); CHECKPOINT").await;
    node.done(PgOp::Stop).await;
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
    drop(replica);
    let filler = small.path.join("filler-of-wal");
    std::fs::write(&filler, vec![0; 200 << 20]).unwrap_err();
    let full = |found: &DiskFacts| found.wal.and_then(|wal| wal.free) == Some(0);
    let found = until(&probe, full).await;
    assert!(found.data.free.is_some_and(|free| free > 0), "{found:?}");
    // Nothing else tells: it answers, and even writes, until it needs the next segment.
    assert!(matches!(node.state().await, PgState::Running(_)));
    std::fs::remove_file(&filler).unwrap();
    until(&probe, |found| found.wal.and_then(|wal| wal.free).is_some_and(|free| free > 0)).await;
    node.done(PgOp::Stop).await;
    std::fs::remove_dir_all(&outside).unwrap();
}

/// A voter whose disk is full may have what was acknowledged last, so that nobody leads without its word: it stops
/// receiving, and stands still. What doesn't fit leaves the configuration as it was.
async fn full_disk_pledges() {
    let Some(small) = small_file_system().await else { return };
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let place = small.path.join("pledges");
    let two = herd.open(herd.settings_in("n2", &place)).await;
    let two = herd.replica_of(two, &one).await;
    one.sql("CREATE TABLE t (i int)").await;
    let filler = small.path.join("filler-of-all");
    std::fs::write(&filler, vec![0; 200 << 20]).unwrap_err();
    two.done(PgOp::Follow { upstream: None }).await;
    let replica = two.as_replica().await;
    assert!(replica.upstream.is_none() && !replica.streaming, "{replica:?}");
    let upstream = Some(Upstream::Leader(one.settings.node.clone()));
    let conf = || std::fs::read_to_string(two.settings.data_dir.join("postgresql.conf")).unwrap();
    let before = conf();
    let far = Some(Upstream::Leader(herd.stranger("far", "x".repeat(20_000))));
    let result = two.execute(PgOp::Follow { upstream: far }).await;
    let PgOpResult::Failed(failure) = result else { panic!("it has room") };
    assert_eq!(failure.kind, PgFailureKind::DiskFull, "{}", failure.detail);
    assert!(conf() == before, "half of the new one: {}", conf());
    std::fs::remove_file(&filler).unwrap();
    two.done(PgOp::Follow { upstream }).await;
    two.until_streaming().await;
    two.done(PgOp::Stop).await;
    drop(two);
    std::fs::remove_dir_all(place).unwrap();
}

async fn all_slots_taken() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    node.sql("CREATE ROLE crowd LOGIN PASSWORD 'crowd'").await;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(node.settings.port).user("crowd").password("crowd");
    config.dbname("postgres");
    let mut crowd = Vec::new();
    let refused = loop {
        match config.connect(tokio_postgres::NoTls).await {
            Ok((client, connection)) => crowd.push((client, tokio::spawn(connection))),
            Err(error) => break error,
        }
        assert!(crowd.len() < 100, "30 connections are allowed");
    };
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("53300"));
    let room = async || {
        assert!(matches!(node.state().await, PgState::Running(_)), "it lives");
        node.server.shown().room_for_clients
    };
    node.until("no room", async || room().await == Some(0)).await;
    // What an operator does through the agent works meanwhile.
    node.done(PgOp::SetNames { names: list(&["n2"]) }).await;
    node.done(PgOp::SetNames { names: list(&[]) }).await;
    crowd.clear();
    node.until("room", async || room().await.is_some_and(|room| room > 10)).await;
}
