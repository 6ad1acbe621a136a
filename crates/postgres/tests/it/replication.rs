//! Two or three nodes: copy, stream, follow, promote, rewind.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use pgherd_core::Timeline;
use pgherd_core::postgres::{
    ControlState, PgFailureKind, PgOp, PgOpResult, PgState, Source, TimelineEnd, Upstream,
};

use crate::node::{Herd, Node, list};
use crate::trial;
use pgherd_postgres::MemberSlots;

pub(crate) fn add(trials: &mut Vec<Trial>) {
    trial(trials, "clone_stream_and_sync_commit", clone_stream_and_sync_commit);
    trial(trials, "promote_then_rewind_the_old_one", promote_then_rewind);
    trial(trials, "wal_is_archived_before_it_is_rewound", archived_before_rewind);
    trial(trials, "planned_handover_needs_no_rewind", planned_handover);
    trial(trials, "a_pledge_stops_the_receiver_though_replay_is_paused", pledge);
    trial(trials, "follow_another", follow_another);
    trial(trials, "without_slots_for_members", without_slots);
    trial(trials, "clone_keeps_the_old_directory", clone_keeps_the_old);
    trial(trials, "unreachable_source", unreachable_source);
    trial(trials, "a_start_that_needs_removed_wal_ends", removed_wal);
    trial(trials, "promoted_strict_commits_wait", promoted_strict);
    trial(trials, "a_reload_ends_no_tool", reload_ends_no_tool);
}

async fn clone_stream_and_sync_commit() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    one.sql("CREATE TABLE t (i int)").await;
    let two = herd.replica("n2", &one).await;
    assert_ne!(one.server.instance().unwrap(), two.server.instance().unwrap());
    let replica = two.as_replica().await;
    assert_eq!(replica.upstream, Some(Upstream::Leader(one.settings.node.clone())));
    assert!(!replica.at_end && two.running().await.timeline == Timeline(1));
    one.done(PgOp::SetNames { names: list(&["n2"]) }).await;
    one.sql("INSERT INTO t VALUES (1)").await;
    let senders = one.as_primary().await.senders;
    assert!(senders.len() == 1 && senders[0].streaming, "{senders:?}");
    assert_eq!(senders[0].node, two.settings.node);
    two.until("replayed", async || two.sql("SELECT count(*) FROM t").await == "1").await;

    // Without the replica a commit waits; with it again, it ends.
    two.done(PgOp::Stop).await;
    let PgState::Stopped(control) = two.state().await else { panic!("not stopped") };
    assert_eq!(control.state, ControlState::ShutDownInRecovery);
    let client = one.client().await;
    let mut insert = Box::pin(client.simple_query("INSERT INTO t VALUES (2)"));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut insert).await.is_err());
    // It is seen while it waits, under the process that a cancel would name.
    one.until("the wait is seen", async || one.as_primary().await.waiting.len() == 1).await;
    let waiting = one.as_primary().await.waiting[0].pid;
    let query = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert_eq!(one.sql(query).await, waiting.to_string());
    two.done(PgOp::StartReplica { upstream: Some(Upstream::Leader(one.settings.node.clone())) })
        .await;
    insert.await.unwrap();
    assert!(one.as_primary().await.waiting.is_empty());
    one.done(PgOp::SetNames { names: list(&["n2", "n3"]) }).await;
    one.done(PgOp::SetNames { names: list(&["n2"]) }).await;
    one.sql("INSERT INTO t VALUES (3)").await;
}

async fn diverge(one: &Node, two: &Node) {
    two.done(PgOp::Follow { upstream: None }).await;
    one.sql("INSERT INTO t SELECT generate_series(1, 5000)").await;
    two.arm_for_ever();
    two.done(PgOp::Promote { names: list(&[]) }).await;
    two.sql("INSERT INTO t VALUES (42)").await;
}

async fn promote_then_rewind() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    one.sql("CREATE TABLE t (i int)").await;
    let two = herd.replica("n2", &one).await;
    two.until("replayed", async || two.sql("SELECT to_regclass('t')").await == "t").await;
    diverge(&one, &two).await;
    let primary = two.as_primary().await;
    assert_eq!(two.running().await.timeline, Timeline(2));
    assert_eq!(primary.history.len(), 1);
    assert_eq!(primary.history[0].timeline, Timeline(1));

    // The old one dies uncleanly and comes back by pg_rewind.
    one.done(PgOp::Kill).await;
    let before = one.server.instance().unwrap();
    let PgState::Stopped(control) = one.state().await else { panic!("not stopped") };
    assert_eq!(control.state, ControlState::InProduction);
    one.done(PgOp::Rewind { source: two.settings.node.clone() }).await;
    assert_ne!(one.server.instance().unwrap(), before);
    kept_aside(&one, &primary.history[0]);
    two.done(PgOp::EnsureSlots { nodes: vec![one.settings.node.clone()] }).await;
    one.done(PgOp::StartReplica { upstream: Some(Upstream::Leader(two.settings.node.clone())) })
        .await;
    one.until_streaming().await;
    one.until("the new line", async || one.sql("SELECT count(*) FROM t").await == "1").await;
    assert_eq!(one.running().await.timeline, Timeline(2));
    // What streams by the name of a life of its directory finds nothing in another.
    assert_eq!(one.sql("SELECT count(*) FROM pg_replication_slots").await, "0");
}

/// What only the old one had is counted and can be read.
fn kept_aside(one: &Node, branch: &TimelineEnd) {
    let data = &one.settings.data_dir;
    let name = |path: &std::path::Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let prefix = format!("{}.diverged-", name(data));
    let entries = std::fs::read_dir(data.parent().unwrap()).unwrap().flatten();
    let kept: Vec<_> = entries.map(|e| e.path()).filter(|p| name(p).starts_with(&prefix)).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let about = std::fs::read_to_string(kept[0].join("about.txt")).unwrap();
    let from = format!("timeline 1\nfrom {}\n", branch.end);
    assert!(about.contains(&from) && about.contains("\ncommits 1\n"), "{about}");
    // One insert of 5000 rows and its commit, as PostgreSQL's own tool reads them there.
    let dump = std::process::Command::new(one.settings.bin.program("pg_waldump"))
        .args(["-p", ".", "-t", "1", "-r", "Transaction", "-s", &branch.end.to_string()])
        .current_dir(&kept[0])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&dump.stdout);
    assert_eq!(text.matches("desc: COMMIT").count(), 1, "{text}");
}

/// What the old primary had not archived yet is in the archive before pg_rewind takes it away; the
/// user's options reach pg_rewind.
async fn archived_before_rewind() {
    let herd = Herd::new();
    let (archive, gate) = (herd.path("archive"), herd.path("gate"));
    std::fs::create_dir(&archive).unwrap();
    let command = format!("test -e {} && cp %p {}/%f", gate.display(), archive.display());
    let mut settings = herd.settings("n1");
    let parameters = &mut settings.wanted.primary.parameters;
    parameters.insert("archive_mode".into(), "on".into());
    parameters.insert("archive_command".into(), command);
    settings.wanted.standby = settings.wanted.primary.clone();
    settings.lifecycle.hooks.rewind = vec!["--no-such-option".into()];
    let one = herd.open(settings.clone()).await;
    one.done(PgOp::Init).await;
    one.arm_for_ever();
    one.done(PgOp::StartPrimary { names: list(&[]) }).await;
    one.sql("CREATE TABLE t (i int)").await;
    let two = herd.replica("n2", &one).await;
    two.until("replayed", async || two.sql("SELECT to_regclass('t')").await == "t").await;
    diverge(&one, &two).await;
    let segment = one.sql("SELECT pg_walfile_name(pg_switch_wal())").await;
    one.until("ready", async || {
        let mark = format!("pg_wal/archive_status/{segment}.ready");
        settings.data_dir.join(mark).exists()
    })
    .await;
    one.done(PgOp::Kill).await;
    assert!(!archive.join(&segment).exists());
    std::fs::write(&gate, "").unwrap();

    let rewind = PgOp::Rewind { source: two.settings.node.clone() };
    let outcome = one.execute(rewind.clone()).await;
    assert!(matches!(outcome, PgOpResult::Failed(_)), "the option reached nobody");
    assert!(archive.join(&segment).exists(), "{segment} is in no archive");
    let mut hooks = settings.lifecycle.hooks.clone();
    hooks.rewind = vec!["--no-sync".into()];
    one.server.set_hooks(hooks);
    one.done(rewind).await;
}

/// `use_slots: false`, while it runs: nobody has a slot, and streaming goes on; and back again.
async fn without_slots() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let two = herd.replica("n2", &one).await;
    let slots = async || one.sql("SELECT count(*) FROM pg_replication_slots WHERE active").await;
    assert_eq!(slots().await, "1");
    let mut wanted = one.settings.wanted.clone();
    for configuration in [&mut wanted.primary, &mut wanted.standby] {
        configuration.member_slots = MemberSlots::Unused;
    }
    for node in [&one, &two] {
        node.server.want(wanted.clone());
        assert_eq!(node.server.bring().await.unwrap(), [""; 0]);
    }
    two.until("no slot in use", async || slots().await == "0").await;
    two.until_streaming().await;
    assert_eq!(two.sql("SHOW primary_slot_name").await, "");
    one.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await;
    one.done(PgOp::EnsureSlots { nodes: vec![two.settings.node.clone()] }).await;
    assert_eq!(one.sql("SELECT count(*) FROM pg_replication_slots").await, "0");
    two.done(PgOp::Stop).await;
    two.done(PgOp::StartReplica { upstream: Some(Upstream::Leader(one.settings.node.clone())) })
        .await;
    two.until_streaming().await;
}

async fn planned_handover() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    one.sql("CREATE TABLE t (i int)").await;
    let two = herd.replica("n2", &one).await;
    one.done(PgOp::SetNames { names: list(&["n2"]) }).await;
    one.done(PgOp::Stop).await;
    let PgState::Stopped(control) = one.state().await else { panic!("not stopped") };
    let reached = async || two.as_replica().await.received > control.checkpoint;
    two.until("the shutdown checkpoint", reached).await;
    two.arm_for_ever();
    two.done(PgOp::Promote { names: list(&[]) }).await;
    two.done(PgOp::EnsureSlots { nodes: vec![one.settings.node.clone()] }).await;
    one.done(PgOp::StartReplica { upstream: Some(Upstream::Leader(two.settings.node.clone())) })
        .await;
    // A receiver streams the old timeline to its end first.
    one.until("the new timeline", async || one.running().await.timeline == Timeline(2)).await;
    one.until_streaming().await;
}

async fn pledge() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    one.sql("CREATE TABLE t (i int)").await;
    let two = herd.replica("n2", &one).await;
    two.sql("SELECT pg_wal_replay_pause()").await;
    let paused = async || two.sql("SELECT pg_is_wal_replay_paused()").await == "t";
    two.until("paused", paused).await;
    one.sql("INSERT INTO t SELECT generate_series(1, 1000)").await;
    let begin = Instant::now();
    two.done(PgOp::Follow { upstream: None }).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    let pledged = two.as_replica().await;
    assert!(!pledged.streaming && pledged.upstream.is_none(), "{pledged:?}");
    assert!(!pledged.at_end, "replay is paused: {pledged:?}");
    one.sql("INSERT INTO t SELECT generate_series(1, 1000)").await;
    two.sql("SELECT pg_wal_replay_resume()").await;
    two.until("at the end", async || two.as_replica().await.at_end).await;
    let end = two.as_replica().await;
    assert_eq!(end.received, pledged.received, "nothing was received after the pledge");
    assert_eq!(two.running().await.timeline, Timeline(1));
    assert!(one.as_primary().await.senders.is_empty());

    // A restart doesn't lift it, and the end of the local WAL is found again.
    two.done(PgOp::Stop).await;
    two.done(PgOp::StartReplica { upstream: None }).await;
    two.until("at the end", async || two.as_replica().await.at_end).await;
    assert!(two.as_replica().await.received >= end.replayed);
    two.done(PgOp::Follow { upstream: Some(Upstream::Leader(one.settings.node.clone())) }).await;
    two.until_streaming().await;
}

async fn follow_another() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let two = herd.replica("n2", &one).await;
    let three = herd.replica("n3", &one).await;
    // n1's slots are for both; n2 gets one for n3.
    one.done(PgOp::Kill).await;
    two.done(PgOp::Follow { upstream: None }).await;
    two.arm_for_ever();
    two.done(PgOp::Promote { names: list(&[]) }).await;
    two.done(PgOp::EnsureSlots { nodes: vec![three.settings.node.clone()] }).await;
    three.done(PgOp::Follow { upstream: None }).await;
    let ended = || {
        let log = std::fs::read_to_string(&three.settings.log_file).unwrap();
        log.matches("terminating walreceiver process").count()
    };
    let before = ended();
    let begin = Instant::now();
    three.done(PgOp::Follow { upstream: Some(Upstream::Leader(two.settings.node.clone())) }).await;
    three.until_streaming().await;
    assert_eq!(ended(), before, "the receiver of the new upstream was ended");
    eprintln!("    streaming from the new primary after {:?}", begin.elapsed());
    three.until("timeline 2", async || three.running().await.timeline == Timeline(2)).await;
    // As for a moment when a segment is restored from the archive: nothing names the timeline.
    three.done(PgOp::Follow { upstream: None }).await;
    let wal = three.settings.data_dir.join("pg_wal");
    let named = |from: &str, to: &str| {
        for entry in std::fs::read_dir(&wal).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if let Some(rest) = name.strip_prefix(from).filter(|_| !name.ends_with(".history")) {
                std::fs::rename(wal.join(&name), wal.join(format!("{to}{rest}"))).unwrap();
            }
        }
    };
    named("00000002", "away-");
    assert_eq!(three.running().await.timeline, Timeline(2));
    named("away-", "00000002");
}

async fn clone_keeps_the_old() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let two = herd.replica("n2", &one).await;
    two.done(PgOp::Stop).await;
    std::fs::write(two.settings.data_dir.join("precious"), "").unwrap();
    // Interrupted: the directory is as it was.
    let server = std::sync::Arc::clone(&two.server);
    let source = one.settings.node.clone();
    one.sql("CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 300000)").await;
    let cloning = tokio::spawn(async move {
        server.execute(PgOp::Clone { source: Source::Leader(source) }).await
    });
    let copying = async || two.settings.data_dir.with_extension("clone").join("base").exists();
    two.until("copying", copying).await;
    two.done(PgOp::Kill).await;
    assert_eq!(cloning.await.unwrap(), PgOpResult::Cancelled);
    assert!(two.settings.data_dir.join("precious").exists());
    assert!(matches!(two.state().await, PgState::Stopped(_)));

    two.done(PgOp::Clone { source: Source::Leader(one.settings.node.clone()) }).await;
    assert!(!two.settings.data_dir.join("precious").exists());
    let parent = two.settings.data_dir.parent().unwrap();
    let aside = std::fs::read_dir(parent).unwrap().flatten().map(|entry| entry.path());
    let aside: Vec<_> = aside.filter(|path| path.join("precious").exists()).collect();
    assert_eq!(aside.len(), 1, "moved aside");
    two.done(PgOp::StartReplica { upstream: Some(Upstream::Leader(one.settings.node.clone())) })
        .await;
    two.until_streaming().await;
}

async fn unreachable_source() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let two = herd.node("n2").await;
    one.done(PgOp::Kill).await;
    for op in [
        PgOp::Clone { source: Source::Leader(one.settings.node.clone()) },
        PgOp::Clone { source: Source::Leader("nobody".parse().unwrap()) },
    ] {
        let result = two.execute(op).await;
        let PgOpResult::Failed(failure) = result else { panic!("{result:?}") };
        assert_eq!(failure.kind, PgFailureKind::SourceUnreachable, "{}", failure.detail);
    }
    assert_eq!(two.state().await, PgState::Absent);
}

/// A replica that crashed before it was consistent, and came back too late.
async fn removed_wal() {
    let herd = Herd::new();
    let one = herd.primary_with_little_wal("n1").await;
    let two = herd.replica("n2", &one).await;
    two.done(PgOp::Kill).await;
    let segments = std::fs::read_dir(two.settings.data_dir.join("pg_wal")).unwrap().flatten();
    for segment in segments.filter(|entry| entry.file_name().len() == 24) {
        std::fs::remove_file(segment.path()).unwrap();
    }
    one.until_wal_is_lost().await;
    let upstream = Some(one.settings.node.clone());
    let result = two.execute(PgOp::StartReplica { upstream: upstream.map(Upstream::Leader) }).await;
    let PgOpResult::Failed(failure) = result else { panic!("{result:?}") };
    assert!(failure.detail.contains("needs WAL that its source has no more"), "{failure:?}");
    assert!(matches!(two.state().await, PgState::Stopped(_)), "{:?}", two.state().await);
}

/// A signal for the agent's process group doesn't reach what it runs, and SIGHUP, which a reload is
/// told by, would do it no harm.
async fn reload_ends_no_tool() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    let mut settings = herd.settings("n2");
    // Some seconds for a new cluster's 23 MB.
    settings.lifecycle.hooks.basebackup = vec!["--max-rate=10M".into()];
    let two = herd.open(settings).await;
    let server = std::sync::Arc::clone(&two.server);
    let source = Source::Leader(one.settings.node.clone());
    let clone = tokio::spawn(async move { server.execute(PgOp::Clone { source }).await });
    let dir = two.settings.data_dir.display().to_string();
    let tools = || running("pg_basebackup", &dir);
    two.until("a tool runs", async || !tools().is_empty()).await;
    let own = group_of(std::process::id().cast_signed());
    for tool in tools() {
        let group = group_of(tool);
        assert_ne!(group, own);
        let group = rustix::process::Pid::from_raw(group).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::HUP).unwrap();
    }
    assert!(!clone.is_finished(), "it was too fast to tell");
    assert_eq!(clone.await.unwrap(), PgOpResult::Done);
}

/// Processes of that program with that text among their arguments.
fn running(program: &str, text: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let fits = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        let (first, rest) = words.split_once('\0').unwrap_or_default();
        first.ends_with(program) && rest.contains(text)
    };
    pids.filter(fits).collect()
}

fn group_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after) = stat.rsplit_once(')').unwrap();
    after.split_whitespace().nth(2).unwrap().parse().unwrap()
}

async fn promoted_strict() {
    let herd = Herd::new();
    let one = herd.primary("n1", &[]).await;
    one.sql("CREATE TABLE t (i int)").await;
    let two = herd.replica("n2", &one).await;
    two.until("replayed", async || two.sql("SELECT to_regclass('t')").await == "t").await;
    one.done(PgOp::Kill).await;
    two.arm_for_ever();
    // Clients that write as soon as anything lets them: none may be acknowledged.
    let client = two.client().await;
    let writer = tokio::spawn(async move {
        loop {
            if client.simple_query("INSERT INTO t VALUES (1)").await.is_ok() {
                return;
            }
        }
    });
    two.done(PgOp::Promote { names: list(&["n1"]) }).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!writer.is_finished(), "a commit was acknowledged without a standby");
    assert_eq!(two.as_primary().await.names, list(&["n1"]));
    writer.abort();
}
