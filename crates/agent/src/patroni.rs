//! Asking members whose agent is Patroni where their PostgreSQL stands.
//! Leaves when to ask, and what follows from the answer, to the core.

use std::collections::BTreeMap;
use std::time::Duration;

use pgherd_api::{Client, MemberInfo, race};
use pgherd_core::peer::PatroniAnswer;
use pgherd_core::{NodeName, Time};
use tokio::task::JoinSet;

use crate::clock;

/// Patroni's own bound for this question (contract 4.4).
const LIMIT: Duration = Duration::from_secs(2);

/// What came of a question.
pub(crate) struct Answered {
    pub(crate) from: NodeName,
    pub(crate) asked: Time,
    pub(crate) answer: PatroniAnswer,
}

/// The questions under way.
pub(crate) struct PatroniLane {
    client: Client,
    urls: BTreeMap<NodeName, String>,
    questions: JoinSet<Answered>,
}

impl PatroniLane {
    /// Asks with this client, within Patroni's bound.
    pub(crate) fn new(client: &Client) -> Self {
        Self {
            client: client.clone().with_timeout(LIMIT),
            urls: BTreeMap::new(),
            questions: JoinSet::new(),
        }
    }

    /// Takes the members' addresses. One whose key is gone keeps its own: it may still answer.
    pub(crate) fn follow(&mut self, members: &BTreeMap<NodeName, MemberInfo>) {
        for (name, info) in members {
            if let Some(url) = &info.api_url {
                self.urls.insert(name.clone(), url.clone());
            }
        }
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
            Answered { from: node, asked, answer }
        });
    }

    /// The next answer; never, while nothing was asked. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Answered {
        loop {
            match self.questions.join_next().await {
                Some(Ok(answered)) => return answered,
                // Aborted by nobody, so it panicked; the core waits no longer than it must.
                Some(Err(error)) => tracing::error!(%error, "a question to a member broke"),
                None => std::future::pending().await,
            }
        }
    }
}
