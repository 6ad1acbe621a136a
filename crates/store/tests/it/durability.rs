//! What was answered stays, whatever ends the server; no revision is used twice.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use pgherd_store::embedded::{Listen, ListenError, OpenError, Server};
use pgherd_store::{Client, Compare, Error, Op, Target, Txn};

use crate::child::Process;
use crate::support::{Embedded, WITHIN};

async fn put(client: &Client, key: &str, value: &str) -> Result<u64, Error> {
    let txn = Txn { then: vec![Op::put(key.to_owned(), value.to_owned())], ..Txn::default() };
    Ok(client.txn(txn, WITHIN).await?.revision)
}

#[tokio::test]
async fn restarts_keep_everything_and_reuse_no_revision() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    let mut cluster_id = None;
    for round in 0..4_u32 {
        let server = Embedded::start(dir.path()).await;
        let client = server.client();
        let known = client.prefix("", WITHIN).await.unwrap();
        assert_eq!(known.kvs.len(), if round == 0 { 0 } else { 2 });
        assert_eq!(*cluster_id.get_or_insert(known.cluster_id), known.cluster_id);
        assert!(known.revision > last, "{} after {last}", known.revision);
        let lease = client.lease_grant(60, WITHIN).await.unwrap();
        let counter = put(&client, "counter", &round.to_string()).await.unwrap();
        let op = Op::put_leased("leased", round.to_string(), lease.id);
        let leased = client.txn(Txn { then: vec![op], ..Txn::default() }, WITHIN).await.unwrap();
        assert!(counter > known.revision && leased.revision > counter);
        last = leased.revision;
        // Once in order, once not.
        if round % 2 == 0 { server.stop().await } else { server.kill().await }
    }
    let server = Embedded::start(dir.path()).await;
    let client = server.unix_client();
    let snapshot = client.prefix("", WITHIN).await.unwrap();
    let versions: Vec<_> = snapshot.kvs.iter().map(|kv| kv.version).collect();
    assert_eq!(versions, [4, 4]);
    let leased = &snapshot.kvs[1];
    assert_eq!(leased.mod_revision, last);
    assert!(client.lease_remaining(leased.lease, WITHIN).await.unwrap().unwrap() >= 58);
    client.lease_revoke(leased.lease, WITHIN).await.unwrap();
    assert_eq!(client.prefix("leased", WITHIN).await.unwrap().kvs, []);
    server.stop().await;
}

#[tokio::test]
async fn a_lost_last_record_frees_no_revision() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let client = server.client();
    put(&client, "a", "1").await.unwrap();
    let told = put(&client, "a", "2").await.unwrap();
    server.kill().await;
    // A disk that lied about its sync.
    let path = dir.path().join("data/journal");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();

    let server = Embedded::start(dir.path()).await;
    let client = server.client();
    let snapshot = client.prefix("a", WITHIN).await.unwrap();
    assert_eq!(snapshot.kvs[0].value, "1");
    assert!(snapshot.revision > told);
    assert!(put(&client, "a", "3").await.unwrap() > told);
    server.stop().await;
}

/// Ten writers, SIGKILL in the middle, five times over.
#[tokio::test(flavor = "multi_thread")]
async fn sigkill_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut told: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut greatest = 0;
    for round in 0..5_u64 {
        let server = Process::start(dir.path(), "127.0.0.1:0");
        let client = server.client();
        let writers: Vec<_> = (0..10)
            .map(|writer| {
                let client = client.clone();
                tokio::spawn(async move {
                    let key = format!("writer-{writer}");
                    let mut last = None;
                    for n in 0_u64.. {
                        let value = (round * 1_000_000 + n).to_string();
                        match put(&client, &key, &value).await {
                            Ok(revision) => last = Some((revision, round * 1_000_000 + n)),
                            Err(_) => break,
                        }
                    }
                    (key, last)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill();
        let mut first_of_round = Vec::new();
        for writer in writers {
            let (key, last) = writer.await.unwrap();
            let (revision, value) = last.expect("some writes were answered");
            first_of_round.push(revision);
            told.insert(key, (revision, value));
        }
        assert!(first_of_round.iter().all(|revision| *revision > greatest));
        greatest = *first_of_round.iter().max().unwrap();

        let server = Process::start(dir.path(), "127.0.0.1:0");
        let snapshot = server.client().prefix("writer-", WITHIN).await.unwrap();
        for kv in snapshot.kvs {
            let (revision, value) = told[std::str::from_utf8(&kv.key).unwrap()];
            let found: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
            // One more may have been on its way.
            assert!(found == value || found == value + 1, "told {value}, found {found}");
            assert!(kv.mod_revision >= revision);
            greatest = greatest.max(kv.mod_revision);
        }
        server.kill();
    }
}

#[tokio::test]
async fn a_large_file_is_replaced_by_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let client = server.client();
    let value = "x".repeat(1 << 20);
    for n in 0..40 {
        put(&client, &format!("key-{}", n % 3), &value).await.unwrap();
    }
    let file = dir.path().join("data/journal");
    let size = fs::metadata(&file).unwrap().len();
    assert!(size < 20 << 20, "{size}");
    let too_large = put(&client, "a", &"x".repeat(1 << 21)).await;
    assert!(matches!(too_large, Err(Error::Rejected { .. } | Error::Unknown { .. })));
    let before = client.prefix("", WITHIN).await.unwrap();
    server.kill().await;
    let server = Embedded::start(dir.path()).await;
    assert_eq!(server.client().prefix("", WITHIN).await.unwrap().kvs, before.kvs);
    assert!(fs::metadata(&file).unwrap().len() < 4 << 20);
    server.stop().await;
}

#[tokio::test]
async fn one_directory_has_one_server_and_one_socket_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let second = Server::open(dir.path().join("data"));
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    let second = Listen::unix(&server.socket).await;
    assert!(matches!(second, Err(ListenError::InUse { .. })), "{second:?}");
    let open = Listen::tcp("0.0.0.0:0".parse().unwrap()).await;
    assert!(matches!(open, Err(ListenError::NotLoopback { .. })), "{open:?}");
    put(&server.client(), "a", "1").await.unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&server.socket), 0o600);
    assert_eq!(mode(&dir.path().join("data")), 0o700);
    assert_eq!(mode(&dir.path().join("data/journal")), 0o600);
    let socket = server.socket.clone();
    server.stop().await;
    assert!(!socket.exists());
    // What a killed server leaves behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    drop(Listen::unix(&socket).await.unwrap());
    Server::open(dir.path().join("data")).unwrap();
}

#[tokio::test]
async fn a_server_without_a_listener_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::open(dir.path()).unwrap();
    let error = server.run(Listen::default(), std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("listen"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_from_many_clients_are_serial() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    put(&server.client(), "n", "0").await.unwrap();
    let swaps: Vec<_> = (0..8)
        .map(|_| {
            let client = server.unix_client();
            tokio::spawn(async move {
                let mut won = 0;
                for _ in 0..25 {
                    let kv = client.prefix("n", WITHIN).await.unwrap().kvs.remove(0);
                    let n: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
                    let txn = Txn {
                        compare: vec![Compare::equal("n", Target::Mod(kv.mod_revision))],
                        then: vec![Op::put("n", (n + 1).to_string())],
                        ..Txn::default()
                    };
                    won += u64::from(client.txn(txn, WITHIN).await.unwrap().succeeded);
                }
                won
            })
        })
        .collect();
    let mut won = 0;
    for swap in swaps {
        won += swap.await.unwrap();
    }
    let kv = server.client().prefix("n", WITHIN).await.unwrap().kvs.remove(0);
    assert_eq!(std::str::from_utf8(&kv.value).unwrap().parse::<u64>().unwrap(), won);
    assert_eq!(kv.version, won + 1);
    server.stop().await;
}
