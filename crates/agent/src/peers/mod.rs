//! Streams between agents: each sends on a connection of its own to each other member.
//! Leaves what the messages mean to the core. A stream is HTTP/1.1 on the REST port, upgraded.

mod frame;
mod incoming;
mod outgoing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgherd_api::{MemberInfo, Secret};
use pgherd_config::Login;
use pgherd_core::NodeName;
use pgherd_core::peer::PeerMessage;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub(crate) use incoming::{Admission, receive};

use crate::event::Event;

/// The protocol that a connection is upgraded to.
pub(crate) const PROTOCOL: &str = "pgherd-peer/1";
/// Who connects.
pub(crate) const NODE_HEADER: &str = "x-pgherd-node";
/// Of which cluster.
pub(crate) const SCOPE_HEADER: &str = "x-pgherd-scope";
/// What it proves.
pub(crate) const SECRET_HEADER: &str = "x-pgherd-secret";

/// So many messages may wait for a stream: a beat, a question and an answer, twice. A stream that
/// is further behind drops what comes, for a late sign of life is a wrong one.
const SEND_BOUND: usize = 6;

/// Who this node is to its peers.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: NodeName,
    pub(crate) scope: String,
    pub(crate) secret: Option<Secret>,
    /// The REST API's login: proves a member where there is no secret.
    pub(crate) login: Option<Login>,
}

/// The streams to the other members.
pub(crate) struct Peers {
    identity: Arc<Identity>,
    tls: Arc<rustls::ClientConfig>,
    events: mpsc::Sender<Event>,
    links: BTreeMap<NodeName, Link>,
}

struct Link {
    address: Address,
    sender: mpsc::Sender<PeerMessage>,
    connected: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peers {
    pub(crate) fn new(
        identity: Identity,
        tls: Arc<rustls::ClientConfig>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self { identity: Arc::new(identity), tls, events, links: BTreeMap::new() }
    }

    /// Has a stream to each other member, at the address that its key gives. A member whose key is
    /// gone (its lease ended) keeps its stream: it may be the voter that an election needs.
    pub(crate) fn follow(&mut self, members: &BTreeMap<NodeName, MemberInfo>) {
        for (name, info) in members {
            if *name == self.identity.name {
                continue;
            }
            if info.pgherd.is_none() {
                // Patroni has no streams. A member may change its agent either way.
                self.links.remove(name);
                continue;
            }
            let Some(address) = Address::of(info) else { continue };
            if self.links.get(name).is_some_and(|link| link.address == address) {
                continue;
            }
            let (sender, messages) = mpsc::channel(SEND_BOUND);
            let connected = Arc::new(AtomicBool::new(false));
            let task = tokio::spawn(outgoing::run(outgoing::Stream {
                identity: Arc::clone(&self.identity),
                tls: Arc::clone(&self.tls),
                to: name.clone(),
                address: address.clone(),
                messages,
                connected: Arc::clone(&connected),
                events: self.events.clone(),
            }));
            self.links.insert(name.clone(), Link { address, sender, connected, task });
        }
    }

    /// Sends if the peer can be reached now; otherwise the message is gone.
    pub(crate) fn send(&self, to: &NodeName, message: PeerMessage) {
        if let Some(link) = self.links.get(to).filter(|link| link.connected()) {
            // Full: the peer is slow, and what it gets later would be old.
            let _ = link.sender.try_send(message);
        }
    }

    /// The known peers, and whether messages reach them now.
    pub(crate) fn connected(&self) -> impl Iterator<Item = (&NodeName, bool)> {
        self.links.iter().map(|(name, link)| (name, link.connected()))
    }
}

/// Where a member's API is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Address {
    host: String,
    port: u16,
    /// HTTPS.
    secure: bool,
}

impl Address {
    fn of(info: &MemberInfo) -> Option<Self> {
        let (host, port) = info.api_address()?;
        let secure = info.api_url.as_deref().is_some_and(|url| url.starts_with("https://"));
        Some(Self { host, port, secure })
    }
}

impl Link {
    fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}
