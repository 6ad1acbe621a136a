//! Asking members whose agent is Patroni: where their PostgreSQL stands, and whether they accept that
//! the leader goes on without the store.
//! Leaves when to ask, and what follows from the answer, to the core.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{Method, StatusCode};
use pgherd_api::{Client, MemberInfo, origin, race};
use pgherd_core::peer::{PatroniAnswer, PeerMessage};
use pgherd_core::{Input, NodeName, Term, Time};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::clock;

/// Patroni's own bound for this question (contract 4.4).
const LIMIT: Duration = Duration::from_secs(2);

/// So many questions may be under way: a member that hangs is not asked for ever more.
const QUESTIONS: usize = 32;

/// What came of a question.
pub(crate) enum Answered {
    /// Where it stands.
    Race { from: NodeName, asked: Time, answer: PatroniAnswer },
    /// It accepts this leader for its ttl (contract 2.4, `POST /failsafe`).
    Held { from: NodeName, term: Term, at: Time },
}

/// The questions under way.
pub(crate) struct PatroniLane {
    name: NodeName,
    client: Client,
    urls: BTreeMap<NodeName, String>,
    /// Those of them that have no streams.
    patroni: BTreeSet<NodeName>,
    questions: JoinSet<Option<Answered>>,
}

impl PatroniLane {
    /// Asks with this client, within Patroni's bound.
    pub(crate) fn new(client: &Client, name: NodeName) -> Self {
        Self {
            name,
            client: client.clone().with_timeout(LIMIT),
            urls: BTreeMap::new(),
            patroni: BTreeSet::new(),
            questions: JoinSet::new(),
        }
    }

    /// Takes the members' addresses. One whose key is gone keeps its own: it may still answer.
    pub(crate) fn follow(&mut self, members: &BTreeMap<NodeName, MemberInfo>) {
        for (name, info) in members {
            if info.pgherd.is_some() {
                self.patroni.remove(name);
            } else {
                self.patroni.insert(name.clone());
            }
            if let Some(url) = &info.api_url {
                self.urls.insert(name.clone(), url.clone());
            }
        }
    }

    /// A member without streams.
    pub(crate) fn is_patroni(&self, node: &NodeName) -> bool {
        self.patroni.contains(node)
    }

    /// Asks a member to accept this leader, known to it by its two addresses.
    pub(crate) fn hold(&mut self, to: &NodeName, term: Term, at: Time, me: (&str, &str)) {
        let Some(url) = self.urls.get(to).and_then(|url| origin(url)) else { return };
        if self.questions.len() >= QUESTIONS {
            return;
        }
        let name = self.name.as_str();
        let body = json!({ "name": name, "conn_url": me.0, "api_url": me.1, "slots": {} });
        let (client, from) = (self.client.clone(), to.clone());
        self.questions.spawn(async move {
            let answer = client.request(Method::POST, &format!("{url}/failsafe"), Some(&body)).await;
            match answer {
                Ok(answer) if answer.status == StatusCode::OK => {
                    Some(Answered::Held { from, term, at })
                }
                Ok(answer) => {
                    tracing::info!(member = %from, answer = answer.text(), "not accepted as leader");
                    None
                }
                Err(error) => {
                    tracing::info!(member = %from, %error, "a member with Patroni does not answer");
                    None
                }
            }
        });
    }

    pub(crate) fn ask(&mut self, node: NodeName) {
        let url = self.urls.get(&node).cloned();
        let client = self.client.clone();
        self.questions.spawn(async move {
            let asked = clock::now();
            let answer = match url {
                Some(url) => client.get(&url).await.map(|body| race::answer(&body)),
                None => Ok(PatroniAnswer::Unreachable),
            };
            let answer = answer.unwrap_or_else(|error| {
                tracing::info!(member = %node, %error, "a member with Patroni does not answer");
                PatroniAnswer::Unreachable
            });
            tracing::debug!(member = %node, ?answer, "a member with Patroni answers");
            Some(Answered::Race { from: node, asked, answer })
        });
    }

    /// The next answer; never, while nothing was asked. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Answered {
        loop {
            match self.questions.join_next().await {
                Some(Ok(Some(answered))) => return answered,
                Some(Ok(None)) => {}
                // Aborted by nobody, so it panicked; the core waits no longer than it must.
                Some(Err(error)) => tracing::error!(%error, "a question to a member broke"),
                None => std::future::pending().await,
            }
        }
    }
}

impl Agent {
    /// Agents of ours hear it on their stream; what a Patroni member can understand, by its REST API.
    pub(crate) fn send(&mut self, to: &NodeName, message: PeerMessage) {
        if let PeerMessage::Held { .. } = message
            && let Some((_, reply)) = self.hold_for.take_if(|(leader, _)| leader == to)
        {
            // Who asked may have gone.
            let _ = reply.send(());
        } else if let PeerMessage::Hold { term, at, .. } = message
            && self.patroni.is_patroni(to)
        {
            let member = self.store.member();
            self.patroni.hold(to, term, at, (&member.conn_url, &member.api_url));
        } else {
            self.peers.send(to, message);
        }
    }

    /// A Patroni leader asks through the REST API what agents of ours ask on their streams.
    pub(crate) fn hold_for(&mut self, leader: NodeName, reply: oneshot::Sender<()>) {
        let view = self.node.view();
        let leads = view.leader.as_ref().is_some_and(|key| key.value == leader);
        let ttl = view.config.as_ref().map(|config| config.value.ttl);
        let (Some(term), Some(ttl), true) = (view.current_term(), ttl, leads) else { return };
        self.hold_for = Some((leader.clone(), reply));
        let message = PeerMessage::Hold { term, ttl, at: clock::now() };
        self.feed(Input::Peer { from: leader, message });
    }
}
