//! Whose WAL is meant by a tag, and what WAL is worth that came by way of a member. Whole stories are
//! in `scenarios/`.

use std::sync::Arc;

use super::{GONE, Lineage};
use crate::cluster::{ClusterView, TermRecord};
use crate::input::Via;
use crate::node::tests::{Bench, at, beat, name, replica, streams, view};
use crate::peer::{PeerBeat, Position};
use crate::state::Peer;
use crate::{Duration, Input, Instance, Lsn, Revision, Tags, Term, Timeline};

/// A node that streamed from n3 in term 10, and sees that n1 leads under term 40 by now.
fn after_a_change() -> Bench {
    let mut bench = Bench::replica_n2();
    let by = crate::cluster::Accession::Return;
    let term = TermRecord {
        leader: name("n1"),
        by,
        lineage: vec![Term(10)],
        without: None,
        begun: Vec::new(),
    };
    let news = ClusterView {
        revision: Revision(41),
        leader: at(40, name("n1")),
        term: at(40, term),
        beat: at(41, beat()),
        ..view()
    };
    bench.feed(Input::View(Arc::new(news)));
    let via = Via { node: name("n3"), instance: Instance(9), timeline: Timeline(1) };
    bench.node.durable.data_via = Some(via);
    bench.node.durable.data_terms = vec![Term(10)];
    bench
}

fn hear(bench: &mut Bench, instance: u64, term: u64) {
    let now = bench.node.now;
    let beat = PeerBeat {
        position: Some(Position { term: Term(term), lsn: Lsn(200) }),
        timeline: Some(Timeline(2)),
        instance: Some(Instance(instance)),
        ..streams()
    };
    let peer = Peer { beat, heard: now, said: now, lost: false, pg_since: now };
    bench.node.peers.insert(name("n3"), peer);
}

#[test]
fn what_came_through_a_member_is_what_that_has_in_the_same_life() {
    let mut bench = after_a_change();
    let worth = |bench: &Bench, timeline| bench.node.through_member(Timeline(timeline));
    assert_eq!(worth(&bench, 1), None, "on the timeline of that time the history tells");
    assert_eq!(worth(&bench, 2), Some(Lineage::Unknown), "it may say so yet");
    hear(&mut bench, 9, 10);
    assert_eq!(worth(&bench, 2), Some(Lineage::Unknown), "it isn't in the new term yet");
    hear(&mut bench, 9, 40);
    assert_eq!(worth(&bench, 2), Some(Lineage::Same));
    hear(&mut bench, 8, 40);
    assert_eq!(worth(&bench, 2), Some(Lineage::SameNumber), "that data is gone");
    hear(&mut bench, 9, 10);
    bench.node.now += GONE + Duration::millis(1);
    assert_eq!(worth(&bench, 2), Some(Lineage::SameNumber), "nobody can tell any more");
    bench.node.durable.data_terms = vec![Term(40)];
    assert_eq!(worth(&bench, 2), None, "within a term there is nothing to ask");
}

#[test]
fn a_position_is_of_the_term_that_the_member_is_in() {
    let mut bench = after_a_change();
    bench.node.durable.data_terms = vec![Term(40)];
    assert!(!bench.node.through_member_of(Term(40)), "it has said nothing");
    hear(&mut bench, 9, 10);
    assert!(!bench.node.through_member_of(Term(40)));
    hear(&mut bench, 8, 40);
    assert!(!bench.node.through_member_of(Term(40)));
    hear(&mut bench, 9, 40);
    assert!(bench.node.through_member_of(Term(40)));
}

#[test]
fn circles_and_strangers_mean_the_leader() {
    let mut bench = Bench::replica_n2();
    let mut tag = |node: &str, from: &str| {
        let view = Arc::make_mut(&mut bench.node.view);
        let tags = Tags { replicatefrom: Some(name(from)), ..Tags::default() };
        view.members.get_mut(&name(node)).unwrap().value.tags = tags.clone();
        let named = bench.node.named_member(&name(node), &tags, &name("n1"));
        named.map(|node| node.to_string())
    };
    assert_eq!(tag("n2", "n3").as_deref(), Some("n3"));
    assert_eq!(tag("n2", "n1"), None, "the leader itself");
    assert_eq!(tag("n2", "n9"), None, "nobody knows it");
    assert_eq!(tag("n2", "n2"), None);
    assert_eq!(tag("n2", "n3").as_deref(), Some("n3"));
    assert_eq!(tag("n3", "n2"), None, "a circle");
}

/// The operation that was to point it at n3 failed; then n1 leads again, to which PostgreSQL still
/// points. WAL that the record doesn't expect would be of no term, and the node would say less than it has.
#[test]
fn a_stream_that_the_record_does_not_expect_is_written_down() {
    let mut bench = Bench::replica_n2();
    bench.persist_all();
    bench.node.durable.data_from = Some(name("n3"));
    for _ in 0..2 {
        bench.later(100);
        bench.feed(replica(bench.now, Some("n1"), true));
        bench.persist_all();
    }
    assert_eq!(bench.node.durable.data_from, Some(name("n1")));
}
