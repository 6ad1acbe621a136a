//! A cluster that begins from a backup at a point in time, whose replicas are made by the user's
//! command, and that tells the user's scripts what happens (contract 3.8). The settings are those of
//! `docs/lifecycle.md`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::LIMIT;
use crate::many::{Options, Site, give, postgres_user};
use crate::processes::free_ports;
use crate::writer::{execute, numbers};

/// `$1` directory, `$2` port: an archive, a backup, and a table with one row at the point
/// "before the accident" and none after it.
const PREPARE: &str = r#"
set -eu
cd "$1"; mkdir archive
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
"$bin/initdb" -D old -U postgres -A trust --data-checksums > prepare.log
"$bin/pg_ctl" -D old -w -l old.log -o "-p $2 -k $1 -c listen_addresses= -c fsync=off \
  -c archive_mode=on -c 'archive_command=cp %p $1/archive/new && mv $1/archive/new $1/archive/%f'" start
sql() { "$bin/psql" -h "$1" -p "$2" -U postgres -qAtc "$3"; }
sql "$1" "$2" "CREATE TABLE kept (n bigint)"
"$bin/pg_basebackup" -D backup -X none -c fast -h "$1" -p "$2" -U postgres
sql "$1" "$2" "INSERT INTO kept VALUES (42)"
sql "$1" "$2" "SELECT pg_create_restore_point('before the accident')" > prepare.log
sql "$1" "$2" "DELETE FROM kept; SELECT pg_switch_wal()" > prepare.log
"$bin/pg_ctl" -D old -w -m fast stop
"#;

/// What `bootstrap` says beside `dcs`.
fn bootstrap(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "  method: archive
  archive:
    command: {dir}/restore.sh
    backup: {dir}/backup
    recovery_conf:
      restore_command: cp {dir}/archive/%f %p
      recovery_target_name: before the accident
  post_bootstrap: {dir}/seed.sh
"
    )
}

/// What `postgresql` says.
fn postgresql(dir: &Path, log: &str) -> String {
    let dir = dir.display();
    let events = ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"];
    let callbacks = events.map(|event| format!("{event}: {dir}/told.sh {log}"));
    format!(
        "  create_replica_methods: [own, basebackup]
  own:
    command: {dir}/copy.sh
  callbacks:
    {}
",
        callbacks.join("\n    ")
    )
}

fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    give(path, Some(&format!("#!/bin/sh\nset -eu\n{text}\n")));
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The files that the settings name.
fn files(site: &Site) {
    let dir = site.dir.join("own");
    give(&dir, None);
    script(&dir.join("prepare.sh"), PREPARE);
    script(&dir.join("restore.sh"), "cp -a \"${3#--backup=}/.\" \"${2#--datadir=}\"");
    let bin = "bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)";
    script(
        &dir.join("seed.sh"),
        &format!("{bin}\n$bin/psql -wqd \"$1\" -c 'CREATE TABLE seeded ()'"),
    );
    script(&dir.join("told.sh"), "echo \"$2 $3 $4\" >> \"$1\"");
    let copy = "touch \"${3#--datadir=}.copied\"\n\
        $bin/pg_basebackup -w -X stream -c fast -D \"${3#--datadir=}\" -d \"${4#--connstring=}\"";
    script(&dir.join("copy.sh"), &format!("{bin}\n{copy}"));
    let port = site.nodes[0].postgres;
    as_postgres(&format!("exec {0}/prepare.sh {0} {port}", dir.display()));
    for node in &site.nodes {
        let text = fs::read_to_string(node.file()).unwrap();
        let log = node.dir.join("told").display().to_string();
        let text =
            text.replace("  authentication:\n", &(postgresql(&dir, &log) + "  authentication:\n"));
        let text = text.replace("postgresql:\n", &(bootstrap(&dir) + "postgresql:\n"));
        give(&node.file(), Some(&text));
    }
}

fn told(site: &Site, node: &str) -> Vec<String> {
    let text = fs::read_to_string(site.node(node).dir.join("told")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

pub(crate) fn from_a_backup_with_scripts() {
    let Some(mut site) = Site::new(&Options::default()) else { return };
    files(&site);
    let took = site.start();
    crate::say(&format!("whole, from a backup, after {} ms", took.as_millis()));
    let write = site.write_port();
    assert_eq!(numbers(&write, "SELECT n FROM kept", LIMIT), [42], "{}", site.everything());
    assert_eq!(numbers(&write, "SELECT count(*) FROM seeded", LIMIT), [0]);
    execute(&write, "INSERT INTO kept VALUES (43)", LIMIT);

    let old = site.leader().expect("a leader");
    let others = site.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != old);
    let others: Vec<String> = others.collect();
    for name in &others {
        let mark = site.node(name).dir.join("data.copied");
        assert!(mark.exists(), "{name} was copied by the user's command\n{}", site.everything());
        assert_eq!(told(&site, name), ["on_start replica many"]);
    }
    assert_eq!(told(&site, &old), ["on_start primary many"]);
    let (new, bystander) = (&others[0], &others[1]);
    let (code, out, err) = site.ctl(&["switchover", "--force", "--candidate", new]);
    assert_eq!(code, 0, "{out}{err}\n{}", site.everything());
    site.wait_whole();
    let enough = |site: &Site| told(site, &old).len() >= 3 && told(site, bystander).len() >= 2;
    site.wait_until("the scripts were not told", LIMIT, enough);
    assert_eq!(told(&site, &old)[1..], ["on_stop demoted many", "on_role_change replica many"]);
    assert_eq!(told(&site, new)[1..], ["on_role_change primary many"]);
    assert_eq!(told(&site, bystander)[1..], ["on_reload replica many"]);
    site.stop_agent(bystander);
    assert_eq!(told(&site, bystander)[2..], ["on_stop replica many"]);
    assert_eq!(numbers(&write, "SELECT n FROM kept ORDER BY 1", LIMIT), [42, 43]);
    strangers_are_refused(&site, new);
}

/// Another agent of a living member's name, and data of another cluster: each a message and an end.
fn strangers_are_refused(site: &Site, name: &str) {
    let living = site.node(name);
    let [postgres, rest]: [u16; 2] = free_ports();
    let text = fs::read_to_string(living.file()).unwrap();
    let text = text
        .replace(&living.dir.display().to_string(), &site.dir.join("twin").display().to_string());
    let text = text.replace(&format!(":{}\n", living.postgres), &format!(":{postgres}\n"));
    let twin = text.replace(&format!(":{}\n", living.rest), &format!(":{rest}\n"));
    give(&site.dir.join("twin"), None);
    let said = refused(site, &twin);
    assert!(said.contains("there is already a node named"), "{said}");

    let foreign = twin.replace(&format!("name: {name}\n"), "name: stranger\n");
    assert_ne!(foreign, twin);
    let init = "$(ls -d /usr/lib/postgresql/*/bin | tail -1)/initdb -A trust -D";
    as_postgres(&format!("{init} {}/data", site.dir.join("twin").display()));
    let said = refused(site, &foreign);
    assert!(said.contains("system ID mismatch, node stranger belongs to a different"), "{said}");
}

/// What an agent says that ends by itself, with a failure.
fn refused(site: &Site, text: &str) -> String {
    let file = site.dir.join("twin.yml");
    give(&file, Some(text));
    let mut agent = Command::new("timeout");
    let agent = agent.arg("30").arg(env!("CARGO_BIN_EXE_pgherd")).arg("agent").arg(file).output();
    let agent = agent.unwrap();
    let said = String::from_utf8_lossy(&agent.stderr).into_owned();
    assert_eq!(agent.status.code(), Some(1), "{said}");
    said + &String::from_utf8_lossy(&agent.stdout)
}

pub(crate) fn as_postgres(script: &str) {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-euc", script]).current_dir("/").stdout(std::process::Stdio::null());
    if rustix::process::geteuid().is_root() {
        use std::os::unix::process::CommandExt as _;
        let (uid, gid) = postgres_user();
        shell.uid(uid).gid(gid);
    }
    assert!(shell.status().unwrap().success(), "{script}");
}

/// A PostgreSQL that was started by hand becomes the cluster's first member, with all it has.
pub(crate) fn adopts_what_was_started_by_hand() {
    let Some(mut site) = Site::new(&Options::default()) else { return };
    let node = &site.nodes[0];
    let (dir, port) = (node.dir.display(), node.postgres);
    as_postgres(&format!(
        "cd {dir}; bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1); echo e2e-superuser > pw
         $bin/initdb -D data -U postgres --pwfile pw -A scram-sha-256
         $bin/pg_ctl -D data -w -l hand.log -o '-p {port} -k {dir}' start
         export PGPASSWORD=e2e-superuser PGHOST={dir} PGPORT={port} PGUSER=postgres
         $bin/psql -qc 'CREATE TABLE mine AS SELECT 7::bigint AS n' \
           -c \"CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'e2e-replicator'\" \
           -c \"CREATE ROLE rewind LOGIN PASSWORD 'e2e-rewind'\""
    ));
    // The others have no data, and would otherwise be as good a beginning.
    for node in &site.nodes[1..] {
        let text = fs::read_to_string(node.file()).unwrap();
        let (before, rest) = text.split_once("bootstrap:\n").unwrap();
        let (_, after) = rest.split_once("postgresql:\n").unwrap();
        give(&node.file(), Some(&format!("{before}postgresql:\n{after}")));
    }
    let took = site.start();
    crate::say(&format!("whole, around data that was there, after {} ms", took.as_millis()));
    assert_eq!(numbers(&site.write_port(), "SELECT n FROM mine", LIMIT), [7]);
    assert_eq!(site.leader().as_deref(), Some("node1"));
    let log = fs::read_to_string(site.nodes[0].log()).unwrap();
    assert!(log.contains("started again under a guard"), "{log}");
}

/// A PostgreSQL with settings of its own becomes a node by what `--generate-config` makes of it.
pub(crate) fn a_node_from_generated_settings() {
    let Some(mut site) = Site::new(&Options::default()) else { return };
    let node = &site.nodes[0];
    let (dir, port, rest) = (node.dir.display().to_string(), node.postgres, node.rest);
    as_postgres(&format!(
        "cd {dir}; bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1); echo e2e-superuser > pw
         $bin/initdb -D data -U postgres --pwfile pw -A scram-sha-256 > /dev/null
         printf '%s\n' 'work_mem = 7MB' 'max_connections = 77' \"listen_addresses = '127.0.0.1'\" \
           'port = {port}' \"unix_socket_directories = '{dir}'\" >> data/postgresql.conf
         printf '%s\n' 'host replication all 127.0.0.1/32 scram-sha-256 # mine' >> data/pg_hba.conf
         $bin/pg_ctl -D data -w -l hand.log start > /dev/null
         export PGPASSWORD=e2e-superuser PGHOST={dir} PGPORT={port} PGUSER=postgres
         $bin/psql -qc 'CREATE TABLE mine AS SELECT 7::bigint AS n' \
           -c \"CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'e2e-replicator'\" \
           -c \"CREATE ROLE rewind LOGIN PASSWORD 'e2e-rewind'\""
    ));
    let original = fs::read_to_string(node.file()).unwrap();
    fs::remove_file(node.file()).unwrap();
    let generate = |dsn: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgherd"));
        command.args(["agent", "--generate-config"]).arg(node.file()).args(["--dsn", dsn]);
        command.output().unwrap()
    };
    let refused = generate(&format!(
        "host={dir} port={port} user=replicator password=e2e-replicator dbname=postgres"
    ));
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    let made = generate(&format!("host={dir} port={port} user=postgres password=e2e-superuser"));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(generate("host=x").status.code(), Some(2), "nothing is overwritten");
    let text = fs::read_to_string(node.file()).unwrap();
    for line in [
        "max_connections: '77'",
        "work_mem: 7MB",
        "username: replicator",
        "data_dir:",
        "host replication all 127.0.0.1/32 scram-sha-256",
        "bin_dir: /usr/lib/postgresql/",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let mut check = Command::new(env!("CARGO_BIN_EXE_pgherd"));
    let check = check.arg("check-config").arg(node.file()).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success(), "{said}\n{text}");
    // What only a person knows: the members' store and ports, one secret, and the passwords.
    let store = original.split("etcd3:").nth(1).unwrap().split("bootstrap:").next().unwrap();
    let host_of_store = store.trim().trim_start_matches("hosts: [").trim_end_matches(']');
    let secret = text.lines().find(|line| line.contains("peer_secret: ")).unwrap();
    let text = text
        .replace("127.0.0.1:2379", host_of_store.split(',').next().unwrap())
        .replace("127.0.0.1:8008", &format!("127.0.0.1:{rest}"))
        .replace("scope: pgherd", "scope: many")
        .replace(secret, &format!("  peer_secret: e2e-peers\n  run_dir: {dir}/run"))
        .replace("password: change-me", "password: e2e-replicator");
    let name = text.lines().find(|line| line.starts_with("name: ")).unwrap().to_owned();
    give(&node.file(), Some(&text.replace(&name, "name: node1")));
    for node in &site.nodes[1..] {
        let text = fs::read_to_string(node.file()).unwrap();
        let (before, rest) = text.split_once("bootstrap:\n").unwrap();
        let (_, after) = rest.split_once("postgresql:\n").unwrap();
        give(&node.file(), Some(&format!("{before}postgresql:\n{after}")));
    }
    site.start();
    assert_eq!(numbers(&site.write_port(), "SELECT n FROM mine", LIMIT), [7]);
    assert_eq!(site.leader().as_deref(), Some("node1"));
    let setting = "SELECT setting::bigint FROM pg_settings WHERE name = 'max_connections'";
    assert_eq!(numbers(&site.write_port(), setting, LIMIT), [77]);
    let setting = "SELECT setting::bigint FROM pg_settings WHERE name = 'work_mem'";
    assert_eq!(numbers(&site.write_port(), setting, LIMIT), [7168]);
}
