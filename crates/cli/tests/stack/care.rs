//! What the README's chapters on care tell people to do: a new image, a new password, a fourth
//! node, a backup and its return.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::stack::{NODES, Stack, write_port};
use crate::writer::{Writer, config, execute, longest_gap, number_now, numbers};
use crate::{say, trial};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("rolling_image_change", rolling_image_change),
        trial("add_and_remove_a_node", add_and_remove_a_node),
        trial("backup_and_restore", backup_and_restore),
        trial("switchover_by_hand", switchover_by_hand),
        trial("new_passwords_from_files", new_passwords_from_files),
    ]
}

fn missing(acknowledged: &[(i64, std::time::Instant)]) -> usize {
    let there = numbers(&write_port(), "SELECT n FROM acks", LIMIT);
    acknowledged.iter().filter(|(n, _)| !there.contains(n)).count()
}

/// Replicas first, then the leader, which hands over as it stops.
fn rolling_image_change(stack: &Stack) {
    let next = "pgherd:17-next";
    let context = stack.docker.dir().join("context");
    std::fs::write(context.join("Dockerfile"), "FROM pgherd:17\nLABEL next=1\n").unwrap();
    let mut build = stack.docker.command("docker");
    build.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", next]).arg(&context);
    assert!(crate::docker::said(&mut build).ok, "the next image");
    stack.write_environment(&[("PGHERD_IMAGE", next)]);
    let first = numbers(&write_port(), "SELECT coalesce(max(n), 0) + 1000000 FROM acks", LIMIT)[0];
    let writer = Writer::start(write_port(), first);
    let leader = stack.leader();
    let replicas = NODES.iter().filter(|name| **name != leader);
    for node in replicas.chain([&leader.as_str()]) {
        stack.compose(&["up", "-d", "--no-deps", "--no-build", node]);
        stack.whole();
    }
    let acknowledged = writer.finish();
    assert_eq!(missing(&acknowledged), 0, "acknowledged and gone");
    let gap = longest_gap(&acknowledged);
    say(&format!("rolling image change: no writes for {} ms at most", gap.as_millis()));
    for node in NODES {
        let image =
            stack.docker.docker(&["inspect", "-f", "{{.Config.Image}}", &Stack::container(node)]);
        assert_eq!(image.trim(), next);
    }
    stack.compose(&["up", "-d", "--no-build"]);
    stack.whole();
}

/// Passwords change without an outage: in PostgreSQL first, then node by node in what the agents
/// are told; here at the same time out of the environment into files.
fn new_passwords_from_files(stack: &Stack) {
    let secrets = stack.project.join("secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    std::fs::write(secrets.join("superuser"), "superuser-4712\n").unwrap();
    std::fs::write(secrets.join("standby"), "standby-4711\n").unwrap();
    let first = numbers(&write_port(), "SELECT coalesce(max(n), 0) + 1000000 FROM acks", LIMIT)[0];
    // The client keeps its session; who logs in anew needs the new password.
    let new = config(crate::stack::WRITE, "superuser-4712");
    execute(&write_port(), "ALTER ROLE postgres PASSWORD 'superuser-4712'", LIMIT);
    let writer = Writer::start(new.clone(), first);
    let files = ["-f", "docker-compose.yml", "-f", "config/secrets.example.yml"];
    let leader = stack.leader();
    let replicas = NODES.iter().filter(|name| **name != leader);
    for node in replicas.chain([&leader.as_str()]) {
        stack.compose(&[&files[..], &["up", "-d", "--no-deps", "--no-build", node]].concat());
        stack.until(LIMIT, "whole cluster", || {
            let well = |it: &crate::stack::Member| it.state == "streaming" || it.state == "running";
            (stack.members().iter().filter(|it| well(it)).count() == 3).then_some(())
        });
    }
    stack.compose(&[&files[..], &["up", "-d", "--no-build"]].concat());
    let acknowledged = writer.finish();
    let there = numbers(&new, "SELECT n FROM acks", LIMIT);
    assert!(acknowledged.iter().all(|(n, _)| there.contains(n)), "acknowledged and gone");
    say(&format!(
        "new password: no writes for {} ms at most",
        longest_gap(&acknowledged).as_millis()
    ));
    for node in NODES {
        let url = format!("http://{node}-exporter:9187/metrics");
        stack.until(LIMIT, "exporter with the new password", || {
            let page = stack.exec("pg-router", &["curl", "-sf", &url]).out;
            page.contains("\npg_up 1\n").then_some(())
        });
        let inspected = stack.docker.docker(&["inspect", &Stack::container(node)]);
        assert!(!inspected.contains("superuser-4712"), "a secret in the container's settings");
    }
    let list = stack.exec("pg-0", &["pgherd", "ctl", "list"]);
    assert!(list.ok && list.out.contains("| Leader "), "{list:?}");
}

fn add_and_remove_a_node(stack: &Stack) {
    let files = ["-f", "docker-compose.yml", "-f", "config/pg-3.example.yml"];
    stack.compose(&[&files[..], &["up", "-d", "--no-deps", "--no-build", "pg-3"]].concat());
    stack.until(LIMIT, "fourth member", || {
        let four = stack.members();
        four.iter().any(|it| it.name == "pg-3" && it.state == "streaming").then_some(())
    });
    stack.compose(&[&files[..], &["rm", "-sf", "pg-3"]].concat());
    stack.until(LIMIT, "three members again", || {
        (stack
            .members()
            .iter()
            .filter(|it| it.state == "streaming" || it.state == "running")
            .count()
            == 3)
            .then_some(())
    });
    stack.docker.docker(&["volume", "rm", &Stack::volume("pg-3")]);
    stack.whole();
}

fn backup_and_restore(stack: &Stack) {
    let replica = stack.replica();
    let script = "export PGPASSWORD=$PGPASSWORD_SUPERUSER; \
                  pg_dump -h localhost -Fc app > /home/postgres/pgdata/app.dump && \
                  psql -h pg-router -qc 'CREATE DATABASE app_restored OWNER app' postgres && \
                  pg_restore -h pg-router -d app_restored /home/postgres/pgdata/app.dump && \
                  psql -h pg-router -Atqc 'SELECT note FROM app.notes' app_restored; \
                  rm -f /home/postgres/pgdata/app.dump";
    let said = stack.exec(&replica, &["sh", "-c", script]);
    assert_eq!(said.out.trim(), "from a container", "{said:?}");
    execute(&write_port(), "DROP DATABASE app_restored", LIMIT);
    let script = "rm -rf /tmp/base; PGPASSWORD=$PGPASSWORD_STANDBY pg_basebackup -h pg-router -p 5432 \
                  -U standby -D /tmp/base -X stream -c fast && pg_verifybackup -q /tmp/base; \
                  echo $?; rm -rf /tmp/base";
    let said = stack.exec(&replica, &["sh", "-c", script]);
    assert_eq!(said.out.trim(), "0", "{said:?}");
}

fn switchover_by_hand(stack: &Stack) {
    let (leader, replica) = (stack.leader(), stack.replica());
    let words =
        ["pgherd", "ctl", "switchover", "--leader", &leader, "--candidate", &replica, "--force"];
    let said = stack.exec(&leader, &words);
    assert!(said.ok, "{said:?}");
    stack.until(LIMIT, "change of leaders", || (stack.leader() == replica).then_some(()));
    stack.whole();
    let primary = "SELECT (NOT pg_is_in_recovery())::int::bigint";
    assert_eq!(number_now(&write_port(), primary), Some(1));
}
