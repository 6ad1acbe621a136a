//! Checks of what a watch tells, and of compaction.

use super::{Case, Outcome, Refused, Subject, holds, same};
use crate::types::{Event, Op, Range};

fn revisions(events: &[Event]) -> Vec<u64> {
    events.iter().map(Event::revision).collect()
}

pub(super) async fn tells_every_change_in_order<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let first = c.put("a", "1").await?;
    let mut expected = vec![Event::Put(c.found("a").await?)];
    c.put("a", "2").await?;
    expected.push(Event::Put(c.found("a").await?));
    c.put("b", "1").await?;
    expected.push(Event::Put(c.found("b").await?));
    let revision = c.delete("a").await?;
    expected.push(Event::Delete { key: c.key("a"), revision });
    same("events", &c.events(first).await?, &expected)
}

pub(super) async fn begins_at_a_revision_and_resumes<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let first = c.put("a", "1").await?;
    c.put("a", "2").await?;
    let last = c.put("a", "3").await?;
    let all = revisions(&c.events(first).await?);
    same("from the first", &all, &vec![first, first + 1, last])?;
    same("from the second", &revisions(&c.events(first + 1).await?), &vec![first + 1, last])?;
    same("after the last", &revisions(&c.events(last + 1).await?), &Vec::new())?;
    let next = c.put("a", "4").await?;
    same("going on", &revisions(&c.events(last + 1).await?), &vec![next])
}

pub(super) async fn tells_nothing_of_the_future<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let now = c.put("a", "1").await?;
    same("from far ahead", &c.events(now + 1000).await?, &Vec::new())
}

pub(super) async fn tells_one_event_for_each_key_of_a_transaction<S: Subject>(
    c: &mut Case<'_, S>,
) -> Outcome {
    c.put("old", "1").await?;
    let steps = vec![
        Op::put(c.key("b"), "1"),
        Op::delete(c.key("old")),
        Op::put(c.key("a"), "1"),
        Op::delete(c.key("absent")),
    ];
    let revision = c.then(steps).await?.revision;
    let mut events = c.events(revision).await?;
    same("revisions", &revisions(&events), &vec![revision; 3])?;
    // Their order within the revision is nobody's promise.
    events.sort_by(|x, y| x.key().cmp(y.key()));
    let keys: Vec<_> = events.iter().map(|event| event.key().clone()).collect();
    same("keys", &keys, &vec![c.key("a"), c.key("b"), c.key("old")])
}

pub(super) async fn tells_only_its_prefix<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let first = c.put("p/a", "1").await?;
    c.put("q/a", "1").await?;
    let last = c.put("p/b", "1").await?;
    let events = c.store.events_since(c.key("p/"), first).await;
    let events = events.map_err(|refused| format!("a watch: {refused:?}"))?;
    same("revisions", &revisions(&events), &vec![first, last])
}

pub(super) async fn a_delete_tells_its_revision<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    c.put("a", "1").await?;
    c.put("b", "1").await?;
    let revision = c.then(vec![Op::delete_prefix(c.prefix.clone())]).await?.revision;
    let mut events = c.events(revision).await?;
    events.sort_by(|x, y| x.key().cmp(y.key()));
    let delete = |key| Event::Delete { key, revision };
    same("events", &events, &vec![delete(c.key("a")), delete(c.key("b"))])
}

pub(super) async fn compaction_forgets_the_past_only<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let first = c.put("a", "1").await?;
    c.put("b", "1").await?;
    let at = c.put("a", "2").await?;
    let last = c.put("a", "3").await?;
    let before = c.range(Range::prefix(c.prefix.clone())).await?;
    c.store.compact(at).await.map_err(|refused| format!("compacting: {refused:?}"))?;
    same("what there is now", &c.range(Range::prefix(c.prefix.clone())).await?, &before)?;
    let prefix = c.prefix.clone();
    let forgotten = c.store.events_since(prefix.into(), first).await;
    same("a watch from before", &forgotten, &Err(Refused::Compacted))?;
    same("a watch from after", &revisions(&c.events(at + 1).await?), &vec![last])
}

pub(super) async fn compacting_twice_or_ahead_is_refused<S: Subject>(
    c: &mut Case<'_, S>,
) -> Outcome {
    let at = c.put("a", "1").await?;
    c.store.compact(at).await.map_err(|refused| format!("compacting: {refused:?}"))?;
    same("again", &c.store.compact(at).await, &Err(Refused::Compacted))?;
    same("further back", &c.store.compact(at - 1).await, &Err(Refused::Compacted))?;
    let ahead = c.store.compact(at + 1_000_000).await;
    holds("ahead is refused", ahead == Err(Refused::Invalid))
}
