//! The binary from outside: help, mistakes in arguments, and what `up` refuses before it changes
//! anything. Nothing here starts PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod config;
mod log;
mod systemd;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn pgherd(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgherd"))
        .args(words)
        .env_remove("DCS_URL")
        .env_remove("PATRONICTL_CONFIG_FILE")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit code 2, with these words on standard error and nothing on standard output.
#[track_caller]
fn refused(words: &[&str], expected: &str) {
    let output = pgherd(words);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(expected), "expected {expected:?} in:\n{said}");
    assert_eq!(stdout(&output), "");
}

/// A directory that everybody can enter, as PostgreSQL's user has to.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Three ports that nobody has, so that only what a test is about is wrong.
fn ports() -> [String; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port().to_string())
}

fn up_refused(dir: &Path, more: &[&str], expected: &str) {
    let [write, read, http] = ports();
    let mut words = vec!["up", "--dir", text(dir), "--write-port", &write];
    words.extend(["--read-port", &read, "--http-port", &http]);
    words.extend(more);
    refused(&words, expected);
}

#[test]
fn help_names_every_command_and_hides_the_guard() {
    let output = pgherd(&["--help"]);
    let help = stdout(&output);
    assert!(output.status.success());
    for command in
        ["up", "ctl", "agent", "router", "store", "check-config", "explain-config", "version"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
    assert!(!help.contains("guard"), "{help}");
    let ctl = stdout(&pgherd(&["ctl", "--help"]));
    // patronictl's, and one of ours.
    let commands = "demote-cluster dsn edit-config failover flush history list pause promote-cluster \
                    query reinit reload remove restart resume show-config switchover topology version \
                    explain";
    for command in commands.split(' ') {
        assert!(ctl.contains(&format!("\n  {command} ")), "{command}: {ctl}");
        assert!(pgherd(&["ctl", command, "--help"]).status.success(), "{command}");
    }
}

#[test]
fn version_is_said_both_ways() {
    let expected = format!("pgherd {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&pgherd(&["version"])), expected);
    assert_eq!(stdout(&pgherd(&["--version"])), expected);
}

#[test]
fn mistakes_in_arguments_exit_with_2() {
    refused(&["up", "--nodes", "12"], "12 is not in 1..=9");
    refused(&["up", "--mode", "semi"], "possible values: async, sync, quorum");
    refused(&["store", "--dir", "/nonexistent"], "nothing to serve on");
    refused(&["agent", "/nonexistent.yml"], "/nonexistent.yml: the settings file can't be read");
    refused(
        &["ctl", "--dir", "/nonexistent", "switchover", "--scheduled", "soon"],
        "--scheduled: Unable to parse scheduled timestamp (soon)",
    );
    refused(&["ctl", "--dir", "/nonexistent", "list"], "there is no cluster of 'pgherd up'");
    refused(&["ctl", "-d", "consul://h:1", "list"], "expected etcd3://HOST:PORT");
}

#[test]
fn a_settings_file_gets_all_its_mistakes_named() {
    let dir = open_dir();
    let file = dir.path().join("router.yml");
    fs::write(&file, "scop: demo\netcd3: {hosts: 'nowhere:x'}\nwrite: 127.0.0.1:5432\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = pgherd(&["router", text(&file)]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("router.yml:1: scope: this key is needed"), "{said}");
    assert!(said.contains("router.yml:1: scop: unknown key; did you mean 'scope'?"), "{said}");
    assert!(said.contains("etcd3.hosts: expected HOST:PORT"), "{said}");
}

#[test]
fn up_names_a_taken_port_and_changes_nothing() {
    let dir = open_dir();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let herd = dir.path().join("herd");
    let [write, read, _] = ports();
    let words =
        ["up", "--dir", text(&herd), "--write-port", &write, "--read-port", &read, "--http-port"];
    let words: Vec<&str> = words.into_iter().collect();
    let port_text = port.to_string();
    let words: Vec<&str> = words.into_iter().chain([port_text.as_str()]).collect();
    refused(
        &words,
        &format!("--http-port: port {port} is taken; `ss -ltnp 'sport = :{port}'` shows by whom"),
    );
    assert!(!herd.exists());
}

#[test]
fn up_refuses_a_directory_of_somebody_else() {
    let dir = open_dir();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    up_refused(dir.path(), &[], "it has no cluster.json, and 'notes.txt' is in it");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "nothing was added");
}

#[test]
fn up_refuses_a_directory_that_cant_be_reached_or_made() {
    let dir = open_dir();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    // As root the way for PostgreSQL's user is missing, as anybody else one's own right to write.
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    let herd = closed.join("herd");
    let root =
        fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap() == 0;
    let expected = if root {
        format!("'{}' can't be entered by the user 'postgres'", closed.display())
    } else {
        format!("can't be made below {}", closed.display())
    };
    up_refused(&herd, &[], &expected);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    up_refused(&file, &[], "expected a directory, found a file");
}

#[test]
fn up_says_which_programs_are_missing() {
    let dir = open_dir();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let herd = dir.path().join("herd");
    up_refused(&herd, &["--pg-bin", text(&bin)], "lacks initdb, postgres, pg_ctl");
    assert!(!herd.exists());
}

#[test]
fn up_names_every_problem_at_once() {
    let dir = open_dir();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let [write, _, http] = ports();
    let words = ["up", "--dir", text(dir.path()), "--write-port", &write, "--read-port", &write];
    let words: Vec<&str> = words.into_iter().chain(["--http-port", &http]).collect();
    let said = stderr(&pgherd(&words));
    assert!(said.contains("'notes.txt' is in it"), "{said}");
    assert!(said.contains("is given to --write-port already"), "{said}");
}

#[test]
fn up_refuses_to_turn_a_cluster_into_another() {
    let dir = open_dir();
    let marker = serde_json::json!({
        "version": 1, "scope": "demo", "mode": "quorum", "write_port": 5432, "read_port": 5433,
        "http_port": 7000, "created": "2026-01-01T00:00:00Z",
        "nodes": [{"name": "node1", "postgres": 15442, "rest": 18008}],
    });
    let file = dir.path().join("cluster.json");
    fs::write(&file, marker.to_string()).unwrap();
    up_refused(dir.path(), &["--nodes", "5"], "has 1 nodes, and 5 were asked for");
    up_refused(dir.path(), &["--mode", "async"], "edit-config -s synchronous_mode=off");
    up_refused(dir.path(), &["--name", "other"], "is called 'demo', not 'other'");
    fs::write(&file, marker.to_string().replace("\"version\":1", "\"version\":99")).unwrap();
    up_refused(dir.path(), &[], "it has version 99, and this pgherd knows 1 only");
}
