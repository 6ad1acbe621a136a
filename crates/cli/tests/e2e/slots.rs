//! A permanent logical slot in a whole cluster: it comes to every node by itself, and a consumer misses
//! nothing behind a failover, nor behind the next one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::configure::{edit, on_all, rows};
use crate::herd::{Fault, Herd};
use crate::round::{verify, write_port};
use crate::writer::{Writer, execute, number_now, numbers};
use crate::{LIMIT, say, started};

const SLOT: &str = "count(*) FROM pg_replication_slots WHERE slot_name = 'feed'";
const BORN: &str = "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

pub(crate) fn a_logical_slot_survives_failovers() {
    let mut herd = started();
    edit(&herd, &["-p", "wal_level=logical"]);
    let pending = |herd: &Herd| rows(herd).iter().all(|row| row["Pending restart"] == "*");
    until(&herd, "a pending restart everywhere", pending);
    let (code, out, err) = herd.ctl(&["restart", "pgherd", "--force"]);
    assert_eq!(code, 0, "{out}{err}");
    herd.wait_whole();
    let level = "(current_setting('wal_level') = 'logical')::int::bigint";
    until(&herd, "wal_level everywhere", |herd| on_all(herd, level) == [1; 3]);

    slots_come(&herd);
    herd.wait_whole();
    let mut got = BTreeSet::new();
    for (fault, first) in [(Fault::KillPostmaster, 1), (Fault::KillTree, 1_000_000)] {
        let write = write_port(&herd);
        let writer = Writer::start(write.clone(), first);
        // Some of it is consumed before, with the slots of the others behind.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(12) {
            got.extend(consume(&herd));
            std::thread::sleep(Duration::from_millis(500));
        }
        let before = got.len();
        herd.hurt(fault);
        std::thread::sleep(Duration::from_millis(200));
        execute(&write, &format!("INSERT INTO acks VALUES ({})", -first), LIMIT);
        herd.wait_whole();
        let acknowledged = writer.finish();
        verify(&write, &acknowledged, || herd.everything());
        let mut again = BTreeSet::new();
        until(&herd, "every change behind the failover", |herd| {
            again.extend(consume(herd));
            acknowledged.iter().all(|(n, _)| got.contains(n) || again.contains(n))
        });
        let twice = again.intersection(&got).count();
        say(&format!("{} before, {} behind, {twice} of them again", before, again.len()));
        assert!(again.contains(&-first));
        got.extend(again);
        // A copy that begins behind the slot's WAL has to wait until the slot has moved.
        let mut more = first + 900_000;
        until(&herd, "the slot everywhere again", |herd| {
            more += 1;
            let checkpoint = if more % 10 == 0 { "CHECKPOINT" } else { "" };
            let insert = format!("INSERT INTO acks VALUES ({more}); {checkpoint}");
            execute(&write, &insert, LIMIT);
            got.extend(consume(herd));
            on_all(herd, SLOT) == [1; 3]
        });
        herd.wait_whole();
    }
    // Where a disk stalls there may be more failovers than those two, one of them too soon for a slot.
    let promotions = "SELECT timeline_id::bigint - 1 FROM pg_control_checkpoint()";
    let promotions = numbers(&write_port(&herd), promotions, LIMIT);
    if promotions == [2] {
        let made = herd.logged("a logical slot was made");
        assert_eq!(made.len(), 1, "only the first leader made it: {made:?}\n{}", herd.everything());
        let said = herd.logged("might be unsafe");
        assert!(said.is_empty(), "{said:?}\n{}", herd.everything());
    } else {
        say(&format!("promotions: {promotions:?}, two were meant"));
    }
    let failed = herd.logged("operation failed");
    assert!(!failed.iter().any(|line| line.contains("rewind")), "{failed:?}");
    slots_go(&herd);
}

/// The replicas are restarted for it, one after the other, and the leader isn't.
fn slots_come(herd: &Herd) {
    let born = on_all(herd, BORN);
    let words = ["type=logical", "database=postgres", "plugin=test_decoding"];
    let words = words.map(|word| format!("slots.feed.{word}"));
    edit(herd, &["-s", &words[0], "-s", &words[1], "-s", &words[2]]);
    until(herd, "the slot everywhere", |herd| {
        let seen = on_all(herd, SLOT);
        let away = seen.iter().filter(|answer| **answer == -1).count();
        assert!(away <= 1, "two were away at once\n{}", herd.everything());
        seen == [1; 3]
    });
    let leads = on_all(herd, "(NOT pg_is_in_recovery())::int::bigint");
    let now = on_all(herd, BORN);
    let restarted: Vec<i64> =
        born.iter().zip(&now).map(|(before, now)| i64::from(before != now)).collect();
    let replicas: Vec<i64> = leads.iter().map(|leads| 1 - leads).collect();
    assert_eq!(restarted, replicas, "{}", herd.everything());
    let feedback = "(current_setting('hot_standby_feedback') = 'on')::int::bigint";
    assert_eq!(on_all(herd, feedback), [1; 3]);
    let held = "SELECT count(*) FROM pg_replication_slots \
                WHERE slot_type = 'physical' AND catalog_xmin IS NOT NULL";
    until(herd, "held for both", |herd| number_now(&write_port(herd), held) == Some(2));
}

/// Nobody wants them any more.
fn slots_go(herd: &Herd) {
    edit(herd, &["-s", "slots=null"]);
    until(herd, "no slot anywhere", |herd| on_all(herd, SLOT) == [0; 3]);
}

fn consume(herd: &Herd) -> Vec<i64> {
    let query = "SELECT substring(data FROM 'n.bigint.:(-?[0-9]+)')::bigint \
                 FROM pg_logical_slot_get_changes('feed', NULL, NULL) \
                 WHERE data LIKE 'table public.acks: INSERT:%'";
    numbers(&write_port(herd), query, LIMIT)
}

fn until(herd: &Herd, what: &str, mut done: impl FnMut(&Herd) -> bool) {
    const BOUND: Duration = Duration::from_secs(60);
    let begin = Instant::now();
    while !done(herd) {
        assert!(begin.elapsed() < BOUND, "not {what} in {BOUND:?}\n{}", herd.everything());
        std::thread::sleep(Duration::from_millis(100));
    }
}
