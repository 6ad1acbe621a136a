//! What load balancers and bad clients send, byte for byte (contract 2.1).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{board, fixture, login, primary, served};
use crate::http::{BODY_BYTES, CONNECTIONS_OF_ONE, HEAD_BYTES, HEAD_LIMIT};

/// Far more than any answer takes, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Sends, and reads until the server closes.
async fn said(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has heard enough may close before all is sent.
    let _ = stream.write_all(request.as_bytes()).await;
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is an end too.
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_load_balancers_check_is_answered_by_a_status_line() {
    let fixture = fixture(board(primary(), true, &[]), login(), true);
    let (address, task) = served(&fixture).await;
    for (request, first) in [
        ("OPTIONS /primary HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n"),
        ("OPTIONS /replica HTTP/1.0\r\n\r\n", "HTTP/1.0 503 Service Unavailable\r\n"),
        ("HEAD /primary HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n"),
        ("GET /liveness HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n"),
        // As Patroni: by HEAD and OPTIONS only the table of health checks is asked.
        ("HEAD /liveness HTTP/1.0\r\n\r\n", "HTTP/1.0 503 Service Unavailable\r\n"),
        ("OPTIONS * HTTP/1.0\r\n\r\n", "HTTP/1.0 503 Service Unavailable\r\n"),
    ] {
        let answer = said(address, request).await;
        assert!(answer.starts_with(first), "{request}{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "no body: {answer}");
    }
    task.abort();
}

#[tokio::test]
async fn one_connection_takes_many_checks() {
    let fixture = fixture(board(primary(), true, &[]), login(), true);
    let (address, task) = served(&fixture).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut buffer = [0; 4096];
    for _ in 0..3 {
        stream.write_all(b"OPTIONS /primary HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let read = timeout(LIMIT, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    task.abort();
}

#[tokio::test]
async fn who_sends_too_much_or_too_slowly_is_cut_off() {
    let fixture = fixture(board(primary(), true, &[]), None, true);
    let (address, task) = served(&fixture).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2 * HEAD_BYTES));
    assert!(!said(address, &long).await.contains(" 200 "));
    let length = BODY_BYTES + 1;
    let head = format!(
        "POST /restart HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    let large = said(address, &format!("{head}{}", "x".repeat(length))).await;
    assert!(large.starts_with("HTTP/1.1 400 "), "{large}");
    let empty = said(address, "POST /switchover HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(empty.await.starts_with("HTTP/1.1 411 "));
    // A head that never ends, and a connection that says nothing.
    let begin = Instant::now();
    let (unfinished, mute) = tokio::join!(said(address, "GET /primary HT"), said(address, ""));
    assert!(!unfinished.contains(" 200 ") && mute.is_empty(), "{unfinished}");
    assert!(begin.elapsed() >= HEAD_LIMIT / 2, "it had its time");
    task.abort();
}

#[tokio::test]
async fn one_address_does_not_take_all_connections() {
    let fixture = fixture(board(primary(), true, &[]), None, true);
    let (address, task) = served(&fixture).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_OF_ONE {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(said(address, "OPTIONS /primary HTTP/1.0\r\n\r\n").await, "", "closed at once");
    // Their place is free again when they end.
    held.clear();
    let until = Instant::now() + LIMIT;
    while said(address, "OPTIONS /primary HTTP/1.0\r\n\r\n").await.is_empty() {
        assert!(Instant::now() < until, "nobody is let in any more");
    }
    task.abort();
}
