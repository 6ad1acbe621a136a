//! The read port: round robin over replicas, fallback to the leader, lag.

use std::collections::BTreeMap;

use pgherd_router::{ReadFallback, RouterConfig};

use crate::backend::Backend;
use crate::client::Client;
use crate::{cluster, config, start, start_with};

#[tokio::test(flavor = "multi_thread")]
async fn sessions_take_turns() {
    let (a, b, c) =
        (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let members = [("a", a.address), ("b", b.address), ("c", c.address)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    let mut counts = BTreeMap::new();
    for _ in 0..10 {
        *counts.entry(Client::login(fixture.read).await.1.server).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([("b".to_owned(), 5), ("c".to_owned(), 5)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_replica_the_leader_answers() {
    let a = Backend::start("a").await;
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    assert_eq!(Client::login(fixture.read).await.1.server, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fallback_they_wait_for_a_replica() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let members = [("a", a.address), ("b", b.address)];
    let config = RouterConfig { read_fallback: ReadFallback::None, ..config() };
    let fixture = start_with(config, cluster(Some(("a", 1)), &members[..1]));
    let mut client = Client::start(fixture.read, "echo").await;
    crate::http::wait_for_held(fixture.http, 1).await;
    fixture.set(cluster(Some(("a", 1)), &members));
    assert_eq!(client.logged_in().await.server, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_refuses_is_passed_over_and_counted() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone_at = gone.local_addr().unwrap();
    drop(gone);
    let members = [("a", a.address), ("b", b.address), ("c", gone_at)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    for _ in 0..4 {
        assert_eq!(Client::login(fixture.read).await.1.server, "b");
    }
    let metrics = crate::http::get(fixture.http, "/metrics").await.body;
    let line = "pgherd_router_connect_errors_total{port=\"read\",member=\"c\"} 2";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_replica_refuses_the_leader_answers() {
    let a = Backend::start("a").await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone_at = gone.local_addr().unwrap();
    drop(gone);
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address), ("b", gone_at)]));
    assert_eq!(Client::login(fixture.read).await.1.server, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_replica_keeps_its_sessions_and_gets_no_new_ones() {
    let (a, b, c) =
        (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let members = [("a", a.address), ("b", b.address), ("c", c.address)];
    let fixture = start(cluster(Some(("a", 1)), &members[..2]));
    let (mut old, login) = Client::login(fixture.read).await;
    assert_eq!(login.server, "b");
    let mut lagging = cluster(Some(("a", 1)), &members);
    lagging.members[1].lag_bytes = Some(lagging.max_lag + 1);
    fixture.set(lagging);
    crate::http::wait_for(fixture.http, "c is routed", |status| {
        status["members"].get(2).is_some_and(|member| member["read"]["routed"] == true)
    })
    .await;
    for _ in 0..4 {
        assert_eq!(Client::login(fixture.read).await.1.server, "c");
    }
    old.echo("still here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_sessions_survive_a_change_of_leader_and_end_with_their_member() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let members = [("a", a.address), ("b", b.address)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    let (mut session, login) = Client::login(fixture.read).await;
    assert_eq!(login.server, "b");
    fixture.set(cluster(Some(("b", 2)), &members));
    crate::http::wait_for(fixture.http, "b leads", |status| status["leader"]["name"] == "b").await;
    session.echo("it became the leader").await;
    fixture.set(cluster(Some(("a", 3)), &members[..1]));
    session.ended().await;
}
