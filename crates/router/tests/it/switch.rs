//! A change of leader: old sessions end at once, new ones go to the new leader.

use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::client::Client;
use crate::{cluster, eventually, start};

#[tokio::test(flavor = "multi_thread")]
async fn old_sessions_end_at_once_and_new_ones_follow() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let members = [("a", a.address), ("b", b.address)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    let mut old = Vec::new();
    for _ in 0..20 {
        old.push(Client::login(fixture.write).await.0);
    }
    let switched = Instant::now();
    fixture.set(cluster(Some(("b", 2)), &members));
    for mut session in old {
        session.ended().await;
    }
    assert!(switched.elapsed() < Duration::from_secs(1), "{:?}", switched.elapsed());
    eventually("the old leader is left", || a.live() == 0).await;
    assert_eq!(Client::login(fixture.write).await.1.server, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_leader_under_a_new_term_keeps_its_sessions() {
    let a = Backend::start("a").await;
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let (mut old, _) = Client::login(fixture.write).await;
    fixture.set(cluster(Some(("a", 2)), &[("a", a.address)]));
    assert_eq!(Client::login(fixture.write).await.1.server, "a");
    old.echo("an agent was restarted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_key_that_vanishes_ends_the_reign() {
    let a = Backend::start("a").await;
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let (mut old, _) = Client::login(fixture.write).await;
    fixture.set(cluster(None, &[("a", a.address)]));
    old.ended().await;
    let mut next = Client::start(fixture.write, "echo").await;
    crate::http::wait_for_held(fixture.http, 1).await;
    fixture.set(cluster(Some(("a", 2)), &[("a", a.address)]));
    assert_eq!(next.logged_in().await.server, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmations_pauses_and_views_from_the_past_end_nothing() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let members = [("a", a.address), ("b", b.address)];
    let fixture = start(cluster(Some(("a", 5)), &members));
    let (mut session, _) = Client::login(fixture.write).await;
    fixture.change(|topology| topology.fresh_at = Some(pgherd_router::boottime()));
    session.echo("confirmed").await;
    fixture.change(|topology| topology.leader.as_mut().unwrap().serving = false);
    crate::http::wait_for_writes_to(fixture.http, "nobody").await;
    session.echo("not serving").await;
    fixture.set(cluster(Some(("b", 4)), &members));
    crate::http::wait_for(fixture.http, "the past is shown", |status| {
        status["leader"]["name"] == "b"
    })
    .await;
    session.echo("the past").await;
    // And the past gets no new sessions.
    let mut waiting = Client::start(fixture.write, "echo").await;
    crate::http::wait_for_held(fixture.http, 1).await;
    fixture.set(cluster(Some(("a", 5)), &members));
    assert_eq!(waiting.logged_in().await.server, "a");
    session.echo("all of that is over").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_to_a_leader_that_was_deposed_is_given_up() {
    let b = Backend::start("b").await;
    // A listener whose queue is full answers no more, as a frozen machine doesn't.
    let frozen = frozen_listener();
    let members = [("a", frozen.1), ("b", b.address)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    let mut client = Client::start(fixture.write, "echo").await;
    let begun = Instant::now();
    fixture.set(cluster(Some(("b", 2)), &members));
    assert_eq!(client.logged_in().await.server, "b");
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

/// A listener that accepts nothing, with a full queue.
fn frozen_listener() -> (socket2::Socket, std::net::SocketAddr, Vec<std::net::TcpStream>) {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&crate::any_port()[0].into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100))
    {
        queued.push(stream);
    }
    (socket, address, queued)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_slips_in_behind_a_change() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let members = [("a", a.address), ("b", b.address)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let write = fixture.write;
        // Each logs in, stays until it is thrown out, and comes again; the last login stays.
        clients.spawn(async move {
            loop {
                let mut client = Client::start(write, "echo").await;
                let mut rest = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut rest).await;
            }
        });
    }
    eventually("somebody has logged in", || a.live() > 0).await;
    for term in 2..60 {
        let (name, leader) = if term % 2 == 0 { ("b", &b) } else { ("a", &a) };
        fixture.set(cluster(Some((name, term)), &members));
        // Seen by the router: a change that the next one overtakes throws nobody out.
        eventually("somebody is with the new leader", || leader.live() > 0).await;
    }
    fixture.set(cluster(Some(("b", 60)), &members));
    eventually("all are with the last leader", || a.live() == 0 && b.live() == 20).await;
    // Nobody comes back to the old one.
    let logins = a.logins();
    Client::login(fixture.write).await;
    assert_eq!((a.live(), a.logins()), (0, logins));
}
