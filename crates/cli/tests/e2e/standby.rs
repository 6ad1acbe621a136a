//! A cluster that follows another one (`standby_cluster`): made of its data, led through a death and a
//! switchover without a primary; then the two change places, and every row is in both.

use std::time::Duration;

use rustix::process::Signal;

use crate::LIMIT;
use crate::many::{Options, Site};
use crate::processes::send;
use crate::writer::{config, execute, number_now};

const WHOLE: Duration = Duration::from_secs(90);

pub(crate) fn a_cluster_follows_another_one() {
    let Some(mut first) = Site::new(&Options::default()) else { return };
    first.start();
    execute(&first.write_port(), "CREATE TABLE t (n bigint)", LIMIT);
    let source = first.leader().expect("it is whole");
    let port = first.node(&source).postgres;
    let dcs = format!("    standby_cluster:\n      host: 127.0.0.1\n      port: {port}\n");
    let mut second = Site::new(&Options { dcs, ..Options::default() }).expect("etcd is there");
    second.launch();
    wait_standby(&second);
    arrives(&first, &second, 1);
    nobody_waits_for_it(&first);

    let leader = standby_leader(&second).expect("it is whole");
    second.node(&leader).processes().iter().for_each(|pid| send(pid.cast_unsigned(), Signal::KILL));
    second.reap_agent(&leader);
    second.wait_until("nobody else leads", WHOLE, |site| {
        standby_leader(site).is_some_and(|now| now != leader)
    });
    arrives(&first, &second, 2);
    second.start_agent(&leader);
    wait_standby(&second);
    switches_over(&second);
    restarts(&second);
    arrives(&first, &second, 3);
    the_other_cluster_fails_over(&mut first, &second, &source);
    they_change_places(&first, &second);
}

/// The standby leader's name is no voter's, though a node there has the same.
fn nobody_waits_for_it(first: &Site) {
    let query = "SELECT count(*) FROM pg_stat_replication WHERE application_name LIKE '\\_%' \
                 AND sync_state = 'async'";
    assert_eq!(number_now(&first.write_port(), query), Some(1));
}

fn switches_over(second: &Site) {
    let before = standby_leader(second).expect("it is whole");
    let (code, out, err) = second.ctl(&["switchover", "--force"]);
    assert_eq!(code, 0, "{out}{err}\n{}", second.everything());
    wait_standby(second);
    assert_ne!(standby_leader(second), Some(before));
}

/// Keeps the key meanwhile.
fn restarts(second: &Site) {
    let leader = standby_leader(second).expect("it is whole");
    let (code, out, err) = second.ctl(&["restart", "many", &leader, "--force"]);
    assert_eq!(code, 0, "{out}{err}\n{}", second.everything());
    wait_standby(second);
    assert_eq!(standby_leader(second), Some(leader));
}

/// A new primary there is a new timeline here.
fn the_other_cluster_fails_over(first: &mut Site, second: &Site, source: &str) {
    let (code, out, err) = first.ctl(&["switchover", "--force"]);
    assert_eq!(code, 0, "{out}{err}\n{}", first.everything());
    first.wait_whole();
    // From where it was, now a replica, and then from the new leader, as the settings say.
    arrives(first, second, 4);
    let leader = first.leader().expect("it is whole");
    assert_ne!(leader, source);
    follow(second, first.node(&leader).postgres);
    arrives(first, second, 5);
}

fn follow(site: &Site, port: u16) {
    let set = format!("standby_cluster.port={port}");
    let (code, out, err) = site.ctl(&["edit-config", "-s", &set, "--force"]);
    assert_eq!(code, 0, "{out}{err}");
    let leader = standby_leader(site).expect("it is whole");
    let query = format!(
        "SELECT count(*) FROM pg_stat_wal_receiver \
         WHERE status = 'streaming' AND sender_port = {port}"
    );
    site.wait_until("it doesn't follow", WHOLE, |site| ask(site, &leader, &query) == Some(1));
}

fn they_change_places(first: &Site, second: &Site) {
    let leader = standby_leader(second).expect("it is whole");
    let port = second.node(&leader).postgres.to_string();
    let words = ["demote-cluster", "--host", "127.0.0.1", "--port", &port, "--force"];
    let (code, out, err) = first.ctl(&words);
    assert_eq!(code, 0, "{out}{err}\n{}", first.everything());
    assert!(out.contains("successfully demoted"), "{out}");
    wait_standby(first);
    let (code, out, err) = second.ctl(&["promote-cluster", "--force"]);
    assert_eq!(code, 0, "{out}{err}\n{}", second.everything());
    assert!(out.contains("successfully promoted"), "{out}");
    second.wait_whole();
    for n in 6..=8 {
        arrives(second, first, n);
    }
    let (code, out, err) = second.ctl(&["switchover", "--force"]);
    assert_eq!(code, 0, "{out}{err}\n{}", second.everything());
    second.wait_whole();
    assert_eq!(second.leader().is_some(), first.leader().is_none());
    let lost = "SELECT 8 - count(DISTINCT n) FROM t";
    assert_eq!(number_now(&second.write_port(), lost), Some(0));
}

fn standby_leader(site: &Site) -> Option<String> {
    site.members().into_iter().find(|m| m.role == "Standby Leader").map(|m| m.name)
}

/// One standby leader that streams from elsewhere, and two replicas that stream from it.
fn wait_standby(site: &Site) {
    site.wait_until("no whole standby cluster", WHOLE, |site| {
        let members = site.members();
        let streams = members.iter().filter(|m| m.state == "streaming").count();
        let leader = members.iter().find(|m| m.role == "Standby Leader");
        leader.is_some_and(|leader| {
            let query = "SELECT count(*) FROM pg_stat_replication \
                         WHERE state = 'streaming' AND application_name LIKE 'node%'";
            let receives = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
            streams >= 2
                && ask(site, &leader.name, query) == Some(2)
                && ask(site, &leader.name, receives) == Some(1)
        })
    });
}

fn ask(site: &Site, node: &str, query: &str) -> Option<i64> {
    number_now(&config(site.node(node).postgres, crate::many::PASSWORD), query)
}

/// What is written in one cluster is in every node of the other one.
fn arrives(from: &Site, to: &Site, n: i64) {
    execute(&from.write_port(), &format!("INSERT INTO t VALUES ({n})"), LIMIT);
    let query = format!("SELECT count(*) FROM t WHERE n = {n}");
    to.wait_until(&format!("{n} did not arrive"), WHOLE, |to| {
        let shown = |name: &str| ask(to, name, &query) == Some(1);
        to.members().iter().filter(|m| m.state != "stopped").all(|m| shown(&m.name))
    });
}
