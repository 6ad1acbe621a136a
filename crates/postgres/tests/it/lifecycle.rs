//! The user's commands on real servers: bootstrap methods, recovery to a point in time, the script
//! after the bootstrap.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use pgherd_config::Lifecycle;
use pgherd_config::lifecycle::{
    Bootstrap, Command, CustomBootstrap, CustomReplica, FirstData, Method, ReplicaMethod,
};
use pgherd_core::Timeline;
use pgherd_core::postgres::{
    PgFailureKind, PgOp, PgOpFailure, PgOpResult, PgState, Source, Upstream,
};
use pgherd_postgres::Settings;

use crate::node::{Herd, Node, list, small_file_system};
use crate::trial;

pub(crate) fn add(trials: &mut Vec<Trial>) {
    trial(trials, "initdb_options_and_the_script_after_it", initdb_options);
    trial(trials, "a_failed_bootstrap_is_moved_away", failed_bootstrap);
    trial(trials, "a_replica_by_commands_in_their_order", replica_by_command);
    trial(trials, "a_replica_from_a_backup_without_a_leader", replica_without_leader);
    trial(trials, "pg_basebackup_has_two_tries_and_options", two_tries);
    trial(trials, "no_room_for_two_copies", no_room);
    trial(trials, "scripts_before_promotion_and_stop", before_promotion_and_stop);
    trial(trials, "a_hanging_script_delays_no_kill", hanging_script);
    trial(trials, "a_cluster_from_a_backup_at_a_point_in_time", point_in_time);
}

/// A shell script in the herd's directory, as a command.
fn script(herd: &Herd, name: &str, text: &str) -> Command {
    let path = herd.path(name);
    std::fs::write(&path, format!("set -eu\n{text}\n")).unwrap();
    Command::parse(&format!("/bin/sh {}", path.display())).unwrap()
}

fn psql(settings: &Settings) -> String {
    settings.bin.program("psql").display().to_string()
}

pub(crate) async fn failure(node: &Node, op: PgOp) -> PgOpFailure {
    match node.execute(op).await {
        PgOpResult::Failed(failure) => failure,
        result @ (PgOpResult::Done | PgOpResult::Cancelled) => panic!("{result:?}"),
    }
}

async fn start(node: &Node) {
    node.arm_for_ever();
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
}

async fn initdb_options() {
    let herd = Herd::new();
    let mut settings = herd.settings("n1");
    let said = herd.path("said");
    let text = format!(
        "echo \"$# $1 $PGOPTIONS\" > {said}; {psql} -qw \"$1\" -c 'CREATE DATABASE app'",
        said = said.display(),
        psql = psql(&settings),
    );
    settings.lifecycle.bootstrap.method = FirstData::Initdb(vec!["--wal-segsize=4".into()]);
    settings.lifecycle.bootstrap.post = Some(script(&herd, "post.sh", &text));
    let node = herd.open(settings).await;
    node.done(PgOp::Init).await;
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.starts_with("1 host="), "{said}");
    assert!(said.contains("dbname=postgres -c synchronous_commit=local"), "{said}");
    assert!(!said.contains("se'cr"), "{said}");
    // What the script was given is gone, and nothing of the private server lives.
    assert!(!node.settings.run_dir.join("bootstrap.pgpass").exists());
    assert!(node.living().is_empty());
    start(&node).await;
    assert_eq!(node.sql("SHOW wal_segment_size").await, "4MB");
    assert_eq!(node.sql("SELECT count(*) FROM pg_database WHERE datname = 'app'").await, "1");
    let roles = "SELECT string_agg(rolname, ' ' ORDER BY 1) FROM pg_roles WHERE rolcanlogin";
    assert_eq!(node.sql(roles).await, "postgres replicator rewinder");
    let may =
        "SELECT has_function_privilege('rewinder', 'pg_ls_dir(text, boolean, boolean)', 'EXECUTE')";
    assert_eq!(node.sql(may).await, "t");
}

async fn failed_bootstrap() {
    let herd = Herd::new();
    let mut settings = herd.settings("n1");
    settings.lifecycle.bootstrap.post = Some(script(&herd, "post.sh", "exit 3"));
    let node = herd.open(settings.clone()).await;
    let failed = failure(&node, PgOp::Init).await;
    assert!(failed.detail.contains("post_bootstrap") && failed.detail.contains('3'), "{failed:?}");
    assert_eq!(node.state().await, PgState::Absent);
    let aside = settings.data_dir.with_extension("failed");
    assert!(aside.join("PG_VERSION").exists());
    assert!(node.living().is_empty());

    // A command that leaves nothing, then one that leaves something: only that is kept.
    let mut method = custom(&herd, "echo hello; mkdir -p \"${2#--datadir=}\"", &[]);
    let settings = node.agent_ends().await;
    let node = with_method(&herd, &settings, &method).await;
    let failed = failure(&node, PgOp::Init).await;
    assert!(failed.detail.contains("left no data directory"), "{failed:?}");
    assert!(aside.join("PG_VERSION").exists());
    method = custom(&herd, "touch \"${2#--datadir=}/half\"; exit 1", &[]);
    let settings = node.agent_ends().await;
    let node = with_method(&herd, &settings, &method).await;
    failure(&node, PgOp::Init).await;
    assert!(aside.join("half").exists());
    assert_eq!(node.state().await, PgState::Absent);
}

fn custom(herd: &Herd, text: &str, recovery_conf: &[(&str, &str)]) -> CustomBootstrap {
    let text = format!("mkdir -p \"${{2#--datadir=}}\"\n{text}");
    let recovery_conf = recovery_conf.iter().map(|&(name, value)| (name.into(), value.into()));
    CustomBootstrap {
        name: "restore".into(),
        run: Method {
            command: script(herd, "restore.sh", &text),
            no_params: false,
            extras: vec![("stanza".into(), "main".into())],
        },
        keep_existing_recovery_conf: false,
        recovery_conf: recovery_conf.collect::<BTreeMap<_, _>>(),
    }
}

async fn with_method(herd: &Herd, settings: &Settings, method: &CustomBootstrap) -> Node {
    let mut settings = settings.clone();
    let method = FirstData::Custom(method.clone());
    settings.lifecycle = Lifecycle {
        bootstrap: Bootstrap { method, ..Bootstrap::default() },
        ..Lifecycle::default()
    };
    herd.open(settings).await
}

/// A primary with an archive; a backup of it, rows before and after a named point.
async fn backed_up(herd: &Herd) -> (PathBuf, PathBuf) {
    let (archive, backup) = (herd.path("archive"), herd.path("backup"));
    std::fs::create_dir(&archive).unwrap();
    let mut settings = herd.settings("n1");
    // Whole at once: the file is waited for.
    let copy = format!("cp %p {0}/new && mv {0}/new {0}/%f", archive.display());
    settings.wanted.primary.parameters.insert("archive_mode".into(), "on".into());
    settings.wanted.primary.parameters.insert("archive_command".into(), copy);
    let node = herd.open(settings).await;
    node.done(PgOp::Init).await;
    start(&node).await;
    node.sql("CREATE TABLE t (i int)").await;
    let base = std::process::Command::new(node.settings.bin.program("pg_basebackup"))
        .args(["-X", "none", "-c", "fast", "-h", "127.0.0.1", "-U", "replicator", "-p"])
        .arg(node.settings.port.to_string())
        .arg("-D")
        .arg(&backup)
        .env("PGPASSWORD", crate::node::PASSWORD)
        .status();
    assert!(base.unwrap().success());
    node.sql("INSERT INTO t VALUES (1)").await;
    node.sql("SELECT pg_create_restore_point('before the accident')").await;
    node.sql("DELETE FROM t").await;
    let last = node.sql("SELECT pg_walfile_name(pg_switch_wal())").await;
    node.until("archived", async || archive.join(&last).exists()).await;
    (archive, backup)
}

fn restore_command(archive: &Path) -> String {
    format!("cp {}/%f %p", archive.display())
}

async fn point_in_time() {
    let herd = Herd::new();
    let (archive, backup) = backed_up(&herd).await;
    let fetch = restore_command(&archive);
    let copy = format!(
        "echo \"$@\" > {}; cp -a {}/. \"${{2#--datadir=}}\"",
        herd.path("arguments").display(),
        backup.display()
    );
    let target = ("recovery_target_name", "before the accident");
    let method = custom(&herd, &copy, &[("restore_command", &fetch), target]);
    let node = with_method(&herd, &herd.settings("n2"), &method).await;
    node.done(PgOp::Init).await;
    let said = std::fs::read_to_string(herd.path("arguments")).unwrap();
    let data = node.settings.data_dir.display();
    assert_eq!(said.trim(), format!("--scope=it's a: test --datadir={data} --stanza=main"));
    start(&node).await;
    assert_eq!(node.running().await.timeline, Timeline(2));
    assert_eq!(node.sql("SELECT string_agg(i::text, ' ') FROM t").await, "1");

    // A target that the archive doesn't have is named, and the data is kept for a look.
    let mut bad = method.clone();
    bad.recovery_conf.insert(target.0.into(), "nowhere".into());
    let node = with_method(&herd, &herd.settings("n3"), &bad).await;
    let failed = failure(&node, PgOp::Init).await;
    assert!(failed.detail.contains("recovery target"), "{failed:?}");
    assert!(node.settings.data_dir.with_extension("failed").join("PG_VERSION").exists());

    // The tool has configured the recovery itself.
    let own = format!(
        "{copy}\ncd \"${{2#--datadir=}}\"; touch recovery.signal; \
         echo \"restore_command = '{fetch}'\" >> postgresql.auto.conf"
    );
    let mut method = custom(&herd, &own, &[]);
    method.keep_existing_recovery_conf = true;
    let node = with_method(&herd, &herd.settings("n4"), &method).await;
    node.done(PgOp::Init).await;
    start(&node).await;
    assert_eq!(node.sql("SELECT count(*) FROM t").await, "0");
}

fn replica(herd: &Herd, name: &str, text: &str) -> CustomReplica {
    CustomReplica {
        name: name.into(),
        run: Method {
            command: script(herd, &format!("{name}.sh"), text),
            no_params: false,
            extras: vec![("stanza".into(), "main".into())],
        },
        keep_data: false,
        no_leader: false,
    }
}

/// pg_basebackup as somebody's script calls it.
fn own_backup(settings: &Settings) -> String {
    format!(
        "{} -w -X stream -c fast -D \"${{4#--datadir=}}\" -d \"${{5#--connstring=}}\"",
        settings.bin.program("pg_basebackup").display()
    )
}

async fn replica_by_command() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    one.sql("CREATE TABLE t AS SELECT 1 AS i").await;
    let mut settings = herd.settings("n2");
    let arguments = herd.path("arguments");
    let noted = format!("echo \"$@\" > {}; {}", arguments.display(), own_backup(&settings));
    let broken = replica(&herd, "broken", "touch \"${4#--datadir=}/half\"; exit 1");
    let works = replica(&herd, "works", &noted);
    let methods = [broken, works].map(ReplicaMethod::Custom);
    settings.lifecycle.hooks.create_replica = methods.into();
    let two = herd.open(settings).await;
    one.done(PgOp::EnsureSlots { nodes: vec![two.settings.node.clone()] }).await;
    let source = Source::Leader(one.settings.node.clone());
    two.done(PgOp::Clone { source: source.clone() }).await;
    let said = std::fs::read_to_string(&arguments).unwrap();
    let data = two.settings.data_dir.display();
    let begins = format!(
        "--stanza=main --scope=it's a: test --role=replica --datadir={data} --connstring=host="
    );
    assert!(said.starts_with(&begins) && !said.contains("se'cr"), "{said}");
    assert!(!two.settings.data_dir.join("half").exists());
    two.done(PgOp::StartReplica { upstream: source.node().cloned().map(Upstream::Leader) }).await;
    two.until_streaming().await;

    // With keep_data the command finds the old directory; without, it is moved aside.
    two.done(PgOp::Stop).await;
    std::fs::write(two.settings.data_dir.join("precious"), "").unwrap();
    let mut settings = two.agent_ends().await;
    let mut keeps = replica(&herd, "keeps", "test -e \"${4#--datadir=}/precious\"");
    keeps.keep_data = true;
    settings.lifecycle.hooks.create_replica = vec![ReplicaMethod::Custom(keeps)];
    let two = herd.open(settings).await;
    two.done(PgOp::Clone { source: source.clone() }).await;
    assert!(two.settings.data_dir.join("precious").exists());
    let mut settings = two.agent_ends().await;
    let fails = replica(&herd, "fails", "touch \"${4#--datadir=}/half\"; exit 1");
    settings.lifecycle.hooks.create_replica = vec![ReplicaMethod::Custom(fails)];
    let two = herd.open(settings).await;
    let failed = failure(&two, PgOp::Clone { source }).await;
    assert!(failed.detail.contains("replica method fails"), "{failed:?}");
    assert_eq!(two.state().await, PgState::Absent);
    let parent = two.settings.data_dir.parent().unwrap();
    let all = std::fs::read_dir(parent).unwrap().flatten().map(|entry| entry.path());
    assert!(all.into_iter().any(|path| path.join("precious").exists()), "moved aside");
}

async fn replica_without_leader() {
    let herd = Herd::new();
    let (archive, backup) = backed_up(&herd).await;
    let mut settings = herd.settings("n2");
    let copy = format!("cp -a {}/. \"${{4#--datadir=}}\"", backup.display());
    let mut method = replica(&herd, "archive", &copy);
    let with_leader = replica(&herd, "never", "exit 1");
    method.no_leader = true;
    settings.lifecycle.hooks.create_replica =
        vec![ReplicaMethod::BaseBackup, ReplicaMethod::Custom(with_leader)];
    settings.wanted.standby.parameters.insert("restore_command".into(), restore_command(&archive));
    let two = herd.open(settings).await;
    let failed = failure(&two, PgOp::Clone { source: Source::Backup }).await;
    assert!(failed.detail.contains("no_leader"), "{failed:?}");
    let mut settings = two.agent_ends().await;
    settings.lifecycle.hooks.create_replica.push(ReplicaMethod::Custom(method));
    let two = herd.open(settings).await;
    two.done(PgOp::Clone { source: Source::Backup }).await;
    let leader: pgherd_core::NodeName = "n1".parse().unwrap();
    two.done(PgOp::StartReplica { upstream: Some(Upstream::Leader(leader)) }).await;
    let archived = async || two.sql("SELECT to_regclass('t')").await == "t";
    two.until("what the archive has", archived).await;
}

async fn two_tries() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let mut settings = herd.settings("n2");
    let tries = herd.path("tries");
    let own = format!("date +%s >> {}; {}", tries.display(), own_backup(&settings));
    settings.lifecycle.hooks.basebackup = vec!["--tablespace-mapping=/relative".into()];
    let last = ReplicaMethod::Custom(replica(&herd, "last", &own));
    settings.lifecycle.hooks.create_replica = vec![ReplicaMethod::BaseBackup, last];
    let two = herd.open(settings).await;
    let source = Source::Leader(one.settings.node.clone());
    let begin = std::time::Instant::now();
    two.done(PgOp::Clone { source: source.clone() }).await;
    assert!(begin.elapsed().as_secs() >= 5, "the second try comes after a pause");
    assert!(tries.exists(), "the next method had its turn");
    let mut settings = two.agent_ends().await;
    settings.lifecycle.hooks.basebackup = vec!["--max-rate=512M".into(), "--label=hello".into()];
    settings.lifecycle.hooks.create_replica = Vec::new();
    let two = herd.open(settings).await;
    two.done(PgOp::Clone { source }).await;
    let label = std::fs::read_to_string(two.settings.data_dir.join("backup_label")).unwrap();
    assert!(label.contains("LABEL: hello"), "{label}");
}

async fn no_room() {
    let Some(small) = small_file_system().await else { return };
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let place = small.path.join("room");
    let settings = herd.settings_in("n2", &place);
    let two = herd.open(settings).await;
    let source = Source::Leader(one.settings.node.clone());
    two.done(PgOp::Clone { source: source.clone() }).await;
    // There was room for one; there is none for two.
    std::fs::write(two.settings.data_dir.join("ballast"), vec![b'x'; 70 << 20]).unwrap();
    two.done(PgOp::Clone { source: source.clone() }).await;
    let parent = two.settings.data_dir.parent().unwrap();
    let aside = std::fs::read_dir(parent).unwrap().flatten();
    assert!(!aside.into_iter().any(|entry| entry.file_name().to_string_lossy().contains(".old-")));
    two.done(PgOp::StartReplica { upstream: source.node().cloned().map(Upstream::Leader) }).await;
    two.done(PgOp::Stop).await;
    // No copy would fit, whatever went: nothing goes.
    one.sql("CREATE TABLE big AS SELECT i, md5(i::text) FROM generate_series(1, 800000) i").await;
    std::fs::write(parent.join("somebody else's"), vec![b'x'; 80 << 20]).unwrap();
    let failed = failure(&two, PgOp::Clone { source }).await;
    assert_eq!(failed.kind, PgFailureKind::DiskFull, "{failed:?}");
    assert!(matches!(two.state().await, PgState::Stopped(_)));
    drop(two);
    std::fs::remove_dir_all(place).unwrap();
}

async fn before_promotion_and_stop() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let mut settings = herd.settings("n2");
    let stopped = herd.path("stopped");
    let hooks = &mut settings.lifecycle.hooks;
    hooks.pre_promote = Some(script(&herd, "no.sh", "echo not today; exit 7"));
    let noted = format!("touch {}; exit 1", stopped.display());
    hooks.before_stop = Some(script(&herd, "stop.sh", &noted));
    let two = herd.open(settings.clone()).await;
    let upstream = one.settings.node.clone();
    one.done(PgOp::EnsureSlots { nodes: vec![two.settings.node.clone()] }).await;
    two.done(PgOp::Clone { source: Source::Leader(upstream.clone()) }).await;
    two.done(PgOp::StartReplica { upstream: Some(Upstream::Leader(upstream)) }).await;
    two.arm_for_ever();
    let failed = failure(&two, PgOp::Promote { names: list(&[]) }).await;
    assert_eq!(failed.kind, PgFailureKind::Refused, "{failed:?}");
    assert!(failed.detail.contains("pre_promote") && failed.detail.contains('7'), "{failed:?}");
    two.as_replica().await;
    // The hooks change while the agent runs.
    settings.lifecycle.hooks.pre_promote = Some(script(&herd, "yes.sh", "exit 0"));
    two.server.set_hooks(settings.lifecycle.hooks);
    two.done(PgOp::Promote { names: list(&[]) }).await;
    two.as_primary().await;
    assert!(!stopped.exists());
    two.done(PgOp::Stop).await;
    assert!(stopped.exists());
}

async fn hanging_script() {
    let herd = Herd::new();
    let mut settings = herd.settings("n1");
    let pid = herd.path("pid");
    let text = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid.display());
    settings.lifecycle.hooks.before_stop = Some(script(&herd, "hang.sh", &text));
    let one = herd.open(settings).await;
    one.done(PgOp::Init).await;
    start(&one).await;
    let server = std::sync::Arc::clone(&one.server);
    let stopping = tokio::spawn(async move { server.execute(PgOp::Stop).await });
    one.until("the script hangs", async || pid.exists()).await;
    let begin = std::time::Instant::now();
    one.done(PgOp::Kill).await;
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    assert_eq!(stopping.await.unwrap(), PgOpResult::Cancelled);
    // Its children went with it.
    let child = std::fs::read_to_string(&pid).unwrap();
    let gone = async || !Path::new(&format!("/proc/{}", child.trim())).exists();
    one.until("the script's child is gone", gone).await;
}
