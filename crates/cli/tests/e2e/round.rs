//! One fault while a client writes: how long nothing was acknowledged, and whether everything
//! that was is still there.

use std::time::{Duration, Instant};

use tokio_postgres::Config;

use crate::herd::{Fault, Herd, WHOLE};
use crate::writer::{Writer, config, execute, longest_gap, numbers};

/// How long writes may take to work again.
const WRITES: Duration = Duration::from_secs(60);
/// How long the client writes undisturbed, before and after.
const CALM: Duration = Duration::from_millis(700);

/// What a round showed.
pub(crate) struct Outcome {
    pub(crate) leader_before: String,
    pub(crate) leader_after: String,
    pub(crate) longest_gap: Duration,
    pub(crate) whole_after: Duration,
    pub(crate) acknowledged: usize,
}

/// The write port of a cluster.
pub(crate) fn write_port(herd: &Herd) -> Config {
    config(herd.ports[0], &herd.password())
}

pub(crate) fn make_table(herd: &Herd) {
    let statement = "CREATE TABLE IF NOT EXISTS acks (n bigint PRIMARY KEY)";
    execute(&write_port(herd), statement, Duration::from_secs(30));
}

/// Hurts the leader while numbers from `first` on are written. Panics when a promise is broken.
pub(crate) fn round(herd: &mut Herd, fault: Fault, first: i64) -> Outcome {
    let port = write_port(herd);
    let writer = Writer::start(port.clone(), first);
    std::thread::sleep(CALM);
    let (leader_before, hit) = herd.hurt(fault);
    // Another connection proves that writes work, and that it was not the one before the fault.
    let probe = format!("INSERT INTO acks VALUES ({})", -first - 1);
    std::thread::sleep(Duration::from_millis(200));
    execute(&port, &probe, WRITES);
    let mut seen_hurt = fault == Fault::Switchover;
    let begin = Instant::now();
    // Right after the fault the store may still show the cluster as it was.
    while begin.elapsed() < WHOLE {
        let whole = herd.is_whole();
        seen_hurt |= !whole;
        if whole && (seen_hurt || begin.elapsed() > Duration::from_secs(3)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    herd.wait_whole();
    let whole_after = hit.elapsed();
    std::thread::sleep(CALM);
    let acknowledged = writer.finish();
    verify(&port, &acknowledged, || herd.everything());
    Outcome {
        leader_before,
        leader_after: herd.leader().unwrap_or_default(),
        longest_gap: longest_gap(&acknowledged),
        whole_after,
        acknowledged: acknowledged.len(),
    }
}

/// Every acknowledged number is there; `everything` is said when not.
pub(crate) fn verify(
    port: &Config,
    acknowledged: &[(i64, Instant)],
    everything: impl Fn() -> String,
) {
    assert!(acknowledged.len() > 20, "hardly anything was written\n{}", everything());
    let present = numbers(port, "SELECT n FROM acks ORDER BY n", Duration::from_secs(30));
    let lost = acknowledged.iter().filter(|(n, _)| present.binary_search(n).is_err());
    let lost: Vec<i64> = lost.map(|(n, _)| *n).collect();
    assert!(lost.is_empty(), "acknowledged, and gone: {lost:?}\n{}", everything());
}
