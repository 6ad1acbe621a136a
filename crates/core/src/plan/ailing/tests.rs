//! What counts as ill, and what only looks like it. Whole stories are in `scenarios/80` to `85`.

use super::*;
use crate::input::Input;
use crate::node::tests::{Bench, replica};
use crate::postgres::RunningFacts;
use crate::{Instance, SystemId, Timeline};

const WELL: Volume =
    Volume { pending: None, good: None, took: None, trouble: None, free: Some(1 << 40) };

fn tell(bench: &mut Bench, data: Volume) {
    bench.feed(Input::Disk(DiskFacts { data, wal: None }));
}

/// Lets time go by in steps that no process has to stand still for.
fn live(bench: &mut Bench, ms: u64) {
    for _ in 0..ms / 100 {
        bench.later(100);
        bench.feed(Input::Tick);
    }
}

fn hangs(bench: &Bench) -> Volume {
    Volume { pending: Some(bench.now), ..WELL }
}

#[test]
fn a_write_that_does_not_come_back_is_a_stall_after_the_timeout() {
    let mut bench = Bench::replica_n2();
    live(&mut bench, 11_000);
    let hangs = hangs(&bench);
    tell(&mut bench, hangs);
    live(&mut bench, 3_000);
    assert_eq!(bench.node.ailment(), None);
    live(&mut bench, 1_000);
    assert_eq!(bench.node.ailment(), Some(Ailment::DiskSlow), "no stall yet, but nobody to go to");
    live(&mut bench, 6_000);
    assert_eq!(bench.node.ailment(), Some(Ailment::DiskStalled));
    let good = Some(bench.now);
    tell(&mut bench, Volume { good, ..WELL });
    assert_eq!(bench.node.ailment(), None);
}

#[test]
fn a_disk_on_which_wal_gets_on_is_busy_and_no_more() {
    let mut bench = Bench::replica_n2();
    let hangs = hangs(&bench);
    tell(&mut bench, hangs);
    let mut received = 100;
    let mut stalled_after = 0;
    while bench.node.ailment() != Some(Ailment::DiskStalled) {
        bench.later(200);
        received += 8;
        bench.feed(replaying(bench.now, received, received));
        stalled_after += 200;
        assert!(stalled_after <= 61_000, "in the end it is one");
    }
    assert!(stalled_after >= 60_000, "{stalled_after}");
}

#[test]
fn whoever_stood_still_himself_has_seen_no_stall() {
    let mut bench = Bench::replica_n2();
    let hangs = hangs(&bench);
    tell(&mut bench, hangs);
    bench.later(60_000);
    tell(&mut bench, hangs);
    assert_eq!(bench.node.ailment(), None);
}

#[test]
fn a_failure_must_last_and_room_must_not() {
    let mut bench = Bench::replica_n2();
    let read_only = Volume { trouble: Some(Trouble::ReadOnly), ..WELL };
    tell(&mut bench, read_only);
    live(&mut bench, 1_000);
    assert_eq!(bench.node.ailment(), None, "one may be an accident");
    tell(&mut bench, read_only);
    live(&mut bench, 1_000);
    assert_eq!(bench.node.ailment(), Some(Ailment::DiskReadOnly));
    tell(&mut bench, Volume { free: Some(40 << 20), ..WELL });
    assert_eq!(bench.node.ailment(), Some(Ailment::DiskNearlyFull));
    tell(&mut bench, Volume { free: Some(31 << 20), ..WELL });
    assert_eq!(bench.node.ailment(), Some(Ailment::DiskFull));
}

#[test]
fn the_disk_of_the_wal_counts_as_well() {
    let mut bench = Bench::replica_n2();
    let wal = Some(Volume { free: Some(0), ..WELL });
    bench.feed(Input::Disk(DiskFacts { data: WELL, wal }));
    assert_eq!(bench.node.ailment(), Some(Ailment::DiskFull));
}

fn replaying(at: Time, received: u64, replayed: u64) -> Input {
    let Input::Postgres(mut facts) = replica(at, Some("n1"), true) else { unreachable!() };
    let role = PgRole::Replica(ReplicaFacts {
        received: Lsn(received),
        replayed: Lsn(replayed),
        streaming: true,
        upstream: None,
        at_end: false,
    });
    let running =
        RunningFacts { system_id: SystemId(7), instance: Instance(2), timeline: Timeline(1), role };
    facts.state = PgState::Running(running);
    Input::Postgres(facts)
}

#[test]
fn replay_that_stands_still_while_wal_arrives_is_an_ailment_after_a_minute() {
    let mut bench = Bench::replica_n2();
    let (mut received, mut told) = (200, Vec::new());
    for second in 0..70 {
        for _ in 0..5 {
            bench.later(200);
            received += 1;
            bench.feed(replaying(bench.now, received, 150));
        }
        told.push((second, bench.node.ailment()));
    }
    let first = told.iter().find(|(_, ailment)| *ailment == Some(Ailment::ReplayStalled));
    assert!(first.is_some_and(|(second, _)| (58..=62).contains(second)), "{told:?}");
    bench.feed(replaying(bench.now, received, 151));
    assert_eq!(bench.node.ailment(), None);
    // Nothing arrives: nothing is late.
    for _ in 0..400 {
        bench.later(200);
        bench.feed(replaying(bench.now, received, 151));
    }
    assert_eq!(bench.node.ailment(), None);
}
