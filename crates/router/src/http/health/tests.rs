//! The sentence for each situation.
use super::*;
use crate::confirm::Standing;
use crate::table::ReadFallback;
use crate::testing::{leader, topology};

fn view(topology: &Topology, stale: Option<u64>, held: usize) -> Health {
    let routes = Routes::of(topology, ReadFallback::Leader, None, &Standing::Unchecked);
    health(&View {
        topology,
        routes: &routes,
        stale_for: stale.map(Duration::from_secs),
        primary_for: Duration::from_secs(12),
        held,
    })
}

fn said(topology: &Topology) -> (Level, String) {
    let health = view(topology, None, 0);
    (health.level, health.sentence)
}

#[test]
fn a_healthy_cluster() {
    let three = topology(leader("node2", 42), &["node1", "node2", "node3"]);
    let text = "node2 is primary (term 42) — 2 replicas streaming, lag 0 B";
    assert_eq!(said(&three), (Level::Ok, text.to_owned()));
    let two = topology(leader("a", 1), &["a", "b"]);
    let text = "a is primary (term 1) — 1 replica streaming, lag 0 B";
    assert_eq!(said(&two), (Level::Ok, text.to_owned()));
}

#[test]
fn a_cluster_with_something_missing() {
    let alone = topology(leader("a", 1), &["a"]);
    assert_eq!(said(&alone), (Level::Warn, "a is primary (term 1) — it has no replica".into()));
    let mut three = topology(leader("a", 1), &["a", "b", "c"]);
    three.members[1].lag_bytes = Some(17 << 20);
    let text = "a is primary (term 1) — 2 replicas streaming, lag 17.0 MiB";
    assert_eq!(said(&three), (Level::Warn, text.into()));
    three.members[1].streaming = false;
    let text = "a is primary (term 1) — only 1 of 2 replicas streaming, lag 0 B";
    assert_eq!(said(&three), (Level::Warn, text.into()));
    three.paused = true;
    assert!(said(&three).1.ends_with("; automatic failover is paused"));
}

#[test]
fn a_cluster_without_a_primary() {
    let none = topology(None, &["a", "b"]);
    let health = view(&none, None, 2);
    assert_eq!(health.level, Level::Bad);
    assert_eq!(
        health.sentence,
        "No primary for 12 s: nobody holds the leader key; 2 connections wait"
    );
    let unknown = said(&Topology::default());
    assert_eq!(unknown.0, Level::Bad);
}

#[test]
fn a_view_that_is_old() {
    let two = topology(leader("a", 1), &["a", "b"]);
    let health = view(&two, Some(130), 0);
    assert_eq!(health.level, Level::Warn);
    assert!(health.sentence.starts_with("Not confirmed for 2 min — last known: a is primary"));
}

#[test]
fn numbers_for_people() {
    assert_eq!(bytes(0), "0 B");
    assert_eq!(bytes(1023), "1023 B");
    assert_eq!(bytes(1536), "1.5 KiB");
    assert_eq!(bytes(u64::MAX), "15.9 EiB");
    assert_eq!(span(Duration::from_secs(7199)), "119 min");
}
