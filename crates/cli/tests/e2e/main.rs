//! Whole clusters on real PostgreSQL: what a user does with them, and what happens to them.
//! One at a time, each in its own directory with its own ports; the longest gaps are printed and
//! never judged, broken promises fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on fails")]

mod archive;
mod cascade;
#[path = "../../../store/tests/it/certificates.rs"]
mod certificates;
mod configure;
mod damaged;
mod dashboard;
mod emptied;
mod guide;
mod herd;
mod leave;
mod lifecycle;
mod many;
mod mixed;
mod names;
mod patroni;
mod patronictl;
mod processes;
mod record;
mod round;
mod scheduled;
mod slots;
mod standby;
mod surroundings;
mod term;
mod tls;
mod unanswered;
mod writer;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};

use herd::{Fault, Herd};
use many::{Options, Site};
use round::{make_table, round, verify, write_port};
use writer::{Writer, config, execute, longest_gap, numbers};

const LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Two clusters at once would measure each other.
    arguments.test_threads = Some(1);
    let test = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    let mut tests = vec![
        test("bootstrap_writes_and_reads", bootstrap_writes_and_reads),
        test("dashboard_follows_a_failover", dashboard::follows_a_failover),
        test("edit_config_reaches_every_node", configure::edit_config_reaches_every_node),
        test("no_commit_waits_for_who_leaves", leave::no_commit_waits_for_who_leaves),
        test("ctrl_c_and_up_again", ctrl_c_and_up_again),
        test("kill_9_of_everything_and_up_again", kill_9_of_everything_and_up_again),
        test("kill_9_of_up_alone", kill_9_of_up_alone),
        test("kill_9_of_all_but_postgresql", kill_9_of_all_but_postgresql),
        test("a_failovers_record_replays", record::a_failovers_record_replays),
        test("many_machines_on_etcd", many_machines_on_etcd),
        test("cascades_and_archives", cascade::cascades_and_archives),
        test("a_cluster_follows_another_one", standby::a_cluster_follows_another_one),
        test("a_cluster_follows_an_archive", archive::a_cluster_follows_an_archive),
        test(
            "what_is_removed_from_the_store_comes_back",
            emptied::what_is_removed_from_the_store_comes_back,
        ),
        test("a_damaged_pg_control_costs_the_lead", damaged::a_damaged_pg_control_costs_the_lead),
        test("names_cant_be_looked_up", names::names_cant_be_looked_up),
        test("nobody_comes_in_without_tls", tls::nobody_comes_in_without_tls),
        test("the_guide_step_by_step", guide::the_guide_step_by_step),
        test("from_a_backup_with_scripts", lifecycle::from_a_backup_with_scripts),
        test("adopts_what_was_started_by_hand", lifecycle::adopts_what_was_started_by_hand),
        test("patroni_and_pgherd_in_one_cluster", patroni::patroni_and_pgherd_in_one_cluster),
        test("an_agent_and_what_surrounds_it", surroundings::an_agent_and_what_surrounds_it),
        test("the_first_process_of_a_container", surroundings::the_first_process_of_a_container),
        test("a_node_from_generated_settings", lifecycle::a_node_from_generated_settings),
        test("the_routers_term_check", term::the_routers_term_check),
        test(
            "who_connects_to_a_frozen_leader_gets_the_next",
            unanswered::who_connects_to_a_frozen_leader_gets_the_next,
        ),
        test(
            "what_is_planned_happens_at_its_moment",
            scheduled::what_is_planned_happens_at_its_moment,
        ),
        test("a_logical_slot_survives_failovers", slots::a_logical_slot_survives_failovers),
        test("patronictl", patronictl::works_and_looks_alike),
    ];
    tests.extend(Fault::ALL.map(|fault| {
        Trial::test(fault.name(), move || {
            survives(fault);
            Ok(())
        })
    }));
    libtest_mimic::run(&arguments, tests).exit_code()
}

fn started() -> Herd {
    let mut herd = Herd::new(Path::new(env!("CARGO_BIN_EXE_pgherd")));
    let took = herd.start();
    say(&format!("whole after {} ms", took.as_millis()));
    make_table(&herd);
    herd
}

fn say(words: &str) {
    use std::io::Write;
    // Not through the test's captured output: these numbers are what people run it for.
    let _ = writeln!(std::io::stderr(), "    {words}");
}

fn bootstrap_writes_and_reads() {
    let herd = started();
    let write = write_port(&herd);
    execute(&write, "INSERT INTO acks SELECT generate_series(1, 100)", LIMIT);
    let read = config(herd.ports[1], &herd.password());
    // A replica follows within moments; every session of the read port must end on one.
    for _ in 0..4 {
        let until = std::time::Instant::now() + LIMIT;
        while numbers(&read, "SELECT count(*) FROM acks", LIMIT) != [100] {
            assert!(std::time::Instant::now() < until, "the replica never shows the rows");
        }
        let recovery = "SELECT pg_is_in_recovery()::int::bigint";
        assert_eq!(numbers(&read, recovery, LIMIT), [1]);
    }
    assert_eq!(numbers(&write, "SELECT pg_is_in_recovery()::int::bigint", LIMIT), [0]);
    for setting in ["data_checksums", "hot_standby"] {
        let query = format!("SELECT (current_setting('{setting}') = 'on')::int::bigint");
        assert_eq!(numbers(&write, &query, LIMIT), [1], "{setting}");
    }
    let scram = "SELECT (rolpassword LIKE 'SCRAM-SHA-256%')::int::bigint FROM pg_authid \
                 WHERE rolname = 'postgres'";
    assert_eq!(numbers(&write, scram, LIMIT), [1]);
    looks_like_patronictl(&herd);
    second_up_is_refused(&herd);
}

fn looks_like_patronictl(herd: &Herd) {
    let (code, out, err) = herd.ctl(&["list"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("+ Cluster: pgherd ("), "{out}");
    assert!(out.contains("| Member | Host "), "{out}");
    assert_eq!(out.matches("Quorum Standby").count(), 2, "{out}");
    let (code, out, _) = herd.ctl(&["explain"]);
    assert_eq!(code, 0);
    assert!(out.contains("primary, with the leader key"), "{out}");
    let (code, out, _) = herd.ctl(&["dsn"]);
    assert!(code == 0 && out.starts_with("host=127.0.0.1 port="), "{out}");
    let (code, out, err) =
        herd.ctl(&["edit-config", "-s", "maximum_lag_on_failover=2097152", "--force"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("+maximum_lag_on_failover: 2097152"), "{out}");
    let (_, out, _) = herd.ctl(&["show-config"]);
    assert!(out.contains("maximum_lag_on_failover: 2097152"), "{out}");
}

fn second_up_is_refused(herd: &Herd) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pgherd"))
        .args(["up", "--dir"])
        .arg(&herd.dir)
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("another 'pgherd up' (process "), "{err}");
}

fn ctrl_c_and_up_again() {
    let mut herd = started();
    execute(&write_port(&herd), "INSERT INTO acks SELECT generate_series(1, 1000)", LIMIT);
    let leader = herd.leader();
    let took = herd.interrupt();
    say(&format!("stopped after {} ms", took.as_millis()));
    let took = herd.start();
    say(&format!("whole again after {} ms", took.as_millis()));
    assert_eq!(numbers(&write_port(&herd), "SELECT count(*) FROM acks", LIMIT), [1000]);
    assert_eq!(herd.leader(), leader, "an orderly stop is no reason for another leader");
    // The timeline only grows by promotions, and there was none.
    let timeline = "SELECT timeline_id::bigint FROM pg_control_checkpoint()";
    assert_eq!(numbers(&write_port(&herd), timeline, LIMIT), [1]);
}

fn kill_9_of_everything_and_up_again() {
    let mut herd = started();
    execute(&write_port(&herd), "INSERT INTO acks SELECT generate_series(1, 1000)", LIMIT);
    herd.kill_everything();
    let took = herd.start();
    say(&format!("whole again after {} ms", took.as_millis()));
    assert_eq!(numbers(&write_port(&herd), "SELECT count(*) FROM acks", LIMIT), [1000]);
    execute(&write_port(&herd), "INSERT INTO acks VALUES (1001)", LIMIT);
}

/// Its children notice, and stop in order by themselves.
fn kill_9_of_up_alone() {
    let mut herd = started();
    execute(&write_port(&herd), "INSERT INTO acks SELECT generate_series(1, 1000)", LIMIT);
    herd.kill_up(false);
    let took = herd.start();
    say(&format!("whole again after {} ms", took.as_millis()));
    assert_eq!(numbers(&write_port(&herd), "SELECT count(*) FROM acks", LIMIT), [1000]);
}

/// PostgreSQL lives on under its guards, and the next agents adopt it.
fn kill_9_of_all_but_postgresql() {
    let mut herd = started();
    let born = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";
    let before = numbers(&write_port(&herd), born, LIMIT);
    herd.kill_up(true);
    let took = herd.start();
    say(&format!("whole again after {} ms", took.as_millis()));
    assert_eq!(numbers(&write_port(&herd), born, LIMIT), before, "PostgreSQL was restarted");
    execute(&write_port(&herd), "INSERT INTO acks VALUES (1)", LIMIT);
}

/// Three agents, a router and a real etcd with TLS and authentication: it comes up, switches over,
/// and keeps its primary when etcd's leader dies.
fn many_machines_on_etcd() {
    let secure = Options { secure: true, ..Options::default() };
    let Some(mut site) = Site::new(&secure) else { return };
    let took = site.start();
    say(&format!("whole after {} ms", took.as_millis()));
    let write = site.write_port();
    execute(&write, "CREATE TABLE acks (n bigint PRIMARY KEY)", LIMIT);
    let before = site.leader().expect("a leader");
    let (code, out, err) = site.ctl(&["switchover", "--force"]);
    assert_eq!(code, 0, "{out}{err}\n{}", site.everything());
    site.wait_whole();
    let leader = site.leader().expect("a leader");
    assert_ne!(before, leader);
    // From here on nothing may change but etcd's leader.
    let timeline = "SELECT timeline_id::bigint FROM pg_control_checkpoint()";
    let promoted = numbers(&write, timeline, LIMIT);
    let writer = Writer::start(write.clone(), 1);
    let killed = site.kill_etcd_leader();
    say(&format!("etcd's leader was {}", site.etcd[killed].name));
    // Longer than a term and an election of etcd's together: whoever would lose it has lost it.
    std::thread::sleep(Duration::from_secs(8));
    // Tools know one endpoint only, and it may be the dead one.
    site.start_etcd(killed);
    site.wait_whole();
    let acknowledged = writer.finish();
    verify(&write, &acknowledged, || site.everything());
    say(&format!("longest gap {} ms", longest_gap(&acknowledged).as_millis()));
    assert_eq!(site.leader().as_ref(), Some(&leader), "{}", site.everything());
    assert_eq!(numbers(&write, timeline, LIMIT), promoted, "{}", site.everything());
    site.stop_agent(&before);
    // The guard is the last to go, a moment after its agent.
    site.wait_until("an orderly stop leaves something", Duration::from_secs(5), |site| {
        site.node(&before).processes().is_empty()
    });
    a_wrong_password_is_said(&site, &before);
    site.start_agent(&before);
    site.wait_whole();
}

/// By the agent, the router and `ctl`, at once and without the password.
fn a_wrong_password_is_said(site: &Site, node: &str) {
    let right = std::fs::read_to_string(site.node(node).file()).unwrap();
    let file = site.node(node).dir.join("wrong.yml");
    many::give(&file, Some(&right.replace("e2e-etcd", "e2e-wrong")));
    let router = site.dir.join("wrong-router.yml");
    let text = std::fs::read_to_string(site.router_file()).unwrap();
    let text = text.replace("e2e-etcd", "e2e-wrong");
    // The site's own router has the ports.
    let text = text.replace("write: 127.0.0.1", "write: 127.0.0.2");
    many::give(&router, Some(&text.replace("read: 127.0.0.1", "read: 127.0.0.2")));
    let path = |path: &Path| path.display().to_string();
    for words in [
        vec!["agent".to_owned(), path(&file)],
        vec!["router".to_owned(), path(&router)],
        vec!["ctl".to_owned(), "-c".to_owned(), path(&file), "list".to_owned()],
    ] {
        let begin = std::time::Instant::now();
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_pgherd")).args(&words).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {err}");
        assert!(err.contains("user or password is wrong"), "{words:?}: {err}");
        assert!(!err.contains("e2e-wrong"), "{words:?}: {err}");
        assert!(begin.elapsed() < LIMIT, "{words:?} took {:?}", begin.elapsed());
    }
}

fn survives(fault: Fault) {
    let mut herd = started();
    let outcome = round(&mut herd, fault, 1);
    say(&format!(
        "{}: longest gap {} ms, {} -> {}, whole after {} ms, {} acknowledged",
        fault.name(),
        outcome.longest_gap.as_millis(),
        outcome.leader_before,
        outcome.leader_after,
        outcome.whole_after.as_millis(),
        outcome.acknowledged,
    ));
    if fault == Fault::Switchover {
        assert_ne!(outcome.leader_before, outcome.leader_after);
    }
    if fault == Fault::KillPostmaster {
        // The agents' own probes wait and are ended; nobody is to be warned of those.
        let said = herd.logged("synchronous waits were cancelled");
        assert!(said.is_empty(), "{said:?}");
    }
}
