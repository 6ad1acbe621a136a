//! What only a real etcd does: authentication, its space quota, a leader that dies.

use std::time::{Duration, Instant};

use pgherd_store::{Client, Credentials, Error, Obstacle, Op, Options, Refusal, Txn, WatchEvent};
use rustix::process::Signal;

use crate::child::signal_child;
use crate::support::{Etcd, WITHIN, enable_auth, etcdctl, find};

fn put(value: String) -> Txn {
    Txn { then: vec![Op::put("c/a", value)], ..Txn::default() }
}

/// Writes, while a leader may be elected; at which revision.
async fn written(client: &Client, value: &str) -> u64 {
    let began = Instant::now();
    loop {
        match client.txn(put(value.to_owned()), Duration::from_secs(1)).await {
            Ok(reply) => return reply.revision,
            Err(error @ (Error::NotSent { .. } | Error::Unknown { .. })) => {
                assert!(began.elapsed() < Duration::from_secs(6), "{error}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn with_authentication() {
    let Some(_) = find("PGHERD_ETCDCTL", "etcdctl") else { return };
    let Some(etcd) = Etcd::start().await else { return };
    let as_user = |user: &str, password: &str| {
        let credentials = Credentials { user: user.to_owned(), password: password.to_owned() };
        Client::new(Options {
            credentials: Some(credentials),
            ..Options::new(vec![etcd.endpoint()])
        })
    };
    // A store without authentication takes anybody.
    as_user("root", "secret").txn(put("0".to_owned()), WITHIN).await.unwrap();
    enable_auth(&etcd, "c/", &[]);
    let client = as_user("app", "hunter2");
    client.txn(put("1".to_owned()), WITHIN).await.unwrap();
    let mut watcher = client.watch_prefix("c/");
    assert!(matches!(watcher.next().await, Some(WatchEvent::Reset(_))));
    let lease = client.lease_grant(10, WITHIN).await.unwrap();
    assert_eq!(client.lease_keepalive(lease.id, WITHIN).await.unwrap(), Some(10));
    let denied = client.prefix("d/", WITHIN).await.unwrap_err();
    let Error::Rejected { refusal: Refusal::Permission, .. } = denied else { panic!("{denied}") };

    // Every token is void now; the connection still stands.
    etcdctl(&etcd, &["--user", "root:secret", "auth", "disable"]);
    etcdctl(&etcd, &["auth", "enable"]);
    let began = Instant::now();
    client.txn(put("2".to_owned()), WITHIN).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(client.prefix("c/", WITHIN).await.unwrap().kvs[0].value, "2");

    let wrong = as_user("app", "hunter3").prefix("c/", WITHIN).await.unwrap_err();
    let Error::Rejected { refusal: Refusal::Credentials, .. } = wrong else { panic!("{wrong}") };
    let nobody = etcd.client().prefix("c/", WITHIN).await.unwrap_err();
    let Error::Rejected { refusal: Refusal::NoUser, .. } = nobody else { panic!("{nobody}") };
    let shown = format!("{wrong} {wrong:?} {:?}", as_user("app", "hunter3"));
    assert!(!shown.contains("hunter3"), "{shown}");
}

#[tokio::test]
async fn out_of_space() {
    let Some(etcd) = Etcd::start_with(&["--quota-backend-bytes", "4000000"]).await else { return };
    let client = etcd.client();
    let full = loop {
        match client.txn(put("x".repeat(1_000_000)), WITHIN).await {
            Ok(_) | Err(Error::Unknown { .. }) => {}
            Err(error) => break error,
        }
    };
    let Error::Rejected { refusal: Refusal::NoSpace, .. } = full else { panic!("{full}") };
    let alarms = client.alarms(WITHIN).await.unwrap();
    assert!(matches!(alarms.as_slice(), [(_, true)]), "{alarms:?}");
    client.prefix("c/", WITHIN).await.unwrap();
    let status = client.status(WITHIN).await.unwrap();
    assert!(status.leader != 0 && status.db_size > 0, "{status:?}");
    assert_eq!(client.member_list(WITHIN).await.unwrap().len(), 1);
}

/// One endpoint is configured; the others are found, and take over when it dies. Then another one
/// dies, and the last says what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn members_are_found_and_a_lost_majority_is_said() {
    let Some(mut members) = Etcd::start_three().await else { return };
    let discovery = Some(Duration::from_millis(100));
    let client = Client::new(Options { discovery, ..Options::new(vec![members[0].endpoint()]) });
    let mut watcher = client.watch_prefix("c/");
    assert!(matches!(watcher.next().await, Some(WatchEvent::Reset(_))));
    let began = Instant::now();
    while client.endpoints().len() < 3 {
        assert!(began.elapsed() < WITHIN, "{:?}", client.endpoints());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.endpoints()[0], members[0].endpoint(), "what is configured comes first");
    drop(members.remove(0));
    written(&client, "after").await;
    let seen = async { while !matches!(watcher.next().await, Some(WatchEvent::Changed { .. })) {} };
    tokio::time::timeout(Duration::from_secs(6), seen).await.unwrap();

    drop(members.remove(0));
    // The last one may believe for an election timeout that nothing has happened.
    let began = Instant::now();
    let error = loop {
        let error = client.prefix("c/", Duration::from_secs(1)).await.unwrap_err();
        if matches!(error, Error::NotSent { why: Obstacle::NoLeader, .. }) {
            break error;
        }
        assert!(began.elapsed() < Duration::from_secs(6), "{error}");
    };
    assert!(error.to_string().contains("more than half of etcd's members are away"), "{error}");
}

/// What a watch missed while its member hung was compacted meanwhile: it reads anew, by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_a_compaction() {
    let Some(members) = Etcd::start_three().await else { return };
    let mut watcher = members[0].client().watch_prefix("c/");
    assert!(matches!(watcher.next().await, Some(WatchEvent::Reset(_))));
    signal_child(&members[0].child, Signal::STOP);
    let lost = tokio::time::timeout(WITHIN, watcher.next()).await.unwrap();
    assert!(matches!(lost, Some(WatchEvent::Disconnected { .. })), "{lost:?}");
    let others = Client::new(Options::new(vec![members[1].endpoint(), members[2].endpoint()]));
    let mut revision = 0;
    for value in ["1", "2", "3"] {
        revision = written(&others, value).await;
    }
    others.compact(revision, WITHIN).await.unwrap();
    signal_child(&members[0].child, Signal::CONT);
    let event = tokio::time::timeout(WITHIN, watcher.next()).await.unwrap();
    let Some(WatchEvent::Reset(snapshot)) = event else { panic!("{event:?}") };
    // A first try whose answer was lost in the election may have landed after the last value.
    assert!(snapshot.revision >= revision, "{} of {revision}", snapshot.revision);
    assert_eq!(snapshot.kvs.len(), 1);
    others.txn(put("4".to_owned()), WITHIN).await.unwrap();
    let event = tokio::time::timeout(WITHIN, watcher.next()).await.unwrap();
    assert!(matches!(event, Some(WatchEvent::Changed { .. })), "{event:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies() {
    let Some(mut members) = Etcd::start_three().await else { return };
    let endpoints: Vec<_> = members.iter().map(Etcd::endpoint).collect();
    let client = Client::new(Options::new(endpoints.clone()));
    let mut watcher = client.watch_prefix("c/");
    assert!(matches!(watcher.next().await, Some(WatchEvent::Reset(_))));
    client.txn(put("0".to_owned()), WITHIN).await.unwrap();
    for signal in [Signal::STOP, Signal::KILL] {
        let all = client.status_of_each(WITHIN).await;
        let leads = |status: &pgherd_store::Status| status.leader == status.member_id;
        let leader = all.iter().position(|(_, status)| status.as_ref().is_ok_and(leads)).unwrap();
        // The client hangs on the leader: the worst case.
        let mut order = endpoints.clone();
        order.rotate_left(leader);
        let client = Client::new(Options::new(order));
        client.txn(put("before".to_owned()), WITHIN).await.unwrap();
        signal_child(&members[leader].child, signal);
        let began = Instant::now();
        let revision = written(&client, &format!("after {signal:?}")).await;
        eprintln!("{signal:?} of the leader: written after {:?}", began.elapsed());
        // The watch sees it, whichever member it hung on.
        let seen = async {
            while let Some(event) = watcher.next().await {
                if matches!(event, WatchEvent::Changed { revision: at, .. } if at == revision) {
                    return;
                }
                assert!(!matches!(event, WatchEvent::ForeignCluster { .. }));
            }
        };
        tokio::time::timeout(Duration::from_secs(6), seen).await.unwrap();
        signal_child(&members[leader].child, Signal::CONT);
    }
    members.clear();
}
