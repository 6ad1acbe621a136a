//! Which sizes and mutants are explored, and the table that comes of it.

use std::fmt::Debug;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use crate::ballot::{self, Ballot};
use crate::belief::{self, Belief};
use crate::explore::{Model, Outcome, Violation, explore};
use crate::mutant::Mutant;

/// States beyond which an exploration is given up: some 3 GB.
const LIMIT: usize = 30_000_000;

const BELIEF: belief::Size =
    belief::Size { nodes: 2, terms: 2, ttl: 2, messages: 2, crashes: 1, failsafe: true };
const BALLOT: ballot::Size = ballot::Size {
    nodes: 3,
    terms: 2,
    commits: 1,
    claims: 2,
    crashes: 1,
    agents: 0,
    lists: 0,
    holds: 0,
    wipes: 0,
    count: 1,
    strict: true,
};

const LISTS: ballot::Size = ballot::Size { lists: 1, claims: 1, crashes: 0, ..BALLOT };

/// What is explored.
#[derive(Clone, Copy, Debug)]
enum Case {
    Belief(belief::Size),
    Ballot(ballot::Size),
}

/// The sizes of CI.
const SMALL: &[(&str, Case)] = &[
    ("belief, 2 nodes", Case::Belief(BELIEF)),
    ("belief, 3 nodes", Case::Belief(belief::Size { nodes: 3, crashes: 0, messages: 1, ..BELIEF })),
    ("pledges, 3 nodes", Case::Ballot(BALLOT)),
    ("pledges and lists", Case::Ballot(LISTS)),
    ("pledges and holds", Case::Ballot(ballot::Size { holds: 2, commits: 0, ..BALLOT })),
    ("lost data", Case::Ballot(ballot::Size { wipes: 1, crashes: 0, ..BALLOT })),
    ("not strict", Case::Ballot(ballot::Size { strict: false, ..LISTS })),
    ("an agent dies", Case::Ballot(ballot::Size { agents: 1, claims: 1, crashes: 0, ..BALLOT })),
];

/// Those of `--big`.
const BIG: &[(&str, Case)] = &[
    ("belief, 2 nodes", Case::Belief(belief::Size { ttl: 3, ..BELIEF })),
    ("belief, 3 nodes", Case::Belief(belief::Size { nodes: 3, messages: 1, ..BELIEF })),
    ("pledges, 3 terms", Case::Ballot(ballot::Size { terms: 3, commits: 2, crashes: 0, ..BALLOT })),
    ("pledges and lists", Case::Ballot(ballot::Size { lists: 2, ..LISTS })),
    ("three terms and lists", Case::Ballot(ballot::Size { terms: 3, claims: 2, ..LISTS })),
    ("pledges and holds", Case::Ballot(ballot::Size { holds: 3, ..BALLOT })),
    ("not strict", Case::Ballot(ballot::Size { lists: 2, strict: false, ..LISTS })),
    ("an agent dies", Case::Ballot(ballot::Size { agents: 1, crashes: 0, ..BALLOT })),
    ("four nodes, two to wait for", Case::Ballot(FOUR)),
];

/// Two that a commit waits for. A list that followed the one that nobody satisfies once counted as settled
/// too early: four nodes and two changes of the list show that, in more states than fit by now.
const FOUR: ballot::Size =
    ballot::Size { nodes: 4, lists: 1, crashes: 0, claims: 1, count: 2, ..BALLOT };

/// Where each mutant is looked for.
const MUTANTS: &[(Mutant, Case)] = &[
    (Mutant::NoMargin, Case::Belief(BELIEF)),
    (Mutant::DeadlineFromReply, Case::Belief(BELIEF)),
    (Mutant::TakesWhileHolding, Case::Belief(BELIEF)),
    (Mutant::ReleasesBeforeDead, Case::Belief(BELIEF)),
    (Mutant::TakeoverWithoutCompare, Case::Belief(BELIEF)),
    (Mutant::OnePledgeTooFew, Case::Ballot(BALLOT)),
    (Mutant::PledgeKeepsReceiving, Case::Ballot(BALLOT)),
    (Mutant::PledgeForgotten, Case::Ballot(BALLOT)),
    (Mutant::IgnoresMoreAdvanced, Case::Ballot(BALLOT)),
    (Mutant::IgnoresInstance, Case::Ballot(ballot::Size { wipes: 1, ..BALLOT })),
    (Mutant::ListsWhoeverPledged, Case::Ballot(ballot::Size { terms: 3, crashes: 0, ..BALLOT })),
    (Mutant::ShrinksTooEarly, Case::Ballot(ballot::Size { lists: 1, ..BALLOT })),
    (
        Mutant::TakeoverWithoutCompare,
        Case::Ballot(ballot::Size { lists: 1, strict: false, crashes: 0, ..BALLOT }),
    ),
    (
        Mutant::OneHoldTooFew,
        Case::Ballot(ballot::Size { holds: 2, commits: 0, count: 2, ..BALLOT }),
    ),
    (Mutant::PledgesWhileHolding, Case::Ballot(ballot::Size { holds: 2, commits: 0, ..BALLOT })),
    (Mutant::HoldsWhilePledged, Case::Ballot(ballot::Size { holds: 2, commits: 0, ..BALLOT })),
    (Mutant::HoldForgotten, Case::Ballot(ballot::Size { holds: 2, commits: 0, ..BALLOT })),
];

impl Case {
    fn explore(self, mutant: Option<Mutant>) -> (Outcome, Vec<&'static str>) {
        match self {
            Self::Belief(size) => run(&Belief::new(size, mutant)),
            Self::Ballot(size) => run(&Ballot::new(size, mutant)),
        }
    }
}

/// The outcome, and the sights that were reached.
fn run<M: Model>(model: &M) -> (Outcome, Vec<&'static str>) {
    let outcome = explore(model, LIMIT);
    let sights = model.sights().iter().enumerate();
    let reached = sights.filter(|(i, _)| outcome.seen >> i & 1 == 1).map(|(_, s)| *s).collect();
    (outcome, reached)
}

/// The whole program.
#[must_use]
pub fn main(words: &[String]) -> ExitCode {
    let out = &mut std::io::stdout().lock();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let cases = match words[..] {
        [] => SMALL,
        ["--big"] => BIG,
        _ => {
            let usage = "usage: cargo model [--big]: explores the protocol's models; see \
                         docs/protocol.md, The model";
            return if writeln!(out, "{usage}").is_ok() && words == ["--help"] {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match sizes(out, cases).and_then(|fine| Ok(mutants(out)? && fine)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Explores every size; whether all laws held and everything that must be possible was.
fn sizes(out: &mut impl Write, cases: &[(&str, Case)]) -> std::io::Result<bool> {
    writeln!(out, "{:<20} {:>10} {:>11} {:>5} {:>7}", "model", "states", "steps", "depth", "s")?;
    let (mut fine, mut reached) = (true, Vec::new());
    for (name, case) in cases {
        let begin = Instant::now();
        let (outcome, sights) = case.explore(None);
        let Outcome { states, steps, depth, complete, violation, .. } = outcome;
        let took = begin.elapsed().as_secs_f64();
        writeln!(out, "{name:<20} {states:>10} {steps:>11} {depth:>5} {took:>7.1}")?;
        reached.extend(sights);
        if let Some(violation) = &violation {
            show(out, violation, true)?;
        } else if !complete {
            writeln!(out, "  given up: more than {LIMIT} states")?;
        }
        fine &= complete;
    }
    writeln!(out)?;
    for sight in must_be_reached() {
        let was = reached.contains(&sight);
        writeln!(out, "{} {sight}", if was { "reached:    " } else { "NOT reached:" })?;
        fine &= was;
    }
    Ok(fine)
}

fn must_be_reached() -> Vec<&'static str> {
    let belief = Belief::new(BELIEF, None);
    let ballot = Ballot::new(BALLOT, None);
    [belief.sights(), ballot.sights()].concat()
}

/// Drops one rule at a time; whether each was missed.
fn mutants(out: &mut impl Write) -> std::io::Result<bool> {
    let mut fine = true;
    for (mutant, case) in MUTANTS {
        let (outcome, _) = case.explore(Some(*mutant));
        if let Some(violation) = &outcome.violation {
            write!(out, "\n{mutant:?}: found in {} states; ", outcome.states)?;
            show(out, violation, false)?;
        } else {
            writeln!(out, "\n{mutant:?}: NOT FOUND in {} states", outcome.states)?;
            fine = false;
        }
    }
    Ok(fine)
}

fn show(out: &mut impl Write, violation: &Violation, states: bool) -> std::io::Result<()> {
    writeln!(out, "broken: {}", violation.law)?;
    for (label, state) in &violation.trace {
        writeln!(out, "    {label}")?;
        if states {
            writeln!(out, "        {state}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_law_breaks_in_the_smallest_size_and_each_mutant_is_found() {
        let mut out = Vec::new();
        // The others are for optimised builds: `cargo model`.
        let (name, case) = &SMALL[2];
        let (outcome, _) = case.explore(None);
        assert!(outcome.complete, "{name}: {:?}", outcome.violation);
        let found = mutants(&mut out).expect("writes to memory");
        assert!(found, "{}", String::from_utf8_lossy(&out));
    }
}
