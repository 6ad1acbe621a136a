//! A replica that streams from another one (`replicatefrom`), through the death of either and a change
//! of leader; one that reads the archive (`nostream`); one that replays late.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::LIMIT;
use crate::many::{Options, Site, give};
use crate::processes::send;
use crate::writer::{config, execute, number_now};

/// An archive that all nodes share. PostgreSQL runs in its data directory.
const DCS: &str = "    postgresql:
      parameters:
        archive_mode: 'on'
        archive_command: test -f ../../archive/%f || cp %p ../../archive/%f
      recovery_conf:
        restore_command: cp ../../archive/%f %p
";

pub(crate) fn cascades_and_archives() {
    let options = Options { dcs: DCS.to_owned(), ..Options::default() };
    let Some(mut site) = Site::new(&options) else { return };
    give(&site.dir.join("archive"), None);
    site.start();
    execute(&site.write_port(), "CREATE TABLE t (n bigint)", LIMIT);
    let leader = site.leader().expect("it is whole");
    let others: Vec<String> =
        site.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != leader).collect();
    let [middle, below] = &others[..] else { unreachable!("of three, two are left") };

    tag(&site, below, &format!("replicatefrom: {middle}"));
    wait_streams(&site, below, middle);
    let slot = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name LIKE '{below}\\_%'"
    );
    assert_eq!(ask(&site, middle, &slot), Some(1), "through a slot of that life's");
    arrives(&site, below, 1);

    kill(&site, middle);
    wait_streams(&site, below, &leader);
    arrives(&site, below, 2);
    restart(&mut site, middle);
    wait_streams(&site, middle, &leader);
    wait_streams(&site, below, middle);
    arrives(&site, below, 3);
    dies_and_is_rewound(&mut site, &leader, middle, below);
    reads_the_archive(&site, middle, below);
    replays_late(&site, below);
}

/// The leader dies: the voter is who was in the middle. It is streamed from as the leader; the former
/// one, tagged, comes in its place, and is left and found again when it gets another data directory.
fn dies_and_is_rewound(site: &mut Site, leader: &str, middle: &str, below: &str) {
    kill(site, leader);
    wait_streams(site, below, middle);
    arrives(site, below, 4);
    assert_eq!(site.leader().as_deref(), Some(middle));
    restart(site, leader);
    site.wait_whole();
    tag(site, below, &format!("replicatefrom: {leader}"));
    wait_streams(site, below, leader);
    arrives(site, below, 5);
    // The slot's name has the life of the data directory in it.
    let slot = format!(
        "SELECT hashtext(slot_name)::bigint FROM pg_replication_slots \
         WHERE active AND slot_name LIKE '{below}\\_%'"
    );
    let before = ask(site, leader, &slot);
    assert!(before.is_some(), "{below} streams without a slot");
    let (code, out, err) = site.ctl(&["reinit", "many", leader, "--force"]);
    assert_eq!(code, 0, "{out}{err}");
    site.wait_until("no stream in the new life", LIMIT, |site| {
        ask(site, leader, &slot).is_some_and(|now| Some(now) != before)
    });
    wait_streams(site, leader, middle);
    wait_streams(site, below, leader);
    arrives(site, below, 6);
}

fn reads_the_archive(site: &Site, leader: &str, below: &str) {
    tag(site, below, "nostream: true");
    let gone = format!(
        "SELECT (SELECT count(*) FROM pg_stat_replication WHERE application_name = '{below}') \
         + (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{below}')"
    );
    site.wait_until("its stream and its slot are not gone", LIMIT, |site| {
        ask(site, leader, &gone) == Some(0)
    });
    execute(&site.write_port(), "INSERT INTO t VALUES (7)", LIMIT);
    execute(&site.write_port(), "SELECT pg_switch_wal()", LIMIT);
    wait_row(site, below, 7);
    let shown = |site: &Site| {
        let state = site.members().into_iter().find(|member| member.name == below);
        state.is_some_and(|member| member.state == "in archive recovery")
    };
    site.wait_until("it doesn't say where its WAL comes from", LIMIT, shown);
    let (code, ..) = site.ctl(&["switchover", "many", "--candidate", below, "--force"]);
    assert_ne!(code, 0, "it never leads");
    assert_eq!(site.leader().as_deref(), Some(leader));
    tag(site, below, "");
    wait_streams(site, below, leader);
    arrives(site, below, 8);
}

/// `recovery_min_apply_delay` of `recovery_conf`: the WAL is there at once, the row later.
fn replays_late(site: &Site, below: &str) {
    let change = "postgresql.recovery_conf.recovery_min_apply_delay=4s";
    let (code, out, err) = site.ctl(&["edit-config", "many", "--force", "-s", change]);
    assert_eq!(code, 0, "{out}{err}");
    let set = "SELECT setting::bigint FROM pg_settings WHERE name = 'recovery_min_apply_delay'";
    site.wait_until("no delay", LIMIT, |site| ask(site, below, set) == Some(4_000));
    let begin = Instant::now();
    execute(&site.write_port(), "INSERT INTO t VALUES (9)", LIMIT);
    let wrote = begin.elapsed();
    assert!(wrote < Duration::from_secs(4), "a commit waits for no replay: {wrote:?}");
    wait_row(site, below, 9);
    assert!(begin.elapsed() >= Duration::from_secs(4), "seen after {:?}", begin.elapsed());
}

// ---- what a person would do, and look at ----

/// Puts the tags into the node's file, and has its agent read it.
fn tag(site: &Site, name: &str, tag: &str) {
    let node = site.node(name);
    let file = fs::read_to_string(node.file()).unwrap();
    let kept = file.split("tags:").next().unwrap_or_default();
    let tags = if tag.is_empty() { String::new() } else { format!("tags:\n  {tag}\n") };
    fs::write(node.file(), format!("{kept}{tags}")).unwrap();
    site.reload_agent(name);
}

fn kill(site: &Site, name: &str) {
    for pid in site.node(name).processes() {
        send(pid.cast_unsigned(), Signal::KILL);
    }
}

fn restart(site: &mut Site, name: &str) {
    site.reap_agent(name);
    site.start_agent(name);
}

fn ask(site: &Site, name: &str, query: &str) -> Option<i64> {
    number_now(&config(site.node(name).postgres, crate::many::PASSWORD), query)
}

/// `from` is the only one that has `name` among its senders, and it streams.
fn wait_streams(site: &Site, name: &str, from: &str) {
    let query = format!(
        "SELECT count(*) FROM pg_stat_replication \
         WHERE application_name = '{name}' AND state = 'streaming'"
    );
    let alone = |site: &Site| {
        site.nodes.iter().all(|node| {
            let wanted = i64::from(node.name == from);
            ask(site, &node.name, &query).unwrap_or(0) == wanted
        })
    };
    site.wait_until(&format!("{name} does not stream from {from}"), 2 * LIMIT, alone);
}

fn arrives(site: &Site, name: &str, row: i64) {
    execute(&site.write_port(), &format!("INSERT INTO t VALUES ({row})"), LIMIT);
    wait_row(site, name, row);
}

fn wait_row(site: &Site, name: &str, row: i64) {
    let query = format!("SELECT count(*) FROM t WHERE n = {row}");
    site.wait_until(&format!("{name} has no row {row}"), LIMIT, |site| {
        ask(site, name, &query) == Some(1)
    });
}
