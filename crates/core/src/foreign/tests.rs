//! What a node makes of a Patroni leader, of its end, and of Patroni members in an election.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks out what it looks for")]

use std::sync::Arc;

use crate::cluster::{Accession, ClusterView, ForeignTerm, Purpose, Status, TermRecord};
use crate::node::tests::{Bench, at, name, replica, view};
use crate::peer::PatroniAnswer;
use crate::postgres::{PgOp, PgOpResult};
use crate::{
    Action, Duration, Input, Lsn, NodeName, Policy, Revision, SynchronousMode, Term, Timeline,
};

/// n1 is Patroni's, and has led since revision 40.
fn led_by_patroni() -> ClusterView {
    let mut view = view();
    view.revision = Revision(50);
    view.leader = at(40, name("n1"));
    view.config = at(10, Policy { synchronous_mode: SynchronousMode::Off, ..Policy::default() });
    view.sync = None;
    view.status = at(45, Status { optime: Lsn(100) });
    let n1 = view.members.get_mut(&name("n1")).unwrap();
    n1.value.patroni = true;
    n1.value.role = crate::cluster::MemberRole::Primary;
    n1.value.timeline = Some(Timeline(1));
    view
}

/// Its key is gone.
fn gone() -> ClusterView {
    ClusterView { revision: Revision(60), leader: None, ..led_by_patroni() }
}

fn follower() -> Bench {
    let mut bench = Bench::replica_n2();
    bench.feed(Input::View(Arc::new(led_by_patroni())));
    bench.persist_all();
    bench.later(10);
    bench.feed(replica(bench.now, Some("n1"), true));
    bench.persist_all();
    bench
}

fn asked(bench: &mut Bench) -> Vec<NodeName> {
    let asked = bench.take().into_iter().filter_map(|action| match action {
        Action::AskPatroni { node } => Some(node),
        _ => None,
    });
    asked.collect()
}

fn stand(bench: &mut Bench) -> bool {
    for _ in 0..10 {
        bench.later(100);
        bench.feed(replica(bench.now, None, false));
        for (id, request) in bench.requests() {
            if request.purpose() == Some(Purpose::Claim) {
                return true;
            }
            bench.feed(Input::Store { id, outcome: crate::StoreOutcome::Alive });
        }
    }
    false
}

/// The key goes, and the node stops pointing at whoever held it.
fn let_go(bench: &mut Bench) {
    bench.feed(Input::View(Arc::new(gone())));
    let follow = bench.take_operation().expect("an operation");
    assert_eq!(follow.1, PgOp::Follow { upstream: None });
    bench.feed(Input::OpDone { id: follow.0, result: PgOpResult::Done });
    bench.later(10);
    bench.feed(replica(bench.now, None, false));
}

#[test]
fn a_leader_key_newer_than_the_term_is_a_term_of_its_own() {
    let view = led_by_patroni();
    assert!(view.foreign_leader() && !view.foreign_over());
    assert_eq!(view.current_term(), Some(Term(40)));
    assert!(view.current_beat().is_none(), "the last beat is of an earlier term");
    let bench = follower();
    let foreign = ForeignTerm { term: Term(40), leader: Some(name("n1")) };
    assert_eq!(bench.node.durable().foreign, Some(foreign), "it is remembered on disk");
}

#[test]
fn what_streams_past_its_first_known_position_is_of_its_term() {
    let mut bench = Bench::replica_n2();
    bench.node.durable.data_from = Some(name("n1"));
    bench.feed(Input::View(Arc::new(led_by_patroni())));
    bench.later(10);
    bench.feed(replica(bench.now, Some("n1"), true));
    assert_eq!(bench.node.durable().wal_term, Some(Term(40)));
    assert_eq!(bench.node.durable().wal_lineage, [Term(10)], "and continues what it was of before");
}

#[test]
fn silence_deposes_no_foreign_leader() {
    let mut bench = follower();
    bench.take();
    bench.later(600_000);
    bench.feed(replica(bench.now, Some("n1"), false));
    assert!(!stand(&mut bench), "its lease is its word");
}

#[test]
fn its_term_stays_known_when_its_key_is_gone() {
    let mut bench = follower();
    bench.feed(Input::View(Arc::new(gone())));
    assert_eq!(bench.node.view().current_term(), Some(Term(40)));
    assert!(bench.node.view().foreign_over());
    // Another life of the same agent, which saw nothing of it, has it from its disk.
    let durable = bench.node.durable().clone();
    let config = bench.node.config.clone();
    let mut again = crate::Node::new(config, crate::Incarnation(3), durable, bench.now);
    again.handle(bench.now, Input::View(Arc::new(gone())));
    assert_eq!(again.view().current_term(), Some(Term(40)));
}

#[test]
fn a_former_leader_does_not_return_over_a_term_that_it_slept_through() {
    let mut bench = Bench::replica_n2();
    let record = TermRecord {
        leader: name("n2"),
        by: Accession::Founding,
        lineage: Vec::new(),
        without: None,
        begun: Vec::new(),
    };
    let slept = ClusterView { term: at(10, record), ..gone() };
    // The last beat is of revision 19, and `status` was written at 45.
    bench.feed(Input::View(Arc::new(slept.clone())));
    assert!(bench.node.view().foreign_over());
    assert!(!bench.node.was_last_leader());
    let calm = ClusterView { status: at(19, Status { optime: Lsn(100) }), ..slept };
    let calm = ClusterView { revision: Revision(61), ..calm };
    bench.node.durable.foreign = None;
    bench.feed(Input::View(Arc::new(calm)));
    assert!(bench.node.was_last_leader(), "nobody else wrote anything");
}

#[test]
fn nobody_stands_before_patroni_was_asked_nor_past_a_running_primary() {
    let mut bench = follower();
    bench.take();
    let_go(&mut bench);
    assert!(asked(&mut bench).contains(&name("n1")));
    assert!(!stand(&mut bench), "the answer is waited for");
    let answer = |bench: &mut Bench, answer| {
        let (from, asked) = (name("n1"), bench.now);
        bench.feed(Input::Patroni { from, asked, answer });
    };
    answer(&mut bench, PatroniAnswer::Primary);
    assert!(!stand(&mut bench), "it still runs");
    let lsn = Lsn(101);
    let timeline = Some(Timeline(1));
    answer(&mut bench, PatroniAnswer::Replica { lsn, timeline, streaming: false, barred: false });
    assert!(!stand(&mut bench), "it is ahead");
    answer(&mut bench, PatroniAnswer::Replica { lsn, timeline, streaming: false, barred: true });
    assert!(stand(&mut bench), "it may not lead");
}

#[test]
fn silence_of_a_patroni_member_is_waited_for_once() {
    let mut bench = follower();
    let_go(&mut bench);
    assert!(!stand(&mut bench));
    bench.later(Duration::secs(2).as_millis());
    assert!(stand(&mut bench), "unreachable is not no");
}
