//! Every endpoint of the dashboard; and waiting for what the status says.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use pgherd_router::{RouterConfig, Topology};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::Backend;
use crate::client::Client;
use crate::{cluster, config, eventually, soon, start, start_with};

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, "").await
}

pub(crate) async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    soon("an answer", stream.read_to_string(&mut text)).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { code, head: head.to_lowercase(), body: body.to_owned() }
}

pub(crate) fn get_blocking(address: SocketAddr, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

pub(crate) async fn status(address: SocketAddr) -> Value {
    serde_json::from_str(&get(address, "/api/status").await.body).unwrap()
}

pub(crate) async fn wait_for(address: SocketAddr, what: &str, holds: impl Fn(&Value) -> bool) {
    eventually(what, || {
        holds(&serde_json::from_str(&get_blocking(address, "/api/status")).unwrap())
    })
    .await;
}

/// Waits until a change has been taken over: `source` is where the write port leads.
pub(crate) async fn wait_for_writes_to(address: SocketAddr, source: &str) {
    wait_for(address, "writes lead there", |status| status["write"]["source"] == source).await;
}

pub(crate) async fn wait_for_held(address: SocketAddr, n: usize) {
    wait_for(address, "that many wait", |status| status["held"]["now"] == n).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_files() {
    let fixture = start(Topology::default());
    for (path, kind, part) in [
        ("/", "text/html", "<base href=\"./\">"),
        ("/app.js", "text/javascript", "\"use strict\""),
        ("/style.css", "text/css", "prefers-color-scheme"),
        ("/icon.svg", "image/svg+xml", "<svg"),
    ] {
        let answer = get(fixture.http, path).await;
        assert_eq!(answer.code, 200, "{path}");
        assert!(answer.head.contains(&format!("content-type: {kind}")), "{}", answer.head);
        assert!(answer.body.contains(part), "{path}");
        assert!(
            answer
                .head
                .contains("content-security-policy: default-src 'self'; frame-ancestors 'none'")
        );
        assert!(answer.head.contains("x-content-type-options: nosniff"));
    }
    let page = get(fixture.http, "/").await.body;
    for bad in
        ["href=\"/", "src=\"/", "http://", "https://", "style=\"", "onclick", "<script>", "<style"]
    {
        assert!(!page.contains(bad), "the page contains {bad}");
    }
    let script = get(fixture.http, "/app.js").await.body;
    for bad in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!script.contains(bad), "the script contains {bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_get_and_only_small() {
    let fixture = start(Topology::default());
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(ask(fixture.http, method, "/api/status", "").await.code, 405, "{method}");
    }
    let large = ask(fixture.http, "POST", "/", "Content-Length: 100000\r\n").await;
    assert_eq!(large.code, 413);
    assert_eq!(get(fixture.http, "/nothing").await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_prefix() {
    let config = RouterConfig { path_prefix: "/pg/router".into(), ..config() };
    let fixture = start_with(config, Topology::default());
    for path in ["/pg/router", "/pg/router/"] {
        let page = get(fixture.http, path).await;
        assert_eq!(page.code, 200, "{path}");
        assert!(page.body.contains("<base href=\"/pg/router/\">"), "{}", page.body);
    }
    assert_eq!(get(fixture.http, "/pg/router/api/status").await.code, 200);
    assert_eq!(get(fixture.http, "/api/status").await.code, 200);
    assert_eq!(get(fixture.http, "/pg/routers/api/status").await.code, 404);
    let stripped = ask(fixture.http, "GET", "/", "X-Forwarded-Prefix: /x-y\r\n").await;
    assert!(stripped.body.contains("<base href=\"/x-y/\">"));
    for evil in ["//evil.example", "/\"><script>", "http://evil.example"] {
        let header = format!("X-Forwarded-Prefix: {evil}\r\n");
        let page = ask(fixture.http, "GET", "/", &header).await.body;
        assert!(page.contains("<base href=\"./\">"), "{evil}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_and_health() {
    let a = Backend::start("a").await;
    let config = RouterConfig { stale_after: Duration::from_secs(60), ..config() };
    let fixture = start_with(config, Topology::default());
    let answer = get(fixture.http, "/leader").await;
    assert_eq!(answer.code, 503);
    assert!(answer.body.contains("hasn't been read"), "{}", answer.body);
    assert_eq!(get(fixture.http, "/health").await.code, 503);
    fixture.set(cluster(Some(("a", 42)), &[("a", a.address)]));
    wait_for_writes_to(fixture.http, "primary").await;
    let answer = get(fixture.http, "/leader").await;
    assert_eq!(answer.code, 200);
    let leader: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(leader["name"], "a");
    assert_eq!(leader["term"], 42);
    assert_eq!(leader["port"], a.address.port());
    assert_eq!(get(fixture.http, "/health").await.code, 200);
    fixture.change(|topology| topology.fresh_at = Some(pgherd_core::time::Time(1)));
    wait_for(fixture.http, "it is stale", |status| status["freshness"]["stale"] == true).await;
    assert_eq!(get(fixture.http, "/health").await.code, 503);
    // Stale isn't gone: the last leader still gets its sessions.
    assert_eq!(Client::login(fixture.write).await.1.server, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_the_story() {
    let (a, b) = (Backend::start("node1").await, Backend::start("node2").await);
    let members = [("node1", a.address), ("node2", b.address)];
    let fixture = start(cluster(Some(("node1", 41)), &members));
    let (mut session, _) = Client::login(fixture.write).await;
    session.echo("12345").await;
    let (_reader, _) = Client::login(fixture.read).await;
    let now = status(fixture.http).await;
    assert_eq!(now["health"]["level"], "ok");
    assert_eq!(
        now["health"]["sentence"],
        "node1 is primary (term 41) — 1 replica streaming, lag 0 B"
    );
    assert_eq!(now["members"][0]["condition"], "primary");
    assert_eq!(now["members"][0]["write"]["sessions"], 1);
    assert_eq!(now["members"][1]["read"]["sessions"], 1);
    assert!(now["members"][0]["write"]["bytes_in"].as_u64().unwrap() > 5);
    assert_eq!(now["freshness"]["stale"], false);
    assert_eq!(now["leader_change"], Value::Null);
    fixture.set(cluster(Some(("node2", 42)), &members));
    wait_for(fixture.http, "node2 leads", |status| status["leader"]["name"] == "node2").await;
    wait_for(fixture.http, "the session is counted", |status| {
        status["members"][0]["write"]["closed_by_router_total"] == 1
    })
    .await;
    let now = status(fixture.http).await;
    assert_eq!(now["leader_change"]["from"], "node1");
    assert_eq!(now["leader_change"]["to"], "node2");
    assert_eq!(now["router"]["sessions_closed_total"], 1);
    let texts: Vec<&str> =
        now["changes"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert!(texts.contains(&"node2 leads and accepts writes (term 42)"), "{texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_prometheus_text() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let fixture = start(cluster(Some(("a", 9)), &[("a", a.address), ("b", b.address)]));
    let (_session, _) = Client::login(fixture.write).await;
    let answer = get(fixture.http, "/metrics").await;
    assert!(answer.head.contains("text/plain; version=0.0.4"));
    for line in [
        "pgherd_router_has_primary 1",
        "pgherd_router_term 9",
        "pgherd_router_view_stale 0",
        "pgherd_router_sessions{port=\"write\",member=\"a\"} 1",
        "pgherd_router_routed{port=\"read\",member=\"b\"} 1",
        "pgherd_router_connections_total{port=\"write\"} 1",
        "pgherd_router_held{port=\"read\"} 0",
        "pgherd_router_refused_total{port=\"write\",reason=\"no_server\"} 0",
        "pgherd_router_leader_changes_total 0",
        "pgherd_router_member_lag_bytes{member=\"b\"} 0",
    ] {
        assert!(answer.body.lines().any(|l| l == line), "{line} is missing in\n{}", answer.body);
    }
    let mut families = std::collections::BTreeSet::new();
    for line in answer.body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(families.insert(rest.to_owned()), "twice: {rest}");
        } else if !line.starts_with('#') {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_is_haproxy_s() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let fixture = start(cluster(Some(("a", 9)), &[("a", a.address), ("b", b.address)]));
    let (_session, _) = Client::login(fixture.write).await;
    let csv = get(fixture.http, "/;csv").await.body;
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap().strip_prefix("# ").unwrap().split(',').collect();
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == header.len()), "{csv}");
    let column = |name: &str| header.iter().position(|h| *h == name).unwrap();
    let names: Vec<_> = rows.iter().map(|row| format!("{}/{}", row[0], row[1])).collect();
    assert_eq!(
        names,
        [
            "write/FRONTEND",
            "write/a",
            "write/b",
            "write/BACKEND",
            "read/FRONTEND",
            "read/a",
            "read/b",
            "read/BACKEND"
        ]
    );
    let statuses: Vec<_> = rows.iter().map(|row| row[column("status")]).collect();
    assert_eq!(statuses, ["OPEN", "UP", "NOLB", "UP", "OPEN", "NOLB", "UP", "UP"]);
    let types: Vec<_> = rows.iter().map(|row| row[column("type")]).collect();
    assert_eq!(types, ["0", "2", "2", "1", "0", "2", "2", "1"]);
    assert_eq!(rows[1][column("scur")], "1");
    assert_eq!(column("status"), 17);
    assert_eq!(column("addr"), 73);
}
