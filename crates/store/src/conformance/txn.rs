//! Checks of transactions and their conditions.

use super::{Case, Outcome, Refused, Subject, holds, same};
use crate::types::{Compare, Is, Op, OpReply, Range, Target, Txn};

pub(super) async fn one_revision_for_all_its_writes<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let before = c.put("gone", "x").await?;
    let steps = vec![
        Op::put(c.key("a"), "1"),
        Op::put(c.key("b"), "1"),
        Op::delete(c.key("gone")),
        Op::put(c.key("c"), "1"),
    ];
    let reply = c.then(steps).await?;
    same("revision", &reply.revision, &(before + 1))?;
    for name in ["a", "b", "c"] {
        same(name, &c.found(name).await?.mod_revision, &reply.revision)?;
    }
    same("the deleted", &c.get("gone").await?, &None)
}

pub(super) async fn conditions_choose_the_branch<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let swap = |c: &Case<'_, S>| Txn {
        compare: vec![Compare::absent(c.key("lock"))],
        then: vec![Op::put(c.key("lock"), "mine")],
        otherwise: vec![Op::get(c.key("lock"))],
    };
    let first = c.txn(swap(c)).await?;
    same("the first", &(first.succeeded, first.responses), &(true, vec![OpReply::Put]))?;
    let second = c.txn(swap(c)).await?;
    holds("the second fails", !second.succeeded)?;
    same("its revision", &second.revision, &first.revision)?;
    let lock = c.found("lock").await?;
    same("its answer", &second.responses, &vec![OpReply::Range { kvs: vec![lock] }])
}

pub(super) async fn all_conditions_must_hold<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let revision = c.put("a", "1").await?;
    let right = Compare::mod_revision(c.key("a"), revision);
    let wrong = Compare::value(c.key("a"), "2");
    same("both right", &c.holds(vec![right.clone(), right.clone()]).await?, &true)?;
    same("one wrong", &c.holds(vec![right, wrong]).await?, &false)?;
    same("none", &c.holds(Vec::new()).await?, &true)
}

pub(super) async fn an_absent_key_counts_as_zero<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let key = c.key("absent");
    for target in [Target::Mod(0), Target::Create(0), Target::Version(0), Target::Lease(0)] {
        let what = format!("{target:?}");
        same(&what, &c.holds(vec![Compare::equal(key.clone(), target)]).await?, &true)?;
    }
    for target in [Target::Mod(1), Target::Create(1), Target::Version(1), Target::Lease(1)] {
        let what = format!("{target:?}");
        let equal = Compare::equal(key.clone(), target.clone());
        same(&what, &c.holds(vec![equal.clone()]).await?, &false)?;
        let less = Compare { is: Is::Less, ..equal };
        same(&format!("less than {what}"), &c.holds(vec![less]).await?, &true)?;
    }
    same("exists", &c.holds(vec![Compare::exists(key)]).await?, &false)
}

pub(super) async fn a_value_condition_on_an_absent_key_never_holds<S: Subject>(
    c: &mut Case<'_, S>,
) -> Outcome {
    for is in [Is::Equal, Is::NotEqual, Is::Less, Is::Greater] {
        for value in ["", "x"] {
            let target = Target::Value(value.into());
            let compare = Compare { key: c.key("absent"), is, target };
            same(&format!("{is:?} '{value}'"), &c.holds(vec![compare]).await?, &false)?;
        }
    }
    Ok(())
}

pub(super) async fn every_target_is_compared<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let created = c.put("a", "1").await?;
    let written = c.put("a", "2").await?;
    let pairs = [
        (Target::Create(created), Target::Create(written)),
        (Target::Mod(written), Target::Mod(created)),
        (Target::Version(2), Target::Version(1)),
        (Target::Lease(0), Target::Lease(7)),
        (Target::Value("2".into()), Target::Value("1".into())),
    ];
    for (right, wrong) in pairs {
        let (yes, no) = (format!("{right:?}"), format!("{wrong:?}"));
        same(&yes, &c.holds(vec![Compare::equal(c.key("a"), right)]).await?, &true)?;
        same(&no, &c.holds(vec![Compare::equal(c.key("a"), wrong)]).await?, &false)?;
    }
    Ok(())
}

pub(super) async fn relations_are_the_stores_to_the_given<S: Subject>(
    c: &mut Case<'_, S>,
) -> Outcome {
    let revision = c.put("a", "m").await?;
    let mut cases = Vec::new();
    for (given, order) in [(revision - 1, 1), (revision, 0), (revision + 1, -1)] {
        cases.push((Target::Mod(given), order));
    }
    for (given, order) in [("l", 1), ("m", 0), ("ma", -1), ("", 1)] {
        cases.push((Target::Value(given.into()), order));
    }
    for (target, order) in cases {
        for (is, expected) in [
            (Is::Equal, order == 0),
            (Is::NotEqual, order != 0),
            (Is::Greater, order > 0),
            (Is::Less, order < 0),
        ] {
            let compare = Compare { key: c.key("a"), is, target: target.clone() };
            same(&format!("{is:?} {target:?}"), &c.holds(vec![compare]).await?, &expected)?;
        }
    }
    Ok(())
}

pub(super) async fn reading_costs_no_revision<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let before = c.put("a", "1").await?;
    let read = c.then(vec![Op::get(c.key("a")), Op::get(c.key("b"))]).await?;
    same("a read", &read.revision, &before)?;
    let nothing = c.then(vec![Op::delete(c.key("b")), Op::get(c.key("a"))]).await?;
    same("a delete of nothing", &nothing.revision, &before)?;
    same("no steps", &c.then(Vec::new()).await?.revision, &before)
}

pub(super) async fn writing_the_same_value_is_a_write<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let first = c.put("a", "1").await?;
    same("revision", &c.put("a", "1").await?, &(first + 1))?;
    same("version", &c.found("a").await?.version, &2)
}

pub(super) async fn steps_see_the_steps_before<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    c.put("old", "1").await?;
    let all = Op::Range(Range::prefix(c.prefix.clone()));
    let steps = vec![
        all.clone(),
        Op::put(c.key("new"), "1"),
        all.clone(),
        Op::delete(c.key("old")),
        all.clone(),
    ];
    let reply = c.then(steps).await?;
    let mut seen = Vec::new();
    for response in &reply.responses {
        if let OpReply::Range { kvs } = response {
            seen.push(kvs.len());
        }
    }
    same("keys seen", &seen, &vec![1, 2, 1])
}

pub(super) async fn two_writes_of_one_key_are_refused<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let before = c.put("a", "1").await?;
    let (put, delete) = (Op::put(c.key("a"), "2"), Op::delete(c.key("a")));
    let delete_all = Op::delete_prefix(c.prefix.clone());
    for steps in [
        vec![delete.clone(), put.clone()],
        vec![put.clone(), delete],
        vec![put.clone(), put.clone()],
        vec![delete_all, put.clone()],
    ] {
        let taken = Txn { then: steps.clone(), ..Txn::default() };
        let outcome = c.store.txn(taken).await.map(|_| ());
        same(&format!("{steps:?}"), &outcome, &Err(Refused::Invalid))?;
        let not_taken = Txn { otherwise: steps, ..Txn::default() };
        let outcome = c.store.txn(not_taken).await.map(|_| ());
        same("in the branch that is not taken", &outcome, &Err(Refused::Invalid))?;
    }
    // One write in each branch is one write.
    let either = Txn { then: vec![put.clone()], otherwise: vec![put], ..Txn::default() };
    same("one in each branch", &c.txn(either).await?.revision, &(before + 1))
}

pub(super) async fn deleting_twice_is_allowed<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let before = c.put("a", "1").await?;
    let reply = c.then(vec![Op::delete(c.key("a")), Op::delete(c.key("a"))]).await?;
    same("revision", &reply.revision, &(before + 1))?;
    let expected = vec![OpReply::Delete { deleted: 1 }, OpReply::Delete { deleted: 0 }];
    same("answers", &reply.responses, &expected)
}

pub(super) async fn refused_as_a_whole<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    let before = c.put("a", "1").await?;
    let lease = c.grant(60).await?;
    c.revoke(lease.id).await?;
    let steps = vec![
        Op::put(c.key("b"), "1"),
        Op::delete(c.key("a")),
        Op::put_leased(c.key("c"), "1", lease.id),
    ];
    let outcome = c.store.txn(Txn { then: steps, ..Txn::default() }).await.map(|_| ());
    same("a lease that is gone", &outcome, &Err(Refused::LeaseNotFound))?;
    same("revision", &c.revision().await?, &before)?;
    let found = c.range(Range::prefix(c.prefix.clone())).await?;
    same("keys", &found.kvs.len(), &1)
}

pub(super) async fn deletes_say_how_many<S: Subject>(c: &mut Case<'_, S>) -> Outcome {
    for name in ["p/a", "p/b", "q"] {
        c.put(name, "1").await?;
    }
    let reply = c.then(vec![Op::delete_prefix(c.key("p/")), Op::delete(c.key("r"))]).await?;
    let expected = vec![OpReply::Delete { deleted: 2 }, OpReply::Delete { deleted: 0 }];
    same("answers", &reply.responses, &expected)?;
    same("what is left", &c.range(Range::prefix(c.prefix.clone())).await?.kvs.len(), &1)
}
