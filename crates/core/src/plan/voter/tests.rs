//! When a voter stops receiving without having been asked.

use crate::Term;
use crate::input::Input;
use crate::node::tests::{Bench, name, primary, replica, returned, streams};
use crate::peer::{PeerBeat, PeerMessage, PeerPg};
use crate::postgres::PgOp;

/// The leader's agent speaks; its PostgreSQL is down.
fn hear(bench: &mut Bench, leads: u64, died: bool) {
    let leads = Some(Term(leads));
    let beat = PeerBeat { leads, pg: PeerPg::Down, hears_leader: false, died, ..streams() };
    bench.feed(Input::Peer { from: name("n1"), message: PeerMessage::Beat(beat) });
    bench.feed(replica(bench.now, Some("n1"), true));
}

#[test]
fn a_leader_that_says_it_died_is_let_go_before_its_release() {
    let mut bench = Bench::replica_n2();
    hear(&mut bench, 10, false);
    assert_eq!(bench.take_operation(), None, "it may have been told to stop");
    hear(&mut bench, 9, true);
    assert_eq!(bench.take_operation(), None, "a word of another term");
    hear(&mut bench, 10, true);
    let (_, op) = bench.take_operation().expect("nothing comes from the dead");
    assert_eq!(op, PgOp::Follow { upstream: None });
}

#[test]
fn a_leader_says_that_it_died_unless_it_was_told_to() {
    let (mut bench, _) = returned();
    bench.feed(primary(bench.now));
    assert!(!bench.node.leader_died());
    bench.node.op = None;
    assert!(bench.node.start_op(PgOp::Stop));
    bench.node.pg = crate::state::Pg::Exited;
    assert!(!bench.node.leader_died(), "it was told to stop");
    bench.node.op = None;
    assert!(bench.node.leader_died());
}
