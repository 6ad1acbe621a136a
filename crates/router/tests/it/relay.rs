//! Bytes go both ways, whole, however the two sides behave.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backend::{Backend, FLOOD_LEN, LAST_WORD};
use crate::client::{Client, SSL, request};
use crate::{cluster, eventually, soon, start};

#[tokio::test(flavor = "multi_thread")]
async fn big_transfers_both_ways_and_a_half_close() {
    let a = Backend::start("a").await;
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let (client, login) = Client::login(fixture.write).await;
    assert_eq!(login.server, "a");
    let sent: Vec<u8> = (0..24usize << 20).map(|i| (i / 13) as u8).collect();
    let (mut from, mut to) = client.stream.into_split();
    let expected = sent.clone();
    let send = async {
        to.write_all(&sent).await.unwrap();
        // Only this direction ends; the echo of it is still on its way.
        to.shutdown().await.unwrap();
    };
    let receive = async {
        let mut back = Vec::new();
        from.read_to_end(&mut back).await.unwrap();
        back
    };
    let ((), back) = soon("the transfer", async { tokio::join!(send, receive) }).await;
    assert_eq!(back.len(), expected.len() + LAST_WORD.len());
    assert!(back.starts_with(&expected) && back.ends_with(LAST_WORD));
    eventually("the server's side has ended", || a.live() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_everything_though_the_server_has_closed() {
    let a = Backend::start("a").await;
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let mut client = Client::start(fixture.write, "flood").await;
    client.logged_in().await;
    let mut total = 0;
    let mut buffer = vec![0; 10_000];
    loop {
        let n = soon("a read", client.stream.read(&mut buffer)).await.unwrap();
        if n == 0 {
            break;
        }
        assert!(buffer[..n].iter().enumerate().all(|(i, b)| *b == ((total + i) / 7) as u8));
        total += n;
        tokio::task::yield_now().await;
    }
    assert_eq!(total, FLOOD_LEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_may_be_named() {
    let a = Backend::start("a").await;
    let mut topology = cluster(Some(("a", 1)), &[("a", a.address)]);
    topology.leader.as_mut().unwrap().address.host = "localhost".into();
    let fixture = start(topology);
    for _ in 0..3 {
        assert_eq!(Client::login(fixture.write).await.1.server, "a");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_is_between_client_and_server() {
    let a = Backend::start("a").await;
    a.seen.ssl_answer.store(b'S', std::sync::atomic::Ordering::SeqCst);
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let mut client = Client::connect(fixture.write).await;
    client.send(&request(SSL, b"")).await;
    assert_eq!(client.byte().await, b'S');
    // Not the protocol: only a blind relay lets this pass.
    client.echo("\x16\x03\x01 hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_tls_is_relayed_blindly() {
    let a = Backend::start("a").await;
    a.seen.ssl_answer.store(b'S', std::sync::atomic::Ordering::SeqCst);
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let mut client = Client::connect(fixture.write).await;
    // The fake server can't speak TLS; that it accepted a connection shows that the head passed.
    client.send(&[0x16, 3, 1]).await;
    eventually("a session exists", || fixture_sessions(&fixture) == 1).await;
}

fn fixture_sessions(fixture: &crate::Fixture) -> usize {
    let text = crate::http::get_blocking(fixture.http, "/api/status");
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    usize::try_from(status["write"]["total"]["sessions"].as_u64().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_off_ends_the_session() {
    let a = Backend::start("a").await;
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address)]));
    let (client, _) = Client::login(fixture.write).await;
    assert_eq!(a.live(), 1);
    client.stream.set_zero_linger().unwrap();
    drop(client);
    eventually("the server's side has ended", || a.live() == 0).await;
}
