//! Unique inserts: what was acknowledged or seen must be there, what was not attempted must not.

use std::collections::HashSet;

use super::Findings;
use crate::history::{Final, History, Outcome};

pub(super) fn check(history: &History, last: &Final, findings: &mut Findings) {
    let there: HashSet<i64> = last.numbers.iter().copied().collect();
    let mut possible = HashSet::new();
    for insert in &history.inserts {
        let (number, ended) = (insert.number, insert.ended);
        match insert.outcome {
            Outcome::Acknowledged if !there.contains(&number) => {
                findings.lost.add(|| format!("insert {number}, acknowledged at {ended:?}"));
            }
            Outcome::Acknowledged => {}
            Outcome::Unknown if there.contains(&number) => findings.recovered += 1,
            Outcome::Unknown => {}
            Outcome::Failed => continue,
        }
        possible.insert(number);
    }
    for number in there.difference(&possible) {
        findings.unexpected.add(|| format!("insert {number}"));
    }
    let seen: HashSet<i64> = history.seen.iter().copied().collect();
    for number in seen.difference(&there) {
        findings.vanished.add(|| format!("insert {number}"));
    }
    for (index, node) in last.nodes.iter().enumerate() {
        if *node != last.numbers {
            let (has, should) = (node.len(), last.numbers.len());
            findings.diverged.add(|| format!("node{}: {has} rows, not {should}", index + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{At, Insert};

    fn history(inserts: &[(i64, Outcome)]) -> History {
        let insert = |(number, outcome): &(i64, Outcome)| {
            let ended = At::from_millis(number.unsigned_abs());
            Insert { number: *number, ended, outcome: *outcome }
        };
        History { inserts: inserts.iter().map(insert).collect(), ..History::default() }
    }

    fn found(history: &History, numbers: &[i64]) -> Findings {
        let mut findings = Findings::default();
        let last = Final { numbers: numbers.to_vec(), ..Final::default() };
        check(history, &last, &mut findings);
        findings
    }

    #[test]
    fn lost_and_unexpected_rows_are_found() {
        use Outcome::{Acknowledged, Failed, Unknown};
        let all = history(&[(1, Acknowledged), (2, Unknown), (3, Failed), (4, Acknowledged)]);
        assert_eq!(found(&all, &[1, 4]), Findings::default());
        let recovered = Findings { recovered: 1, ..Findings::default() };
        assert_eq!(found(&all, &[1, 2, 4]), recovered);
        assert_eq!(found(&all, &[1]).lost.count, 1);
        assert_eq!(found(&all, &[1, 3, 4]).unexpected.count, 1, "it had failed");
        assert_eq!(found(&all, &[1, 4, 9]).unexpected.count, 1, "nobody wrote it");
    }

    #[test]
    fn a_row_that_was_read_must_stay() {
        let mut all = history(&[(1, Outcome::Unknown)]);
        all.seen = vec![1];
        assert_eq!(found(&all, &[1]).vanished.count, 0);
        assert_eq!(found(&all, &[]).vanished.count, 1);
    }

    #[test]
    fn a_replica_with_other_rows_is_found() {
        let mut findings = Findings::default();
        let all = history(&[(1, Outcome::Acknowledged)]);
        let last = Final { numbers: vec![1], nodes: vec![vec![1], vec![]], ..Final::default() };
        check(&all, &last, &mut findings);
        assert_eq!(findings.diverged.examples, ["node2: 0 rows, not 1"]);
    }
}
