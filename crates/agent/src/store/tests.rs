//! Transactions in the store's words, and the lane against the embedded store.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
use pgherd_api::Cluster;
use pgherd_core::NodeName;
use pgherd_core::cluster::{HistoryLine, Initialize, Key};
use pgherd_core::{Lsn, Timeline};
use pgherd_store::embedded::{Listen, Server};
use pgherd_store::{Options, Target, WatchEvent};

use super::*;

#[test]
fn a_transaction_keeps_its_conditions_leases_and_order() {
    let node = NodeName::new("pg-1").unwrap();
    let txn = Txn {
        purpose: Purpose::TakeOver,
        compare: vec![
            Compare::Modified(Key::Leader, Revision(0)),
            Compare::Modified(Key::Beat, Revision(9)),
            Compare::Lease(Key::Member(node.clone()), LeaseId(5)),
        ],
        then: vec![
            Op::Put(Key::Leader, Value::Leader(node), Some(LeaseId(5))),
            Op::Put(Key::Initialize, Value::Initialize(Initialize::Bootstrapping), None),
            Op::Delete(Key::Claim),
        ],
    };
    let keys = Keys::new("service", "demo");
    let wire = to_store(&keys, &Encoder::default(), &txn).unwrap();
    let targets: Vec<_> = wire.compare.iter().map(|c| (&c.key[..], &c.target)).collect();
    assert_eq!(
        targets,
        [
            (&b"/service/demo/leader"[..], &Target::Mod(0)),
            (b"/service/demo/beat", &Target::Mod(9)),
            (b"/service/demo/members/pg-1", &Target::Lease(5)),
        ]
    );
    assert_eq!(
        wire.then,
        [
            pgherd_store::Op::put_leased("/service/demo/leader", "pg-1", 5),
            pgherd_store::Op::put("/service/demo/initialize", ""),
            pgherd_store::Op::delete("/service/demo/claim"),
        ]
    );
    assert!(wire.otherwise.is_empty());
}

#[test]
fn a_domain_is_enough_for_a_client() {
    let srv = pgherd_config::StoreSrv { domain: "example.org".into(), suffix: Some("db".into()) };
    let settings = StoreSettings { srv: Some(srv), discover: true, ..StoreSettings::default() };
    let options = options(&settings).unwrap();
    let expected =
        Srv { domain: "example.org".into(), suffix: Some("db".into()), nameservers: Vec::new() };
    assert_eq!((options.srv, options.endpoints), (Some(expected), Vec::new()));
}

#[test]
fn a_new_line_of_history_gets_its_moment_and_an_old_one_keeps_its() {
    let line = |at, leader: Option<&str>| HistoryLine {
        timeline: Timeline(1),
        end: Lsn(9),
        reason: String::new(),
        at,
        leader: leader.map(|name| NodeName::new(name).unwrap()),
    };
    let lines = vec![line(0, None), line(7, Some("pg-0")), line(0, Some("pg-1"))];
    let put = Op::Put(Key::History, Value::History(lines), None);
    let txn = Txn { purpose: Purpose::PublishHistory, compare: Vec::new(), then: vec![put] };
    let Some(Op::Put(_, Value::History(lines), _)) = dated(txn).then.pop() else { unreachable!() };
    let moments: Vec<_> = lines.iter().map(|line| line.at).collect();
    assert_eq!(moments[..2], [0, 7]);
    assert!(moments[2] > 1_700_000_000);
}

#[test]
fn only_what_is_sure_counts_as_not_done() {
    let unknown = Error::Unknown { endpoint: "e".to_owned(), why: String::new() };
    let full = Error::Rejected { refusal: Refusal::NoSpace, message: String::new() };
    let busy = Error::Rejected { refusal: Refusal::Overloaded, message: String::new() };
    assert_eq!(failed(&unknown), StoreOutcome::Unknown);
    assert_eq!(failed(&full), StoreOutcome::Unknown);
    assert_eq!(failed(&busy), StoreOutcome::NotSent);
    assert_eq!(failed(&Error::LeaseNotFound), StoreOutcome::LeaseGone);
}

#[test]
fn a_store_without_space_is_not_well_because_it_renews_a_lease() {
    let client = Client::new(Options::new(Vec::new()));
    let mut lane = StoreLane::new(client, Keys::new("service", "demo"), Encoder::default());
    let full = Error::Rejected { refusal: Refusal::NoSpace, message: String::new() };
    let away = Error::Unknown { endpoint: "e".to_owned(), why: String::new() };
    let applied = StoreReply::Outcome(StoreOutcome::Applied(Revision(1)));
    let alive = StoreReply::Outcome(StoreOutcome::Alive);
    lane.note(&StoreReply::Failed(StoreOutcome::Unknown, full.clone()));
    lane.note(&alive);
    assert!(lane.trouble.as_ref().is_some_and(|t| t.covers(&full)), "said once");
    lane.note(&applied);
    assert!(lane.trouble.is_none());
    lane.note(&StoreReply::Failed(StoreOutcome::Unknown, away.clone()));
    assert!(lane.trouble.as_ref().is_some_and(|t| t.covers(&away) && t.covers(&full)));
    lane.note(&alive);
    assert!(lane.trouble.is_none());
}

const WITHIN: Duration = Duration::from_secs(2);

async fn outcome(lane: &mut StoreLane, id: u64, request: StoreRequest) -> StoreOutcome {
    lane.send(RequestId(id), request, WITHIN);
    match lane.next().await {
        (answered, StoreReply::Outcome(outcome) | StoreReply::Failed(outcome, _))
            if answered == RequestId(id) =>
        {
            outcome
        }
        (answered, _) => panic!("not the answer to {id}: {answered:?}"),
    }
}

#[tokio::test]
#[allow(clippy::panic, reason = "a test that can't go on fails")]
async fn a_term_is_taken_held_and_refused_on_a_real_store() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("store.sock");
    let listen = Listen::unix(&socket).await.unwrap();
    let server = Server::open(dir.path().join("data")).unwrap();
    let serving = tokio::spawn(server.run(listen, std::future::pending::<()>()));
    let endpoint = format!("unix://{}", socket.display()).parse().unwrap();
    let client = Client::new(Options::new(vec![endpoint]));
    let keys = Keys::new("service", "demo");
    let mut watcher = client.watch_prefix(keys.prefix().to_owned());
    let Some(WatchEvent::Reset(snapshot)) = watcher.next().await else { panic!("no snapshot") };
    let mut cluster = Cluster::read(keys.clone(), snapshot.revision, []);
    let mut lane = StoreLane::new(client, keys.clone(), Encoder::default());

    let ttl = pgherd_core::Duration::millis(4_500);
    let granted = outcome(&mut lane, 1, StoreRequest::GrantLease { ttl }).await;
    let StoreOutcome::Granted(lease) = granted else { panic!("{granted:?}") };
    let leader = Value::Leader(NodeName::new("pg-1").unwrap());
    let take = |at| {
        StoreRequest::Txn(Txn {
            purpose: Purpose::TakeOver,
            compare: vec![Compare::Modified(Key::Leader, Revision(at))],
            then: vec![Op::Put(Key::Leader, leader.clone(), Some(lease))],
        })
    };
    let taken = outcome(&mut lane, 2, take(0)).await;
    let StoreOutcome::Applied(revision) = taken else { panic!("{taken:?}") };
    assert_eq!(outcome(&mut lane, 3, take(0)).await, StoreOutcome::Refused);
    assert_eq!(outcome(&mut lane, 4, StoreRequest::KeepAlive(lease)).await, StoreOutcome::Alive);
    let gone = StoreRequest::KeepAlive(LeaseId(lease.0 + 1));
    assert_eq!(outcome(&mut lane, 5, gone).await, StoreOutcome::LeaseGone);

    let Some(WatchEvent::Changed { revision: seen, events }) = watcher.next().await else {
        panic!("no change")
    };
    assert!(cluster.apply(seen, events.into_iter().map(change)));
    let key = cluster.view().leader.clone().unwrap();
    assert_eq!((key.created, key.modified, key.lease), (revision, revision, Some(lease)));

    lane.send(RequestId(6), StoreRequest::Read, WITHIN);
    let (_, StoreReply::Read(snapshot)) = lane.next().await else { panic!("no read") };
    let read = Cluster::read(keys, snapshot.revision, snapshot.kvs.into_iter().map(record));
    assert_eq!(read.view().leader, cluster.view().leader);

    serving.abort();
    let _ = serving.await;
    let lost = outcome(&mut lane, 7, StoreRequest::KeepAlive(lease));
    let lost = tokio::time::timeout(WITHIN + Duration::from_secs(2), lost).await.unwrap();
    assert!(matches!(lost, StoreOutcome::NotSent | StoreOutcome::Unknown), "{lost:?}");
}
