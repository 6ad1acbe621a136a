//! The client among members that are dead, hung, foreign, or stop in the middle.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use pgherd_store::{Client, Endpoint, Error, Op, Options, Txn};
use rustix::process::Signal;

use crate::child::Process;
use crate::support::{Embedded, WITHIN, free_port};

fn swap(value: &str) -> Txn {
    Txn { then: vec![Op::put("a", value.to_owned())], ..Txn::default() }
}

fn endpoint(port: u16) -> Endpoint {
    format!("http://127.0.0.1:{port}").parse().unwrap()
}

#[tokio::test]
async fn one_dead_one_hung_one_alive() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    // The kernel accepts for it; nobody ever answers.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let hung = (endpoint(hung.local_addr().unwrap().port()), hung);
    let dead = endpoint(free_port());
    let alive = server.endpoint();
    for order in [
        vec![dead.clone(), hung.0.clone(), alive.clone()],
        vec![hung.0.clone(), dead.clone(), alive.clone()],
        vec![hung.0.clone(), alive.clone(), dead.clone()],
        vec![alive, dead, hung.0],
    ] {
        let client = Client::new(Options::new(order));
        let began = Instant::now();
        // A transaction must not be lost in a member that never answers, so no outcome is unknown.
        client.txn(swap("1"), WITHIN).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
        let began = Instant::now();
        for _ in 0..20 {
            client.prefix("a", WITHIN).await.unwrap();
            client.txn(swap("2"), WITHIN).await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(2), "not sticky: {:?}", began.elapsed());
        let all = client.status_of_each(Duration::from_millis(300)).await;
        assert_eq!(all.iter().filter(|(_, status)| status.is_ok()).count(), 1);
    }
    server.stop().await;
}

/// Between dying and restarting, a server may accept a connection that it closes at once.
#[tokio::test]
async fn a_member_that_hangs_up_was_not_sent_anything() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let rude = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let members = vec![endpoint(rude.local_addr().unwrap().port()), server.endpoint()];
    let client = Client::new(Options::new(members));
    let hang_up = async {
        loop {
            drop(rude.accept().await.unwrap());
        }
    };
    tokio::select! {
        () = hang_up => {}
        reply = client.txn(swap("1"), WITHIN) => assert!(reply.unwrap().succeeded),
    }
    server.stop().await;
}

#[tokio::test]
async fn nobody_there_means_not_sent_in_time() {
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let members = vec![endpoint(free_port()), endpoint(hung.local_addr().unwrap().port())];
    let client = Client::new(Options::new(members));
    let began = Instant::now();
    let error = client.txn(swap("1"), Duration::from_millis(700)).await.unwrap_err();
    assert!(matches!(error, Error::NotSent { .. }), "{error}");
    assert!(error.is_surely_unapplied());
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    let began = Instant::now();
    let error = client.lease_keepalive(7, Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, Error::NotSent { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_millis(600));
    let none = Client::new(Options::new(Vec::new()));
    let error = none.txn(swap("1"), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, Error::NotSent { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_stops_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(dir.path(), "127.0.0.1:0");
    let client = server.client();
    let lease = client.lease_grant(60, WITHIN).await.unwrap();
    client.txn(swap("1"), WITHIN).await.unwrap();
    server.signal(Signal::STOP);

    // It was sent and may be applied later: nobody may send it again but the caller.
    let began = Instant::now();
    let error = client.txn(swap("2"), WITHIN).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert!(!error.is_surely_unapplied());
    assert!(began.elapsed() < Duration::from_millis(1200), "{:?}", began.elapsed());
    // The next one isn't even sent: the member doesn't greet.
    let error = client.txn(swap("3"), Duration::from_millis(600)).await.unwrap_err();
    assert!(matches!(error, Error::NotSent { .. }), "{error}");
    let began = Instant::now();
    let error = client.lease_keepalive(lease.id, Duration::from_millis(600)).await.unwrap_err();
    assert!(matches!(error, Error::NotSent { .. } | Error::Unknown { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());

    // A read that began before it goes on waits for it, within its time.
    let reader = client.clone();
    let read = tokio::spawn(async move { reader.prefix("a", WITHIN).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.signal(Signal::CONT);
    let found = read.await.unwrap().unwrap().kvs.remove(0).value;
    assert!(found == "1" || found == "2", "{found:?}");
    assert_eq!(client.lease_keepalive(lease.id, WITHIN).await.unwrap(), Some(60));
    server.kill();
    let error = client.txn(swap("4"), Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, Error::NotSent { .. } | Error::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn a_replaced_data_file_is_a_foreign_cluster() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Embedded::start(one.path()).await;
    let address = server.address;
    let client = server.client();
    client.txn(swap("1"), WITHIN).await.unwrap();
    let known = client.cluster_id().unwrap();
    server.stop().await;
    let server = Embedded::start_at(two.path(), address).await;
    let error = client.txn(swap("2"), WITHIN).await.unwrap_err();
    let Error::ForeignCluster { expected, found, .. } = &error else { panic!("{error}") };
    assert_eq!(*expected, known);
    assert_ne!(*found, known);
    assert_eq!(server.client().prefix("a", WITHIN).await.unwrap().kvs, []);
    // Who was told which cluster to expect refuses the first answer already.
    let options = Options { cluster_id: Some(known), ..Options::new(vec![server.endpoint()]) };
    let error = Client::new(options).prefix("a", WITHIN).await.unwrap_err();
    assert!(matches!(error, Error::ForeignCluster { .. }), "{error}");
    // Among members of the right one it is passed over.
    server.stop().await;
    let right = Embedded::start(one.path()).await;
    let wrong = Embedded::start(two.path()).await;
    let options = Options {
        cluster_id: Some(known),
        ..Options::new(vec![wrong.endpoint(), right.endpoint()])
    };
    let found = Client::new(options).prefix("a", WITHIN).await.unwrap();
    assert_eq!(found.kvs[0].value, "1");
    right.stop().await;
    wrong.stop().await;
}

#[test]
fn endpoints_are_parsed_and_refused_with_reasons() {
    for (text, shown) in [
        ("http://a:2379", "http://a:2379"),
        ("http://a:2379/", "http://a:2379"),
        ("https://a.b:1/", "https://a.b:1"),
        ("a.b:1", "http://a.b:1"),
        ("[::1]:2379", "http://[::1]:2379"),
        ("unix:///run/x.sock", "unix:///run/x.sock"),
        ("unix:/run/x.sock", "unix:///run/x.sock"),
    ] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
    }
    for (text, why) in [
        ("a", "no port"),
        ("", "no legal host"),
        ("unix://x", "absolute"),
        ("http://a:1/path", "no legal host"),
    ] {
        let error = text.parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    let secret = "http://user:hunter2@host:1".parse::<Endpoint>().unwrap_err().to_string();
    assert!(!secret.contains("hunter2"), "{secret}");
}
