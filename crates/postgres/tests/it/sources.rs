//! Data and WAL from others than the leader: a replica that stands in for it, and another cluster.

use libtest_mimic::Trial;
use pgherd_core::postgres::{PgFailureKind, PgOp, PgOpResult, Source, Upstream};
use pgherd_postgres::{Address, Remote};

use crate::node::{Herd, Node};
use crate::trial;

pub(crate) fn add(trials: &mut Vec<Trial>) {
    trial(trials, "a_copy_of_a_replica", copy_of_a_replica);
    trial(trials, "another_cluster_is_copied_and_followed", another_cluster);
}

async fn copy_of_a_replica() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    one.sql("CREATE TABLE t AS SELECT 1 AS i").await;
    let two = herd.replica("n2", &one).await;
    let three = herd.node("n3").await;
    let names = [&two, &three].map(|node| node.settings.node.clone());
    one.done(PgOp::EnsureSlots { nodes: names.to_vec() }).await;
    // Who is taken for the leader has to be one.
    let replica = two.settings.node.clone();
    let refused = three.execute(PgOp::Clone { source: Source::Leader(replica.clone()) }).await;
    assert!(matches!(refused, PgOpResult::Failed(_)), "{refused:?}");
    three.done(PgOp::Clone { source: Source::Member(replica) }).await;
    let leader = Upstream::Leader(one.settings.node.clone());
    three.done(PgOp::StartReplica { upstream: Some(leader) }).await;
    three.until_streaming().await;
}

async fn another_cluster() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    one.sql("CREATE TABLE t AS SELECT 1 AS i").await;
    one.sql("SELECT pg_create_physical_replication_slot('for_others', true)").await;
    let mut settings = herd.settings("n2");
    let unknown = herd.open(herd.settings("n3")).await;
    let failed = unknown.execute(PgOp::Clone { source: Source::Remote }).await;
    let PgOpResult::Failed(failure) = failed else { panic!("{failed:?}") };
    assert_eq!(failure.kind, PgFailureKind::SourceUnreachable, "{failure:?}");
    let at = Some(Address { host: "127.0.0.1".to_owned(), port: one.settings.port });
    let slot = Some("for_others".to_owned());
    settings.wanted.remote = Some(Remote { at, slot, ..Remote::default() });
    let two = herd.open(settings).await;
    two.done(PgOp::Clone { source: Source::Remote }).await;
    two.done(PgOp::StartReplica { upstream: Some(Upstream::Remote) }).await;
    two.until_streaming().await;
    assert_eq!(upstream(&two).await, Some(Upstream::Remote));
    let names = "SELECT application_name FROM pg_stat_replication";
    assert_eq!(one.sql(names).await, format!("_{}.n2", two.settings.cluster_name));
    let slots = "SELECT active FROM pg_replication_slots WHERE slot_name = 'for_others'";
    assert_eq!(one.sql(slots).await, "t");
    // Its own followers take it though it is in recovery.
    let three = herd.node("n4").await;
    let leader = two.settings.node.clone();
    two.done(PgOp::EnsureSlots { nodes: vec![three.settings.node.clone()] }).await;
    three.done(PgOp::Clone { source: Source::Member(leader.clone()) }).await;
    let leader = Upstream::StandbyLeader(leader);
    three.done(PgOp::StartReplica { upstream: Some(leader.clone()) }).await;
    three.until_streaming().await;
    assert_eq!(upstream(&three).await, Some(leader));
    two.done(PgOp::Follow { upstream: None }).await;
    assert_eq!(upstream(&two).await, None);
    two.done(PgOp::Follow { upstream: Some(Upstream::Remote) }).await;
    two.until_streaming().await;
}

async fn upstream(node: &Node) -> Option<Upstream> {
    node.as_replica().await.upstream
}
