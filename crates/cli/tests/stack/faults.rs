//! Each service stopped, killed, paused and cut off from the network, while a client writes. No
//! acknowledged number may be missing afterwards; how long nobody could write is printed.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::stack::{ETCD, Stack, read_port, write_port};
use crate::writer::{Writer, longest_gap, number_now, numbers};
use crate::{say, trial};

const LIMIT: Duration = Duration::from_secs(60);
/// How long a service is away.
const AWAY: Duration = Duration::from_secs(6);

/// What is done to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Stop,
    Kill,
    Pause,
    Disconnect,
}

/// Whom it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Leader,
    Replica,
    Etcd,
    Router,
    Exporter,
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for victim in [Victim::Leader, Victim::Replica, Victim::Etcd, Victim::Router, Victim::Exporter]
    {
        for fault in [Fault::Stop, Fault::Kill, Fault::Pause, Fault::Disconnect] {
            let name = format!("{victim:?}_{fault:?}").to_lowercase();
            trials.push(trial(name, move |stack| hit(stack, victim, fault)));
        }
    }
    trials.push(trial("compose_restart", compose_restart));
    trials.push(trial("host_reboot", host_reboot));
    trials
        .push(trial("volume_of_a_replica_deleted", |stack| volume_deleted(stack, Victim::Replica)));
    trials
        .push(trial("volume_of_the_leader_deleted", |stack| volume_deleted(stack, Victim::Leader)));
    trials.push(trial("two_etcd_of_three_stopped", two_etcd_of_three_stopped));
    trials
}

impl Fault {
    fn strike(self, stack: &Stack, service: &str) {
        let container = Stack::container(service);
        match self {
            Self::Stop => stack.docker.docker(&["stop", &container]),
            Self::Kill => stack.docker.docker(&["kill", &container]),
            Self::Pause => stack.docker.docker(&["pause", &container]),
            Self::Disconnect => {
                stack.docker.docker(&["network", "disconnect", &Stack::network(), &container])
            }
        };
    }

    /// The service comes back, at the address that the compose file gives it.
    fn heal(self, stack: &Stack, service: &str, address: &str) {
        let container = Stack::container(service);
        match self {
            Self::Stop | Self::Kill => stack.docker.docker(&["start", &container]),
            Self::Pause => stack.docker.docker(&["unpause", &container]),
            Self::Disconnect => {
                let network = Stack::network();
                let mut words = vec!["network", "connect", "--alias", service];
                if !address.is_empty() {
                    words.extend(["--ip", address]);
                }
                words.extend([network.as_str(), container.as_str()]);
                stack.docker.docker(&words)
            }
        };
    }
}

fn service(stack: &Stack, victim: Victim) -> String {
    match victim {
        Victim::Leader => stack.leader(),
        Victim::Replica => stack.replica(),
        Victim::Etcd => etcd_leader(stack),
        Victim::Router => "pg-router".to_owned(),
        Victim::Exporter => format!("{}-exporter", stack.leader()),
    }
}

fn etcd_leader(stack: &Stack) -> String {
    let leads = |name: &&&str| {
        let words = ["/usr/local/bin/etcdctl", "endpoint", "status", "-w", "json"];
        let text = stack.exec(name, &words).out;
        let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let status = &status[0]["Status"];
        status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
    };
    let found = ETCD.iter().find(leads).unwrap_or(&ETCD[0]);
    (*found).to_owned()
}

/// Numbers that nobody has used yet.
fn next() -> i64 {
    numbers(&write_port(), "SELECT coalesce(max(n), 0) + 1000000 FROM acks", LIMIT)[0]
}

fn hit(stack: &Stack, victim: Victim, fault: Fault) {
    let service = service(stack, victim);
    // Who has none of the compose file's gets what Docker chooses: a chosen one that is asked for by
    // name may be somebody else's when all start again.
    let format =
        "{{range .NetworkSettings.Networks}}{{with .IPAMConfig}}{{.IPv4Address}}{{end}}{{end}}";
    let address = stack.docker.docker(&["inspect", "-f", format, &Stack::container(&service)]);
    let writer = Writer::start(write_port(), next());
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    fault.strike(stack, &service);
    let struck = began.elapsed();
    std::thread::sleep(AWAY);
    fault.heal(stack, &service, address.trim());
    let whole = stack.whole();
    let gap = settle(stack, writer);
    say(&format!(
        "{victim:?} ({service}) {fault:?}: no writes for {} ms; the command took {} ms, whole {} ms after \
         its return",
        gap.as_millis(),
        struck.as_millis(),
        whole.as_millis(),
    ));
    if matches!(victim, Victim::Replica | Victim::Exporter) {
        assert!(gap < Duration::from_secs(5), "writes stopped for {gap:?} without need");
    }
}

/// Ends the writer, and looks for every acknowledged number.
fn settle(stack: &Stack, writer: Writer) -> Duration {
    // Writes go on before they are looked at.
    let last = numbers(&write_port(), "SELECT max(n) FROM acks", LIMIT)[0];
    stack.until(LIMIT, "later write", || {
        number_now(&write_port(), "SELECT max(n) FROM acks").filter(|now| *now > last)
    });
    let acknowledged = writer.finish();
    assert!(acknowledged.len() > 10, "hardly anything was written");
    let there = numbers(&write_port(), "SELECT n FROM acks", LIMIT);
    let there: std::collections::HashSet<i64> = there.into_iter().collect();
    let missing: Vec<i64> =
        acknowledged.iter().map(|(n, _)| *n).filter(|n| !there.contains(n)).collect();
    assert_eq!(missing, Vec::<i64>::new(), "acknowledged and gone");
    longest_gap(&acknowledged)
}

fn compose_restart(stack: &Stack) {
    let writer = Writer::start(write_port(), next());
    std::thread::sleep(Duration::from_millis(500));
    stack.compose(&["restart"]);
    let whole = stack.whole();
    let gap = settle(stack, writer);
    say(&format!(
        "docker compose restart: no writes for {} ms, whole {} ms after it",
        gap.as_millis(),
        whole.as_millis()
    ));
}

fn host_reboot(stack: &Stack) {
    let writer = Writer::start(write_port(), next());
    std::thread::sleep(Duration::from_millis(1500));
    let containers = stack.compose(&["ps", "-q"]);
    let ids: Vec<&str> = containers.lines().collect();
    stack.docker.docker(&[&["kill"], &ids[..]].concat());
    stack.compose(&["up", "-d"]);
    let whole = stack.whole();
    let gap = settle(stack, writer);
    say(&format!(
        "host reboot: no writes for {} ms, whole {} ms after the start",
        gap.as_millis(),
        whole.as_millis()
    ));
}

fn volume_deleted(stack: &Stack, victim: Victim) {
    let service = service(stack, victim);
    let writer = Writer::start(write_port(), next());
    std::thread::sleep(Duration::from_millis(500));
    stack.docker.docker(&["kill", &Stack::container(&service)]);
    stack.compose(&["rm", "-f", &service]);
    stack.docker.docker(&["volume", "rm", &Stack::volume(&service)]);
    // Nobody starts a node anew in the moment in which it vanishes.
    std::thread::sleep(AWAY);
    stack.compose(&["up", "-d", &service]);
    let whole = stack.whole();
    let gap = settle(stack, writer);
    say(&format!(
        "volume of {service} ({victim:?}) deleted: no writes for {} ms, whole {} ms after the start",
        gap.as_millis(),
        whole.as_millis()
    ));
}

/// With failsafe, which is on, writes go on; without it the cluster is read-only meanwhile.
fn two_etcd_of_three_stopped(stack: &Stack) {
    let etcds = [Stack::container("etcd-1"), Stack::container("etcd-2")];
    let last = |port: &tokio_postgres::Config| number_now(port, "SELECT max(n) FROM acks");
    let writer = Writer::start(write_port(), next());
    std::thread::sleep(Duration::from_millis(500));
    stack.docker.docker(&["stop", &etcds[0], &etcds[1]]);
    // Well past the ttl of 5 s.
    let past = Instant::now() + Duration::from_secs(12);
    stack.until(LIMIT, "write past the ttl", || {
        let before = last(&write_port())?;
        std::thread::sleep(Duration::from_millis(300));
        (Instant::now() > past && last(&write_port())? > before).then_some(())
    });
    stack.docker.docker(&["start", &etcds[0], &etcds[1]]);
    stack.whole();
    let gap = settle(stack, writer);
    say(&format!("with failsafe no writes for {} ms", gap.as_millis()));

    set_failsafe(stack, false);
    let writer = Writer::start(write_port(), next());
    stack.docker.docker(&["stop", &etcds[0], &etcds[1]]);
    let began = Instant::now();
    stack.until(LIMIT, "end of writes", || {
        let before = last(&read_port())?;
        std::thread::sleep(Duration::from_millis(1500));
        (last(&read_port())? == before).then_some(())
    });
    say(&format!("read-only {} ms after etcd lost its majority", began.elapsed().as_millis()));
    assert!(last(&read_port()).is_some(), "reads go on");
    stack.docker.docker(&["start", &etcds[0], &etcds[1]]);
    let whole = stack.whole();
    settle(stack, writer);
    say(&format!("whole {} ms after etcd's return", whole.as_millis()));
    set_failsafe(stack, true);
}

fn set_failsafe(stack: &Stack, on: bool) {
    let value = format!("failsafe_mode={on}");
    let words = ["pgherd", "ctl", "edit-config", "--force", "-s", &value];
    stack.until(LIMIT, "change of failsafe_mode", || {
        let said = stack.exec(&stack.leader(), &words).out;
        ["Configuration changed", "Not changed"].iter().any(|w| said.contains(w)).then_some(())
    });
}
