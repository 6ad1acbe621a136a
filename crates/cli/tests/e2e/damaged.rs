//! Data that is damaged under the leader: what PostgreSQL can't start from costs the lead, and is
//! copied anew from whoever has everything.

use std::fs;
use std::os::unix::fs::FileExt as _;

use crate::herd::Fault;
use crate::round::{verify, write_port};
use crate::started;
use crate::writer::Writer;

pub(crate) fn a_damaged_pg_control_costs_the_lead() {
    let mut herd = started();
    let writer = Writer::start(write_port(&herd), 1);
    let leader = herd.leader().expect("a leader");
    let control = herd.dir.join(&leader).join("data/global/pg_control");
    let file = fs::File::options().write(true).open(&control).unwrap();
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    // What runs has it in memory, and would write it again.
    file.write_all_at(&vec![0xAA; length], 0).unwrap();
    let (hurt, _) = herd.hurt(Fault::KillTree);
    assert_eq!(hurt, leader);
    herd.wait_whole();
    assert_ne!(herd.leader(), Some(leader.clone()), "{}", herd.everything());
    verify(&write_port(&herd), &writer.finish(), || herd.everything());
    let beside = fs::read_dir(herd.dir.join(&leader)).unwrap().flatten();
    let names: Vec<String> =
        beside.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let kept = names.iter().any(|name| name.starts_with("data.old-"));
    assert!(kept, "the damaged data is kept aside: {names:?}");
}
