//! Serializability of appends to lists, after the idea of Elle: what a list holds tells in which
//! order it was written, so reads and writes give the edges ww, wr and rw between transactions, and
//! a cycle of them is a history that no serial order explains.

use std::collections::{BTreeMap, HashMap, HashSet};

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use super::Findings;
use crate::history::{At, Op, Outcome, Transaction};

/// In which order a key's elements were written, and by whom.
struct Order {
    elements: Vec<i64>,
    place: HashMap<i64, usize>,
}

pub(super) fn check(all: &[Transaction], last: &[(i64, Vec<i64>)], findings: &mut Findings) {
    let writers = writers(all);
    let last: BTreeMap<i64, &Vec<i64>> = last.iter().map(|(key, list)| (*key, list)).collect();
    let orders = orders(all, &last, findings);
    for (key, order) in &orders {
        known_elements(*key, order, &writers, all, findings);
    }
    for transaction in all.iter().filter(|t| t.outcome == Outcome::Acknowledged) {
        for op in &transaction.ops {
            if let Op::Append { key, element } = op
                && !last.get(key).is_some_and(|list| list.contains(element))
            {
                let at = transaction.ended;
                findings.lost.add(|| format!("append of {element} to list {key}, at {at:?}"));
            }
        }
    }
    stale_reads(all, &orders, findings);
    cycles(all, &orders, &writers, findings);
}

/// Which transaction appends which element: each does so once.
fn writers(all: &[Transaction]) -> HashMap<(i64, i64), usize> {
    let mut writers = HashMap::new();
    for (index, transaction) in all.iter().enumerate() {
        for op in &transaction.ops {
            if let Op::Append { key, element } = op {
                writers.insert((*key, *element), index);
            }
        }
    }
    writers
}

/// What a committed transaction read, without what it had appended itself before.
fn reads(transaction: &Transaction) -> Vec<(i64, &[i64])> {
    let mut own: Vec<(i64, i64)> = Vec::new();
    let mut found = Vec::new();
    if transaction.outcome != Outcome::Acknowledged {
        return found;
    }
    for op in &transaction.ops {
        match op {
            Op::Append { key, element } => own.push((*key, *element)),
            Op::Read { key, list } => {
                let mut end = list.len();
                while end > 0 && own.contains(&(*key, list[end - 1])) {
                    end -= 1;
                }
                found.push((*key, &list[..end]));
            }
        }
    }
    found
}

/// The longest list of each key; every other must be its beginning.
fn orders(
    all: &[Transaction],
    last: &BTreeMap<i64, &Vec<i64>>,
    findings: &mut Findings,
) -> BTreeMap<i64, Order> {
    let mut versions: BTreeMap<i64, Vec<&[i64]>> = BTreeMap::new();
    for (key, list) in all.iter().flat_map(reads) {
        versions.entry(key).or_default().push(list);
    }
    for (key, list) in last {
        versions.entry(*key).or_default().push(list);
    }
    let mut orders = BTreeMap::new();
    for (key, lists) in versions {
        let longest = lists.iter().copied().max_by_key(|list| list.len()).unwrap_or_default();
        for list in lists.iter().filter(|list| !longest.starts_with(list)) {
            findings.anomalies.add(|| format!("list {key} was {list:?} and {longest:?}"));
        }
        let place: HashMap<i64, usize> = longest.iter().copied().zip(0..).collect();
        if place.len() < longest.len() {
            findings.anomalies.add(|| format!("list {key} has an element twice: {longest:?}"));
        }
        orders.insert(key, Order { elements: longest.to_vec(), place });
    }
    orders
}

fn known_elements(
    key: i64,
    order: &Order,
    writers: &HashMap<(i64, i64), usize>,
    all: &[Transaction],
    findings: &mut Findings,
) {
    for element in &order.elements {
        match writers.get(&(key, *element)) {
            None => findings.unexpected.add(|| format!("{element} in list {key}")),
            Some(index) if all[*index].outcome == Outcome::Failed => {
                findings.anomalies.add(|| format!("{element} in list {key} was rolled back"));
            }
            Some(_) => {}
        }
    }
}

/// A read must have what was acknowledged before it began.
fn stale_reads(all: &[Transaction], orders: &BTreeMap<i64, Order>, findings: &mut Findings) {
    // For each key: acknowledged appends by time, each with the greatest place until then.
    let mut promised: BTreeMap<i64, Vec<(At, usize)>> = BTreeMap::new();
    for transaction in all.iter().filter(|t| t.outcome == Outcome::Acknowledged) {
        for op in &transaction.ops {
            if let Op::Append { key, element } = op
                && let Some(place) = orders.get(key).and_then(|order| order.place.get(element))
            {
                promised.entry(*key).or_default().push((transaction.ended, *place));
            }
        }
    }
    for places in promised.values_mut() {
        places.sort_unstable();
        let mut greatest = 0;
        for (_, place) in places {
            greatest = greatest.max(*place);
            *place = greatest;
        }
    }
    for transaction in all {
        for (key, list) in reads(transaction) {
            let Some(places) = promised.get(&key) else { continue };
            let before = places.partition_point(|(ended, _)| *ended < transaction.begun);
            if before > 0 && list.len() <= places[before - 1].1 {
                let (at, ended) = (transaction.begun, places[before - 1].0);
                findings.anomalies.add(|| {
                    format!("list {key}, read at {at:?}, lacks an append acknowledged at {ended:?}")
                });
            }
        }
    }
}

fn cycles(
    all: &[Transaction],
    orders: &BTreeMap<i64, Order>,
    writers: &HashMap<(i64, i64), usize>,
    findings: &mut Findings,
) {
    let mut graph: DiGraphMap<usize, &str> = DiGraphMap::new();
    let mut edge = |from: Option<&usize>, to: Option<&usize>, kind| {
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            graph.add_edge(*from, *to, kind);
        }
    };
    for (key, order) in orders {
        for pair in order.elements.windows(2) {
            edge(writers.get(&(*key, pair[0])), writers.get(&(*key, pair[1])), "ww");
        }
    }
    for (index, transaction) in all.iter().enumerate() {
        for (key, list) in reads(transaction) {
            let elements = orders.get(&key).map_or(&[][..], |order| &order.elements);
            let writer = |element: Option<&i64>| writers.get(&(key, *element?));
            edge(writer(list.last()), Some(&index), "wr");
            edge(Some(&index), writer(elements.get(list.len())), "rw");
        }
    }
    for circle in tarjan_scc(&graph).into_iter().filter(|circle| circle.len() > 1) {
        let members: HashSet<usize> = circle.iter().copied().collect();
        let kinds: Vec<String> = graph
            .all_edges()
            .filter(|(from, to, _)| members.contains(from) && members.contains(to))
            .map(|(from, to, kind)| format!("T{from} {kind} T{to}"))
            .collect();
        findings.anomalies.add(|| format!("a cycle: {}", kinds.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: i64 = 1;
    const Y: i64 = 2;

    fn append(key: i64, element: i64) -> Op {
        Op::Append { key, element }
    }

    fn read(key: i64, list: &[i64]) -> Op {
        Op::Read { key, list: list.to_vec() }
    }

    /// All at the same time, so that real time says nothing.
    fn done(ops: &[Op]) -> Transaction {
        let (begun, ended) = (At::from_millis(1), At::from_millis(2));
        Transaction { begun, ended, outcome: Outcome::Acknowledged, ops: ops.to_vec() }
    }

    fn found(all: &[Transaction], last: &[(i64, &[i64])]) -> Findings {
        let mut findings = Findings::default();
        let last: Vec<_> = last.iter().map(|(key, list)| (*key, list.to_vec())).collect();
        check(all, &last, &mut findings);
        findings
    }

    #[test]
    fn a_serial_history_is_right() {
        let all = [
            done(&[append(X, 1), append(Y, 2)]),
            done(&[read(X, &[1]), append(X, 3), read(X, &[1, 3])]),
            done(&[read(Y, &[2]), read(X, &[1])]),
        ];
        assert_eq!(found(&all, &[(X, &[1, 3]), (Y, &[2])]), Findings::default());
    }

    #[test]
    fn write_skew_is_a_cycle() {
        let all = [done(&[read(X, &[]), append(Y, 1)]), done(&[read(Y, &[]), append(X, 2)])];
        let found = found(&all, &[(X, &[2]), (Y, &[1])]);
        assert_eq!(found.anomalies.count, 1, "{found:?}");
        assert!(found.anomalies.examples[0].contains("rw"), "{found:?}");
    }

    #[test]
    fn writes_in_two_orders_are_a_cycle() {
        let all = [done(&[append(X, 1), append(Y, 2)]), done(&[append(X, 3), append(Y, 4)])];
        assert_eq!(found(&all, &[(X, &[1, 3]), (Y, &[4, 2])]).anomalies.count, 1);
    }

    #[test]
    fn circular_information_flow_is_a_cycle() {
        let all = [done(&[append(X, 1), read(Y, &[2])]), done(&[append(Y, 2), read(X, &[1])])];
        assert_eq!(found(&all, &[(X, &[1]), (Y, &[2])]).anomalies.count, 1);
    }

    #[test]
    fn two_histories_of_one_list_are_found() {
        let all = [done(&[append(X, 1)]), done(&[append(X, 2)]), done(&[read(X, &[2])])];
        let found = found(&all, &[(X, &[1, 2])]);
        assert!(found.anomalies.examples[0].starts_with("list 1 was [2]"), "{found:?}");
    }

    #[test]
    fn what_was_rolled_back_or_never_written_must_not_be_seen() {
        let mut aborted = done(&[append(X, 1)]);
        aborted.outcome = Outcome::Failed;
        assert_eq!(found(&[aborted], &[(X, &[1])]).anomalies.count, 1);
        assert_eq!(found(&[], &[(X, &[1])]).unexpected.count, 1);
    }

    #[test]
    fn a_lost_append_is_found_and_one_of_unknown_outcome_is_not() {
        let mut unknown = done(&[append(X, 2)]);
        unknown.outcome = Outcome::Unknown;
        let found = found(&[done(&[append(X, 1)]), unknown], &[]);
        assert_eq!(found.lost.count, 1);
    }

    #[test]
    fn a_read_of_the_past_is_found() {
        let mut late = done(&[read(X, &[])]);
        (late.begun, late.ended) = (At::from_millis(10), At::from_millis(11));
        let found = found(&[done(&[append(X, 1)]), late], &[(X, &[1])]);
        assert_eq!(found.anomalies.count, 1, "{found:?}");
    }
}
