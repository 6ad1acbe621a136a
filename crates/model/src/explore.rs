//! Breadth-first over every state that a model can reach; a violation comes with a shortest trace.
//! Remembers 64-bit fingerprints instead of states: two that collide (in ten million states, once in
//! 400 000 runs) would hide one. Leaves what is possible, and what must hold, to the models.

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};

/// What happened in a step: words, and the nodes that it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    what: &'static str,
    node: u8,
    other: Option<u8>,
}

impl Label {
    /// Something that one node does, or that happens to it.
    #[must_use]
    pub const fn of(node: usize, what: &'static str) -> Self {
        Self { what, node: node as u8, other: None }
    }

    /// Something between two nodes.
    #[must_use]
    pub const fn between(node: usize, what: &'static str, other: usize) -> Self {
        Self { what, node: node as u8, other: Some(other as u8) }
    }

    /// Something that happens to all.
    #[must_use]
    pub const fn world(what: &'static str) -> Self {
        Self { what, node: u8::MAX, other: None }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.node, self.other) {
            (u8::MAX, _) => write!(f, "{}", self.what),
            (node, None) => write!(f, "n{}: {}", node + 1, self.what),
            (node, Some(other)) => write!(f, "n{}: {} n{}", node + 1, self.what, other + 1),
        }
    }
}

/// States, what can follow each, and what must hold in each.
pub trait Model {
    /// Everything there is at one instant.
    type State: Clone + Eq + Hash + Debug;
    /// Where it begins.
    fn initial(&self) -> Self::State;
    /// What can happen next.
    fn steps(&self, state: &Self::State, next: &mut Vec<(Label, Self::State)>);
    /// The law that this state breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
    /// Bit i: this state shows the i-th of [`Self::sights`].
    fn seen(&self, state: &Self::State) -> u32;
    /// What must be reached, or the model would be right for want of anything happening.
    fn sights(&self) -> &'static [&'static str];
}

/// A broken law, and the shortest way to it.
#[derive(Debug)]
pub struct Violation {
    /// Which.
    pub law: &'static str,
    /// The steps, and each state after them in Rust's words.
    pub trace: Vec<(Label, String)>,
}

/// What an exploration found.
#[derive(Debug)]
pub struct Outcome {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub steps: u64,
    /// The longest of the shortest ways.
    pub depth: u32,
    /// Which sights were reached.
    pub seen: u32,
    /// All states were looked at; otherwise a limit or a violation ended it.
    pub complete: bool,
    /// The first broken law.
    pub violation: Option<Violation>,
}

type Seen = HashSet<u64, BuildHasherDefault<Itself>>;

/// A fingerprint is a hash already.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are kept");
    }
    fn write_u64(&mut self, print: u64) {
        self.0 = print;
    }
}

fn fingerprint<T: Hash>(state: &T) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(state)
}

/// Looks at every state, at most `limit` of them.
#[must_use]
pub fn explore<M: Model>(model: &M, limit: usize) -> Outcome {
    let first = model.initial();
    let print = fingerprint(&first);
    let mut known = Seen::default();
    known.insert(print);
    // The way back: per state its fingerprint and its parent's index.
    let mut parents: Vec<(u64, u32)> = vec![(print, 0)];
    let mut level = vec![(first, 0_u32)];
    let mut outcome =
        Outcome { states: 1, steps: 0, depth: 0, seen: 0, complete: false, violation: None };
    let mut next = Vec::new();
    while !level.is_empty() {
        let mut following = Vec::new();
        for (state, index) in level {
            outcome.seen |= model.seen(&state);
            if let Some(law) = model.broken(&state) {
                outcome.states = parents.len();
                outcome.violation = Some(Violation { law, trace: trace(model, &parents, index) });
                return outcome;
            }
            model.steps(&state, &mut next);
            for (_, state) in next.drain(..) {
                outcome.steps += 1;
                let print = fingerprint(&state);
                if known.insert(print) {
                    following.push((state, parents.len() as u32));
                    parents.push((print, index));
                }
            }
        }
        outcome.states = parents.len();
        if outcome.states > limit {
            return outcome;
        }
        outcome.depth += u32::from(!following.is_empty());
        level = following;
    }
    outcome.complete = true;
    outcome
}

/// Walks from the beginning again, always to the child with the fingerprint that is on the way.
fn trace<M: Model>(model: &M, parents: &[(u64, u32)], end: u32) -> Vec<(Label, String)> {
    let mut way = Vec::new();
    let mut at = end as usize;
    while at != 0 {
        way.push(parents[at].0);
        at = parents[at].1 as usize;
    }
    let mut state = model.initial();
    let mut trace = vec![(Label::world("begins"), format!("{state:?}"))];
    let mut next = Vec::new();
    for print in way.into_iter().rev() {
        model.steps(&state, &mut next);
        let Some((label, child)) = next.drain(..).find(|(_, s)| fingerprint(s) == print) else {
            break;
        };
        next.clear();
        trace.push((label, format!("{child:?}")));
        state = child;
    }
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter;

    impl Model for Counter {
        type State = u8;
        fn initial(&self) -> u8 {
            0
        }
        fn steps(&self, state: &u8, next: &mut Vec<(Label, u8)>) {
            next.push((Label::world("plus one"), (state + 1) % 50));
            next.push((Label::world("plus seven"), (state + 7) % 50));
        }
        fn broken(&self, state: &u8) -> Option<&'static str> {
            (*state == 23).then_some("never 23")
        }
        fn seen(&self, state: &u8) -> u32 {
            u32::from(*state == 14)
        }
        fn sights(&self) -> &'static [&'static str] {
            &["fourteen"]
        }
    }

    #[test]
    fn the_shortest_way_to_a_broken_law_is_shown() {
        let outcome = explore(&Counter, 1_000);
        let violation = outcome.violation.expect("23 is reachable");
        let states: Vec<_> = violation.trace.iter().map(|(_, state)| state.as_str()).collect();
        assert_eq!(states.len(), 6, "three sevens and two ones: {states:?}");
        assert_eq!((states[0], states[5]), ("0", "23"));
        assert_eq!(outcome.seen, 1);
    }
}
