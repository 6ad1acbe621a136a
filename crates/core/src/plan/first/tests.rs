//! What a takeover publishes, and when the first client is let in.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::{Beat, ClusterView, Key, Op, Purpose, SyncState, TermRecord, Txn, Value};
use crate::input::{Input, StoreOutcome};
use crate::node::tests::{Bench, at, beat, candidate, name, streams, view};
use crate::peer::{PeerBeat, PeerMessage, PeerPg};
use crate::policy::Policy;
use crate::postgres::{
    PgFacts, PgOp, PgOpResult, PgRole, PgState, PrimaryFacts, RunningFacts, SyncNames,
};
use crate::{Incarnation, Instance, Lsn, Revision, SystemId, Timeline};

fn sync_of(txn: &Txn) -> &SyncState {
    let sync = txn.then.iter().find_map(|op| match op {
        Op::Put(_, Value::Sync(sync), _) => Some(sync),
        Op::Put(..) | Op::Delete(_) => None,
    });
    sync.expect("a takeover writes sync")
}

fn term_of(txn: &Txn) -> TermRecord {
    let record = txn.then.iter().find_map(|op| match op {
        Op::Put(_, Value::Term(record), _) => Some(record.clone()),
        Op::Put(..) | Op::Delete(_) => None,
    });
    record.expect("a takeover writes the term")
}

fn primary(bench: &mut Bench, names: SyncNames) {
    bench.later(5);
    let role = PgRole::Primary(PrimaryFacts {
        flushed: Lsn(120),
        names,
        senders: Vec::new(),
        history: Vec::new(),
        checkpointed: false,
        waiting: Vec::new(),
    });
    let running =
        RunningFacts { system_id: SystemId(7), instance: Instance(2), timeline: Timeline(2), role };
    let state = PgState::Running(running);
    bench.feed(Input::Postgres(PgFacts { at: bench.now, state }));
}

/// A candidate whose takeover was applied, and what it wrote.
fn taken_over() -> (Bench, SyncState, TermRecord) {
    let mut bench = candidate(Lsn(100));
    let (id, txn) = bench.take_txn(Purpose::TakeOver).expect("takes over with two pledges");
    let (sync, term) = (sync_of(&txn).clone(), term_of(&txn));
    bench.take();
    bench.feed(Input::Store { id, outcome: StoreOutcome::Applied(Revision(32)) });
    (bench, sync, term)
}

/// The store after a takeover of revision 32; `sync` was written at `at_revision`.
fn after(term: TermRecord, sync: SyncState, at_revision: u64) -> ClusterView {
    let leader = term.leader.clone();
    ClusterView {
        revision: Revision(33),
        leader: at(32, leader),
        term: at(32, term),
        beat: at(32, Beat { incarnation: Incarnation(2), serving: false, start: None, ..beat() }),
        sync: at(at_revision, sync),
        ..view()
    }
}

#[test]
fn who_stands_where_the_new_leader_stands_votes_from_the_first_moment() {
    let mut bench = candidate(Lsn(100));
    let (_, txn) = bench.take_txn(Purpose::TakeOver).expect("takes over with two pledges");
    let voters = BTreeMap::from([(name("n3"), Some(Instance(3)))]);
    let expected = SyncState { leader: Some(name("n2")), quorum: 0, voters };
    assert_eq!(*sync_of(&txn), expected);
}

#[test]
fn who_has_less_does_not() {
    let mut bench = candidate(Lsn(99));
    let (_, txn) = bench.take_txn(Purpose::TakeOver).expect("takes over with two pledges");
    let before = view().sync.expect("there are voters").value;
    assert_eq!(*sync_of(&txn), SyncState { leader: Some(name("n2")), ..before });
}

/// Nobody streams yet: commits wait for the voter that comes, and reads needn't.
#[test]
fn clients_are_let_in_before_anybody_streams() {
    let (mut bench, sync, term) = taken_over();
    bench.feed(Input::View(Arc::new(after(term, sync, 32))));
    bench.persist_all();
    let (id, op) = bench.take_operation().expect("promotes");
    let names = SyncNames { count: 1, names: vec![name("n3")] };
    assert_eq!(op, PgOp::Promote { names: names.clone() });
    primary(&mut bench, SyncNames::nobody());
    assert!(!bench.node.serving(), "the promotion isn't done: nobody who could come is waited for");
    bench.feed(Input::OpDone { id, result: PgOpResult::Done });
    primary(&mut bench, names);
    assert!(bench.node.serving());
}

/// The count that goes with the published quorum stands, though the policy wants another by now.
#[test]
fn a_policy_that_changed_since_changes_no_first_list() {
    let (mut bench, mut sync, term) = taken_over();
    sync.voters.insert(name("n4"), Some(Instance(4)));
    let policy = Policy { synchronous_node_count: 1, ..Policy::default() };
    let news = ClusterView { config: at(33, policy), ..after(term, sync, 32) };
    bench.feed(Input::View(Arc::new(news)));
    bench.persist_all();
    let (_, op) = bench.take_operation().expect("promotes");
    let names = SyncNames { count: 2, names: vec![name("n3"), name("n4")] };
    assert_eq!(op, PgOp::Promote { names });
}

/// The view that shows the takeover comes after the promotion was ordered.
#[test]
fn a_late_view_sets_the_list_afterwards() {
    let (mut bench, sync, term) = taken_over();
    bench.persist_all();
    let (id, op) = bench.take_operation().expect("promotes");
    assert_eq!(op, PgOp::Promote { names: SyncNames::nobody() });
    bench.feed(Input::View(Arc::new(after(term, sync, 32))));
    bench.feed(Input::OpDone { id, result: PgOpResult::Done });
    primary(&mut bench, SyncNames::nobody());
    let (_, op) = bench.take_operation().expect("sets the list");
    assert_eq!(op, PgOp::SetNames { names: SyncNames { count: 1, names: vec![name("n3")] } });
}

/// The key says no more who of the takeover's voters counts: the list is made of who streams.
#[test]
fn a_key_that_was_written_since_is_not_the_takeovers() {
    let (mut bench, sync, term) = taken_over();
    bench.feed(Input::View(Arc::new(after(term, sync, 33))));
    bench.persist_all();
    let (id, _) = bench.take_operation().expect("promotes");
    bench.feed(Input::OpDone { id, result: PgOpResult::Done });
    primary(&mut bench, SyncNames::nobody());
    assert!(!bench.node.serving());
    let listed = bench.take_operation().is_some_and(|(_, op)| matches!(op, PgOp::SetNames { .. }));
    assert!(!listed, "nobody streams");
    assert_eq!(bench.node.view().modified(&Key::Sync), Revision(33));
}

/// n3 leads with n2 as its voter: n1, which led before and is down, lets the first commits go before its start,
/// but waits no longer than a second for them.
#[test]
fn a_former_leader_gives_way_and_not_for_ever() {
    let mut bench = Bench::replica_n2();
    bench.node.config.name = name("n1");
    let by = crate::cluster::Accession::Pledges;
    let term = TermRecord {
        leader: name("n3"),
        by,
        lineage: Vec::new(),
        without: None,
        begun: Vec::new(),
    };
    let voters = BTreeMap::from([(name("n2"), Some(Instance(2)))]);
    let sync = SyncState { leader: Some(name("n3")), quorum: 0, voters };
    let mut news = after(term, sync, 32);
    bench.feed(Input::View(Arc::new(news.clone())));
    assert!(bench.node.gives_way());
    bench.node.now += crate::Duration::millis(1_001);
    assert!(!bench.node.gives_way(), "whatever the leader does");
    bench.node.gives_way = None;
    assert!(bench.node.gives_way());
    news.beat = at(34, Beat { serving: true, ..beat() });
    bench.node.view = Arc::new(news.clone());
    assert!(bench.node.gives_way(), "what clients commit now waits for a voter");
    bench.feed(Input::Peer { from: name("n2"), message: PeerMessage::Beat(streams()) });
    assert!(!bench.node.gives_way(), "the first commits are through");
    news.beat = at(34, Beat { serving: false, ..beat() });
    news.sync = at(31, news.sync.expect("it has one").value);
    bench.node.view = Arc::new(news);
    assert!(!bench.node.gives_way(), "the new leader may need this node to come");
}

/// What the leader's PostgreSQL still sends while it goes down is looked for at once, and not for ever.
#[test]
fn a_leader_that_goes_down_is_looked_after() {
    let mut bench = Bench::replica_n2();
    let down = PeerMessage::Beat(PeerBeat { pg: PeerPg::Down, ..streams() });
    assert!(!bench.node.impatient());
    for _ in 0..9 {
        bench.later(100);
        bench.feed(Input::Peer { from: name("n1"), message: down.clone() });
        assert!(bench.node.impatient());
    }
    bench.later(200);
    bench.feed(Input::Peer { from: name("n1"), message: down });
    assert!(!bench.node.impatient(), "it has been down for a second");
}

/// n3 has less, and the old voters stay: nobody is elected without n2, so that reads needn't wait, and commits wait
/// for n3.
#[test]
fn who_has_less_is_waited_for_by_commits_only() {
    let mut bench = candidate(Lsn(99));
    let (id, txn) = bench.take_txn(Purpose::TakeOver).expect("takes over with two pledges");
    let (sync, term) = (sync_of(&txn).clone(), term_of(&txn));
    bench.take();
    bench.feed(Input::Store { id, outcome: StoreOutcome::Applied(Revision(32)) });
    bench.feed(Input::View(Arc::new(after(term, sync, 32))));
    bench.persist_all();
    let (id, op) = bench.take_operation().expect("promotes");
    let names = SyncNames { count: 1, names: vec![name("n3")] };
    assert_eq!(op, PgOp::Promote { names: names.clone() });
    bench.feed(Input::OpDone { id, result: PgOpResult::Done });
    primary(&mut bench, SyncNames::nobody());
    assert!(!bench.node.serving(), "a commit would be acknowledged without anybody");
    primary(&mut bench, names);
    assert!(bench.node.serving());
}

/// Where more are waited for, they have to stand where this node stands; and who isn't a voter itself, under
/// the directory that was admitted, can be passed by.
#[test]
fn too_many_may_lack_something() {
    let bench = Bench::replica_n2();
    let voters = |names: &[(&str, u64)]| {
        let voters = names.iter().map(|(node, life)| (name(node), Some(Instance(*life))));
        SyncState { leader: Some(name("n1")), quorum: 1, voters: voters.collect() }
    };
    let level = |names: &[(&str, u64)]| -> BTreeMap<_, _> {
        names.iter().map(|(node, life)| (name(node), Instance(*life))).collect()
    };
    let one = voters(&[("n2", 2), ("n3", 3)]);
    assert!(bench.node.few_lack(&level(&[]), &one));
    let two = voters(&[("n2", 2), ("n3", 3), ("n4", 4)]);
    assert!(!bench.node.few_lack(&level(&[]), &two), "n3 and n4 elect each other");
    assert!(bench.node.few_lack(&level(&[("n3", 3)]), &two));
    assert!(!bench.node.few_lack(&level(&[("n3", 9)]), &two), "its directory is another");
    assert!(!bench.node.few_lack(&level(&[]), &voters(&[("n2", 9), ("n3", 3)])));
    assert!(!bench.node.few_lack(&level(&[("n3", 3)]), &voters(&[("n3", 3), ("n4", 4)])));
}
