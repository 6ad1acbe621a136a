//! One node by itself: init, start, facts, stop, restart of the agent, a full disk.

use std::time::Duration;

use libtest_mimic::Trial;
use pgherd_core::postgres::{
    BrokenData, ControlState, PgFailureKind, PgOp, PgOpResult, PgState, SyncNames,
};
use pgherd_core::{Lsn, NodeName, Term, Time, Timeline};
use pgherd_guard::{NEVER, boottime_micros};
use pgherd_postgres::{Found, PgError, Server, discover, read_control};

use crate::node::{Herd, PASSWORD, list, small_file_system};
use crate::trial;

pub(crate) fn add(trials: &mut Vec<Trial>) {
    trial(trials, "discover_says_what_is_missing", discover_says_what_is_missing);
    trial(trials, "init_start_facts_stop", init_start_facts_stop);
    trial(trials, "pg_control_agrees_with_pg_controldata", control_agrees);
    trial(trials, "no_secret_is_readable", no_secret_is_readable);
    trial(trials, "its_home_is_open_to_it", its_home_is_open_to_it);
    trial(trials, "a_strict_primary_waits_from_the_start", strict_from_the_start);
    trial(trials, "names_from_empty_and_back", names_from_empty_and_back);
    trial(trials, "agent_restart_adopts", agent_restart_adopts);
    trial(trials, "one_agent_per_directory", one_agent_per_directory);
    trial(trials, "left_behind_is_found_and_stopped", left_behind);
    trial(trials, "an_interrupted_rewind_is_broken", interrupted_rewind);
    trial(trials, "init_never_overwrites", init_never_overwrites);
    trial(trials, "a_bad_parameter_is_named_and_left_out", bad_parameter);
    trial(trials, "a_stale_pid_file_is_no_obstacle", stale_pid_file);
    trial(trials, "empty_lock_files_are_no_obstacle", empty_lock_files);
    trial(trials, "alter_system_cannot_take_over", alter_system);
    trial(trials, "slots", slots);
    trial(trials, "a_full_disk_is_told_apart", full_disk);
}

async fn discover_says_what_is_missing() {
    let herd = Herd::new();
    let node = herd.settings("n1");
    assert!((13..=18).contains(&node.bin.major) && node.bin.version.starts_with(char::is_numeric));
    let error = discover(Some(std::path::Path::new("/nonexistent"))).unwrap_err().to_string();
    assert!(error.contains("/nonexistent") && error.contains("pg_rewind"), "{error}");
}

async fn init_start_facts_stop() {
    let herd = Herd::new();
    let node = herd.node("n1").await;
    assert_eq!(node.found, Found::Nothing);
    assert_eq!(node.state().await, PgState::Absent);
    node.done(PgOp::Init).await;
    let PgState::Stopped(control) = node.state().await else { panic!("not stopped") };
    assert_eq!((control.state, control.timeline), (ControlState::ShutDown, Timeline(1)));
    assert_eq!(control.instance, node.server.instance().unwrap());

    let refused = node.execute(PgOp::StartPrimary { names: list(&[]) }).await;
    let PgOpResult::Failed(failure) = refused else { panic!("started unarmed: {refused:?}") };
    assert!(failure.detail.contains("armed"), "{}", failure.detail);
    node.arm_for_ever();
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
    let running = node.running().await;
    assert_eq!((running.system_id, running.timeline), (control.system_id, Timeline(1)));
    let primary = node.as_primary().await;
    assert_eq!(primary.names, SyncNames::default());
    assert!(primary.flushed > control.checkpoint && primary.senders.is_empty());
    assert!(primary.history.is_empty());
    let begin = std::time::Instant::now();
    for _ in 0..100 {
        node.running().await;
    }
    eprintln!("    facts: {} us", begin.elapsed().as_micros() / 100);

    node.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)").await;
    node.done(PgOp::Stop).await;
    let PgState::Stopped(control) = node.state().await else { panic!("not stopped") };
    assert_eq!(control.state, ControlState::ShutDown);
    assert!(control.checkpoint >= primary.flushed);
    assert_eq!(node.living(), Vec::<i32>::new());
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
    assert_eq!(node.sql("SELECT count(*) FROM t").await, "1000");
}

async fn control_agrees() {
    let herd = Herd::new();
    let node = herd.node("n1").await;
    node.done(PgOp::Init).await;
    let control = read_control(&node.settings.data_dir).unwrap();
    let tool = node.settings.bin.program("pg_controldata");
    let mut tool = std::process::Command::new(tool);
    let output = tool.env("LC_ALL", "C").arg(&node.settings.data_dir).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let says = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    assert_eq!(says("Database system identifier"), control.system_id.to_string());
    assert_eq!(says("Database cluster state"), "shut down");
    assert_eq!(says("Latest checkpoint location"), control.checkpoint.to_string());
    assert_eq!(says("Latest checkpoint's REDO location"), control.redo.to_string());
    assert_eq!(says("Latest checkpoint's TimeLineID"), control.timeline.to_string());
    assert_eq!(says("Bytes per WAL segment"), control.wal_segment_size.to_string());
    assert!(control.data_checksums && control.min_recovery_end == Lsn::ZERO);
    for (name, value) in control.least {
        let name = if name == "max_prepared_transactions" { "max_prepared_xacts" } else { name };
        let name = if name == "max_locks_per_transaction" { "max_locks_per_xact" } else { name };
        assert_eq!(says(&format!("{name} setting")), value.to_string());
    }
}

async fn no_secret_is_readable() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    for pid in node.living() {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&bytes).contains(PASSWORD), "{pid} {file}");
        }
    }
    let log = std::fs::read_to_string(&node.settings.log_file).unwrap();
    assert!(!log.contains(PASSWORD));
    assert!(!format!("{:?}", node.settings).contains(PASSWORD));
    assert!(!node.settings.run_dir.join("initdb.password").exists());
    // Stored as verifiers, and the passwords work over TCP.
    let query = "SELECT count(*)::text FROM pg_authid WHERE rolpassword LIKE 'SCRAM-SHA-256$%'";
    assert_eq!(node.sql(query).await, "3");
}

/// Also where root's environment came along: a receiver makes no TLS where it may not look for files.
async fn its_home_is_open_to_it() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    let client = node.client().await;
    let look = "CREATE TABLE found (home text); COPY found FROM PROGRAM 'cd && pwd'";
    client.batch_execute(look).await.unwrap();
}

async fn strict_from_the_start() {
    let herd = Herd::new();
    let node = herd.primary("n1", &["n2"]).await;
    assert_eq!(node.as_primary().await.names, list(&["n2"]));
    let client = node.client().await;
    let write = client.simple_query("CREATE TABLE t ()");
    assert!(tokio::time::timeout(Duration::from_millis(300), write).await.is_err());
    // The server still obeys while clients wait.
    node.done(PgOp::SetNames { names: list(&["n3"]) }).await;
    node.done(PgOp::Stop).await;
}

async fn names_from_empty_and_back() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    node.sql("CREATE TABLE t ()").await;
    for _ in 0..3 {
        node.done(PgOp::SetNames { names: list(&["n2", "n3"]) }).await;
        let client = node.client().await;
        let write = client.simple_query("INSERT INTO t DEFAULT VALUES");
        let waited = tokio::time::timeout(Duration::from_millis(100), write).await;
        assert!(waited.is_err(), "the first commit after SetNames waited for nobody");
        node.done(PgOp::SetNames { names: list(&[]) }).await;
        node.sql("INSERT INTO t DEFAULT VALUES").await;
    }
}

async fn agent_restart_adopts() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    let client = node.client().await;
    let instance = node.server.instance().unwrap();
    assert!(node.server.arm(Term(5), Time(NEVER - 1)));
    let pids = node.living();
    let settings = node.agent_ends().await;
    client.simple_query("SELECT 1").await.unwrap();

    let node = herd.open(settings).await;
    assert_eq!(node.found, Found::Adopted { term: Term(5), deadline: Time(NEVER - 1) });
    assert_eq!(node.living()[0], pids[0]);
    node.as_primary().await;
    client.simple_query("SELECT 1").await.unwrap();
    assert_eq!(node.server.instance().unwrap(), instance);
    // Everything works as before: change, arm, exit notice.
    node.done(PgOp::SetNames { names: list(&["n2"]) }).await;
    assert!(node.server.arm(Term(6), Time(boottime_micros() + 200_000)));
    tokio::time::timeout(Duration::from_secs(5), node.server.exited()).await.unwrap();
    node.server.empty().await;
    assert_eq!(node.living(), Vec::<i32>::new());
    assert!(!matches!(node.state().await, PgState::Running(_)));
}

async fn one_agent_per_directory() {
    let herd = Herd::new();
    let node = herd.node("n1").await;
    let second = Server::open(node.settings.clone(), herd.peers()).await;
    assert!(matches!(second, Err(PgError::Locked { .. })));
}

async fn left_behind() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    let settings = node.agent_ends().await;
    // As if started by somebody else: no registration.
    std::fs::remove_file(settings.run_dir.join("guard")).unwrap();
    let node = herd.open(settings).await;
    assert!(matches!(node.found, Found::Unguarded { .. }), "{:?}", node.found);
    assert!(matches!(node.state().await, PgState::NotAccepting(_)));
    node.done(PgOp::Stop).await;
    let PgState::Stopped(control) = node.state().await else { panic!("not stopped") };
    assert_eq!(control.state, ControlState::ShutDown, "stopped in order");
}

async fn interrupted_rewind() {
    let herd = Herd::new();
    let node = herd.node("n1").await;
    node.done(PgOp::Init).await;
    let mark = node.settings.data_dir.with_extension("rewinding");
    std::fs::write(&mark, "").unwrap();
    assert_eq!(node.state().await, PgState::Broken(BrokenData::RewindInterrupted));
    node.arm_for_ever();
    let started = node.execute(PgOp::StartPrimary { names: list(&[]) }).await;
    assert!(matches!(started, PgOpResult::Failed(_)), "{started:?}");
    std::fs::remove_file(&mark).unwrap();
    std::fs::write(node.settings.data_dir.join("global/pg_control"), [0; 8192]).unwrap();
    assert_eq!(node.state().await, PgState::Broken(BrokenData::ControlFile));
}

async fn init_never_overwrites() {
    let herd = Herd::new();
    let node = herd.node("n1").await;
    std::fs::create_dir(&node.settings.data_dir).unwrap();
    std::fs::write(node.settings.data_dir.join("precious"), "").unwrap();
    let result = node.execute(PgOp::Init).await;
    assert!(matches!(result, PgOpResult::Failed(_)), "{result:?}");
    assert!(node.settings.data_dir.join("precious").exists());
}

async fn bad_parameter() {
    let herd = Herd::new();
    let mut settings = herd.settings("n1");
    settings.wanted.primary.parameters.insert("work_mem".into(), "a lot".into());
    let node = herd.open(settings).await;
    node.done(PgOp::Init).await;
    node.arm_for_ever();
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
    assert_eq!(node.sql("SHOW work_mem").await, "4MB");
    let problems = node.server.bring().await.unwrap();
    assert!(problems[0].contains("work_mem") && problems[0].contains("a lot"), "{problems:?}");
    // What only a start can show fails in PostgreSQL's own words.
    node.done(PgOp::Stop).await;
    let base = node.settings.data_dir.join("postgresql.base.conf");
    std::fs::write(base, "shared_preload_libraries = 'no_such_library'\n").unwrap();
    let result = node.execute(PgOp::StartPrimary { names: list(&[]) }).await;
    let PgOpResult::Failed(failure) = result else { panic!("{result:?}") };
    assert_eq!(failure.kind, PgFailureKind::ToolFailed);
    assert!(failure.detail.contains("FATAL"), "{}", failure.detail);
}

async fn stale_pid_file() {
    let herd = Herd::new();
    let node = herd.node("n1").await;
    node.done(PgOp::Init).await;
    node.arm_for_ever();
    // The pid of a living process that is no PostgreSQL: this one.
    let text = format!("{}\n{}\n", std::process::id(), node.settings.data_dir.display());
    std::fs::write(node.settings.data_dir.join("postmaster.pid"), text).unwrap();
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
}

/// What a postmaster leaves that is killed between making a lock file and filling it.
async fn empty_lock_files() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    node.done(PgOp::Stop).await;
    let socket = format!(".s.PGSQL.{}.lock", node.settings.port);
    std::fs::write(node.settings.socket_dir.join(socket), "").unwrap();
    std::fs::write(node.settings.data_dir.join("postmaster.pid"), "").unwrap();
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
}

async fn alter_system() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    node.sql("ALTER SYSTEM SET synchronous_standby_names = 'evil'").await;
    node.sql("ALTER SYSTEM SET work_mem = '7MB'").await;
    node.done(PgOp::SetNames { names: list(&["n2"]) }).await;
    assert_eq!(node.as_primary().await.names, list(&["n2"]));
    assert_eq!(node.sql("SHOW work_mem").await, "7MB");
    assert_eq!(node.sql("SHOW cluster_name").await, "it's a: test");
}

async fn slots() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    let name = |name| NodeName::new(name).unwrap();
    let there = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";
    node.sql("SELECT pg_create_physical_replication_slot('theirs')").await;
    node.done(PgOp::EnsureSlots { nodes: vec![name("n-2"), name("N3")] }).await;
    assert_eq!(node.sql(there).await, "n3,n_2,theirs");
    node.done(PgOp::EnsureSlots { nodes: vec![name("n-2"), name("N3")] }).await;
    node.done(PgOp::EnsureSlots { nodes: vec![name("N3")] }).await;
    assert_eq!(node.sql(there).await, "n3,n_2,theirs", "who may drop is asked elsewhere");
}

async fn full_disk() {
    let Some(small) = small_file_system().await else { return };
    let herd = Herd::new();
    let place = small.path.join("full");
    let node = herd.open(herd.settings_in("n1", &place)).await;
    let filler = small.path.join("filler");
    let fill = || std::fs::write(&filler, vec![0; 200 << 20]).unwrap_err();
    let full = |result: PgOpResult| {
        let PgOpResult::Failed(failure) = result else { panic!("{result:?}") };
        assert_eq!(failure.kind, PgFailureKind::DiskFull, "{}", failure.detail);
    };
    fill();
    full(node.execute(PgOp::Init).await);
    std::fs::remove_file(&filler).unwrap();
    node.done(PgOp::Init).await;
    node.arm_for_ever();
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
    node.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)").await;
    fill();
    // The failure comes with the next WAL segment: a PANIC, and recovery needs room too.
    let client = node.client().await;
    let switch = "INSERT INTO t VALUES (1); SELECT pg_switch_wal(); INSERT INTO t VALUES (1)";
    while client.simple_query(switch).await.is_ok() {}
    node.until("crashed", async || !matches!(node.state().await, PgState::Running(_))).await;
    // On a slow machine PostgreSQL 18 stays for ever in a recovery whose startup process has ended.
    node.done(PgOp::Kill).await;
    full(node.execute(PgOp::StartPrimary { names: list(&[]) }).await);
    std::fs::remove_file(&filler).unwrap();
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
    node.done(PgOp::Stop).await;
    drop(node);
    std::fs::remove_dir_all(place).unwrap();
}
