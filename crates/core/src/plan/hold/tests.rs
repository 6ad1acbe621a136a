//! What a member promises to a leader while the store is away, and when it says so.

use std::sync::Arc;

use crate::cluster::{ClusterView, Key, Purpose, SyncState, Value};
use crate::input::{Action, Input, StoreOutcome};
use crate::node::tests::{Bench, at, name, returned, view};
use crate::peer::PeerMessage;
use crate::{Duration, Revision, Term};

fn asked() -> Bench {
    let mut bench = Bench::replica_n2();
    bench.persist_all();
    bench.take();
    let term = bench.node.view().current_term().expect("somebody leads");
    let message = PeerMessage::Hold { term, ttl: Duration::secs(5), at: bench.now };
    bench.feed(Input::Peer { from: name("n1"), message });
    bench
}

fn held(actions: &[Action]) -> Option<Term> {
    let term = |action: &Action| {
        let Action::Send { message: PeerMessage::Held { term, .. }, .. } = action else {
            return None;
        };
        Some(*term)
    };
    actions.iter().find_map(term)
}

#[test]
fn a_promise_is_told_when_it_is_on_disk() {
    let mut bench = asked();
    let actions = bench.take();
    assert_eq!(held(&actions), None);
    for action in actions {
        if let Action::Persist { seq, .. } = action {
            bench.feed(Input::Persisted { seq });
        }
    }
    assert_eq!(held(&bench.take()), bench.node.view().current_term());
}

/// The disk stalled, and there is another term when it goes on (seed 519).
#[test]
fn a_promise_that_is_over_is_not_told() {
    let mut bench = asked();
    let next = ClusterView { term: at(33, view().term.expect("a term").value), ..view() };
    bench.feed(Input::View(Arc::new(ClusterView { revision: Revision(33), ..next })));
    bench.persist_all();
    assert_eq!(held(&bench.take()), None);
}

/// n1 leads, n2 has just promised to hold: one of two voters is enough as long as each change of the list that may
/// have landed would still be met.
#[test]
fn whichever_list_stands_by_now_is_met() {
    let (mut bench, _) = returned();
    let now = bench.now;
    let reign = bench.node.reign.as_mut().expect("it leads");
    reign.holds.insert(name("n2"), now);
    assert_eq!(bench.node.held_since(), Some(now));
    let without = |voters: &[&str], quorum| {
        let voters = voters.iter().map(|node| (name(node), None)).collect();
        SyncState { leader: Some(name("n1")), quorum, voters }
    };
    // Two were sent and nobody answered; the second wrote again what stands.
    bench.node.sent_syncs = vec![without(&["n3"], 0), without(&["n2", "n3"], 1)];
    assert_eq!(bench.node.held_since(), None, "n3 may be the only voter by now");
    let reign = bench.node.reign.as_mut().expect("it leads");
    reign.holds.insert(name("n3"), now);
    assert_eq!(bench.node.held_since(), Some(now));
    // Nobody votes: everybody in the map would have to agree, and none is known.
    bench.node.sent_syncs = vec![SyncState::default()];
    assert_eq!(bench.node.held_since(), None);
}

/// A write that was refused never lands; one before it that nobody answered may have, which is why it was refused.
#[test]
fn a_refusal_speaks_for_one_write_alone() {
    let sent = |uncertain: bool| {
        let (mut bench, _) = returned();
        let value = Value::Sync(SyncState::default());
        bench.node.under_term(Purpose::PublishSync, Key::Sync, value);
        bench.node.sent_syncs = vec![SyncState::default()];
        bench.node.sync_uncertain = uncertain;
        bench.feed(Input::Tick);
        let (id, _) = bench.take_txn(Purpose::PublishSync).expect("it was sent");
        bench.feed(Input::Store { id, outcome: StoreOutcome::Refused });
        bench.node.sent_syncs.contains(&SyncState::default())
    };
    assert!(!sent(false));
    assert!(sent(true));
}

#[test]
fn what_may_have_landed_is_remembered_until_the_view_shows_it() {
    let (mut bench, news) = returned();
    bench.node.sent_syncs = vec![SyncState::default()];
    bench.feed(Input::View(Arc::new(ClusterView { revision: Revision(34), ..news.clone() })));
    assert_eq!(bench.node.sent_syncs.len(), 1, "the key is as it was");
    let sync = at(35, SyncState::default());
    bench.feed(Input::View(Arc::new(ClusterView { revision: Revision(35), sync, ..news })));
    assert!(bench.node.sent_syncs.iter().all(|sent| *sent != SyncState::default()));
}
