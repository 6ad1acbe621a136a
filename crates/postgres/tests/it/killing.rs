//! Killing, dying and hanging.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use pgherd_core::postgres::{PgOp, PgOpResult, PgState};
use pgherd_core::{Term, Time};
use pgherd_guard::boottime_micros;
use rustix::process::{Pid, Signal, kill_process};

use crate::node::{Herd, Node, list};
use crate::trial;

pub(crate) fn add(trials: &mut Vec<Trial>) {
    trial(trials, "postmaster_killed_backend_busy", postmaster_killed);
    trial(trials, "kill_leaves_nothing", kill_leaves_nothing);
    trial(trials, "deadline_kills", deadline_kills);
    trial(trials, "guard_killed", guard_killed);
    trial(trials, "stopped_postmaster_is_unresponsive", stopped_postmaster);
    trial(trials, "stop_kills_what_does_not_end", stop_kills);
    trial(trials, "kill_while_starting", kill_while_starting);
}

/// A backend that is busy for a minute and then writes.
async fn busy(node: &Node) -> tokio::task::JoinHandle<bool> {
    node.sql("CREATE TABLE IF NOT EXISTS t (i int)").await;
    let client = node.client().await;
    let work = "SELECT count(*) FROM generate_series(1, 1000000000); INSERT INTO t VALUES (1)";
    let backend = tokio::spawn(async move { client.simple_query(work).await.is_ok() });
    let query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%1000000000%' \
        AND state = 'active' AND pid <> pg_backend_pid()";
    node.until("busy", async || node.sql(query).await == "1").await;
    backend
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

async fn postmaster_killed() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    let backend = busy(&node).await;
    let begin = Instant::now();
    signal(node.postmaster(), Signal::KILL);
    node.server.exited().await;
    eprintln!("    exit noticed after {:?}", begin.elapsed());
    node.server.kill();
    node.server.killed().await;
    eprintln!("    killed after {:?}", begin.elapsed());
    node.server.empty().await;
    eprintln!("    empty after {:?}", begin.elapsed());
    assert_eq!(node.living(), Vec::<i32>::new());
    assert!(!backend.await.unwrap(), "the orphan acknowledged a commit");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(matches!(node.state().await, PgState::Stopped(_)));
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
    assert_eq!(node.sql("SELECT count(*) FROM t").await, "0");
}

async fn kill_leaves_nothing() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    let backend = busy(&node).await;
    let begin = Instant::now();
    node.server.kill();
    node.server.killed().await;
    eprintln!("    killed after {:?}", begin.elapsed());
    node.server.empty().await;
    eprintln!("    empty after {:?}", begin.elapsed());
    assert_eq!(node.living(), Vec::<i32>::new());
    assert!(!backend.await.unwrap());
    // The end is told to who asks late, once.
    node.server.exited().await;
    assert!(tokio::time::timeout(Duration::from_millis(50), node.server.exited()).await.is_err());
    // Killing what is dead is no error, and doesn't wait.
    node.done(PgOp::Kill).await;
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
}

async fn deadline_kills() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    let backend = busy(&node).await;
    let deadline = boottime_micros() + 100_000;
    assert!(node.server.arm(Term(3), Time(deadline)));
    node.server.exited().await;
    node.until("empty", async || node.living().is_empty()).await;
    eprintln!("    empty {} us after the deadline", boottime_micros() - deadline);
    assert!(!backend.await.unwrap());
    node.until("stopped", async || matches!(node.state().await, PgState::Stopped(_))).await;
    let last = pgherd_guard::last_words(&node.settings.run_dir).unwrap();
    assert_eq!(last.fired_term, Some(3));
}

async fn guard_killed() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    let backend = busy(&node).await;
    let registration = std::fs::read_to_string(node.settings.run_dir.join("guard")).unwrap();
    let guard: i32 = registration.split(' ').nth(2).unwrap().parse().unwrap();
    signal(guard, Signal::KILL);
    node.server.exited().await;
    // Nobody asks for it: what a dead guard leaves is killed at once.
    node.until("empty", async || node.living().is_empty()).await;
    assert!(!backend.await.unwrap());
    node.until("stopped", async || matches!(node.state().await, PgState::Stopped(_))).await;
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
}

async fn stopped_postmaster() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    node.as_primary().await;
    let begin = boottime_micros();
    signal(node.postmaster(), Signal::STOP);
    node.until("unresponsive", async || matches!(node.state().await, PgState::Unresponsive { .. }))
        .await;
    let PgState::Unresponsive { since, .. } = node.state().await else { panic!("it recovered") };
    eprintln!("    noticed after {} ms", (boottime_micros() - begin) / 1000);
    assert!(since <= Time(begin) && boottime_micros() - since.0 < 10_000_000, "{since:?}");
    signal(node.postmaster(), Signal::CONT);
    node.until("running", async || matches!(node.state().await, PgState::Running(_))).await;
    // Stopped again, and killed all the same.
    signal(node.postmaster(), Signal::STOP);
    node.done(PgOp::Kill).await;
    assert_eq!(node.living(), Vec::<i32>::new());
}

async fn stop_kills() {
    let herd = Herd::new();
    let mut settings = herd.settings("n1");
    settings.stop_bound = Duration::from_secs(1);
    let node = herd.open(settings).await;
    node.done(PgOp::Init).await;
    node.arm_for_ever();
    node.done(PgOp::StartPrimary { names: list(&[]) }).await;
    let backend = busy(&node).await;
    let pid = node
        .sql(
            "SELECT pid FROM pg_stat_activity WHERE query LIKE '%1000000000%' \
        AND pid <> pg_backend_pid()",
        )
        .await;
    signal(pid.parse().unwrap(), Signal::STOP);
    node.done(PgOp::Stop).await;
    assert_eq!(node.living(), Vec::<i32>::new());
    assert!(!backend.await.unwrap());
}

async fn kill_while_starting() {
    let herd = Herd::new();
    let node = herd.primary("n1", &[]).await;
    node.done(PgOp::Stop).await;
    for delay in [0, 1, 2, 5, 10, 20, 40, 80] {
        let start = node.server.execute(PgOp::StartPrimary { names: list(&["n2"]) });
        tokio::pin!(start);
        let delay = Duration::from_millis(delay);
        let early = tokio::time::timeout(delay, &mut start).await;
        node.server.kill();
        let result = match early {
            Ok(result) => result,
            Err(_) => start.await,
        };
        assert!(matches!(result, PgOpResult::Cancelled | PgOpResult::Done), "{result:?}");
        node.server.empty().await;
        assert_eq!(node.living(), Vec::<i32>::new(), "{delay:?}");
    }
}
