//! Without a server a connection waits; and when none comes it is told why, in PostgreSQL's words.

use std::time::{Duration, Instant};

use pgherd_router::{RouterConfig, Topology};
use tokio::net::TcpListener;

use crate::backend::Backend;
use crate::client::{Client, GSS, SSL, request, startup};
use crate::{cluster, config, eventually, start, start_with};

fn impatient() -> RouterConfig {
    RouterConfig { hold: Duration::from_millis(300), ..config() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_waits_until_a_leader_appears() {
    let a = Backend::start("a").await;
    let fixture = start(Topology::default());
    let mut early = Client::start(fixture.write, "echo").await;
    let mut ssl = Client::connect(fixture.write).await;
    ssl.send(&request(SSL, b"")).await;
    crate::http::wait_for_held(fixture.http, 2).await;
    fixture.set(cluster(None, &[("a", a.address)]));
    crate::http::wait_for_held(fixture.http, 2).await;
    let appeared = Instant::now();
    fixture.set(cluster(Some(("a", 7)), &[("a", a.address)]));
    assert_eq!(early.logged_in().await.server, "a");
    assert!(appeared.elapsed() < Duration::from_secs(1), "{:?}", appeared.elapsed());
    early.echo("hello").await;
    assert_eq!(ssl.byte().await, b'N');
    ssl.send(&startup("echo")).await;
    assert_eq!(ssl.logged_in().await.server, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_does_not_listen_yet_is_asked_again() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let fixture = start(cluster(Some(("a", 1)), &[("a", address)]));
    let mut client = Client::start(fixture.write, "echo").await;
    crate::http::wait_for_held(fixture.http, 1).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let (_stream, _) = crate::soon("a connection", listener.accept()).await.unwrap();
    client.send(b"x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_comes_it_says_so() {
    let fixture = start_with(impatient(), cluster(None, &[]));
    let refused = Client::start(fixture.write, "echo").await.refused().await;
    assert_eq!((refused.severity.as_str(), refused.sqlstate.as_str()), ("FATAL", "57P03"));
    assert!(refused.message.starts_with("no primary since "), "{}", refused.message);
    assert!(refused.message.ends_with("nobody holds the leader key"), "{}", refused.message);
    let refused = Client::start(fixture.read, "echo").await.refused().await;
    assert_eq!(refused.sqlstate, "57P03");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_view_it_says_that() {
    let fixture = start_with(impatient(), Topology::default());
    let refused = Client::start(fixture.write, "echo").await.refused().await;
    assert!(refused.message.contains("hasn't been read"), "{}", refused.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_primary_is_named() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let fixture = start_with(impatient(), cluster(Some(("a", 1)), &[("a", address)]));
    let refused = Client::start(fixture.write, "echo").await.refused().await;
    assert_eq!(refused.sqlstate, "57P03");
    assert!(refused.message.contains(&format!("a ({address}) can't be reached")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_comes_after_requests_for_encryption_too() {
    let fixture = start_with(impatient(), cluster(None, &[]));
    for requests in [&[SSL][..], &[GSS], &[GSS, SSL]] {
        let mut client = Client::connect(fixture.write).await;
        for code in requests {
            client.send(&request(*code, b"")).await;
            assert_eq!(client.byte().await, b'N');
        }
        client.send(&startup("echo")).await;
        assert_eq!(client.refused().await.sqlstate, "57P03");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_wait() {
    let fixture = start_with(RouterConfig { max_held: 2, ..config() }, cluster(None, &[]));
    let _first = Client::start(fixture.write, "echo").await;
    let _second = Client::start(fixture.read, "echo").await;
    crate::http::wait_for_held(fixture.http, 2).await;
    let refused = Client::start(fixture.write, "echo").await.refused().await;
    assert_eq!(refused.sqlstate, "57P03");
    assert!(refused.message.ends_with("2 connections wait already"), "{}", refused.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_waits_no_more() {
    let fixture = start(cluster(None, &[]));
    let client = Client::start(fixture.write, "echo").await;
    crate::http::wait_for_held(fixture.http, 1).await;
    drop(client);
    crate::http::wait_for_held(fixture.http, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_tells_those_who_wait_and_lets_sessions_end() {
    let a = Backend::start("a").await;
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let (mut session, _) = Client::login(fixture.write).await;
    fixture.change(|topology| {
        topology.leader.as_mut().unwrap().serving = false;
        topology.members[0].state = "starting".into();
    });
    crate::http::wait_for_writes_to(fixture.http, "nobody").await;
    let mut waiting = Client::start(fixture.write, "echo").await;
    crate::http::wait_for_held(fixture.http, 1).await;
    let stopping = tokio::spawn(fixture.router.shutdown(Duration::from_secs(30)));
    let refused = waiting.refused().await;
    assert_eq!(
        (refused.sqlstate.as_str(), &*refused.message),
        ("57P03", "the router is shutting down")
    );
    session.echo("still here").await;
    drop(session);
    crate::soon("the shutdown", stopping).await.unwrap();
    eventually("no session is left", || a.live() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_has_an_end() {
    let a = Backend::start("a").await;
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let (mut session, _) = Client::login(fixture.write).await;
    crate::soon("the shutdown", fixture.router.shutdown(Duration::from_millis(50))).await;
    session.ended().await;
}
