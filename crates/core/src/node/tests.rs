//! Laws that one node can show alone: what it counts from, what it compares, in which order it
//! promises. Whole stories are in `scenarios/`.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks out what it looks for")]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::cluster::{
    Accession, Beat, Claim, Compare, Initialize, Key, Keyed, MemberRecord, MemberRole, MemberState,
    Op, Purpose, SyncState, TermRecord, Txn, Value,
};
use crate::input::{StoreOutcome, StoreRequest};
use crate::peer::{PeerBeat, PeerMessage, PeerPg, PledgeAnswer, PledgeRefusal};
use crate::postgres::{
    ControlFacts, ControlState, PgFacts, PgOpResult, PgRole, PgState, PrimaryFacts, ReplicaFacts,
    RunningFacts, SenderFacts, SyncNames, Upstream,
};
use crate::{Instance, LeaseId, RequestId, Revision, SystemId, Timeline};

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(crate) fn at<T>(revision: u64, value: T) -> Option<Keyed<T>> {
    let at = Revision(revision);
    Some(Keyed { value, created: at, modified: at, lease: None })
}

/// A cluster of n1 (leader since revision 10), n2 and n3, quorum mode, both replicas voters.
pub(crate) fn view() -> ClusterView {
    let member = MemberRecord {
        state: MemberState::Running,
        role: MemberRole::Replica,
        lsn: None,
        replayed: None,
        timeline: None,
        streaming: true,
        tags: Tags::default(),
        paused: false,
        checkpoint_pending: false,
        patroni: false,
    };
    let members = ["n1", "n2", "n3"].map(|n| (name(n), at(9, member.clone()).unwrap()));
    let voters = ["n2", "n3"].map(|n| (name(n), None));
    let by = Accession::Founding;
    ClusterView {
        revision: Revision(20),
        initialize: at(5, Initialize::Done(SystemId(7))),
        config: at(10, Policy::default()),
        leader: at(10, name("n1")),
        term: at(
            10,
            TermRecord {
                leader: name("n1"),
                by,
                lineage: Vec::new(),
                without: None,
                begun: Vec::new(),
            },
        ),
        beat: at(19, beat()),
        sync: at(
            12,
            SyncState { leader: Some(name("n1")), quorum: 1, voters: BTreeMap::from(voters) },
        ),
        members: BTreeMap::from(members),
        ..ClusterView::default()
    }
}

pub(crate) fn beat() -> Beat {
    Beat {
        incarnation: Incarnation(1),
        seq: 4,
        ttl: Duration::secs(5),
        lsn: Lsn(100),
        timeline: Some(Timeline(1)),
        timelines_ended: 0,
        start: Some(Lsn(10)),
        serving: true,
        unreplicated: None,
        ended: None,
    }
}

pub(crate) fn replica(at: Time, upstream: Option<&str>, streaming: bool) -> Input {
    let role = PgRole::Replica(ReplicaFacts {
        received: Lsn(100),
        replayed: Lsn(100),
        streaming,
        upstream: upstream.map(|node| Upstream::Leader(name(node))),
        at_end: !streaming,
    });
    let running =
        RunningFacts { system_id: SystemId(7), instance: Instance(2), timeline: Timeline(1), role };
    Input::Postgres(PgFacts { at, state: PgState::Running(running) })
}

/// A node, its clock, and what it wants.
pub(crate) struct Bench {
    pub(crate) node: Node,
    pub(crate) now: Time,
    actions: Vec<Action>,
}

impl Bench {
    pub(crate) fn replica_n2() -> Self {
        let config = NodeConfig {
            name: name("n2"),
            tags: Tags::default(),
            repair: Repair::default(),
            restores_alone: false,
            founding_policy: Policy::default(),
            may_found: true,
            seed: 0,
            mutant: None,
        };
        let (wal_term, data_from) = (Some(Term(10)), Some(name("n1")));
        let durable = Durable { wal_term, data_from, ..Durable::default() };
        let now = Time(1_000_000);
        let node = Node::new(config, Incarnation(2), durable, now);
        let mut bench = Self { node, now, actions: Vec::new() };
        bench.feed(Input::View(Arc::new(view())));
        bench.answer_all(|_| StoreOutcome::Granted(LeaseId(77)));
        bench.feed(replica(bench.now, Some("n1"), true));
        bench
    }

    pub(crate) fn feed(&mut self, input: Input) {
        self.node.handle(self.now, input);
        while let Some(action) = self.node.poll_action() {
            self.actions.push(action);
        }
    }

    pub(crate) fn later(&mut self, ms: u64) {
        self.now += Duration::millis(ms);
    }

    /// Takes what was wanted so far.
    pub(crate) fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    pub(crate) fn requests(&mut self) -> Vec<(RequestId, StoreRequest)> {
        let mut requests = Vec::new();
        self.actions.retain(|action| match action {
            Action::Store { id, request } => {
                requests.push((*id, request.clone()));
                false
            }
            _ => true,
        });
        requests
    }

    pub(crate) fn answer_all(&mut self, outcome: impl Fn(&StoreRequest) -> StoreOutcome) {
        for (id, request) in self.requests() {
            self.feed(Input::Store { id, outcome: outcome(&request) });
        }
    }

    pub(crate) fn persist_all(&mut self) {
        let seqs: Vec<u64> = self
            .actions
            .iter()
            .filter_map(|a| if let Action::Persist { seq, .. } = a { Some(*seq) } else { None })
            .collect();
        for seq in seqs {
            self.feed(Input::Persisted { seq });
        }
    }

    /// Takes the operation that was ordered, and leaves the rest.
    pub(crate) fn take_operation(&mut self) -> Option<(OpId, PgOp)> {
        let at = self.actions.iter().position(|a| matches!(a, Action::Postgres { .. }))?;
        match self.actions.remove(at) {
            Action::Postgres { id, op, .. } => Some((id, op)),
            _ => None,
        }
    }

    pub(crate) fn take_txn(&mut self, purpose: Purpose) -> Option<(RequestId, Txn)> {
        self.requests().into_iter().find_map(|(id, request)| match request {
            StoreRequest::Txn(txn) if txn.purpose == purpose => Some((id, txn)),
            _ => None,
        })
    }
}

/// n1 died and said so.
fn released() -> ClusterView {
    let ended = Some(crate::cluster::ReignEnd::Died);
    ClusterView {
        revision: Revision(30),
        leader: None,
        beat: at(30, Beat { serving: false, ended, ..beat() }),
        ..view()
    }
}

#[test]
fn a_voter_that_hears_the_leader_refuses() {
    let mut bench = Bench::replica_n2();
    bench.take();
    bench.feed(Input::Peer {
        from: name("n3"),
        message: PeerMessage::AskPledge { ballot: Revision(25) },
    });
    let refused = bench.take().into_iter().any(|a| {
        let no = PledgeAnswer::Refused(PledgeRefusal::HearsLeader);
        a == Action::Send {
            to: name("n3"),
            message: PeerMessage::Pledge { ballot: Revision(25), answer: no },
        }
    });
    assert!(refused);
}

#[test]
fn a_voter_answers_when_its_promise_is_on_disk_and_its_receiver_is_gone() {
    let mut bench = Bench::replica_n2();
    let claim = Claim { candidate: name("n3"), incarnation: Incarnation(3), withdrawn: false };
    let mut news = released();
    news.claim = at(30, claim);
    bench.feed(Input::View(Arc::new(news)));
    let (id, op) = bench.take_operation().expect("nothing comes from the dead");
    assert_eq!(op, PgOp::Follow { upstream: None });
    bench.take();
    let ask = PeerMessage::AskPledge { ballot: Revision(30) };
    bench.feed(Input::Peer { from: name("n3"), message: ask });
    let promised =
        |a: &Action| matches!(a, Action::Persist { record, .. } if record.promise.is_some());
    let answered =
        |a: &Action| matches!(a, Action::Send { message: PeerMessage::Pledge { .. }, .. });
    assert!(bench.actions.iter().any(promised));
    bench.later(20);
    bench.feed(Input::OpDone { id, result: PgOpResult::Done });
    bench.feed(replica(bench.now, None, false));
    assert!(!bench.actions.iter().any(answered), "not before the promise is on disk");
    bench.persist_all();
    let pledged = bench.actions.iter().any(|a| {
        matches!(a, Action::Send { message: PeerMessage::Pledge {
            answer: PledgeAnswer::Pledged { position, .. }, .. }, .. }
            if position.lsn == Lsn(100) && position.term == Term(10))
    });
    assert!(pledged);
}

#[test]
fn a_voter_that_promised_answers_only_without_a_receiver() {
    let mut bench = Bench::replica_n2();
    let claim = Claim { candidate: name("n3"), incarnation: Incarnation(3), withdrawn: false };
    bench.feed(Input::View(Arc::new(ClusterView { claim: at(30, claim), ..released() })));
    let ask = PeerMessage::AskPledge { ballot: Revision(30) };
    bench.feed(Input::Peer { from: name("n3"), message: ask });
    bench.persist_all();
    let answered =
        |a: &Action| matches!(a, Action::Send { message: PeerMessage::Pledge { .. }, .. });
    assert!(!bench.actions.iter().any(answered));
}

/// Leads a candidate through its ballot; n3 pledges `theirs`.
pub(crate) fn candidate(theirs: Lsn) -> Bench {
    let mut bench = Bench::replica_n2();
    bench.feed(Input::View(Arc::new(released())));
    let pg = PeerPg::Replica { streaming: false };
    let sign = PeerMessage::Beat(PeerBeat { pg, hears_leader: false, ..streams() });
    bench.feed(Input::Peer { from: name("n3"), message: sign });
    assert!(bench.take_txn(Purpose::Claim).is_none(), "WAL may still arrive");
    bench.later(5);
    bench.feed(replica(bench.now, Some("n1"), false));
    let (id, _) = bench.take_txn(Purpose::Claim).expect("claims when its position is its last");
    bench.feed(Input::Store { id, outcome: StoreOutcome::Applied(Revision(31)) });
    bench.persist_all();
    bench.take();
    bench.later(20);
    bench.feed(Input::OpDone { id: last_op(&bench), result: PgOpResult::Done });
    bench.feed(replica(bench.now, None, false));
    assert!(bench.take_txn(Purpose::TakeOver).is_none(), "one pledge of two needed");
    let (id, op) = bench.take_operation().expect("slots, while it waits");
    assert_eq!(op, PgOp::EnsureSlots { nodes: vec![name("n1"), name("n3")] });
    bench.feed(Input::OpDone { id, result: PgOpResult::Done });
    let position = crate::peer::Position { term: Term(10), lsn: theirs };
    let answer = PledgeAnswer::Pledged { position, instance: Instance(3) };
    bench.feed(Input::Peer {
        from: name("n3"),
        message: PeerMessage::Pledge { ballot: Revision(31), answer },
    });
    bench
}

fn last_op(bench: &Bench) -> OpId {
    bench.node.op.as_ref().expect("stops its own receiver").id
}

#[test]
fn a_takeover_compares_everything_it_rests_on() {
    let mut bench = candidate(Lsn(100));
    let (_, txn) = bench.take_txn(Purpose::TakeOver).expect("takes over with two pledges");
    for (key, revision) in [
        (Key::Term, 10),
        (Key::Leader, 0),
        (Key::Beat, 30),
        (Key::Sync, 12),
        (Key::Config, 10),
        (Key::Claim, 31),
    ] {
        assert!(
            txn.compare.contains(&Compare::Modified(key.clone(), Revision(revision))),
            "{key:?}"
        );
    }
}

#[test]
fn a_candidate_behind_a_voter_gives_up() {
    let mut bench = candidate(Lsn(101));
    assert!(bench.take_txn(Purpose::TakeOver).is_none());
    assert!(matches!(bench.node.decision().reason, Reason::AnotherIsAhead(_)));
}

#[test]
fn belief_counts_from_the_sending() {
    let mut bench = candidate(Lsn(100));
    let sent = bench.now;
    let (id, _) = bench.take_txn(Purpose::TakeOver).expect("takes over");
    bench.later(700);
    bench.feed(Input::Store { id, outcome: StoreOutcome::Applied(Revision(32)) });
    let lease_sent = Time(1_000_000);
    let margin = Duration::millis(150);
    assert!(bench.node.belief_until() <= Some(sent + (Duration::secs(5) - margin)));
    assert_eq!(bench.node.belief_until(), Some(lease_sent + (Duration::secs(5) - margin)));
}

#[test]
fn the_guard_is_armed_before_the_promotion() {
    let mut bench = candidate(Lsn(100));
    let (id, _) = bench.take_txn(Purpose::TakeOver).expect("takes over");
    bench.take();
    bench.feed(Input::Store { id, outcome: StoreOutcome::Applied(Revision(32)) });
    let promotes = |a: &Action| matches!(a, Action::Postgres { op: PgOp::Promote { .. }, .. });
    assert!(!bench.actions.iter().any(promotes), "not before the term is on disk");
    bench.persist_all();
    let armed = bench.actions.iter().position(|a| matches!(a, Action::Arm { term: Term(32), .. }));
    let promoted = bench.actions.iter().position(promotes);
    assert!(armed.is_some() && armed < promoted, "{:?}", bench.actions);
}

#[test]
fn an_older_view_is_ignored() {
    let mut bench = Bench::replica_n2();
    let mut old = released();
    old.revision = Revision(19);
    bench.feed(Input::View(Arc::new(old)));
    assert_eq!(bench.node.view().revision, Revision(20));
}

pub(crate) fn primary(at: Time) -> Input {
    primary_at(at, Lsn(100), Lsn(100))
}

/// A primary with that much WAL, of which n3 has so much, and n2 all.
fn primary_at(at: Time, end: Lsn, third: Lsn) -> Input {
    let sender = |node: &str| {
        let flushed = if node == "n3" { third } else { end };
        SenderFacts { node: name(node), streaming: true, flushed, replayed: flushed }
    };
    let role = PgRole::Primary(PrimaryFacts {
        flushed: end,
        names: SyncNames { count: 1, names: vec![name("n2"), name("n3")] },
        senders: vec![sender("n2"), sender("n3")],
        history: Vec::new(),
        checkpointed: true,
        waiting: Vec::new(),
    });
    let running =
        RunningFacts { system_id: SystemId(7), instance: Instance(1), timeline: Timeline(1), role };
    Input::Postgres(PgFacts { at, state: PgState::Running(running) })
}

/// A replica's sign of life.
pub(crate) fn streams() -> PeerBeat {
    PeerBeat {
        incarnation: Incarnation(3),
        leads: None,
        pg: PeerPg::Replica { streaming: true },
        position: None,
        timeline: Some(Timeline(1)),
        instance: Some(Instance(3)),
        hears_leader: true,
        electable: true,
        waits_for: Vec::new(),
        ailment: None,
        follows: None,
        died: false,
    }
}

/// The leader's agent has restarted, and what the store shows of its new term.
pub(crate) fn returned() -> (Bench, ClusterView) {
    let mut bench = Bench::replica_n2();
    let durable = Durable { wal_term: Some(Term(10)), ..Durable::default() };
    let config = NodeConfig { name: name("n1"), ..bench.node.config.clone() };
    bench.node = Node::new(config, Incarnation(9), durable, bench.now);
    bench.take();
    bench.feed(Input::View(Arc::new(view())));
    bench.answer_all(|_| StoreOutcome::Granted(LeaseId(78)));
    bench.persist_all();
    bench.feed(primary(bench.now));
    let (id, _) = bench.take_txn(Purpose::TakeOver).expect("takes its own term up again");
    bench.feed(Input::Store { id, outcome: StoreOutcome::Applied(Revision(32)) });
    bench.persist_all();
    let sync = view().sync.unwrap().value;
    let by = Accession::Return;
    let news = ClusterView {
        revision: Revision(32),
        leader: at(32, name("n1")),
        term: at(
            32,
            TermRecord {
                leader: name("n1"),
                by,
                lineage: vec![Term(10)],
                without: None,
                begun: Vec::new(),
            },
        ),
        beat: at(32, Beat { incarnation: Incarnation(9), ..beat() }),
        sync: at(32, sync),
        ..view()
    };
    bench.feed(Input::View(Arc::new(news.clone())));
    (bench, news)
}

/// Somebody removes `initialize` and `config`: the leader says again whose cluster it is, and the
/// settings hold on as they were.
#[test]
fn what_is_removed_from_the_store_holds_on() {
    let (mut bench, news) = returned();
    let policy = Policy { synchronous_node_count: 2, ttl: Duration::secs(9), ..Policy::default() };
    let config = at(33, policy.clone());
    bench.feed(Input::View(Arc::new(ClusterView {
        revision: Revision(33),
        config,
        ..news.clone()
    })));
    let (initialize, config, revision) = (None, None, Revision(34));
    bench.feed(Input::View(Arc::new(ClusterView { revision, initialize, config, ..news })));
    assert_eq!(*bench.node.policy(), policy);
    let mut written = None;
    for _ in 0..10 {
        bench.later(50);
        bench.feed(primary(bench.now));
        written = written.or(bench.take_txn(Purpose::PublishInitialize));
        if let Some((id, _)) = bench.take_operation() {
            bench.feed(Input::OpDone { id, result: PgOpResult::Done });
        }
    }
    let (_, txn) = written.expect("whose cluster it is");
    let value = Value::Initialize(Initialize::Done(SystemId(7)));
    assert_eq!(txn.then, [Op::Put(Key::Initialize, value, None)]);
    let free = Compare::Modified(Key::Initialize, Revision(0));
    assert!(txn.compare.contains(&free), "{txn:?}");
}

/// Whom the agent before had listed stays, though this one has heard only one of them so far: a list
/// that changed would be waited for by commits.
#[test]
fn an_agent_that_restarts_changes_no_list() {
    let (mut bench, _) = returned();
    bench.feed(Input::Peer { from: name("n3"), message: PeerMessage::Beat(streams()) });
    for _ in 0..10 {
        bench.later(50);
        bench.feed(primary(bench.now));
        if let Some((id, op)) = bench.take_operation() {
            assert!(matches!(op, PgOp::EnsureSlots { .. }), "{op:?}");
            bench.feed(Input::OpDone { id, result: PgOpResult::Done });
        }
    }
    assert!(bench.node.serving());
}

/// The leader has removed what this node needs: its receiver begins to stream and ends, again and again.
#[test]
fn a_stream_that_breaks_off_at_once_is_none() {
    let mut bench = Bench::replica_n2();
    bench.persist_all();
    let mut copies = false;
    for tick in 0..400 {
        bench.later(100);
        let beat = Beat { seq: tick + 5, ..beat() };
        let revision = 40 + tick;
        let news = ClusterView { revision: Revision(revision), beat: at(revision, beat), ..view() };
        bench.feed(Input::View(Arc::new(news)));
        bench.feed(replica(bench.now, Some("n1"), tick % 3 == 0));
        bench.answer_all(|_| StoreOutcome::Alive);
        bench.persist_all();
        if let Some((_, op)) = bench.take_operation() {
            assert_eq!(op, PgOp::Stop);
            assert!(tick > 290, "not before half a minute");
            copies = true;
            break;
        }
        bench.take();
    }
    assert!(copies, "it waits for ever");
    assert_eq!(bench.node.decision().reason, Reason::RewindImpossible);
}

/// Rewound data takes no connection before it has WAL that only a leader has.
#[test]
fn a_start_for_nobody_gives_way_to_a_leader() {
    let mut bench = Bench::replica_n2();
    let control = ControlFacts {
        state: ControlState::InArchiveRecovery,
        system_id: SystemId(7),
        instance: Instance(2),
        timeline: Timeline(1),
        checkpoint: Lsn(50),
        min_recovery_end: Lsn(100),
    };
    bench.feed(Input::View(Arc::new(released())));
    let (id, _) = bench.take_operation().expect("nothing comes from the dead");
    bench.feed(Input::OpDone { id, result: PgOpResult::Cancelled });
    bench.take();
    bench.later(5);
    let stopped = PgState::Stopped(control.clone());
    bench.feed(Input::Postgres(PgFacts { at: bench.now, state: stopped }));
    let (_, op) = bench.take_operation().expect("it needs a position");
    assert_eq!(op, PgOp::StartReplica { upstream: None });
    for second in 0..8 {
        bench.later(1000);
        let state = PgState::NotAccepting(control.clone());
        bench.feed(Input::Postgres(PgFacts { at: bench.now, state }));
        let revision = 40 + second;
        let term = TermRecord {
            leader: name("n3"),
            by: Accession::Pledges,
            lineage: Vec::new(),
            without: None,
            begun: Vec::new(),
        };
        let news = ClusterView {
            revision: Revision(revision),
            leader: at(40, name("n3")),
            term: at(40, term),
            beat: at(revision, Beat { seq: revision, ..beat() }),
            ..view()
        };
        let sign = PeerMessage::Beat(PeerBeat {
            leads: Some(Term(40)),
            pg: PeerPg::Primary,
            timeline: None,
            instance: None,
            ..streams()
        });
        bench.feed(Input::Peer { from: name("n3"), message: sign });
        bench.feed(Input::View(Arc::new(news)));
        if let Some((_, op)) = bench.take_operation() {
            assert_eq!(op, PgOp::Kill);
            assert!(second >= 5, "a start may take {second} s");
            return;
        }
    }
    let decision = bench.node.decision();
    panic!("it waits for ever: {decision:?}");
}

/// n3's data was replaced by a copy that lacks what n3 had flushed before: it is admitted with all that was
/// there when that was seen, not with what the list began with.
#[test]
fn a_replaced_voter_is_admitted_with_everything() {
    let (mut bench, news) = returned();
    let voters = [("n2", 2), ("n3", 3)].map(|(node, life)| (name(node), Some(Instance(life))));
    let sync = SyncState { leader: Some(name("n1")), quorum: 1, voters: BTreeMap::from(voters) };
    let sync = at(33, sync);
    bench.feed(Input::View(Arc::new(ClusterView { revision: Revision(33), sync, ..news })));
    let mut admitted = |life: u64, theirs: u64, mine: u64| {
        let mut published = false;
        for _ in 0..40 {
            bench.later(50);
            for (node, life) in [("n2", 2), ("n3", life)] {
                let beat = PeerBeat { instance: Some(Instance(life)), ..streams() };
                let message = PeerMessage::Beat(beat);
                bench.feed(Input::Peer { from: name(node), message });
            }
            bench.feed(primary_at(bench.now, Lsn(mine), Lsn(theirs)));
            for (id, request) in bench.requests() {
                let outcome = match &request {
                    StoreRequest::Txn(txn) => {
                        published |= txn.then.iter().any(|op| match op {
                            Op::Put(_, Value::Sync(sync), _) => {
                                sync.voters.get(&name("n3")) == Some(&Some(Instance(life)))
                            }
                            Op::Put(..) | Op::Delete(_) => false,
                        });
                        StoreOutcome::Applied(Revision(33))
                    }
                    StoreRequest::KeepAlive(_) => StoreOutcome::Alive,
                    StoreRequest::GrantLease { .. } | StoreRequest::Read => StoreOutcome::NotSent,
                };
                bench.feed(Input::Store { id, outcome });
            }
            if let Some((id, _)) = bench.take_operation() {
                bench.feed(Input::OpDone { id, result: PgOpResult::Done });
            }
        }
        published
    };
    admitted(3, 500, 500);
    assert!(!admitted(9, 150, 500), "it may lack what it had acknowledged");
    assert!(admitted(9, 600, 600));
}
