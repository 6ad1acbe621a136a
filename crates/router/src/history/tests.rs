//! The sentences of the list of recent changes.
use super::*;
use crate::testing::{leader, member, topology};

fn texts(old: &Topology, new: &Topology) -> Vec<String> {
    changes(old, new).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_failover_tells_its_story() {
    let before = topology(leader("a", 1), &["a", "b"]);
    let gone = Topology { leader: None, ..before.clone() };
    let after = topology(leader("b", 2), &["a", "b"]);
    assert_eq!(texts(&before, &before), Vec::<String>::new());
    assert_eq!(texts(&before, &gone), ["a lost the leader key (term 1)"]);
    assert_eq!(texts(&gone, &after), ["b leads and accepts writes (term 2)"]);
    let mut promoting = after.clone();
    promoting.leader.as_mut().unwrap().serving = false;
    assert_eq!(texts(&gone, &promoting), ["b holds the leader key (term 2)"]);
    assert_eq!(texts(&promoting, &after), ["b accepts writes (term 2)"]);
    assert_eq!(texts(&after, &promoting), ["b stopped accepting writes"]);
    let mut history = History::default();
    let at = Timestamp::UNIX_EPOCH;
    assert!(!history.record(&Topology::default(), &before, at));
    assert!(!history.record(&before, &gone, at));
    assert!(history.record(&gone, &after, at));
    let change = history.leader_change().unwrap();
    assert_eq!(change.from.as_ref().unwrap().as_str(), "a");
    assert_eq!(change.to.as_str(), "b");
}

#[test]
fn members_come_go_and_change() {
    let old = topology(leader("a", 1), &["a", "b"]);
    let mut new = topology(leader("a", 1), &["a", "c"]);
    new.paused = true;
    assert_eq!(
        texts(&old, &new),
        ["c joined (c:5432)", "b left the list of members", "automatic failover was paused"]
    );
    let mut slow = old.clone();
    slow.members[1] = MemberRoute { state: "starting".into(), ..member("b") };
    assert_eq!(texts(&old, &slow), ["b: streaming → starting"]);
}

#[test]
fn the_list_is_bounded() {
    let a = topology(leader("a", 1), &["a"]);
    let b = topology(leader("b", 2), &["a"]);
    let mut history = History::default();
    for _ in 0..100 {
        history.record(&a, &b, Timestamp::UNIX_EPOCH);
    }
    assert_eq!(history.changes().len(), CHANGES_MAX);
}
