//! Nodes that know each other by names, and a name service that is gone for a while: what stands goes
//! on, a failover waits for nobody's name but the stream's, and nothing is lost.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::LIMIT;
use crate::herd::Member;
use crate::many::{Options, Site, give};
use crate::processes::send;
use crate::round::verify;
use crate::writer::{Writer, execute, longest_gap};

const WHOLE: Duration = Duration::from_secs(90);
const NAMES: &str = "127.0.0.1 localhost node1.test node2.test node3.test\n";
const NO_NAMES: &str = "127.0.0.1 localhost\n";

pub(crate) fn names_cant_be_looked_up() {
    if !rustix::process::geteuid().is_root() {
        crate::say("SKIPPED: only root can give a process another /etc/hosts");
        return;
    }
    let Some(mut site) = Site::new(&Options::default()) else { return };
    let hosts = site.dir.join("hosts");
    fs::write(&hosts, NAMES).unwrap();
    for node in &site.nodes {
        let address = format!("connect_address: {}.test:", node.name);
        let text = fs::read_to_string(node.file()).unwrap();
        give(&node.file(), Some(&text.replace("connect_address: 127.0.0.1:", &address)));
    }
    site.hosts = Some(hosts.clone());
    site.start();
    execute(&site.write_port(), "CREATE TABLE acks (n bigint PRIMARY KEY)", LIMIT);
    let leader = site.leader().expect("a leader");

    let writer = Writer::start(site.write_port(), 1);
    fs::write(&hosts, NO_NAMES).unwrap();
    // Three times the ttl.
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(site.leader().as_ref(), Some(&leader), "{}", site.everything());
    assert!(Member::are_whole(&site.members(), 2), "{}", site.everything());
    let acknowledged = writer.finish();
    let gap = longest_gap(&acknowledged);
    assert!(gap < Duration::from_secs(2), "what stood did not go on: {gap:?}");

    let kill = |pid: &i32| send(pid.cast_unsigned(), Signal::KILL);
    site.node(&leader).processes().iter().for_each(kill);
    site.reap_agent(&leader);
    site.wait_until("nobody else leads", WHOLE, |site| {
        site.leader().is_some_and(|now| now != leader)
    });
    fs::write(&hosts, NAMES).unwrap();
    site.start_agent(&leader);
    site.wait_whole();
    verify(&site.write_port(), &acknowledged, || site.everything());
}
