//! Streams from peers: who may open one, and reading it.

use http::HeaderMap;
use http::header::UPGRADE;
use hyper_util::rt::TokioIo;
use pgherd_core::NodeName;
use tokio::sync::mpsc;

use super::{Identity, NODE_HEADER, PROTOCOL, SCOPE_HEADER, SECRET_HEADER, frame};
use crate::event::Event;
use crate::http::access;

/// Whether a stream may be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// Yes, for this peer.
    Welcome(NodeName),
    /// It isn't such a request at all.
    NotAnUpgrade,
    /// It doesn't prove the secret.
    Unproved,
    /// Another cluster, a node of this one's name, or no name.
    Stranger,
}

impl Admission {
    /// Judges a request's headers. The secret comes first: who doesn't know it learns nothing else.
    pub(crate) fn judge(identity: &Identity, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if text(UPGRADE.as_str()).is_none_or(|word| !word.eq_ignore_ascii_case(PROTOCOL)) {
            return Self::NotAnUpgrade;
        }
        let proof = headers.get(SECRET_HEADER).map_or(&b""[..], http::HeaderValue::as_bytes);
        let secret = identity.secret.as_ref().map(|secret| secret.matches(proof));
        let login = identity.login.as_ref().map(|login| access::proves(login, headers));
        // Either is enough; with neither set there is nothing to prove.
        let asked = secret.is_some() || login.is_some();
        if asked && secret != Some(true) && login != Some(true) {
            return Self::Unproved;
        }
        let name = text(NODE_HEADER).and_then(|name| NodeName::new(name).ok());
        match name {
            Some(name) if name != identity.name && text(SCOPE_HEADER) == Some(&identity.scope) => {
                Self::Welcome(name)
            }
            Some(_) | None => Self::Stranger,
        }
    }
}

/// Reads a stream until it ends, or the loop does.
pub(crate) async fn receive(
    from: NodeName,
    upgrade: hyper::upgrade::OnUpgrade,
    events: mpsc::Sender<Event>,
) {
    let mut stream = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => {
            tracing::debug!(peer = %from, %error, "a stream was not opened");
            return;
        }
    };
    loop {
        match frame::read(&mut stream).await {
            Ok(message) => {
                let event = Event::Peer { from: from.clone(), message };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Err(frame::FrameError::Io(error)) => {
                tracing::debug!(peer = %from, %error, "a stream ended");
                return;
            }
            Err(error) => {
                tracing::warn!(peer = %from, %error, "a peer that can't be understood");
                return;
            }
        }
    }
}
