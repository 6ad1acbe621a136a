//! Checks of leases. Expiry is checked loosely upwards: etcd looks for it each half second.

use std::time::Duration;

use super::{Case, Outcome, Refused, Subject, holds, same};
use crate::types::{Compare, Event, Grant, Op, Range, Txn};

/// At least what any store grants that we test.
const SHORT_SECS: i64 = 2;
/// How late a store may be with an expiry.
const LATE: Duration = Duration::from_millis(1500);

fn part_of(grant: Grant, tenths: u32) -> Duration {
    Duration::from_secs(u64::try_from(grant.ttl).unwrap_or(0)) * tenths / 10
}

pub(super) async fn granted_as_long_as_asked<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let (one, two) = (c.grant(60).await?, c.grant(60).await?);
    holds("the ids differ", one.id != two.id)?;
    holds("no id is 0", one.id != 0 && two.id != 0)?;
    holds("the ttl is at least what was asked", one.ttl >= 60 && two.ttl >= 60)?;
    holds("a ttl of 0 is raised", c.grant(0).await?.ttl >= 1)?;
    same("keepalive", &c.keepalive(one.id).await?, &Some(one.ttl))?;
    c.revoke(one.id).await?;
    c.revoke(two.id).await
}

pub(super) async fn an_unknown_lease_is_refused<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let lease = c.grant(60).await?;
    c.revoke(lease.id).await?;
    let put = Op::put_leased(c.key("a"), "1", lease.id);
    let outcome = c.store.txn(Txn { then: vec![put], ..Txn::default() }).await.map(|_| ());
    same("a put", &outcome, &Err(Refused::LeaseNotFound))?;
    same("a revocation", &c.store.lease_revoke(lease.id).await, &Err(Refused::LeaseNotFound))
}

pub(super) async fn an_unknown_lease_is_not_kept_alive<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let lease = c.grant(60).await?;
    c.revoke(lease.id).await?;
    same("keepalive", &c.keepalive(lease.id).await?, &None)
}

pub(super) async fn revoking_deletes_in_one_revision<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let lease = c.grant(60).await?;
    for name in ["a", "b", "c"] {
        c.put_leased(name, "1", lease.id).await?;
    }
    let before = c.put("stays", "1").await?;
    c.revoke(lease.id).await?;
    same("revision", &c.revision().await?, &(before + 1))?;
    same("what is left", &c.range(Range::prefix(c.prefix.clone())).await?.kvs.len(), &1)?;
    deletes(c, before + 1, &["a", "b", "c"]).await
}

/// The events from `start` on are deletes of these keys, all at one revision.
async fn deletes<S: Subject>(c: &mut Case<'_, S>, start: u64, names: &[&str]) -> Outcome {
    let mut events = c.events(start).await?;
    events.sort_by(|a, b| a.key().cmp(b.key()));
    let revision = events.first().map_or(0, Event::revision);
    let expected: Vec<_> =
        names.iter().map(|name| Event::Delete { key: c.key(name), revision }).collect();
    same("events", &events, &expected)
}

pub(super) async fn revoking_an_empty_lease_costs_no_revision<S: Subject>(
    c: &mut Case<'_, S>,
) -> Outcome {
    let lease = c.grant(60).await?;
    let before = c.put("a", "1").await?;
    c.revoke(lease.id).await?;
    same("revision", &c.revision().await?, &before)
}

pub(super) async fn a_key_hangs_on_its_last_lease<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let (one, two) = (c.grant(60).await?, c.grant(60).await?);
    let created = c.put_leased("a", "1", one.id).await?;
    c.put_leased("a", "2", two.id).await?;
    let kv = c.found("a").await?;
    same("lease", &kv.lease, &two.id)?;
    same("create revision", &kv.create_revision, &created)?;
    c.revoke(one.id).await?;
    holds("it survives its first lease", c.get("a").await?.is_some())?;
    c.revoke(two.id).await?;
    same("after its last lease", &c.get("a").await?, &None)
}

pub(super) async fn a_put_without_a_lease_detaches<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let lease = c.grant(60).await?;
    c.put_leased("a", "1", lease.id).await?;
    c.put("a", "2").await?;
    c.revoke(lease.id).await?;
    same("lease", &c.found("a").await?.lease, &0)
}

pub(super) async fn a_deleted_key_leaves_its_lease<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let lease = c.grant(60).await?;
    c.put_leased("a", "1", lease.id).await?;
    c.delete("a").await?;
    c.put("a", "2").await?;
    c.revoke(lease.id).await?;
    holds("the new key stays", c.get("a").await?.is_some())
}

pub(super) async fn lease_conditions<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let (mine, other) = (c.grant(60).await?, c.grant(60).await?);
    c.put_leased("a", "1", mine.id).await?;
    same("mine", &c.holds(vec![Compare::lease(c.key("a"), mine.id)]).await?, &true)?;
    same("another", &c.holds(vec![Compare::lease(c.key("a"), other.id)]).await?, &false)?;
    same("none", &c.holds(vec![Compare::lease(c.key("a"), 0)]).await?, &false)?;
    c.revoke(mine.id).await?;
    same("when it is gone", &c.holds(vec![Compare::lease(c.key("a"), mine.id)]).await?, &false)?;
    c.revoke(other.id).await
}

pub(super) async fn expiry_deletes_in_one_revision<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let lease = c.grant(SHORT_SECS).await?;
    c.put_leased("a", "1", lease.id).await?;
    let before = c.put_leased("b", "1", lease.id).await?;
    c.store.advance(part_of(lease, 7)).await;
    holds("it is not early", c.get("a").await?.is_some())?;
    c.store.advance(part_of(lease, 3) + LATE).await;
    same("after its time", &c.get("a").await?, &None)?;
    same("revision", &c.revision().await?, &(before + 1))?;
    deletes(c, before + 1, &["a", "b"]).await
}

pub(super) async fn keepalive_starts_its_life_anew<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let lease = c.grant(SHORT_SECS).await?;
    c.put_leased("a", "1", lease.id).await?;
    for _ in 0..3 {
        c.store.advance(part_of(lease, 6)).await;
        same("keepalive", &c.keepalive(lease.id).await?, &Some(lease.ttl))?;
    }
    holds("the key lives on", c.get("a").await?.is_some())?;
    c.revoke(lease.id).await
}

pub(super) async fn writing_keeps_no_lease_alive<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    // Long enough that the last look comes before a life that the write would have begun is over.
    let lease = c.grant(SHORT_SECS + 1).await?;
    c.put_leased("a", "1", lease.id).await?;
    c.store.advance(part_of(lease, 8)).await;
    c.put_leased("a", "2", lease.id).await?;
    c.store.advance(part_of(lease, 2) + LATE).await;
    same("after its time", &c.get("a").await?, &None)
}

pub(super) async fn an_expired_lease_is_gone<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let lease = c.grant(SHORT_SECS).await?;
    c.store.advance(part_of(lease, 10) + LATE).await;
    same("keepalive", &c.keepalive(lease.id).await?, &None)?;
    let put = Op::put_leased(c.key("a"), "1", lease.id);
    let outcome = c.store.txn(Txn { then: vec![put], ..Txn::default() }).await.map(|_| ());
    same("a put", &outcome, &Err(Refused::LeaseNotFound))
}
