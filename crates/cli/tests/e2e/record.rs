//! The agents of a real failover leave records; they replay, and one that was changed is noticed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::herd::{Fault, Herd};
use crate::round::{make_table, round};

fn replay(file: &Path) -> (i32, String, String) {
    let program = env!("CARGO_BIN_EXE_pgherd");
    let output = Command::new(program).arg("replay").arg(file).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

pub(crate) fn a_failovers_record_replays() {
    let mut herd = Herd::new(Path::new(env!("CARGO_BIN_EXE_pgherd")));
    herd.environment.push(("PGHERD_RECORD", "64MB"));
    herd.start();
    make_table(&herd);
    let outcome = round(&mut herd, Fault::KillPostmaster, 1);
    herd.interrupt();
    let record = |node: &str| herd.dir.join(node).join("run/record");
    for node in ["node1", "node2", "node3"] {
        let (code, out, err) = replay(&record(node));
        assert_eq!(code, 0, "{node}: {err}\n{out}");
        assert!(out.contains(" actions, all as pgherd "), "{out}");
    }
    let (_, out, _) = replay(&record(&outcome.leader_before));
    assert!(out.contains("PostgreSQL died; the key was released"), "{out}");
    let file = record(&outcome.leader_after);
    let (_, out, _) = replay(&file);
    assert!(out.contains("holds the leader key; promoting"), "{out}");
    // One bit of it.
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() * 2 / 3;
    bytes[at] ^= 1;
    let changed = herd.dir.join("changed");
    fs::write(&changed, bytes).unwrap();
    let (code, _, err) = replay(&changed);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("was changed or damaged"), "{err}");
}
