//! Routes and closures, one situation each.
use super::*;
use crate::testing::{leader, member, name, topology};

fn routes(topology: &Topology) -> Routes {
    Routes::of(topology, ReadFallback::Leader, None, &Standing::Unchecked)
}

fn names(targets: &[Arc<Target>]) -> Vec<&str> {
    targets.iter().map(|target| target.name.as_str()).collect()
}

#[test]
fn writes_go_to_the_leader_and_reads_to_its_replicas() {
    let routes = routes(&topology(leader("a", 3), &["a", "b", "c"]));
    let write = routes.write.as_ref().unwrap();
    assert_eq!((write.name.as_str(), write.term), ("a", Some(Term(3))));
    assert_eq!(names(&routes.read), ["b", "c"]);
    assert_eq!(routes.read_source, ReadSource::Replicas);
    assert_eq!(names(routes.targets(Port::Write)), ["a"]);
}

#[test]
fn nothing_is_routed_before_the_first_confirmation() {
    let unconfirmed = Topology { fresh_at: None, ..topology(leader("a", 3), &["a", "b"]) };
    let routes = routes(&unconfirmed);
    assert_eq!(routes.write, Err(NoPrimary::NeverConfirmed));
    assert_eq!((names(&routes.read).len(), routes.read_source), (0, ReadSource::Nobody));
    assert_eq!(routes, Routes::nothing());
}

#[test]
fn a_leader_that_does_not_serve_gets_no_writes() {
    let mut view = topology(leader("a", 3), &["a", "b"]);
    view.leader.as_mut().unwrap().serving = false;
    assert_eq!(routes(&view).write, Err(NoPrimary::NotServing(name("a"), Term(3))));
    // Its replica still answers reads; itself is no replica.
    assert_eq!(names(&routes(&view).read), ["b"]);
}

#[test]
fn a_view_from_the_past_gets_no_writes() {
    let view = topology(leader("a", 3), &["a", "b"]);
    let past = Routes::of(&view, ReadFallback::Leader, Some(Term(4)), &Standing::Unchecked);
    assert_eq!(past.write, Err(NoPrimary::OlderTerm { shown: Term(3), seen: Term(4) }));
    assert!(
        Routes::of(&view, ReadFallback::Leader, Some(Term(3)), &Standing::Unchecked).write.is_ok()
    );
}

#[test]
fn who_may_read() {
    let mut view = topology(leader("a", 3), &["a", "b", "c", "d", "e", "f"]);
    view.members[1].lag_bytes = Some(1_000);
    view.members[2].lag_bytes = Some(1_001);
    view.members[3].noloadbalance = true;
    view.members[4].state = "starting".into();
    view.members[5].lag_bytes = None;
    assert_eq!(names(&routes(&view).read), ["b", "f"]);
    assert!(is_lagging(&view, &view.members[2]));
    assert!(!is_lagging(&view, &view.members[1]));
}

#[test]
fn without_a_replica_reads_fall_back_to_the_leader_or_to_nobody() {
    let mut view = topology(leader("a", 3), &["a", "b"]);
    view.members[1].streaming = false;
    let to_leader = routes(&view);
    assert_eq!((names(&to_leader.read), to_leader.read_source), (vec!["a"], ReadSource::Leader));
    let to_nobody = Routes::of(&view, ReadFallback::None, None, &Standing::Unchecked);
    assert_eq!((to_nobody.read.len(), to_nobody.read_source), (0, ReadSource::Nobody));
}

#[test]
fn reads_go_on_while_there_is_no_primary_to_stream_from() {
    let mut view = topology(None, &["a", "b"]);
    for member in &mut view.members {
        member.streaming = false;
        member.state = "running".into();
        member.lag_bytes = None;
    }
    let routes = routes(&view);
    assert_eq!((names(&routes.read), routes.read_source), (vec!["a", "b"], ReadSource::Waiting));
    assert_eq!(routes.write, Err(NoPrimary::NoLeader));
}

#[test]
fn a_change_of_reign_ends_the_write_sessions_of_others() {
    let before = topology(leader("a", 3), &["a", "b"]);
    let write = |new: &Topology| diff(&before, new).write;
    let after = topology(leader("b", 4), &["a", "b"]);
    assert_eq!(write(&after), WriteClosure::AllBut(name("b")));
    let again = topology(leader("a", 4), &["a", "b"]);
    assert_eq!(write(&again), WriteClosure::AllBut(name("a")));
    assert_eq!(write(&topology(None, &["a", "b"])), WriteClosure::All);
    assert_eq!(write(&before), WriteClosure::Nothing);
}

#[test]
fn a_pause_in_serving_or_a_view_from_the_past_ends_nothing() {
    let before = topology(leader("a", 3), &["a", "b"]);
    let mut paused = before.clone();
    paused.leader.as_mut().unwrap().serving = false;
    assert_eq!(diff(&before, &paused).write, WriteClosure::Nothing);
    let past = topology(leader("b", 2), &["a", "b"]);
    assert_eq!(diff(&before, &past).write, WriteClosure::Nothing);
}

#[test]
fn read_sessions_end_only_with_their_member() {
    let before = topology(leader("a", 3), &["a", "b", "c"]);
    let mut after = topology(leader("b", 4), &["b", "c"]);
    after.members[1].lag_bytes = Some(u64::MAX);
    assert_eq!(diff(&before, &after).read, [name("a")]);
    let stranger = MemberRoute { state: "stopped".into(), streaming: false, ..member("b") };
    let lame = Topology { members: vec![member("a"), stranger, member("c")], ..before.clone() };
    assert_eq!(diff(&before, &lame).read, Vec::<NodeName>::new());
}

#[test]
fn a_term_that_nobody_confirms_gets_no_writes() {
    let view = topology(leader("a", 3), &["a", "b"]);
    let lapsed = Lapsed { leader: name("a"), term: Term(3) };
    let standing = Standing::Lapsed(lapsed.clone());
    let routes = Routes::of(&view, ReadFallback::Leader, None, &standing);
    assert_eq!(routes.write, Err(NoPrimary::Unconfirmed(lapsed)));
    assert_eq!(names(&routes.read), ["b"]);
    // Nor reads in the place of a replica.
    let alone = topology(leader("a", 3), &["a"]);
    let routes = Routes::of(&alone, ReadFallback::Leader, None, &standing);
    assert_eq!(routes.read_source, ReadSource::Nobody);
}
