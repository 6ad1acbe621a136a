//! Until a server has answered, its client may go to another one.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgherd_core::Time;
use pgherd_router::{RouterConfig, TermCheck, boottime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::backend::Backend;
use crate::client::{CANCEL, Client, SSL, message, request, startup};
use crate::{Fixture, PATIENCE, cluster, config, eventually, soon, start, start_with};

/// What a server does with a connection. All of them read and remember what comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Nothing, as one that is frozen.
    Nothing,
    /// Answers each request for encryption with this, and nothing else.
    Answers(u8),
    /// Closes as soon as something has come.
    BreaksOff,
    /// Logs in whoever came, when it is told to.
    LogsInLate,
}

struct Scripted {
    address: std::net::SocketAddr,
    /// What came over each connection.
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    go: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Scripted {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let go = watch::Sender::new(false);
        let mut task = JoinSet::new();
        let (shared, gone) = (Arc::clone(&seen), go.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.lock().unwrap().push(Vec::new());
                let at = shared.lock().unwrap().len() - 1;
                let (shared, go) = (Arc::clone(&shared), gone.subscribe());
                connections.spawn(serve(stream, does, go, move |bytes| {
                    shared.lock().unwrap()[at].extend(bytes);
                }));
            }
        });
        Self { address, seen, go, _task: task }
    }

    fn seen(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until the one connection that there was has brought exactly this.
    async fn got(&self, bytes: &[u8]) {
        eventually("the server has got it", || self.seen() == [bytes]).await;
    }
}

async fn serve(
    mut stream: TcpStream,
    does: Does,
    mut go: watch::Receiver<bool>,
    saw: impl Fn(&[u8]),
) {
    let mut buffer = vec![0; 20_000];
    loop {
        let n = stream.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            return;
        }
        saw(&buffer[..n]);
        match does {
            Does::Nothing => {}
            Does::Answers(byte) if buffer[..n] == request(SSL, b"") => {
                stream.write_all(&[byte]).await.unwrap();
            }
            Does::Answers(_) => {}
            Does::BreaksOff => return,
            Does::LogsInLate => {
                go.wait_for(|go| *go).await.unwrap();
                stream.write_all(&message(b'R', &[0; 4])).await.unwrap();
            }
        }
    }
}

/// A cluster whose leader `a` does this, and a replica `b` that is well.
async fn two(does: Does) -> (Scripted, Backend, Fixture) {
    two_with(config(), does).await
}

async fn two_with(config: RouterConfig, does: Does) -> (Scripted, Backend, Fixture) {
    let (a, b) = (Scripted::start(does).await, Backend::start("b").await);
    let fixture = start_with(config, cluster(Some(("a", 1)), &members(&a, &b)));
    (a, b, fixture)
}

fn members<'a>(a: &Scripted, b: &Backend) -> [(&'a str, std::net::SocketAddr); 2] {
    [("a", a.address), ("b", b.address)]
}

fn b_leads(fixture: &Fixture, a: &Scripted, b: &Backend) {
    fixture.set(cluster(Some(("b", 2)), &members(a, b)));
}

/// `port` of a member in the status.
async fn counted(fixture: &Fixture, member: usize, port: &str, counter: &str) -> u64 {
    let status = crate::http::status(fixture.http).await;
    status["members"][member][port][counter].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_has_answered_goes_to_the_next_leader() {
    let (a, b, fixture) = two(Does::Nothing).await;
    let mut client = Client::start(fixture.write, "echo").await;
    a.got(&startup("echo")).await;
    b_leads(&fixture, &a, &b);
    assert_eq!(client.logged_in().await.server, "b");
    client.echo("and all is well").await;
    assert_eq!(a.seen(), [startup("echo")]);
    assert_eq!(counted(&fixture, 0, "write", "sessions_moved_total").await, 1);
    assert_eq!(counted(&fixture, 0, "write", "closed_by_router_total").await, 0);
    assert_eq!(counted(&fixture, 0, "write", "sessions").await, 0);
    assert_eq!(counted(&fixture, 1, "write", "sessions").await, 1);
    let status = crate::http::status(fixture.http).await;
    // Nobody has lost anything, and one client is one connection.
    assert_eq!(status["router"]["sessions_closed_total"], 0);
    assert_eq!(status["router"]["connections"], 1);
    let metrics = crate::http::get(fixture.http, "/metrics").await.body;
    let line = "pgherd_router_sessions_moved_total{port=\"write\",member=\"a\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
    let csv = crate::http::get(fixture.http, "/;csv").await.body;
    let column = csv.lines().next().unwrap().split(',').position(|name| name == "wredis").unwrap();
    let row = csv.lines().find(|line| line.starts_with("write,a,")).unwrap();
    assert_eq!(row.split(',').nth(column), Some("1"), "{csv}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_start_up_packet_goes_along() {
    let (a, b, fixture) = two(Does::Nothing).await;
    let mut client = Client::connect(fixture.write).await;
    let largest = request(0x0003_0000, &[b'x'; 10_000 - 8]);
    client.send(&largest).await;
    a.got(&largest).await;
    b_leads(&fixture, &a, &b);
    assert_eq!(client.logged_in().await.server, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_encryption_is_asked_anew() {
    for answer in [b'N', b'S'] {
        let (a, b, fixture) = two(Does::Nothing).await;
        b.seen.ssl_answer.store(answer, std::sync::atomic::Ordering::SeqCst);
        let mut client = Client::connect(fixture.write).await;
        client.send(&request(SSL, b"")).await;
        a.got(&request(SSL, b"")).await;
        b_leads(&fixture, &a, &b);
        assert_eq!(client.byte().await, answer);
        if answer == b'N' {
            client.send(&startup("echo")).await;
            assert_eq!(client.logged_in().await.server, "b");
        }
        client.echo("as with b from the beginning").await;
        assert_eq!(b.seen.requests.lock().unwrap()[..], [SSL]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_hello_goes_along() {
    let (a, b) = (Scripted::start(Does::Nothing).await, Scripted::start(Does::Nothing).await);
    let members = [("a", a.address), ("b", b.address)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    let mut client = Client::connect(fixture.write).await;
    let hello = b"\x16\x03\x01\x00\x04hell".to_vec();
    client.send(&hello).await;
    a.got(&hello).await;
    fixture.set(cluster(Some(("b", 2)), &members));
    b.got(&hello).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_there_is_no_encryption_binds_nobody() {
    let (a, b, fixture) = two(Does::Answers(b'N')).await;
    let mut client = Client::connect(fixture.write).await;
    let mut early = Client::connect(fixture.write).await;
    for client in [&mut client, &mut early] {
        client.send(&request(SSL, b"")).await;
        assert_eq!(client.byte().await, b'N');
    }
    early.send(&startup("echo")).await;
    eventually("a has it", || a.seen().contains(&[request(SSL, b""), startup("echo")].concat()))
        .await;
    b_leads(&fixture, &a, &b);
    assert_eq!(early.logged_in().await.server, "b");
    client.send(&startup("echo")).await;
    assert_eq!(client.logged_in().await.server, "b");
    // Who was told already isn't told again.
    assert!(b.seen.requests.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_binds() {
    let (a, b, fixture) = two(Does::Answers(b'S')).await;
    let mut client = Client::connect(fixture.write).await;
    client.send(&request(SSL, b"")).await;
    assert_eq!(client.byte().await, b'S');
    b_leads(&fixture, &a, &b);
    client.ended().await;
    assert_eq!(counted(&fixture, 0, "write", "closed_by_router_total").await, 1);
    assert_eq!(counted(&fixture, 0, "write", "sessions_moved_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_binds() {
    let (a, b, fixture) = two(Does::LogsInLate).await;
    a.go.send_replace(true);
    let mut client = Client::start(fixture.write, "echo").await;
    assert_eq!(client.message().await.0, b'R');
    b_leads(&fixture, &a, &b);
    client.ended().await;
    let status = crate::http::status(fixture.http).await;
    assert_eq!(status["router"]["sessions_closed_total"], 1);
    assert_eq!(b.logins(), 0);
}

/// It may be a statement, for a server that asks for no password.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_the_start_up_packet_binds() {
    let (a, b, fixture) = two(Does::Nothing).await;
    let statement = message(b'Q', b"INSERT INTO once VALUES (1)\0");
    let both = [startup("echo"), statement.clone()].concat();
    let mut at_once = Client::connect(fixture.write).await;
    at_once.send(&both).await;
    a.got(&both).await;
    let mut later = Client::start(fixture.write, "echo").await;
    eventually("the start-up packet is there", || a.seen().get(1) == Some(&startup("echo"))).await;
    later.send(&statement).await;
    eventually("the statement is there", || a.seen().get(1) == Some(&both)).await;
    b_leads(&fixture, &a, &b);
    at_once.ended().await;
    later.ended().await;
    assert_eq!(b.logins(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_is_not_sent_anew() {
    let (a, b, fixture) = two(Does::Nothing).await;
    let mut client = Client::connect(fixture.write).await;
    let cancel = request(CANCEL, &[1, 2, 3, 4, 5, 6, 7, 8]);
    client.send(&cancel).await;
    a.got(&cancel).await;
    b_leads(&fixture, &a, &b);
    client.ended().await;
    assert_eq!(b.cancels(), [] as [Vec<u8>; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_the_waiting_together_has_one_limit() {
    let hold = Duration::from_secs(3);
    let (a, b, fixture) = two_with(RouterConfig { hold, ..config() }, Does::Nothing).await;
    let begun = Instant::now();
    let mut client = Client::start(fixture.write, "echo").await;
    a.got(&startup("echo")).await;
    tokio::time::sleep(hold * 2 / 3).await;
    let lost = Instant::now();
    fixture.set(cluster(None, &members(&a, &b)));
    crate::http::wait_for_held(fixture.http, 1).await;
    let refused = client.refused().await;
    assert_eq!(refused.sqlstate, "57P03");
    assert!(refused.message.ends_with("nobody holds the leader key"), "{}", refused.message);
    assert!(begun.elapsed() >= hold && lost.elapsed() < hold, "{:?}", begun.elapsed());
    crate::http::wait_for_held(fixture.http, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_meanwhile_is_not_taken_along() {
    let (a, b, fixture) = two(Does::Nothing).await;
    let client = Client::start(fixture.write, "echo").await;
    a.got(&startup("echo")).await;
    fixture.set(cluster(None, &members(&a, &b)));
    crate::http::wait_for_held(fixture.http, 1).await;
    drop(client);
    crate::http::wait_for_held(fixture.http, 0).await;
    b_leads(&fixture, &a, &b);
    crate::http::wait_for_writes_to(fixture.http, "primary").await;
    assert_eq!(b.logins(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_off_is_asked_again_and_not_for_ever() {
    let (a, b, fixture) = two(Does::BreaksOff).await;
    let refused = Client::start(fixture.write, "echo").await.refused().await;
    assert_eq!(
        (refused.sqlstate.as_str(), &*refused.message),
        ("57P03", "a accepts connections but doesn't answer")
    );
    assert_eq!(a.seen(), [startup("echo"), startup("echo"), startup("echo")]);
    assert_eq!(b.logins(), 0);
    assert_eq!(counted(&fixture, 0, "write", "server_aborts_total").await, 3);
    assert_eq!(counted(&fixture, 0, "write", "sessions_moved_total").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_off_and_listens_no_more_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let b = Backend::start("b").await;
    let members = [("a", at), ("b", b.address)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    let mut client = Client::start(fixture.write, "echo").await;
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    soon("a start-up packet", stream.read_exact(&mut [0; 9])).await.unwrap();
    drop((listener, stream));
    crate::http::wait_for_held(fixture.http, 1).await;
    fixture.set(cluster(Some(("b", 2)), &members));
    assert_eq!(client.logged_in().await.server, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_breaks_off_is_passed_over() {
    let (a, b) = (Backend::start("a").await, Scripted::start(Does::BreaksOff).await);
    let c = Backend::start("c").await;
    let members = [("a", a.address), ("b", b.address), ("c", c.address)];
    let fixture = start(cluster(Some(("a", 1)), &members));
    let begun = Instant::now();
    for _ in 0..4 {
        assert_eq!(Client::login(fixture.read).await.1.server, "c");
    }
    // Each attempt takes a turn.
    assert!((1..=4).contains(&b.seen().len()), "{}", b.seen().len());
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_replica_that_is_listed_no_more_is_left() {
    let (a, b) = (Backend::start("a").await, Scripted::start(Does::Nothing).await);
    let fixture = start(cluster(Some(("a", 1)), &[("a", a.address), ("b", b.address)]));
    let mut client = Client::start(fixture.read, "echo").await;
    b.got(&startup("echo")).await;
    fixture.set(cluster(Some(("a", 1)), &[("a", a.address)]));
    assert_eq!(client.logged_in().await.server, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_stops_moves_nobody() {
    let (a, b, fixture) = two(Does::Nothing).await;
    let mut client = Client::start(fixture.write, "echo").await;
    a.got(&startup("echo")).await;
    soon("the shutdown", fixture.router.shutdown(Duration::from_millis(50))).await;
    client.ended().await;
    assert_eq!(b.logins(), 0);
}

/// For how long the leader's word counts where it is given at all.
const WORD: pgherd_core::Duration = pgherd_core::Duration::millis(60_000);

fn confirm(fixture: &Fixture, until: Time) {
    fixture.change(|topology| topology.leader.as_mut().unwrap().confirmed_until = Some(until));
}

/// a has answered, while nobody confirmed its term.
async fn held_back() -> (Scripted, Backend, Fixture, Client) {
    let config = RouterConfig { term_check: TermCheck::On { patience: WORD }, ..config() };
    let (a, b, fixture) = two_with(config, Does::LogsInLate).await;
    confirm(&fixture, boottime() + WORD);
    let mut client = Client::start(fixture.write, "echo").await;
    a.got(&startup("echo")).await;
    confirm(&fixture, boottime());
    crate::http::wait_for_writes_to(fixture.http, "nobody").await;
    a.go.send_replace(true);
    let byte = tokio::time::timeout(Duration::from_millis(200), client.stream.read_u8()).await;
    assert!(byte.is_err(), "it passed without a word for its term");
    (a, b, fixture, client)
}

/// What is held back for want of a word for its term hasn't reached the client.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_may_not_pass_binds_nobody() {
    let (a, b, fixture, mut client) = held_back().await;
    let mut next = cluster(Some(("b", 2)), &members(&a, &b));
    next.leader.as_mut().unwrap().confirmed_until = Some(boottime() + WORD);
    fixture.set(next);
    assert_eq!(client.logged_in().await.server, "b");
}

/// And when the word comes after all, so does the answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_held_back_passes_with_the_next_word() {
    let (_a, _b, fixture, mut client) = held_back().await;
    confirm(&fixture, boottime() + WORD);
    assert_eq!(client.message().await.0, b'R');
}
