//! The term check: nothing passes under a term that nobody confirms, and its sessions end in time.

use std::time::Duration;

use pgherd_core::Time;
use pgherd_router::{RouterConfig, TermCheck, boottime};

use crate::backend::Backend;
use crate::client::Client;
use crate::{Fixture, cluster, config, eventually, start_with};

fn checked(patience_ms: u64) -> RouterConfig {
    let patience = pgherd_core::Duration::millis(patience_ms);
    RouterConfig { term_check: TermCheck::On { patience }, ..config() }
}

fn confirm(fixture: &Fixture, until: Time) {
    fixture.change(|topology| topology.leader.as_mut().unwrap().confirmed_until = Some(until));
}

fn soon(ms: u64) -> Time {
    boottime() + pgherd_core::Duration::millis(ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_last_word_is_held_until_the_next() {
    let a = Backend::start("a").await;
    let fixture = start_with(checked(60_000), cluster(Some(("a", 1)), &[("a", a.address)]));
    // A session waits for the first word.
    let mut client = Client::start(fixture.write, "echo").await;
    crate::http::wait_for_held(fixture.http, 1).await;
    confirm(&fixture, soon(60_000));
    client.logged_in().await;
    client.echo("confirmed").await;
    confirm(&fixture, boottime());
    crate::http::wait_for_writes_to(fixture.http, "nobody").await;
    let held = tokio::time::timeout(Duration::from_millis(300), client.echo("held")).await;
    assert!(held.is_err(), "it passed without a word for its term");
    confirm(&fixture, soon(60_000));
    // The answer to what was held comes first.
    client.reads("held").await;
    client.echo("and on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_term_that_nobody_confirms_end() {
    let a = Backend::start("a").await;
    let fixture = start_with(checked(200), cluster(Some(("a", 1)), &[("a", a.address)]));
    confirm(&fixture, soon(60_000));
    let (mut session, _) = Client::login(fixture.write).await;
    let (mut reader, _) = Client::login(fixture.read).await;
    session.echo("confirmed").await;
    confirm(&fixture, soon(100));
    session.ended().await;
    eventually("the backend is left", || a.live() == 1).await;
    // Reads are nobody's acknowledgement.
    reader.echo("still here").await;
    crate::http::wait_for(fixture.http, "it is counted", |status| {
        status["router"]["sessions_unconfirmed_total"] == 1
            && status["router"]["term_lapses_total"] == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_leaders_word_opens_nothing_for_the_old_ones_sessions() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let members = [("a", a.address), ("b", b.address)];
    let fixture = start_with(checked(60_000), cluster(Some(("a", 1)), &members));
    confirm(&fixture, soon(60_000));
    let (mut old, _) = Client::login(fixture.write).await;
    confirm(&fixture, boottime());
    crate::http::wait_for_writes_to(fixture.http, "nobody").await;
    let mut next = cluster(Some(("b", 2)), &members);
    next.leader.as_mut().unwrap().confirmed_until = Some(soon(60_000));
    fixture.set(next);
    old.ended().await;
    assert_eq!(Client::login(fixture.write).await.1.server, "b");
}
