//! Checks of keys, revisions and reads.

use super::{Case, Feature, Outcome, Refused, Subject, holds, same};
use crate::types::{Op, Range, Txn};

pub(super) async fn a_new_key_begins_at_version_one<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let revision = c.put("a", "1").await?;
    let kv = c.found("a").await?;
    same("create revision", &kv.create_revision, &revision)?;
    same("mod revision", &kv.mod_revision, &revision)?;
    same("version", &kv.version, &1)?;
    same("lease", &kv.lease, &0)?;
    same("value", &kv.value.as_ref(), &b"1".as_slice())
}

pub(super) async fn overwriting_keeps_the_create_revision<S: Subject>(
    c: &mut Case<'_, S>,
) -> Outcome {
    let created = c.put("a", "1").await?;
    let written = c.put("a", "2").await?;
    let kv = c.found("a").await?;
    same("create revision", &kv.create_revision, &created)?;
    same("mod revision", &kv.mod_revision, &written)?;
    same("version", &kv.version, &2)?;
    holds("the second revision is greater", written > created)
}

pub(super) async fn deleting_forgets_the_past<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    c.put("a", "1").await?;
    c.put("a", "2").await?;
    c.delete("a").await?;
    same("after the delete", &c.get("a").await?, &None)?;
    let again = c.put("a", "3").await?;
    let kv = c.found("a").await?;
    same("create revision", &kv.create_revision, &again)?;
    same("version", &kv.version, &1)
}

pub(super) async fn deleting_nothing_costs_no_revision<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let before = c.put("a", "1").await?;
    same("answered", &c.delete("b").await?, &before)?;
    same("revision", &c.revision().await?, &before)
}

pub(super) async fn each_write_costs_one_revision<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let first = c.put("a", "1").await?;
    same("a put", &c.put("a", "2").await?, &(first + 1))?;
    same("another key", &c.put("b", "1").await?, &(first + 2))?;
    same("a delete", &c.delete("a").await?, &(first + 3))?;
    same("a read", &c.revision().await?, &(first + 3))
}

pub(super) async fn a_prefix_is_ordered_and_exact<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    for name in ["p/b", "p/a", "p/a/x", "p0", "p", "p/\u{ff}"] {
        c.put(name, name).await?;
    }
    let found = c.range(Range::prefix(c.key("p/"))).await?;
    let keys: Vec<_> = found.kvs.iter().map(|kv| kv.key.clone()).collect();
    same("keys", &keys, &vec![c.key("p/a"), c.key("p/a/x"), c.key("p/b"), c.key("p/\u{ff}")])?;
    let bounded = Range { range_end: c.key("p/b"), ..Range::one(c.key("p/a")) };
    let found = c.range(bounded).await?;
    same("keys from a up to b, without b", &found.kvs.len(), &2)
}

pub(super) async fn reads_count_and_limit<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    if !c.store.has(Feature::CountAndLimit) {
        return Ok(());
    }
    for name in ["a", "b", "c"] {
        c.put(name, name).await?;
    }
    let all = Range::prefix(c.prefix.clone());
    let limited = c.range(Range { limit: 2, ..all.clone() }).await?;
    same("limited", &limited.kvs.len(), &2)?;
    same("count of the limited", &limited.count, &3)?;
    let counted = c.range(Range { count_only: true, ..all }).await?;
    same("count", &counted.count, &3)?;
    same("keys of the count", &counted.kvs.len(), &0)
}

pub(super) async fn an_empty_value_is_a_value<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    c.put("a", "").await?;
    same("value", &c.found("a").await?.value.len(), &0)
}

pub(super) async fn keys_are_bytes<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let mut key = c.prefix.clone().into_bytes();
    key.extend([0, 255, 10]);
    let value = vec![0_u8, 255, 0];
    c.then(vec![Op::put(key.clone(), value.clone())]).await?;
    let found = c.range(Range::one(key.clone())).await?;
    let found = found.kvs.first().map(|kv| (kv.key.to_vec(), kv.value.to_vec()));
    same("key and value", &found, &Some((key, value)))
}

pub(super) async fn an_empty_key_is_refused<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let txn = Txn { then: vec![Op::put("", "x")], ..Txn::default() };
    same("a put", &c.store.txn(txn).await.map(|_| ()), &Err(Refused::Invalid))?;
    same("a read", &c.store.range(Range::one("")).await.map(|_| ()), &Err(Refused::Invalid))
}

pub(super) async fn the_past_can_be_read<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    if !c.store.has(Feature::PastReads) {
        return Ok(());
    }
    let first = c.put("a", "1").await?;
    c.put("a", "2").await?;
    let second = c.put("b", "1").await?;
    c.then(vec![Op::delete_prefix(c.prefix.clone())]).await?;
    let at = |revision| Range { revision, ..Range::prefix(c.prefix.clone()) };
    let (then, later) = (at(first), at(second));
    let values = |reply: crate::types::RangeReply| -> Vec<_> {
        reply.kvs.into_iter().map(|kv| (kv.value, kv.version)).collect()
    };
    same("at the first", &values(c.range(then).await?), &vec![("1".into(), 1)])?;
    same("later", &values(c.range(later).await?), &vec![("2".into(), 2), ("1".into(), 1)])?;
    same("now", &c.range(Range::prefix(c.prefix.clone())).await?.kvs.len(), &0)?;
    let ahead = Range { revision: second + 1_000_000, ..Range::one(c.key("a")) };
    same("the future", &c.store.range(ahead).await.map(|_| ()), &Err(Refused::Invalid))
}
