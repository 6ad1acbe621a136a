//! No node shows less than it has shown: never within a life of its postmaster, and across lives
//! nothing that was acknowledged. (What was not, a rewind may take away.)

use std::collections::BTreeMap;

use super::Findings;
use crate::history::{History, Outcome, Shown};

pub(super) fn check(history: &History, findings: &mut Findings) {
    let acknowledged: Vec<i64> = history
        .inserts
        .iter()
        .filter(|insert| insert.outcome == Outcome::Acknowledged)
        .map(|insert| insert.number)
        .collect();
    let mut greatest: BTreeMap<usize, Shown> = BTreeMap::new();
    for shown in &history.shown {
        let Some(before) = greatest.get(&shown.node) else {
            greatest.insert(shown.node, *shown);
            continue;
        };
        // Numbers are written in order, so the list is sorted.
        let until = acknowledged.partition_point(|number| *number <= before.greatest);
        let promised = until.checked_sub(1).map_or(0, |index| acknowledged[index]);
        let same_life = before.life == shown.life;
        if shown.greatest < if same_life { before.greatest } else { promised } {
            findings.backwards.add(|| {
                let (node, at) = (shown.node + 1, shown.at);
                format!("node{node} at {at:?}: {} after {}", shown.greatest, before.greatest)
            });
        }
        if shown.greatest >= before.greatest || !same_life {
            greatest.insert(shown.node, *shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{At, Insert};

    fn found(acknowledged: &[i64], shown: &[(i64, i64)]) -> usize {
        let insert = |number: &i64| Insert {
            number: *number,
            ended: At::ZERO,
            outcome: Outcome::Acknowledged,
        };
        let look = |(life, greatest): &(i64, i64)| Shown {
            node: 0,
            life: *life,
            greatest: *greatest,
            at: At::ZERO,
        };
        let history = History {
            inserts: acknowledged.iter().map(insert).collect(),
            shown: shown.iter().map(look).collect(),
            ..History::default()
        };
        let mut findings = Findings::default();
        check(&history, &mut findings);
        findings.backwards.count
    }

    #[test]
    fn a_step_back_is_found() {
        assert_eq!(found(&[1, 2, 3], &[(1, 1), (1, 3), (1, 3)]), 0);
        assert_eq!(found(&[1], &[(1, 3), (1, 2)]), 1, "acknowledged or not: one life, one history");
    }

    #[test]
    fn a_rewind_may_only_take_what_nobody_was_promised() {
        assert_eq!(found(&[1, 2], &[(1, 3), (2, 2)]), 0);
        assert_eq!(found(&[1, 2, 3], &[(1, 3), (2, 2)]), 1);
    }
}
