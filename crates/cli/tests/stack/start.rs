//! The first start, and what is there then.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::images::TOOLS;
use crate::stack::{APP, ETCD, NODES, PREFIX, Stack, read_port, write_port};
use crate::writer::{execute, numbers};
use crate::{say, trial};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_password_is_needed", a_password_is_needed),
        trial("a_known_password_is_refused", a_known_password_is_refused),
        trial("first_start", first_start),
        trial("another_container_writes_and_reads", another_container_writes_and_reads),
        trial("init_runs_once", init_runs_once),
        trial("exporters", exporters),
        trial("inside_the_containers", inside_the_containers),
        trial("haproxy_example", haproxy_example),
        trial("prometheus_rules", prometheus_rules),
    ]
}

fn a_password_is_needed(stack: &Stack) {
    stack.write_environment(&[("PGPASSWORD_SUPERUSER", "")]);
    let said = stack.try_compose(&["up", "-d"]);
    assert!(
        !said.ok && said.err.contains("choose one and write it into .env.postgres"),
        "{said:?}"
    );
    stack.write_environment(&[]);
}

fn a_known_password_is_refused(stack: &Stack) {
    let words = ["run", "--rm", "--no-deps", "-T", "-e", "PGPASSWORD_SUPERUSER=zalando", "pg-0"];
    let said = stack.try_compose(&words);
    assert!(!said.ok && said.err.contains("known to everybody"), "{said:?}");
    assert!(!said.err.contains("zalando") && !said.err.contains("standby-4711"), "{said:?}");
}

fn first_start(stack: &Stack) {
    let began = Instant::now();
    stack.compose(&["up", "-d", "--quiet-pull"]);
    let at = |what: &str| say(&format!("{:5.1} s  {what}", began.elapsed().as_secs_f64()));
    at("docker compose up -d returns");
    execute(&write_port(), "SELECT 1", LIMIT);
    at("the router takes writes");
    stack.whole();
    at("three nodes, two of them streaming");
    stack.until(LIMIT, "an end of pg-cluster-init", || {
        let format = "{{.State.Status}} {{.State.ExitCode}}";
        let said =
            stack.docker.docker(&["inspect", "-f", format, &Stack::container("pg-cluster-init")]);
        (said.trim() == "exited 0").then_some(())
    });
    at("pg-cluster-init has run the SQL files");
    let services = NODES.iter().chain(&ETCD).chain(&["pg-router", "pg-0-exporter"]);
    for service in services {
        stack.until(LIMIT, &format!("healthy {service}"), || {
            let container = Stack::container(service);
            let state =
                stack.docker.docker(&["inspect", "-f", "{{.State.Health.Status}}", &container]);
            (state.trim() == "healthy").then_some(())
        });
    }
    at("every health check passes");
    say(&stack.exec("pg-0", &["pgherd", "ctl", "list"]).out);
    memory(stack);
    let size = stack.docker.docker(&["image", "inspect", "-f", "{{.Size}}", "pgherd:17"]);
    let base = stack.docker.docker(&["image", "inspect", "-f", "{{.Size}}", "debian:trixie-slim"]);
    say(&format!("image {} bytes, of which {} are the base", size.trim(), base.trim()));
    execute(&write_port(), "CREATE TABLE acks (n bigint PRIMARY KEY)", LIMIT);
}

/// What each service uses beside its limit.
fn memory(stack: &Stack) {
    let format = "{{.Name}} {{.MemUsage}}";
    let table = stack.docker.docker(&["stats", "--no-stream", "--format", format]);
    let mut lines: Vec<&str> =
        table.lines().filter(|line| line.starts_with("pgherd-test-")).collect();
    lines.sort_unstable();
    for line in &lines {
        say(line);
        // An exporter stays below 20 MB.
        if line.contains("exporter") {
            let used = line.split(' ').nth(1).unwrap();
            let mib: f64 = used.strip_suffix("MiB").unwrap_or("0").parse().unwrap();
            assert!(mib < 20.0, "{line}");
        }
    }
    assert_eq!(lines.len(), 10, "{table}");
}

fn another_container_writes_and_reads(stack: &Stack) {
    let psql = |database: &str, port: &str, sql: &str| {
        let url = format!("host=pg-router port={port} user=app dbname={database}");
        let password = format!("PGPASSWORD={APP}");
        let words = ["run", "--rm", "--no-deps", "-T", "-e", &password, "--entrypoint", "psql"];
        stack.compose(&[&words[..], &["pg-cluster-init", "-Atqc", sql, &url]].concat())
    };
    psql("app", "5432", "CREATE TABLE notes AS SELECT 'from a container' AS note");
    stack.until(LIMIT, "row on a replica", || {
        let found = psql("app", "5433", "SELECT note, pg_is_in_recovery() FROM notes");
        found.contains("from a container|t").then_some(())
    });
    // The example's schema, found by the example's search_path.
    assert_eq!(
        psql("app", "5432", "SELECT 'notes'::regclass::text, current_schema()").trim(),
        "notes|app"
    );
    assert_eq!(numbers(&read_port(), "SELECT pg_is_in_recovery()::int::bigint", LIMIT), [1]);
}

fn init_runs_once(stack: &Stack) {
    let said = stack.compose(&["run", "--rm", "--no-deps", "-T", "pg-cluster-init"]);
    assert!(said.contains("10_users_dbs.sql: ran before"), "{said}");
    assert!(said.contains("init: 0 files ran now, 1 before"), "{said}");
    let logs = stack.compose(&["logs", "--no-color", "pg-cluster-init"]);
    assert!(logs.contains("10_users_dbs.sql: done"), "{logs}");
    assert!(!logs.contains("$the") && !said.contains("$the"), "a secret in the log");
}

fn exporters(stack: &Stack) {
    let mut roles = Vec::new();
    for node in NODES {
        let url = format!("http://{node}-exporter:9187/metrics");
        let said = stack.exec("pg-router", &["curl", "-sf", &url]);
        assert!(said.out.contains("\npg_up 1\n"), "{node}: {}", said.out);
        assert!(said.out.contains("\npgherd_agent_up 1\n"), "{node}");
        assert!(said.out.contains("patroni_primary{scope=\"pg-ha\",name=\""), "{node}");
        roles.push(said.out.contains("\npg_replication_is_replica 1\n"));
    }
    assert_eq!(roles.iter().filter(|replica| **replica).count(), 2);
}

/// What the README's first section has people type.
fn inside_the_containers(stack: &Stack) {
    let list = stack.exec("pg-0", &["pgherd", "ctl", "list"]);
    assert!(list.ok && list.out.contains("| Leader "), "{list:?}");
    let cluster = stack.exec("pg-0", &["curl", "-s", "localhost:8008/cluster"]);
    assert!(cluster.out.contains("\"scope\""), "{cluster:?}");
    let dashboard = stack.exec("pg-router", &["curl", "-sf", "localhost:7000/api/status"]);
    assert!(dashboard.ok, "{dashboard:?}");
    let health = stack.exec("pg-1", &["pgherd", "health"]);
    assert!(health.ok, "{health:?}");
    let who = stack.exec("pg-0", &["sh", "-c", "id -un; touch /x 2>&1; cat /proc/1/comm"]);
    assert!(
        who.out.starts_with("postgres\n") && who.out.contains("Read-only file system"),
        "{who:?}"
    );
    let etcd = stack.exec("etcd-1", &["/usr/local/bin/etcdctl", "member", "list"]);
    assert_eq!(etcd.out.matches("started").count(), 3, "{etcd:?}");
    let secrets = stack.compose(&["logs", "--no-color"]);
    assert!(
        !secrets.contains("superuser-4711") && !secrets.contains("standby-4711"),
        "a secret in a log"
    );
}

/// The real HAProxy with our example, in front of our agents.
fn haproxy_example(stack: &Stack) {
    let file = stack.project.join("config/haproxy.cfg.example");
    let mount = format!("{}:/haproxy.cfg:ro", file.display());
    let (network, address) = (Stack::network(), format!("{PREFIX}.60"));
    let name = "pgherd-test-haproxy";
    let words = ["run", "-d", "--rm", "--name", name, "--network", &network, "--ip", &address];
    stack
        .docker
        .docker(&[&words[..], &["-v", &mount, TOOLS, "haproxy", "-f", "/haproxy.cfg"]].concat());
    for (port, recovery) in [("5432", "f"), ("5433", "t")] {
        stack.until(LIMIT, "HAProxy's way to a server", || {
            let sql = "SELECT pg_is_in_recovery()";
            let script = format!(
                "PGPASSWORD=$PGPASSWORD_SUPERUSER psql -h {address} -p {port} -Atqc '{sql}'"
            );
            let said = stack.exec("pg-0", &["sh", "-c", &script]);
            (said.out.trim() == recovery).then_some(())
        });
    }
    stack.docker.docker(&["rm", "-f", name]);
}

fn prometheus_rules(stack: &Stack) {
    let mount = format!("{}:/etc/prometheus:ro", stack.project.join("config/prometheus").display());
    let words = ["run", "--rm", "-v", &mount, TOOLS, "promtool", "check"];
    let said =
        stack.docker.docker(&[&words[..], &["config", "/etc/prometheus/prometheus.yml"]].concat());
    assert!(said.contains("rules found"), "{said}");
    let page = stack.exec("pg-router", &["curl", "-s", "http://pg-0-exporter:9187/metrics"]).out;
    std::fs::write(stack.project.join("config/prometheus/page"), page).unwrap();
    let script = "promtool check metrics < /etc/prometheus/page; test $? -ne 1";
    // promtool ends with 3 when it only has an opinion on names, which are postgres_exporter's here.
    stack.docker.docker(&["run", "--rm", "-v", &mount, TOOLS, "sh", "-c", script]);
    let dashboard =
        std::fs::read_to_string(stack.project.join("config/grafana/dashboards/pgherd.json"));
    serde_json::from_str::<serde_json::Value>(&dashboard.unwrap()).unwrap();
}
