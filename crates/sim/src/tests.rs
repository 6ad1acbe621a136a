//! Seeds, determinism and scenarios, as `cargo test` runs them.

use crate::run::{Wanted, seed};

#[test]
fn the_same_seed_is_the_same_run() {
    for number in [1, 2, 3] {
        let (a, b) = (seed(number, Wanted::default()), seed(number, Wanted::default()));
        assert_eq!(a.hash, b.hash, "seed {number}");
        assert_eq!(a.stats.events, b.stats.events);
    }
}

#[test]
fn seeds_keep_every_invariant() {
    for number in 1..=100 {
        let outcome = seed(number, Wanted::default());
        if let Some(v) = outcome.violation {
            let last = outcome.last.join("\n");
            panic!(
                "{last}\nseed {number} ({}): {}: {}\ncargo sim {number} --trace",
                outcome.world, v.invariant, v.found
            );
        }
    }
}

#[test]
fn scenarios_are_golden() {
    let complaints = crate::scenario::complaints();
    assert!(
        complaints.is_empty(),
        "{}\nlook at what differs; if it is meant: cargo sim scenarios --update",
        complaints.join("\n")
    );
}
