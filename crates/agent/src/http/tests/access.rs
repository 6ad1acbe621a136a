//! Who may change something, as a table (contract 2.5).

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use pgherd_config::rest::{RestServer, RestTls, VerifyClient};

use super::{board, fixture, login, primary};
use crate::http::Desk;
use crate::http::access::{Caller, Proof, check, is_peer};
use crate::http::route::Unsafe;

const GOOD: &str = "Basic YWRtaW46dGlnZXI=";

/// One call under one configuration.
struct Case {
    rest: RestServer,
    password: bool,
    loopback: bool,
    from: &'static str,
    proof: Proof,
    header: Option<&'static str>,
    call: Unsafe,
}

fn case() -> Case {
    Case {
        rest: RestServer::default(),
        password: false,
        loopback: false,
        from: "192.0.2.7",
        proof: Proof::None,
        header: None,
        call: Unsafe::Switchover,
    }
}

fn allowlist(entries: &[&str]) -> RestServer {
    let allowlist = entries.iter().map(|text| text.parse().unwrap()).collect();
    RestServer { allowlist, ..RestServer::default() }
}

fn verifying(verify_client: VerifyClient) -> RestServer {
    let tls = RestTls { verify_client, ..RestTls::default() };
    RestServer { tls: Some(tls), ..RestServer::default() }
}

/// Code and words of the refusal; 0 when there is none.
async fn judged(case: Case) -> (u16, String) {
    let auth = case.password.then(login).flatten();
    let fixture = fixture(board(primary(), true, &[]), auth, case.loopback);
    let mut desk: Desk = Arc::into_inner(fixture.desk).unwrap();
    desk.rest = case.rest;
    let mut headers = HeaderMap::new();
    if let Some(header) = case.header {
        headers.insert(AUTHORIZATION, header.parse().unwrap());
    }
    let caller = Caller { address: case.from.parse().unwrap(), proof: case.proof };
    match check(&desk, caller, case.call, &headers).await {
        Ok(()) => (0, String::new()),
        Err((code, words)) => (code.as_u16(), words),
    }
}

#[tokio::test]
async fn without_any_guard_only_this_machine_may() {
    assert_eq!(judged(Case { loopback: true, ..case() }).await.0, 0);
    let (code, words) = judged(case()).await;
    assert_eq!(code, 403);
    assert!(words.contains("restapi.authentication"), "{words}");
    // The way to say that everybody may.
    let everybody = allowlist(&["0.0.0.0/0", "::/0"]);
    assert_eq!(judged(Case { rest: everybody, ..case() }).await.0, 0);
}

#[tokio::test]
async fn the_password_is_asked_for() {
    let with = |header| Case { password: true, loopback: true, header, ..case() };
    assert_eq!(judged(with(Some(GOOD))).await.0, 0);
    assert_eq!(judged(with(None)).await, (401, "no auth header received".to_owned()));
    for bad in ["Basic YWRtaW46bGlvbg==", "Basic ???", "Bearer YWRtaW46dGlnZXI=", ""] {
        let refused = (401, "not authenticated".to_owned());
        assert_eq!(judged(with(Some(bad))).await, refused, "{bad}");
    }
}

#[tokio::test]
async fn the_allowlist_comes_first() {
    let denied = (403, "Access is denied".to_owned());
    for (entry, fits) in [
        ("192.0.2.7", true),
        ("192.0.2.0/24", true),
        ("192.0.2.8", false),
        ("198.51.100.0/24", false),
        ("localhost", false),
    ] {
        let rest = allowlist(&[entry]);
        let judged = judged(Case { rest, password: true, header: Some(GOOD), ..case() }).await;
        assert_eq!(judged, if fits { (0, String::new()) } else { denied.clone() }, "{entry}");
    }
    let local = Case { rest: allowlist(&["localhost"]), from: "127.0.0.1", ..case() };
    assert_eq!(judged(local).await.0, 0, "names are looked up");
    let mapped = Case { rest: allowlist(&["192.0.2.7"]), from: "::ffff:192.0.2.7", ..case() };
    assert_eq!(judged(mapped).await.0, 0, "a dual-stack socket shows IPv4 so");
    // It refuses before anything is said about passwords.
    let both = Case { rest: allowlist(&["10.0.0.1"]), password: true, ..case() };
    assert_eq!(judged(both).await, denied);
}

#[tokio::test]
async fn members_may_be_on_the_list() {
    let members = || RestServer { allowlist_include_members: true, ..RestServer::default() };
    let with = |more: &'static str, call| async move {
        let member = format!(r#"{{"api_url":"http://{more}:8008/patroni"}}"#);
        let more = [("members/pg-0", member.as_str())];
        let fixture = fixture(board(primary(), true, &more), None, false);
        let mut desk: Desk = Arc::into_inner(fixture.desk).unwrap();
        desk.rest = members();
        let caller = Caller { address: "192.0.2.7".parse().unwrap(), proof: Proof::None };
        check(&desk, caller, call, &HeaderMap::new()).await.is_ok()
    };
    assert!(with("192.0.2.7", Unsafe::Restart).await);
    assert!(!with("192.0.2.8", Unsafe::Restart).await);
    assert!(!with("192.0.2.7", Unsafe::Failsafe).await, "the failsafe question asks for more");
}

#[tokio::test]
async fn certificates_are_asked_for_where_clients_are_verified() {
    for verify in [VerifyClient::Optional, VerifyClient::Required] {
        let with = |proof| Case { rest: verifying(verify), proof, ..case() };
        let refused = (403, "client certificate required".to_owned());
        assert_eq!(judged(with(Proof::None)).await, refused);
        assert_eq!(judged(with(Proof::Certificate)).await.0, 0);
        let password = Case { password: true, ..with(Proof::Certificate) };
        assert_eq!(judged(password).await.0, 401, "both, where both are set");
    }
    let unasked = Case { rest: verifying(VerifyClient::None), ..case() };
    assert_eq!(judged(unasked).await.0, 403, "HTTPS alone says nothing about the caller");
}

#[tokio::test]
async fn a_peer_proves_itself_by_certificate_where_nothing_else_is_set() {
    let with = |secret: bool, verify, proof| {
        let fixture = fixture(board(primary(), true, &[]), None, false);
        let mut desk: Desk = Arc::into_inner(fixture.desk).unwrap();
        desk.rest = verifying(verify);
        desk.identity.secret = desk.identity.secret.filter(|_| secret);
        is_peer(&desk, Caller { address: "192.0.2.7".parse().unwrap(), proof })
    };
    assert!(!with(false, VerifyClient::Optional, Proof::None));
    assert!(with(false, VerifyClient::Optional, Proof::Certificate));
    assert!(with(true, VerifyClient::Optional, Proof::None), "the secret is looked at instead");
    assert!(with(false, VerifyClient::None, Proof::None), "nothing is asked of anybody");
}

/// Whoever is let in is remembered, with what he calls himself; who isn't, is not.
#[tokio::test]
async fn who_wants_something_changed_is_remembered() {
    let fixture = fixture(board(primary(), true, &[]), login(), true);
    let (address, server) = super::served(&fixture).await;
    let url = format!("http://{address}/reload");
    let secret = || pgherd_api::Secret::new("tiger".to_owned());
    let client = pgherd_api::Client::new(std::time::Duration::from_secs(5)).on_behalf_of("me (@h");
    let denied = client.request(http::Method::POST, &url, None).await.unwrap();
    assert_eq!(denied.status, 401);
    let client = client.with_auth("admin", secret());
    client.request(http::Method::POST, &url, None).await.unwrap();
    let asked = fixture.desk.journal.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let agent = concat!("pgherd/", env!("CARGO_PKG_VERSION"), " (me@h)");
    assert_eq!(asked[0].call, "POST /reload");
    assert_eq!(asked[0].to_string(), format!("admin at 127.0.0.1 with {agent}"));
    server.abort();
}
