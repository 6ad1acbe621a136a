//! Of which term a node's WAL is.

use std::sync::Arc;

use crate::cluster::{Accession, Beat, ClusterView, Op, Purpose, TermRecord, TermStart, Value};
use crate::node::tests::{Bench, at, beat, candidate, name, view};
use crate::{Input, Lsn, Revision, Term, Timeline};

/// n1 led under terms 10, 30 and 40; the last has not said where its WAL begins.
fn after_two_terms(begun: TermStart) -> ClusterView {
    let term = TermRecord {
        leader: name("n1"),
        by: Accession::Return,
        lineage: vec![Term(10), Term(30)],
        without: None,
        begun: vec![begun],
    };
    ClusterView {
        revision: Revision(41),
        leader: at(40, name("n1")),
        term: at(40, term),
        beat: at(41, Beat { start: None, timeline: None, serving: false, ..beat() }),
        ..view()
    }
}

fn term_30(leader: &str, timeline: u32, start: u64) -> TermStart {
    let (term, leader) = (Term(30), name(leader));
    TermStart { term, leader, timeline: Timeline(timeline), start: Lsn(start) }
}

/// n2 streams on from n1 and sees nothing of the store before term 40: among what it has acknowledged may be
/// commits of term 30, so that its position must not count as one of term 10 (seed 712).
#[test]
fn a_term_that_began_and_ended_unheard_counts() {
    let term_of = |begun: TermStart| {
        let mut bench = Bench::replica_n2();
        assert_eq!(bench.node.position().map(|position| position.term), Some(Term(10)));
        bench.feed(Input::View(Arc::new(after_two_terms(begun))));
        bench.node.position().map(|position| position.term)
    };
    assert_eq!(term_of(term_30("n1", 1, 100)), Some(Term(30)));
    assert_eq!(term_of(term_30("n1", 1, 101)), Some(Term(10)), "its WAL ends before that one's");
    assert_eq!(term_of(term_30("n3", 1, 100)), Some(Term(10)), "its WAL is n1's");
    assert_eq!(term_of(term_30("n1", 2, 100)), Some(Term(10)), "its WAL is of another timeline");
}

#[test]
fn a_takeover_says_where_the_term_before_it_began() {
    let mut bench = candidate(Lsn(100));
    let (_, txn) = bench.take_txn(Purpose::TakeOver).expect("takes over with two pledges");
    let record = txn.then.iter().find_map(|op| match op {
        Op::Put(_, Value::Term(record), _) => Some(record),
        Op::Put(..) | Op::Delete(_) => None,
    });
    let start = beat().start.expect("term 10 began");
    let before = TermStart { term: Term(10), leader: name("n1"), timeline: Timeline(1), start };
    assert_eq!(record.expect("it writes the term").begun, [before]);
}
