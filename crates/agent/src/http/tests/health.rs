//! The health checks as a table: what a board says at one moment, and what follows for each path.

use http::Method;
use pgherd_core::postgres::{ControlFacts, ControlState, PgState};
use pgherd_core::{Duration, Instance, Lsn, SystemId, Term, Time, Timeline};

use super::{board, fixture, primary, replica};
use crate::board::{Board, StoreSeen};
use crate::clock;
use crate::http::health;

const STANDBY_CLUSTER: (&str, &str) =
    ("config", r#"{"ttl":30,"standby_cluster":{"host":"10.0.0.9"}}"#);
const PAUSED: (&str, &str) = ("config", r#"{"ttl":30,"pause":true}"#);
const SYNC: (&str, &str) = ("sync", r#"{"leader":"pg-1","quorum":0,"sync_standby":"pg-0"}"#);
const STATUS: (&str, &str) = ("status", r#"{"optime":2000}"#);

fn good(board: &Board, path: &str) -> bool {
    let fixture = fixture(board.clone(), None, true);
    let (path, query) = path.split_once('?').map_or((path, None), |(path, it)| (path, Some(it)));
    health::check(&fixture.desk, &Method::GET, path, query).as_u16() == 200
}

/// The paths that are good are exactly these.
fn only(board: &Board, what: &str, expected: &[&str]) {
    let paths = [
        "/primary",
        "/leader",
        "/standby-leader",
        "/replica",
        "/read-only",
        "/health",
        "/quorum",
        "/async",
        "/read-only-quorum",
        "/readiness",
    ];
    for path in paths {
        assert_eq!(good(board, path), expected.contains(&path), "{what}: {path}");
    }
}

fn long_ago(span: Duration) -> Time {
    clock::now() - span
}

fn unseen(mut board: Board) -> Board {
    let mut observed = board.observed.take().map(|it| crate::postgres::Observation::clone(&it));
    if let Some(observed) = &mut observed {
        observed.facts.at = long_ago(Duration::secs(6));
    }
    board.observed = observed.map(Into::into);
    board
}

fn down() -> PgState {
    PgState::Stopped(ControlFacts {
        system_id: SystemId(1),
        instance: Instance(1),
        timeline: Timeline(7),
        checkpoint: Lsn(1),
        min_recovery_end: Lsn(1),
        state: ControlState::ShutDown,
    })
}

#[tokio::test]
async fn a_leader_is_good_as_long_as_it_believes_and_is_seen() {
    let leading =
        ["/primary", "/leader", "/read-only", "/health", "/read-only-quorum", "/readiness"];
    let leader = board(primary(), true, &[]);
    only(&leader, "leads", &leading);
    let over = Board { belief_until: Some(clock::now()), ..leader.clone() };
    only(&over, "belief is over", &["/health"]);
    let gated = Board { serving: false, ..leader.clone() };
    only(&gated, "clients are not let in yet", &["/health"]);
    only(&unseen(leader), "nobody has seen PostgreSQL for 6 s", &[]);
    let stopped = board(down(), true, &[]);
    only(&stopped, "PostgreSQL is down", &[]);
    let since = clock::now();
    let frozen = board(PgState::Unresponsive { since, halted: false }, true, &[]);
    let without_health: Vec<_> = leading.into_iter().filter(|path| *path != "/health").collect();
    only(&frozen, "frozen, and belief holds", &without_health);
    let starting = board(replica(), true, &[]);
    assert!(!good(&starting, "/primary"), "it holds the key and is not promoted yet");
}

#[tokio::test]
async fn a_replica_is_good_as_long_as_it_is_seen_and_the_view_is_fresh() {
    let reading = ["/replica", "/read-only", "/health", "/readiness"];
    let quorum = ["/quorum", "/read-only-quorum"];
    let following = [&reading[..], &quorum].concat();
    let standby = board(replica(), false, &[("leader", "pg-1"), SYNC, STATUS]);
    only(&standby, "streams", &following);
    only(&unseen(standby.clone()), "nobody has seen PostgreSQL for 6 s", &[]);
    let seen = StoreSeen { at: long_ago(Duration::secs(31)), unix_seconds: 0 };
    let adrift = Board { store: Some(seen), ..standby };
    only(&adrift, "what kind of standby it is, is not known any more", &reading);
}

#[tokio::test]
async fn pause_and_a_store_that_is_away_leave_postgresqls_role() {
    let seen = StoreSeen { at: long_ago(Duration::secs(31)), unix_seconds: 0 };
    let over = |board: Board| Board { belief_until: Some(clock::now()), ..board };
    let paused = over(board(primary(), true, &[PAUSED]));
    assert!(!good(&paused, "/primary"), "the store is there, and says otherwise");
    let adrift = Board { store: Some(seen), ..paused };
    assert!(good(&adrift, "/primary") && good(&adrift, "/leader"));
    let unpaused = Board { store: Some(seen), ..over(board(primary(), true, &[])) };
    assert!(!good(&unpaused, "/primary"));
    let replica = Board { store: Some(seen), ..board(replica(), false, &[PAUSED]) };
    assert!(!good(&replica, "/primary"));
}

#[tokio::test]
async fn the_leader_of_a_standby_cluster_is_a_leader_and_no_primary() {
    let more = [STANDBY_CLUSTER, STATUS];
    let leader = board(replica(), true, &more);
    let leading =
        ["/leader", "/standby-leader", "/read-only", "/health", "/read-only-quorum", "/readiness"];
    only(&leader, "leads a standby cluster", &leading);
    let other = board(replica(), false, &more);
    only(&other, "follows", &["/replica", "/read-only", "/health", "/async", "/readiness"]);
    let promoted = Board { leads: Some(Term(5)), ..board(primary(), true, &more) };
    assert!(!good(&promoted, "/primary"));
}

#[tokio::test]
async fn an_agent_lives_while_its_loop_turns() {
    let turned = |ago: Duration, leads: bool, config: (&'static str, &'static str)| {
        let board = board(primary(), leads, &[config]);
        good(&Board { at: long_ago(ago), ..board }, "/liveness")
    };
    let ttl = ("config", r#"{"ttl":30}"#);
    assert!(turned(Duration::secs(29), true, ttl));
    assert!(!turned(Duration::secs(31), true, ttl));
    assert!(turned(Duration::secs(59), false, ttl));
    assert!(!turned(Duration::secs(61), false, ttl));
    assert!(turned(Duration::secs(1_000), true, PAUSED));
}
