//! Who may make calls that change something (contract 2.5): HTTP Basic, or, without a password,
//! only an API that nobody but this machine reaches.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};

use super::{Answer, Desk, text, unauthorized};

/// Ok, or the refusal.
#[expect(clippy::result_large_err, reason = "the refusal is the answer, and this is no hot path")]
pub(super) fn check(desk: &Desk, headers: &HeaderMap) -> Result<(), Answer> {
    let Some(login) = &desk.auth else {
        if desk.loopback {
            return Ok(());
        }
        let words =
            "Access is denied: set restapi.authentication to allow calls that change something";
        return Err(text(StatusCode::FORBIDDEN, words));
    };
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Err(unauthorized("no auth header received"));
    };
    let given = header.to_str().ok().and_then(|text| text.strip_prefix("Basic "));
    let given = given.and_then(|encoded| STANDARD.decode(encoded.trim()).ok());
    let expected =
        pgherd_api::Secret::new(format!("{}:{}", login.username, login.password.reveal()));
    if given.is_some_and(|given| expected.matches(&given)) {
        Ok(())
    } else {
        Err(unauthorized("not authenticated"))
    }
}
