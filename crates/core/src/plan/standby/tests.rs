//! A leader in recovery: no guard, no promotion, until the cluster is one of its own again; and a primary
//! that is to follow another cluster.

use std::sync::Arc;

use crate::cluster::{Accession, Beat, ClusterView, Purpose, ReignEnd, TermRecord};
use crate::input::{Action, Input, StoreOutcome};
use crate::node::tests::{Bench, at, beat, name, replica, view};
use crate::postgres::{PgFacts, PgOp, PgOpResult, PgRole, PgState, Upstream};
use crate::{LeaseId, Lsn, Policy, Reason, Revision, Term, Time};

fn standby(standby: bool) -> Policy {
    Policy { standby, ..Policy::default() }
}

/// n1 let go for n2, in a cluster that follows another one.
fn handed_over() -> ClusterView {
    let ended = Some(ReignEnd::HandedOver { to: name("n2"), lsn: Lsn::ZERO });
    ClusterView {
        revision: Revision(30),
        config: at(29, standby(true)),
        leader: None,
        beat: at(30, Beat { serving: false, ended, ..beat() }),
        ..view()
    }
}

/// n2 leads, and says where it stands.
fn led(config: (u64, Policy), revision: u64) -> ClusterView {
    let (by, lineage) = (Accession::HandOver, vec![Term(10)]);
    let mut news = ClusterView {
        revision: Revision(revision),
        config: at(config.0, config.1),
        leader: at(32, name("n2")),
        term: at(
            32,
            TermRecord { leader: name("n2"), by, lineage, without: None, begun: Vec::new() },
        ),
        beat: at(32, Beat { serving: false, ..beat() }),
        ..view()
    };
    if let Some(leader) = &mut news.leader {
        leader.lease = Some(LeaseId(77));
    }
    news
}

fn leader() -> Bench {
    let mut bench = Bench::replica_n2();
    bench.feed(Input::View(Arc::new(handed_over())));
    bench.persist_all();
    let (id, _) = bench.take_txn(Purpose::TakeOver).expect("it is named");
    bench.feed(Input::Store { id, outcome: StoreOutcome::Applied(Revision(32)) });
    bench.persist_all();
    bench.feed(Input::View(Arc::new(led((29, standby(true)), 33))));
    bench
}

fn armed(action: &Action) -> bool {
    matches!(action, Action::Arm { .. })
}

fn promotes(action: &Action) -> bool {
    matches!(action, Action::Postgres { op: PgOp::Promote { .. }, .. })
}

/// Streams from the other cluster.
fn from_remote(at: Time) -> Input {
    let mut input = replica(at, None, true);
    if let Input::Postgres(PgFacts { state: PgState::Running(running), .. }) = &mut input
        && let PgRole::Replica(replica) = &mut running.role
    {
        replica.upstream = Some(Upstream::Remote);
    }
    input
}

/// Whatever is ordered before that operation is done.
fn until(bench: &mut Bench, wanted: impl Fn(&PgOp) -> bool) -> PgOp {
    for _ in 0..8 {
        bench.persist_all();
        let (id, op) = bench.take_operation().expect("something is to be done");
        if wanted(&op) {
            return op;
        }
        bench.later(5);
        bench.feed(Input::OpDone { id, result: PgOpResult::Done });
        bench.feed(replica(bench.now, None, false));
    }
    panic!("never ordered");
}

/// It leads, and streams from the other cluster.
fn streaming_leader() -> Bench {
    let mut bench = leader();
    until(&mut bench, |op| matches!(op, PgOp::Follow { .. }));
    let id = bench.node.op.as_ref().expect("it follows").id;
    bench.later(5);
    bench.feed(Input::OpDone { id, result: PgOpResult::Done });
    bench.feed(from_remote(bench.now));
    bench
}

#[test]
fn a_leader_in_recovery_follows_the_other_cluster() {
    let mut bench = leader();
    let op = until(&mut bench, |op| matches!(op, PgOp::Follow { .. }));
    assert_eq!(op, PgOp::Follow { upstream: Some(Upstream::Remote) });
    let actions = bench.take();
    // Between the takeover and the first look the guard may have been told; what counts is the last word.
    assert!(actions.iter().rfind(|a| armed(a) || **a == Action::Disarm).is_none_or(|a| !armed(a)));
    assert!(!actions.iter().any(promotes));
    assert_eq!(bench.node.decision().reason, Reason::WaitingForRemote);
}

#[test]
fn it_is_promoted_in_a_new_term() {
    let mut bench = streaming_leader();
    bench.take();
    bench.feed(Input::View(Arc::new(led((40, standby(false)), 41))));
    bench.persist_all();
    let (id, _) = bench.take_txn(Purpose::TakeOver).expect("a new term");
    assert!(!bench.take().iter().any(promotes), "not under the old one");
    bench.feed(Input::Store { id, outcome: StoreOutcome::Applied(Revision(42)) });
    bench.persist_all();
    let actions = bench.take();
    let arms = actions.iter().position(|a| matches!(a, Action::Arm { term: Term(42), .. }));
    let promoted = actions.iter().position(promotes);
    assert!(arms.is_some() && promoted.is_some() && arms < promoted, "{actions:?}");
}

#[test]
fn nothing_is_promoted_in_pause() {
    let mut bench = streaming_leader();
    let paused = Policy { pause: true, ..standby(false) };
    bench.feed(Input::View(Arc::new(led((40, paused), 41))));
    bench.persist_all();
    assert!(bench.take_txn(Purpose::TakeOver).is_none());
    assert!(!bench.take().iter().any(promotes));
    assert_eq!(bench.node.decision().reason, Reason::Paused);
}

#[test]
fn commits_wait_for_nobody_where_there_are_none() {
    assert!(Policy::default().synchronous());
    assert!(!standby(true).synchronous());
}
