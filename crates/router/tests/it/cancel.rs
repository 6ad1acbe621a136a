//! Cancel requests find the server that holds the backend.

use std::sync::atomic::Ordering::SeqCst;

use pgherd_router::witness::Answer;
use pgherd_router::{MemberRoute, Router, RouterConfig, Witness};

use crate::backend::Backend;
use crate::client::{CANCEL, Client, request};
use crate::{cluster, config, start, start_with};

async fn cancel(address: std::net::SocketAddr, key: &[u8]) {
    let mut client = Client::connect(address).await;
    client.send(&request(CANCEL, key)).await;
    // The close says that the server has dealt with it.
    client.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_goes_to_the_backend_s_server_only() {
    let (a, b, c) =
        (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    // Protocol 3.2's longer keys on one of them.
    c.seen.secret_len.store(32, SeqCst);
    let members = [("a", a.address), ("b", b.address), ("c", c.address)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    for _ in 0..4 {
        let (_session, login) = Client::login(fixture.read).await;
        cancel(fixture.read, &login.key).await;
        let (hit, missed) = if login.server == "b" { (&b, &c) } else { (&c, &b) };
        assert_eq!(hit.cancels().last(), Some(&login.key));
        assert!(!missed.cancels().contains(&login.key));
    }
    assert_eq!(a.cancels().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_sent_to_every_server_of_the_port() {
    let (a, b, c) =
        (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let members = [("a", a.address), ("b", b.address), ("c", c.address)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    cancel(fixture.read, &[1, 2, 3, 4, 5, 6, 7, 8]).await;
    assert_eq!((a.cancels().len(), b.cancels().len(), c.cancels().len()), (0, 1, 1));
    cancel(fixture.write, &[1, 2, 3, 4, 5, 6, 7, 8]).await;
    assert_eq!((a.cancels().len(), b.cancels().len(), c.cancels().len()), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_forgotten_with_its_session() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address), ("b", b.address)]));
    let (session, login) = Client::login(fixture.write).await;
    drop(session);
    crate::eventually("the session has ended", || a.live() == 0).await;
    crate::http::wait_for(fixture.http, "no session is left", |status| {
        status["write"]["total"]["sessions"] == 0
    })
    .await;
    cancel(fixture.write, &login.key).await;
    let status = crate::http::status(fixture.http).await;
    assert_eq!(status["router"]["cancels_broadcast_total"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_passes_though_no_connection_is_free() {
    let a = Backend::start("a").await;
    let config = RouterConfig { max_connections: 1, ..config() };
    let fixture = start_with(config, cluster(Some(("a", 1)), &[("a", a.address)]));
    let (_session, login) = Client::login(fixture.write).await;
    cancel(fixture.write, &login.key).await;
    assert_eq!(a.cancels(), [login.key]);
}

/// Says of one process that it waits.
struct Waits(u32);

impl Witness for Waits {
    fn waits<'a>(&'a self, member: &'a MemberRoute, pid: u32) -> Answer<'a> {
        let here = member.name.as_str() == "a";
        Box::pin(async move { Some(here && pid == self.0) })
    }
}

async fn cancels_that_arrive(mode: &str, config: RouterConfig) -> usize {
    let a = Backend::start("a").await;
    let mut topology = cluster(Some(("a", 1)), &[("a", a.address)]);
    topology.sync_mode = mode.to_owned();
    let sender = tokio::sync::watch::Sender::new(std::sync::Arc::new(topology));
    let pid = 0x0102_0304;
    let witness = std::sync::Arc::new(Waits(pid));
    let router = Router::start_with(config, sender.subscribe(), witness).unwrap();
    let write = router.local_addrs().write[0];
    for pid in [pid, pid + 1] {
        cancel(write, &[&pid.to_be_bytes()[..], &[5, 6, 7, 8]].concat()).await;
    }
    a.cancels().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_for_a_synchronous_wait_is_dropped_where_there_are_such() {
    assert_eq!(cancels_that_arrive("quorum", config()).await, 1);
    assert_eq!(cancels_that_arrive("off", config()).await, 2);
    let config = RouterConfig { keeps_sync_waits: false, ..config() };
    assert_eq!(cancels_that_arrive("quorum", config).await, 2);
}
