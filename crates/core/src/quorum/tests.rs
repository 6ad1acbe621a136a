//! The arithmetic against a dumb twin that tries all subsets.

use super::*;

fn node(i: usize) -> NodeName {
    NodeName::new(&format!("n{i}")).unwrap()
}

fn set(mask: usize) -> BTreeSet<NodeName> {
    (0..4).filter(|i| mask & (1 << i) != 0).map(node).collect()
}

fn subsets(of: &BTreeSet<NodeName>, size: usize) -> Vec<BTreeSet<NodeName>> {
    let items: Vec<_> = of.iter().cloned().collect();
    (0..1usize << items.len())
        .filter(|mask| mask.count_ones() as usize == size)
        .map(|mask| {
            (0..items.len()).filter(|i| mask & (1 << i) != 0).map(|i| items[i].clone()).collect()
        })
        .collect()
}

/// The twin: does every pledge set meet every acknowledging set?
fn meets(published: &Published, names: &SyncNames) -> bool {
    if published.voters.is_empty() || names.is_nobody() {
        return true;
    }
    let listed: BTreeSet<_> = names.names.iter().cloned().collect();
    subsets(&published.voters, published.quorum as usize + 1).iter().all(|pledged| {
        subsets(&listed, names.count as usize).iter().all(|acked| !pledged.is_disjoint(acked))
    })
}

fn states() -> impl Iterator<Item = (Published, SyncNames)> {
    (0..16usize).flat_map(|v| {
        (0..4u32).flat_map(move |q| {
            (0..16usize).flat_map(move |s| {
                (0..4u32).map(move |k| {
                    let names = SyncNames { count: k, names: set(s).into_iter().collect() };
                    (Published { voters: set(v), quorum: q }, names)
                })
            })
        })
    })
}

fn legal(published: &Published, names: &SyncNames) -> bool {
    let v = published.voters.len() as u32;
    let s = names.names.len() as u32;
    (if v == 0 { published.quorum == 0 } else { published.quorum < v })
        && (if s == 0 { names.count == 0 } else { names.count >= 1 && names.count <= s })
}

#[test]
fn the_formula_implies_that_sets_meet() {
    let mut tried = 0;
    for (published, names) in states().filter(|(p, n)| legal(p, n)) {
        if safe(&published, &names) {
            assert!(meets(&published, &names), "{published:?} {names:?}");
            tried += 1;
        }
    }
    assert!(tried > 200, "{tried}");
}

#[test]
fn every_step_is_safe_and_the_steps_arrive() {
    let mut walks = 0;
    for (published, names) in states().filter(|(p, n)| legal(p, n)) {
        if !safe(&published, &names) || names.names.is_empty() != published.voters.is_empty() {
            continue;
        }
        for wanted in 0..16usize {
            for count in 1..3u32 {
                walk(published.clone(), names.clone(), &set(wanted), count);
                walk(published.clone(), SyncNames::nobody(), &set(wanted), count);
                walks += 1;
            }
        }
    }
    assert!(walks > 1_000, "{walks}");
}

fn walk(mut published: Published, mut names: SyncNames, wanted: &BTreeSet<NodeName>, count: u32) {
    let start = (published.clone(), names.clone());
    for _ in 0..8 {
        match next(&published, &names, wanted, count) {
            Step::Steady => return,
            Step::SetNames(value) => names = value,
            Step::Publish(value) => published = value,
        }
        assert!(
            safe(&published, &names),
            "{start:?} -> {wanted:?}/{count}: {published:?} {names:?}"
        );
        assert!(
            meets(&published, &names),
            "{start:?} -> {wanted:?}/{count}: {published:?} {names:?}"
        );
    }
    panic!("does not arrive: {start:?} -> {wanted:?}/{count}, at {published:?} {names:?}");
}

#[test]
fn an_acknowledged_position_is_in_every_pledge_set_once_caught_up() {
    let published = Published { voters: set(0b111), quorum: 1 };
    for have in 0..8usize {
        let has = set(have);
        let every = subsets(&published.voters, 2).iter().all(|p| !p.is_disjoint(&has));
        assert_eq!(caught_up(&published, |v| has.contains(v)), every, "{have:b}");
    }
}
