//! A disk that hangs in a sync: writes wait, and are invisible until they are durable; reads and
//! keepalives go on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;

use crate::embedded::journal::{Journal, Lock};
use crate::embedded::state::{Done, State, Write};
use crate::embedded::writer::{Identity, Shared, Writer, now, snapshot};
use crate::pb::{self, request_op::Request};

const SOON: Duration = Duration::from_secs(5);

fn put(key: &'static str) -> Write {
    let put = pb::PutRequest { key: key.into(), ..Default::default() };
    let success = vec![pb::RequestOp { request: Some(Request::Put(put)) }];
    Write::Txn(pb::TxnRequest { success, ..Default::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_keepalives_dont_wait_for_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity { cluster_id: 1, member_id: 2, starts: 1 };
    let state = State::at_revision(1);
    let mut journal =
        Journal::create(Lock::take(dir.path()).unwrap(), snapshot(&state, identity, 1000)).unwrap();
    let gate = Arc::new(Mutex::new(()));
    journal.before_sync = Some(gate.clone());
    let shared = Arc::new(Shared::new(identity, state.clone(), 0));
    let writer = Writer::start(journal, state, 1000, shared.clone()).unwrap();
    let queue = writer.queue();
    let granted = queue.write(Write::Grant { id: 7, ttl: 1 }).await.unwrap();
    assert_eq!(granted, Done::Granted { ttl: 1 });

    let (hang, hangs) = std::sync::mpsc::channel();
    let (let_go, go) = std::sync::mpsc::channel::<()>();
    let disk = std::thread::spawn(move || {
        let _held = gate.lock().unwrap();
        hang.send(()).unwrap();
        go.recv().unwrap();
    });
    hangs.recv().unwrap();
    let mut writes: Vec<_> = ["a", "b", "c"].map(|key| queue.try_write(put(key)).unwrap()).into();
    // Longer than the lease lives: the keepalives carry it over.
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut visible = shared.visible();
        assert_eq!(visible.state.revision(), 1, "a write was seen before it was durable");
        assert_eq!(visible.state.keep_alive(now(), 7), Some(1));
        assert_eq!(visible.state.doom_expired(now()), Vec::<i64>::new());
    }
    assert!(writes.iter_mut().all(|write| write.try_recv().is_err()), "answered too early");
    let_go.send(()).unwrap();
    disk.join().unwrap();
    for (write, revision) in writes.into_iter().zip(2..) {
        let Done::Txn(reply) = timeout(SOON, write).await.unwrap().unwrap().unwrap() else {
            panic!("not a transaction's answer")
        };
        assert_eq!(reply.header.unwrap().revision, revision);
    }
    assert_eq!(shared.visible().state.revision(), 4);
    drop(writer);
    let batches = Lock::take(dir.path()).unwrap().read().unwrap().unwrap().1;
    let effects: usize = batches.iter().map(|batch| batch.effects.len()).sum();
    assert_eq!(effects, 4);
    assert!(batches.len() <= 3, "writes that waited together share a sync: {}", batches.len());
}

#[tokio::test]
async fn a_full_disk_stops_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity { cluster_id: 1, member_id: 2, starts: 1 };
    let state = State::at_revision(1);
    let saved = snapshot(&state, identity, 1000);
    let mut journal = Journal::create(Lock::take(dir.path()).unwrap(), saved).unwrap();
    journal.break_file();
    let shared = Arc::new(Shared::new(identity, state.clone(), 0));
    let mut writer = Writer::start(journal, state, 1000, shared.clone()).unwrap();
    let refused = writer.queue().write(put("a")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    let error = timeout(SOON, writer.failed()).await.unwrap().unwrap();
    assert!(error.to_string().contains("the store stops"), "{error}");
    assert_eq!(shared.visible().state.revision(), 1);
    assert!(writer.queue().write(put("b")).await.is_err());
}
