//! Watches across everything that can happen to a connection and to a server.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgherd_store::{Client, Endpoint, Event, Op, Options, Txn, WatchEvent, Watcher};
use rustix::process::Signal;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::child::{Process, signal_child};
use crate::support::{Embedded, Etcd, WITHIN};

async fn put(client: &Client, key: &str, value: &str) -> u64 {
    let then = vec![Op::put(key.to_owned(), value.to_owned())];
    client.txn(Txn { then, ..Txn::default() }, WITHIN).await.unwrap().revision
}

async fn next(watcher: &mut Watcher) -> WatchEvent {
    timeout(Duration::from_secs(10), watcher.next()).await.expect("an event").unwrap()
}

async fn reset(watcher: &mut Watcher) -> pgherd_store::Snapshot {
    let event = next(watcher).await;
    let WatchEvent::Reset(snapshot) = event else { panic!("expected a reset: {event:?}") };
    snapshot
}

async fn disconnected(watcher: &mut Watcher) {
    let event = next(watcher).await;
    assert!(matches!(event, WatchEvent::Disconnected { .. }), "{event:?}");
}

async fn changed(watcher: &mut Watcher, expected: u64) -> Vec<Event> {
    let event = next(watcher).await;
    let WatchEvent::Changed { revision, events } = event else {
        panic!("expected a change: {event:?}")
    };
    assert_eq!(revision, expected);
    events
}

/// Forwards to a server, until its connections are cut.
struct Proxy {
    port: u16,
    listener: TcpListener,
    target: String,
    accepted: Cell<u32>,
}

impl Proxy {
    async fn new(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            port: listener.local_addr().unwrap().port(),
            listener,
            target,
            accepted: Cell::new(0),
        }
    }

    fn endpoint(&self) -> Endpoint {
        format!("127.0.0.1:{}", self.port).parse().unwrap()
    }

    /// Serves while `work` runs, then cuts every connection.
    async fn serve<T>(&self, work: impl Future<Output = T>) -> T {
        let mut connections = JoinSet::new();
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                accepted = self.listener.accept() => {
                    let mut client = accepted.unwrap().0;
                    self.accepted.set(self.accepted.get() + 1);
                    let target = self.target.clone();
                    connections.spawn(async move {
                        let mut server = TcpStream::connect(target).await.unwrap();
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    });
                }
            }
        }
    }
}

#[tokio::test]
async fn a_watch_begins_with_everything_and_goes_on_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let client = server.client();
    let first = put(&client, "w/a", "1").await;
    put(&client, "other", "1").await;
    let mut watcher = client.watch_prefix("w/");
    let snapshot = reset(&mut watcher).await;
    assert_eq!((snapshot.kvs.len(), snapshot.revision), (1, first + 1));
    assert_eq!(Some(snapshot.cluster_id), client.cluster_id());
    put(&client, "other", "2").await;
    let then = vec![Op::delete("w/a"), Op::put("w/b", "1"), Op::put("x", "1")];
    let at = client.txn(Txn { then, ..Txn::default() }, WITHIN).await.unwrap().revision;
    assert_eq!(changed(&mut watcher, at).await.len(), 2);
    for n in 1..=300 {
        assert_eq!(put(&client, "w/c", "x").await, at + n);
    }
    for n in 1..=300 {
        assert_eq!(changed(&mut watcher, at + n).await.len(), 1);
    }
    // Nothing happens for longer than a silent server would be given.
    assert!(timeout(Duration::from_millis(2500), watcher.next()).await.is_err());
    server.stop().await;
    disconnected(&mut watcher).await;
}

#[tokio::test]
async fn calls_and_watches_share_one_connection() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let proxy = Proxy::new(server.address.to_string()).await;
    let client = Client::new(Options::new(vec![proxy.endpoint()]));
    let work = async {
        let mut watchers = [client.watch_prefix("w/"), client.watch_prefix("w/")];
        for watcher in &mut watchers {
            reset(watcher).await;
        }
        for n in 0..20 {
            let at = put(&client.clone(), "w/a", &n.to_string()).await;
            for watcher in &mut watchers {
                changed(watcher, at).await;
            }
        }
    };
    proxy.serve(work).await;
    assert_eq!(proxy.accepted.get(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_lost_connection_loses_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    over_a_cut_connection(server.client(), server.address.to_string()).await;
    server.stop().await;
    let Some(etcd) = Etcd::start().await else { return };
    over_a_cut_connection(etcd.client(), etcd.address.clone()).await;
}

async fn over_a_cut_connection(direct: Client, address: String) {
    let proxy = Proxy::new(address).await;
    let client = Client::new(Options::new(vec![proxy.endpoint()]));
    let mut watcher = client.watch_prefix("w/");
    let begin = proxy.serve(reset(&mut watcher)).await.revision;
    disconnected(&mut watcher).await;
    let first = put(&direct, "w/a", "1").await;
    let second = put(&direct, "w/a", "2").await;
    proxy
        .serve(async {
            assert_eq!(next(&mut watcher).await, WatchEvent::Resumed { revision: begin });
            changed(&mut watcher, first).await;
            changed(&mut watcher, second).await;
        })
        .await;
    disconnected(&mut watcher).await;
    // Once more, with nothing new; then compacted in between.
    proxy
        .serve(async {
            assert_eq!(next(&mut watcher).await, WatchEvent::Resumed { revision: second });
        })
        .await;
    disconnected(&mut watcher).await;
    put(&direct, "w/a", "3").await;
    let last = put(&direct, "w/b", "1").await;
    direct.compact(last, WITHIN).await.unwrap();
    let snapshot = proxy.serve(reset(&mut watcher)).await;
    assert_eq!((snapshot.revision, snapshot.kvs.len()), (last, 2));
}

#[tokio::test]
async fn a_restarted_server_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let address = server.address;
    let client = server.client();
    let mut watcher = client.watch_prefix("w/");
    reset(&mut watcher).await;
    let at = put(&client, "w/a", "1").await;
    changed(&mut watcher, at).await;
    server.kill().await;
    disconnected(&mut watcher).await;
    let server = Embedded::start_at(dir.path(), address).await;
    let snapshot = reset(&mut watcher).await;
    assert!(snapshot.revision > at);
    assert_eq!(snapshot.kvs[0].mod_revision, at);
    let at = put(&client, "w/a", "2").await;
    changed(&mut watcher, at).await;
    server.stop().await;
    disconnected(&mut watcher).await;

    // The same address with other data: said, not followed.
    let other = tempfile::tempdir().unwrap();
    let server = Embedded::start_at(other.path(), address).await;
    let event = next(&mut watcher).await;
    assert!(matches!(event, WatchEvent::ForeignCluster { .. }), "{event:?}");
    assert!(timeout(Duration::from_secs(1), watcher.next()).await.is_err(), "said twice");
    server.stop().await;
    disconnected(&mut watcher).await;
    let server = Embedded::start_at(dir.path(), address).await;
    assert_eq!(reset(&mut watcher).await.kvs.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_silent_server_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(dir.path(), "127.0.0.1:0");
    let client = server.client();
    let mut watcher = client.watch_prefix("w/");
    let begin = reset(&mut watcher).await.revision;
    noticed(&mut watcher, begin, |signal| server.signal(signal)).await;
    let Some(etcd) = Etcd::start().await else { return };
    let client = etcd.client();
    let mut watcher = client.watch_prefix("w/");
    let begin = reset(&mut watcher).await.revision;
    noticed(&mut watcher, begin, |signal| signal_child(&etcd.child, signal)).await;
    let at = put(&client, "w/a", "1").await;
    changed(&mut watcher, at).await;
}

async fn noticed(watcher: &mut Watcher, begin: u64, signal: impl Fn(Signal)) {
    // It is quiet for long before, as a real prefix is; pings would have been refused by now.
    assert!(timeout(Duration::from_secs(3), watcher.next()).await.is_err());
    signal(Signal::STOP);
    let since = Instant::now();
    disconnected(watcher).await;
    assert!(since.elapsed() < Duration::from_millis(2800), "{:?}", since.elapsed());
    signal(Signal::CONT);
    assert_eq!(next(watcher).await, WatchEvent::Resumed { revision: begin });
}

#[tokio::test]
async fn a_consumer_that_is_late_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let client = server.unix_client();
    let mut watcher = client.watch_prefix("w/");
    let begin = reset(&mut watcher).await.revision;
    let value = "x".repeat(10_000);
    for _ in 0..2000 {
        put(&client, "w/a", &value).await;
    }
    for n in 1..=2000 {
        changed(&mut watcher, begin + n).await;
    }
    server.stop().await;
}
