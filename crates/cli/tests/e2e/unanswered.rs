//! Who connects in the moment in which the leader's node freezes, and hears nothing from there, gets the
//! next leader over the same connection.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgherd_connect::Words;
use tokio::time::timeout;
use tokio_postgres::Config;

use crate::herd::Fault;
use crate::round::write_port;
use crate::term::counted;
use crate::writer::{numbers, runtime};
use crate::{LIMIT, say, started};

/// Of each kind.
const SESSIONS: i64 = 5;

pub(crate) fn who_connects_to_a_frozen_leader_gets_the_next() {
    let mut herd = started();
    let port = write_port(&herd);
    let (frozen, hit) = herd.hurt(Fault::StopNode);
    // `prefer` asks for encryption first; nobody answers that either.
    let sessions: Vec<_> = (0..2 * SESSIONS)
        .map(|number| {
            let mode = if number % 2 == 0 { "prefer" } else { "disable" };
            insert_once(port.clone(), mode, number)
        })
        .collect();
    let connected = hit.elapsed();
    for session in sessions {
        let outcome = session.join().unwrap();
        assert!(outcome.is_ok(), "{outcome:?}\n{}", herd.everything());
    }
    let (took, leader) = (hit.elapsed(), herd.leader());
    say(&format!(
        "connected within {} ms of the freeze, all served after {} ms",
        connected.as_millis(),
        took.as_millis()
    ));
    assert_ne!(leader.as_ref(), Some(&frozen));
    let moved = format!("sessions_moved_total{{port=\"write\",member=\"{frozen}\"}}");
    assert_eq!(counted(&herd, &moved), 2 * SESSIONS.cast_unsigned(), "{}", herd.everything());
    assert_eq!(counted(&herd, "sessions_closed_total"), 0);
    let rows = numbers(&port, "SELECT n FROM acks ORDER BY n", LIMIT);
    assert_eq!(rows, (0..2 * SESSIONS).collect::<Vec<_>>());
    herd.wait_whole();
}

/// One connection, one statement, no second try.
fn insert_once(config: Config, mode: &'static str, number: i64) -> JoinHandle<Result<(), String>> {
    std::thread::spawn(move || {
        let attempt = async {
            let security = Words::of([("sslmode", mode)]).security().unwrap();
            let (client, driver) = pgherd_connect::connect(&config, &security)
                .await
                .map_err(|error| format!("connect: {error:?}"))?;
            tokio::spawn(async move { drop(driver.await) });
            let insert = format!("INSERT INTO acks VALUES ({number})");
            client.batch_execute(&insert).await.map_err(|error| format!("insert: {error:?}"))
        };
        let begun = Instant::now();
        // A little more than the router holds it.
        let limited = async { timeout(LIMIT + Duration::from_secs(5), attempt).await };
        let outcome = runtime().block_on(limited);
        let outcome = outcome.unwrap_or_else(|_| Err("it never ended".to_owned()));
        outcome.map_err(|error| format!("sslmode={mode} after {:?}: {error}", begun.elapsed()))
    })
}
