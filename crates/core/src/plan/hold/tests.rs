//! What a member promises to a leader while the store is away, and when it says so.

use std::sync::Arc;

use crate::cluster::ClusterView;
use crate::input::{Action, Input};
use crate::node::tests::{Bench, at, name, view};
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
