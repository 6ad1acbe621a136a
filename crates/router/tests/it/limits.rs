//! What a client may not do, and what the router can't.

use std::time::Duration;

use pgherd_router::{Router, RouterConfig, StartError, Topology};
use tokio::sync::watch;

use crate::backend::Backend;
use crate::client::{Client, SSL, request, startup};
use crate::{cluster, config, start, start_with};

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections() {
    let a = Backend::start("a").await;
    let config = RouterConfig { max_connections: 2, ..config() };
    let fixture = start_with(config, cluster(Some(("a", 1)), &[("a", a.address)]));
    let (first, _) = Client::login(fixture.write).await;
    let (_second, _) = Client::login(fixture.read).await;
    let refused = Client::start(fixture.write, "echo").await.refused().await;
    assert_eq!(refused.sqlstate, "53300");
    let mut ssl = Client::connect(fixture.write).await;
    ssl.send(&request(SSL, b"")).await;
    assert_eq!(ssl.byte().await, b'N');
    ssl.send(&startup("echo")).await;
    assert_eq!(ssl.refused().await.sqlstate, "53300");
    drop(first);
    crate::http::wait_for(fixture.http, "a slot is free", |status| {
        status["router"]["connections"] == 1
    })
    .await;
    Client::login(fixture.write).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_up_packets_have_a_limit() {
    let a = Backend::start("a").await;
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let mut largest = Client::connect(fixture.write).await;
    largest.send(&request(0x0003_0000, &[b'x'; 10_000 - 8])).await;
    assert_eq!(largest.logged_in().await.server, "a");
    let mut larger = Client::connect(fixture.write).await;
    // Only the length is sent: it is refused without waiting for the rest.
    larger.send(&10_001u32.to_be_bytes()).await;
    let refused = larger.refused().await;
    assert_eq!(refused.sqlstate, "08P01");
    assert!(refused.message.contains("10001"), "{}", refused.message);
    assert_eq!(a.logins(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_may_hide_behind_a_request_for_encryption() {
    let a = Backend::start("a").await;
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let mut client = Client::connect(fixture.write).await;
    client.send(&[request(SSL, b""), startup("echo")].concat()).await;
    assert_eq!(client.refused().await.sqlstate, "08P01");
    let mut endless = Client::connect(fixture.write).await;
    for _ in 0..2 {
        endless.send(&request(SSL, b"")).await;
        assert_eq!(endless.byte().await, b'N');
    }
    endless.send(&request(SSL, b"")).await;
    assert_eq!(endless.refused().await.sqlstate, "08P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_start_up_is_dropped() {
    let a = Backend::start("a").await;
    let config = RouterConfig { startup_timeout: Duration::from_millis(200), ..config() };
    let fixture = start_with(config, cluster(Some(("a", 1)), &[("a", a.address)]));
    let mut silent = Client::connect(fixture.write).await;
    let mut slow = Client::connect(fixture.write).await;
    slow.send(&startup("echo")[..9]).await;
    silent.ended().await;
    slow.ended().await;
    assert_eq!(a.logins(), 0);
    let status = crate::http::status(fixture.http).await;
    assert_eq!(status["write"]["refused"]["startup_timeout"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_is_silent_is_named() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = RouterConfig { startup_timeout: Duration::from_millis(200), ..config() };
    let at = mute.local_addr().unwrap();
    let fixture = start_with(config, cluster(Some(("a", 1)), &[("a", at)]));
    let mut client = Client::connect(fixture.write).await;
    client.send(&request(SSL, b"")).await;
    assert_eq!(client.byte().await, b'N');
    client.send(&startup("echo")).await;
    let refused = client.refused().await;
    assert_eq!(refused.message, "a accepts connections but doesn't answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let (_sender, receiver) = watch::channel(std::sync::Arc::new(Topology::default()));
    let config = RouterConfig { read: vec![address], ..config() };
    let Err(error) = Router::start(config, receiver.clone()) else { panic!("it started") };
    let text = error.to_string();
    assert!(matches!(error, StartError::AddressInUse { service: "read", .. }), "{error:?}");
    assert!(text.contains(&address.to_string()) && text.contains("in use"), "{text}");
    let nothing = RouterConfig { write: vec![], read: vec![], ..RouterConfig::default() };
    assert!(matches!(Router::start(nothing, receiver), Err(StartError::NoListener)));
}
