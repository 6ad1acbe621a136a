//! Random writes: the readers' copy follows the writer's, the journal's snapshot restores the same,
//! the past is what it was, and no lease is early.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use crate::embedded::history::History;
use crate::embedded::record::Effects;
use crate::embedded::refusal::Refusal;
use crate::embedded::state::{State, Write};
use crate::embedded::writer::{Identity, snapshot};
use crate::pb::{self, request_op::Request};

const NOW: Duration = Duration::from_secs(1000);

fn key() -> impl Strategy<Value = Bytes> {
    (0..6_u8).prop_map(|n| vec![b'k', n].into())
}

fn step() -> impl Strategy<Value = pb::RequestOp> {
    let put = (key(), any::<u8>(), 0..4_i64).prop_map(|(key, value, lease)| {
        Request::Put(pb::PutRequest { key, value: vec![value].into(), lease, ..Default::default() })
    });
    let delete = (key(), prop_oneof![Just(Bytes::new()), key()]).prop_map(|(key, range_end)| {
        Request::DeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: true })
    });
    prop_oneof![3 => put, 1 => delete].prop_map(|request| pb::RequestOp { request: Some(request) })
}

fn write() -> impl Strategy<Value = Write> {
    let txn = prop::collection::vec(step(), 1..4)
        .prop_map(|success| Write::Txn(pb::TxnRequest { success, ..Default::default() }));
    prop_oneof![
        6 => txn,
        1 => (1..4_i64, 0..100_i64).prop_map(|(id, ttl)| Write::Grant { id, ttl }),
        1 => (1..4_i64).prop_map(|id| Write::Revoke { id }),
    ]
}

fn contents(state: &State) -> Vec<pb::KeyValue> {
    state.kvs().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn copies_agree_and_the_past_stays(writes in prop::collection::vec(write(), 1..60)) {
        let mut writer = State::at_revision(1);
        let mut reader = writer.clone();
        let mut history = History::begin(1);
        let mut past = BTreeMap::from([(1, Vec::new())]);
        for write in writes {
            let before = writer.clone();
            match writer.execute(NOW, write) {
                Err(_) => prop_assert_eq!(&writer, &before, "a refusal changed something"),
                Ok((_, effects)) => {
                    let events = reader.apply(NOW, &effects);
                    history.push(effects.revision, events);
                    let step = writer.revision() - before.revision();
                    prop_assert_eq!(step, i64::from(!effects.changes.is_empty()));
                }
            }
            prop_assert_eq!(&writer, &reader);
            past.insert(writer.revision(), contents(&writer));
        }
        let all: (Bytes, Bytes) = (vec![0].into(), vec![0].into());
        for (revision, kvs) in past {
            prop_assert_eq!(history.at(revision, &reader, &all.0, &all.1).unwrap(), kvs);
        }
        let identity = Identity { cluster_id: 1, member_id: 2, starts: 3 };
        let saved = snapshot(&writer, identity, 0);
        let restored = State::restore(NOW, saved.revision, saved.kvs, &saved.leases);
        prop_assert_eq!(restored, writer);
    }

    #[test]
    fn no_lease_is_early(ttl in 1..20_i64, waits in prop::collection::vec(0..8000_u64, 1..20)) {
        let mut state = State::at_revision(1);
        state.execute(NOW, Write::Grant { id: 7, ttl }).unwrap();
        let (mut now, mut kept) = (NOW, NOW);
        for (i, wait) in waits.into_iter().enumerate() {
            now += Duration::from_millis(wait);
            let over = now > kept + Duration::from_secs(u64::try_from(ttl).unwrap());
            if i.is_multiple_of(2) {
                let expired = state.doom_expired(now);
                prop_assert_eq!(expired.len(), usize::from(over));
                if over {
                    prop_assert_eq!(state.keep_alive(now, 7), None, "a doomed lease lived on");
                    return Ok(());
                }
            } else if state.keep_alive(now, 7).is_some() {
                kept = now;
            }
        }
    }
}

#[test]
fn the_past_is_bounded_and_compacted() {
    let mut state = State::at_revision(1);
    let mut history = History::begin(1);
    for n in 0..10_100_u32 {
        let put = pb::PutRequest {
            key: "k".into(),
            value: n.to_le_bytes().to_vec().into(),
            ..Default::default()
        };
        let success = vec![pb::RequestOp { request: Some(Request::Put(put)) }];
        let txn = Write::Txn(pb::TxnRequest { success, ..Default::default() });
        let (_, effects): (_, Effects) = state.execute(NOW, txn).unwrap();
        history.push(effects.revision, vec![pb::Event::default()]);
    }
    assert_eq!(state.revision(), 10_101);
    assert_eq!(history.compacted(), 102);
    assert!(matches!(history.since(101).map(|_| ()), Err(Refusal::Compacted)));
    assert_eq!(history.since(102).unwrap().count(), 10_000);
    history.compact(10_000, 10_101).unwrap();
    assert_eq!(history.since(10_000).unwrap().count(), 102);
    assert_eq!(history.compact(10_000, 10_101), Err(Refusal::Compacted));
    assert_eq!(history.compact(10_102, 10_101), Err(Refusal::FutureRevision));
}

#[test]
fn a_full_store_refuses_puts_and_takes_deletes() {
    let mut state = State::at_revision(1);
    let value = Bytes::from(vec![0; 64 << 20]);
    let put = |key: &'static str| {
        let put = pb::PutRequest { key: key.into(), value: value.clone(), ..Default::default() };
        let success = vec![pb::RequestOp { request: Some(Request::Put(put)) }];
        Write::Txn(pb::TxnRequest { success, ..Default::default() })
    };
    for key in ["a", "b", "c"] {
        state.execute(NOW, put(key)).unwrap();
    }
    assert_eq!(state.execute(NOW, put("d")), Err(Refusal::NoSpace));
    let delete = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
    let success = vec![pb::RequestOp { request: Some(Request::DeleteRange(delete)) }];
    state.execute(NOW, Write::Txn(pb::TxnRequest { success, ..Default::default() })).unwrap();
    state.execute(NOW, put("d")).unwrap();
}
