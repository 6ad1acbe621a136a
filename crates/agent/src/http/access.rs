//! Who may make calls that change something (contract 2.5): from an address on the allowlist, with a
//! client certificate where clients must have one, with the password where there is one; in that
//! order. Where none of these is set, only an API that nobody but this machine reaches.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use pgherd_api::Secret;
use pgherd_config::Login;
use pgherd_config::rest::{Allowed, RestServer, VerifyClient};

use super::route::Unsafe;
use super::{Desk, Refusal};

/// A name that can't be looked up in this time is nobody's.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(2);

/// Who calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Caller {
    pub(super) address: IpAddr,
    pub(super) proof: Proof,
}

/// What the connection itself proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proof {
    /// Nothing: plain HTTP, or a client without a certificate.
    None,
    /// A client certificate that our authority signed.
    Certificate,
}

/// Ok, or the refusal.
pub(super) async fn check(
    desk: &Desk,
    caller: Caller,
    call: Unsafe,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let denied = |words: &str| Err((StatusCode::FORBIDDEN, words.to_owned()));
    let unproved = |words: &str| Err((StatusCode::UNAUTHORIZED, words.to_owned()));
    if limited(&desk.rest) && !allowed(desk, caller.address, call).await {
        return denied("Access is denied");
    }
    let asked = asks_for_certificates(&desk.rest);
    if asked && caller.proof == Proof::None {
        return denied("client certificate required");
    }
    if let Some(login) = &desk.auth {
        if headers.get(AUTHORIZATION).is_none() {
            return unproved("no auth header received");
        }
        if !proves(login, headers) {
            return unproved("not authenticated");
        }
        return Ok(());
    }
    if asked || limited(&desk.rest) || desk.loopback {
        return Ok(());
    }
    denied(
        "Access is denied: this API listens beyond its machine and asks nobody who he is. Set \
         restapi.authentication, restapi.verify_client or restapi.allowlist; 'allowlist: \
         [0.0.0.0/0, \"::/0\"]' lets everybody in",
    )
}

/// Whether a member may be on this connection at all: where neither secret nor password proves one,
/// the certificate that clients are asked for has to.
pub(super) fn is_peer(desk: &Desk, caller: Caller) -> bool {
    let named = desk.identity.secret.is_some() || desk.identity.login.is_some();
    named || !asks_for_certificates(&desk.rest) || caller.proof == Proof::Certificate
}

/// Whether the headers carry this login, compared in constant time.
pub(crate) fn proves(login: &Login, headers: &HeaderMap) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let given = given.and_then(|text| text.strip_prefix("Basic "));
    let given = given.and_then(|encoded| STANDARD.decode(encoded.trim()).ok());
    let expected = Secret::new(format!("{}:{}", login.username, login.password.reveal()));
    given.is_some_and(|given| expected.matches(&given))
}

pub(crate) fn asks_for_certificates(rest: &RestServer) -> bool {
    rest.tls.as_ref().is_some_and(|tls| tls.verify_client != VerifyClient::None)
}

fn limited(rest: &RestServer) -> bool {
    !rest.allowlist.is_empty() || rest.allowlist_include_members
}

async fn allowed(desk: &Desk, caller: IpAddr, call: Unsafe) -> bool {
    let caller = caller.to_canonical();
    let mut hosts = Vec::new();
    for entry in &desk.rest.allowlist {
        match entry {
            Allowed::Network { .. } if entry.contains(caller) => return true,
            Allowed::Network { .. } => {}
            Allowed::Host(host) => hosts.push(host.clone()),
        }
    }
    // Who asks in an outage of the store may have moved since the members were last read.
    if desk.rest.allowlist_include_members && call != Unsafe::Failsafe {
        let cluster = desk.board.borrow().cluster.clone();
        let members = cluster.iter().flat_map(|cluster| cluster.members().values());
        hosts.extend(members.filter_map(|member| member.api_address()).map(|(host, _)| host));
    }
    let known = |host: &String| host.parse::<IpAddr>().is_ok_and(|it| it.to_canonical() == caller);
    if hosts.iter().any(known) {
        return true;
    }
    hosts.retain(|host| host.parse::<IpAddr>().is_err());
    for host in hosts {
        let found =
            tokio::time::timeout(LOOK_UP_LIMIT, tokio::net::lookup_host((host.as_str(), 0)));
        if let Ok(Ok(mut found)) = found.await
            && found.any(|it| it.ip().to_canonical() == caller)
        {
            return true;
        }
    }
    false
}
