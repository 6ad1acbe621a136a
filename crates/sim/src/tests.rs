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

#[test]
fn the_model_judges_what_matters() {
    let mut sums = crate::stats::Stats::default();
    for number in 1..=40 {
        sums.add(&seed(number, Wanted { by_model: true, ..Wanted::default() }).stats);
    }
    let judged = &sums.judged;
    let must = [
        judged.worlds,
        judged.acks,
        judged.lists,
        judged.syncs,
        judged.claims,
        judged.promises,
        judged.pledges,
        judged.takes,
        judged.follows,
        judged.holds,
        judged.relies,
        judged.data,
        judged.clocks,
    ];
    assert!(must.iter().all(|count| *count > 0), "{judged:?}");
}

#[test]
fn the_model_notices_broken_laws_by_itself() {
    for mutant in crate::refine::NOTICES {
        let wanted = Wanted { mutant: Some(mutant), by_model: true, ..Wanted::default() };
        let caught = (1..=300).find_map(|number| seed(number, wanted).violation);
        assert!(caught.is_some_and(|v| v.invariant == "model"), "{mutant:?}");
    }
}
