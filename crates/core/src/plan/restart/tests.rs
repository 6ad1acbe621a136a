//! When a replica is restarted though nobody asked: only for slots, and only at leisure. Whole restarts
//! are in `scenarios/`.

use std::sync::Arc;

use crate::cluster::{ClusterView, FailoverRequest};
use crate::input::{Hold, Promise};
use crate::node::tests::{Bench, at, name, replica, streams, view};
use crate::peer::{PeerBeat, PeerMessage, PeerPg};
use crate::postgres::{PgOp, PgOpResult};
use crate::state::Asked;
use crate::{Duration, Input, Policy, Restarts, Revision, Term};

fn says(streaming: bool) -> Input {
    let beat = PeerBeat { pg: PeerPg::Replica { streaming }, ..streams() };
    Input::Peer { from: name("n3"), message: PeerMessage::Beat(beat) }
}

fn see(bench: &mut Bench, revision: u64, change: impl FnOnce(&mut ClusterView)) {
    let mut news = ClusterView { revision: Revision(revision), ..view() };
    change(&mut news);
    bench.feed(Input::View(Arc::new(news)));
}

/// n2 follows n1, and n3 votes too.
fn at_leisure() -> Bench {
    let mut bench = Bench::replica_n2();
    bench.feed(says(true));
    bench.take();
    bench
}

/// The leader has taken this node off the list.
fn unlisted(news: &mut ClusterView) {
    if let Some(sync) = &mut news.sync {
        sync.value.voters.remove(&name("n2"));
    }
}

#[test]
fn a_replica_at_leisure_restarts_for_slots_once_no_commit_waits_for_it() {
    let mut bench = at_leisure();
    bench.feed(Input::RestartForSlots);
    assert!(bench.node.is_restarting());
    assert_eq!(bench.take_operation(), None, "the leader counts on it");
    see(&mut bench, 21, unlisted);
    let (id, op) = bench.take_operation().unwrap();
    assert_eq!(op, PgOp::Stop);
    bench.feed(Input::OpDone { id, result: PgOpResult::Done });
    assert!(bench.node.is_restarting());
    bench.feed(Input::RestartForSlots);
    assert_eq!(bench.take_operation(), None);
}

#[test]
fn whatever_else_goes_on_goes_first() {
    type Change = fn(&mut Bench);
    let all: [(&str, Change); 10] = [
        ("a voter is away", |bench| bench.feed(says(false))),
        ("nothing was heard of a voter", |bench| {
            // Longer gaps would be this process's own.
            for _ in 0..6 {
                bench.later(200);
                bench.feed(replica(bench.now, Some("n1"), true));
            }
        }),
        ("it doesn't stream", |bench| bench.feed(replica(bench.now, Some("n1"), false))),
        ("it streams from another", |bench| bench.feed(replica(bench.now, Some("n3"), true))),
        ("a pause", |bench| {
            see(bench, 21, |news| {
                news.config = at(21, Policy { pause: true, ..Policy::default() });
            });
        }),
        ("a switchover", |bench| {
            see(bench, 21, |news| {
                let member = Some(name("n2"));
                news.failover = at(21, FailoverRequest { leader: Some(name("n1")), member });
            });
        }),
        ("a pledge is asked", |bench| {
            let (from, ballot) = (name("n3"), Revision(25));
            bench.node.asked = Some(Asked { from, ballot, at: bench.now });
        }),
        ("a pledge binds it", |bench| {
            let against = bench.node.view.current_term();
            let promise = Promise { ballot: Revision(25), candidate: name("n3"), against };
            bench.node.durable.promise = Some(promise);
        }),
        ("it holds the leader's term", |bench| {
            let ttl = Duration::secs(5);
            let hold = Hold { term: Term(10), leader: name("n1"), ttl };
            bench.node.durable.hold = Some(hold);
            bench.node.held_until = bench.now + ttl;
        }),
        ("nobody leads", |bench| see(bench, 21, |news| news.leader = None)),
    ];
    for (what, change) in all {
        let mut bench = at_leisure();
        change(&mut bench);
        bench.take();
        bench.feed(Input::RestartForSlots);
        assert!(!bench.node.is_restarting(), "{what}");
        assert_eq!(bench.take_operation().filter(|(_, op)| *op == PgOp::Stop), None, "{what}");
    }
}

#[test]
fn an_offer_that_was_taken_is_dropped_when_something_comes_between() {
    let mut bench = at_leisure();
    bench.feed(Input::RestartForSlots);
    assert!(bench.node.is_restarting());
    see(&mut bench, 21, |news| news.leader = None);
    assert!(!bench.node.is_restarting());
    assert_eq!(bench.node.restarts(), Restarts::default(), "nobody asked for it");

    // What an operator asked for stays.
    let mut bench = at_leisure();
    bench.feed(Input::RestartForSlots);
    bench.feed(Input::Restart);
    bench.feed(says(false));
    assert!(bench.node.is_restarting());
}
