//! `POST /restart`: Patroni's codes and words, against a loop made by hand.

use http::{Method, StatusCode};
use pgherd_api::Client;
use pgherd_core::Restarts;
use serde_json::{Value, json};

use super::{Fixture, board, fixture, primary, replica, served};
use crate::board::Board;
use crate::event::Event;
use crate::http::restart::{Asked, judge};
use crate::restart::Role;

const NOW: i64 = 1_795_370_000;

fn judged(body: &Value, paused: bool) -> Result<Asked, (u16, String)> {
    let judged = judge(body.as_object().unwrap(), paused, NOW);
    judged.map_err(|(code, words)| (code.as_u16(), words))
}

#[test]
fn conditions_are_read_in_patronis_words() {
    assert_eq!(judged(&json!({}), false), Ok(Asked::default()));
    let all = json!({
        "role": "standby_leader", "postgres_version": "17.6", "timeout": "2min",
        "restart_pending": false, "schedule": "2026-11-22T19:00:00+00:00",
    });
    let all = judged(&all, false).unwrap();
    assert_eq!(all.conditions.role, Some(Role::StandbyLeader));
    assert_eq!(all.conditions.older_than, Some(170_006));
    assert!(all.conditions.pending, "that the key is there counts");
    assert_eq!(all.timeout, Some(std::time::Duration::from_secs(120)));
    assert_eq!(all.at, Some(1_795_374_000));
    for lenient in ["2026-11-22 16:00:00-3", "2026-11-22T19:00Z", " 2026-11-22 19:00:00.0 +00:00"] {
        assert_eq!(judged(&json!({"schedule": lenient}), false).unwrap().at, all.at, "{lenient}");
    }
    let refused = [
        (
            json!({"role": "master"}),
            400,
            "PostgreSQL role should be either primary, standby_leader, or replica",
        ),
        (json!({"timeout": 0}), 400, "Timeout should be a positive number of seconds"),
        (json!({"timeout": "soon"}), 400, "Timeout should be a positive number of seconds"),
        (json!({"postgres_version": "x"}), 400, "Invalid PostgreSQL version: x"),
        (json!({"colour": 1}), 400, "Unknown filter for the scheduled restart: colour"),
        (
            json!({"schedule": "2026-11-22T19:00:00"}),
            400,
            "Timezone information is mandatory for the scheduled restart",
        ),
        (
            json!({"schedule": "2026-11-22T17:00:00+00:00"}),
            422,
            "Cannot schedule restart in the past",
        ),
        (
            json!({"schedule": "soon"}),
            422,
            "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
        ),
    ];
    for (body, code, words) in refused {
        assert_eq!(judged(&body, false), Err((code, words.to_owned())));
    }
    let paused = judged(&json!({"schedule": "soon"}), true);
    assert_eq!(paused, Err((500, "Can't schedule restart in the paused state".to_owned())));
    assert_eq!(judged(&json!({}), true), Ok(Asked::default()), "in pause it may be restarted now");
}

/// Asks over HTTP while `act` plays the event loop.
async fn asked(
    mut fixture: Fixture,
    (method, body): (Method, Value),
    act: impl AsyncFnOnce(&mut Fixture),
) -> (u16, String) {
    let (address, task) = served(&fixture).await;
    let client = Client::new(std::time::Duration::from_secs(30));
    let url = format!("http://{address}/restart");
    let ask = async { client.request(method, &url, Some(&body)).await.unwrap() };
    let (answer, ()) = tokio::join!(ask, act(&mut fixture));
    task.abort();
    (answer.status.as_u16(), answer.text())
}

#[tokio::test]
async fn a_restart_is_answered_when_it_has_ended() {
    for (ended, code, words) in [
        (Restarts { done: 1, failed: 0 }, 200, "restarted successfully"),
        (Restarts { done: 0, failed: 1 }, 503, "restart failed"),
    ] {
        let fixture = fixture(board(primary(), true, &[]), None, true);
        let answer = asked(fixture, (Method::POST, json!({"role": "primary"})), async |here| {
            assert!(matches!(here.events.recv().await, Some(Event::Restart)));
            let mut now = Board::clone(&here.desk.board.borrow());
            now.restarts = ended;
            here.board.send_replace(now.into());
        });
        assert_eq!(answer.await, (code, words.to_owned()));
    }
}

#[tokio::test]
async fn what_hinders_a_restart_is_said_at_once() {
    let refused = async |change: fn(&mut Board), body: Value| {
        let mut board = board(replica(), false, &[]);
        change(&mut board);
        let (code, words) =
            asked(fixture(board, None, true), (Method::POST, body), async |_| {}).await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        words
    };
    let unmet = "restart conditions are not satisfied";
    assert_eq!(refused(|_| {}, json!({"role": "primary"})).await, unmet);
    assert_eq!(refused(|_| {}, json!({"restart_pending": true})).await, unmet);
    assert_eq!(refused(|_| {}, json!({"postgres_version": "15.18"})).await, unmet);
    let busy = refused(|board| board.restarting = true, json!({})).await;
    assert_eq!(busy, "restart already in progress");
    let busy = refused(|board| board.operation = Some("rewind"), json!({})).await;
    assert_eq!(busy, "rewind already in progress");
    // Patience of a second, and nobody restarts anything.
    assert_eq!(refused(|_| {}, json!({"timeout": 1})).await, "postgres is still starting");
}

#[tokio::test]
async fn a_planned_restart_is_kept_by_the_loop() {
    let later = json!({"schedule": "2999-01-01T00:00:00Z", "role": "primary"});
    for (room, code, words) in
        [(true, 202, "Restart scheduled"), (false, 409, "Another restart is already scheduled")]
    {
        let fixture = fixture(board(primary(), true, &[]), None, true);
        let answer = asked(fixture, (Method::POST, later.clone()), async |here| {
            let Some(Event::PlanRestart { plan: Some(plan), reply }) = here.events.recv().await
            else {
                unreachable!("a plan")
            };
            let shown = r#"{"schedule":"2999-01-01T00:00:00+00:00","role":"primary","postmaster_start_time":"2026-11-22 18:06:13.598054+00:00"}"#;
            assert_eq!(serde_json::to_string(&plan.shown).unwrap(), shown);
            assert_eq!(plan.for_status().len(), 2);
            reply.send(room).unwrap();
        });
        assert_eq!(answer.await, (code, words.to_owned()));
    }
    for (there, code, words) in
        [(true, 200, "scheduled restart deleted"), (false, 404, "no restarts are scheduled")]
    {
        let fixture = fixture(board(primary(), true, &[]), None, true);
        let answer = asked(fixture, (Method::DELETE, json!({})), async |here| {
            let Some(Event::PlanRestart { plan: None, reply }) = here.events.recv().await else {
                unreachable!("no plan")
            };
            reply.send(there).unwrap();
        });
        assert_eq!(answer.await, (code, words.to_owned()));
    }
}
