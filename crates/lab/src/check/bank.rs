//! Money is neither made nor lost, in whatever snapshot one looks.

use super::Findings;
use crate::history::At;
use crate::workload::MONEY;

pub(super) fn check(sums: &[(At, i64)], last: i64, findings: &mut Findings) {
    for (at, sum) in sums.iter().filter(|(_, sum)| *sum != MONEY) {
        findings.bank.add(|| format!("{sum} at {at:?}"));
    }
    if last != MONEY {
        findings.bank.add(|| format!("{last} in the end"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_coin_is_found() {
        let found = |sums: &[(At, i64)], last| {
            let mut findings = Findings::default();
            check(sums, last, &mut findings);
            findings.bank.count
        };
        assert_eq!(found(&[(At::ZERO, MONEY)], MONEY), 0);
        assert_eq!(found(&[(At::ZERO, MONEY - 1)], MONEY), 1);
        assert_eq!(found(&[], MONEY + 1), 1);
    }
}
