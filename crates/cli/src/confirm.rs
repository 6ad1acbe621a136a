//! Asks whether the leader's term still stands: the store, and where that isn't enough the leader's
//! agent. Leaves what an answer is worth to the core's `TermWatch`, and routes to `topology`.

use std::sync::Arc;
use std::time::Duration;

use pgherd_api::client::origin;
use pgherd_api::rest::{TermBody, WaitingBody, paths};
use pgherd_api::{Client, Cluster, Keys};
use pgherd_core::vouch::TermWatch;
use pgherd_core::{NodeName, Time};
use pgherd_router::witness::Answer;
use pgherd_router::{MemberRoute, Topology, Witness};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::live;

/// Between two questions: a word that is lost, and the next one too, still leaves time for a third
/// within a second.
pub(crate) const EVERY: Duration = Duration::from_millis(250);

/// An answer, and when its question was sent.
pub(crate) enum Word {
    /// A linearizable read of the store.
    Read(Time, Box<Cluster>),
    /// The leader's agent.
    Term(Time, TermBody),
}

/// Whom to ask when the store's word isn't enough: the leader, and its agent.
type Doubt = Option<(NodeName, String)>;

/// Two askers, and what is made of their words.
pub(crate) struct Confirmer {
    scope: String,
    within: pgherd_core::Duration,
    words: mpsc::Receiver<Word>,
    watch: TermWatch,
    doubt: watch::Sender<Doubt>,
    _askers: JoinSet<()>,
}

impl Confirmer {
    /// Begins to ask. A word counts for `within`.
    pub(crate) fn start(
        store: &pgherd_store::Client,
        keys: &Keys,
        rest: Client,
        within: Duration,
    ) -> Self {
        // Two askers with a word each; the feed takes them in microseconds.
        let (sender, words) = mpsc::channel(2);
        let doubt = watch::Sender::new(None);
        let mut askers = JoinSet::new();
        askers.spawn(ask_store(store.clone(), keys.clone(), within, sender.clone()));
        askers.spawn(ask_agent(rest.with_timeout(within), doubt.subscribe(), sender));
        let micros = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        let within = pgherd_core::Duration(micros);
        let (scope, watch) = (keys.scope().to_owned(), TermWatch::new(within));
        Self { scope, within, words, watch, doubt, _askers: askers }
    }

    /// Takes the next word. Cancel-safe.
    pub(crate) async fn listen(&mut self) {
        match self.words.recv().await {
            Some(Word::Read(asked, cluster)) => self.watch.on_read(asked, &cluster.view()),
            Some(Word::Term(asked, body)) if body.scope == self.scope => {
                let valid = pgherd_core::Duration::millis(body.valid_ms);
                if let Some(term) = body.term.filter(|_| body.valid_ms > 0) {
                    self.watch.on_word(asked, &body.name, term, valid);
                }
            }
            Some(Word::Term(..)) => {}
            None => std::future::pending().await,
        }
    }

    /// The store's watch has shown this.
    pub(crate) fn shown(&mut self, cluster: &Cluster) {
        self.watch.on_watch(&cluster.view());
    }

    /// Puts the word for its leader into a topology, and asks its agent when half of it is over.
    pub(crate) fn confirm(&self, topology: &mut Topology, now: Time) {
        let mut doubt = None;
        if let Some(leader) = &mut topology.leader {
            leader.confirmed_until = self.watch.until(&leader.name, leader.term);
            let enough = now + self.within.percent(50);
            if leader.confirmed_until.is_none_or(|until| until < enough) {
                let mut members = topology.members.iter();
                let url = members.find(|m| m.name == leader.name).and_then(|m| m.api_url.as_ref());
                let origin = url.and_then(|url| origin(url));
                doubt = origin.map(|origin| (leader.name.clone(), origin));
            }
        }
        self.doubt.send_if_modified(|known| {
            let news = *known != doubt;
            *known = doubt;
            news
        });
    }
}

/// Asks the leader's agent what a backend waits for.
pub(crate) struct AgentWitness(pub(crate) Client);

impl Witness for AgentWitness {
    fn waits<'a>(&'a self, member: &'a MemberRoute, pid: u32) -> Answer<'a> {
        Box::pin(async move {
            let origin = origin(member.api_url.as_ref()?)?;
            match self.0.get::<WaitingBody>(&format!("{origin}{}", paths::WAITING)).await {
                Ok(body) => Some(body.name == member.name && body.waiting.contains(&pid)),
                Err(error) => {
                    tracing::debug!(member = %member.name, %error, "nobody says what a backend waits for");
                    None
                }
            }
        })
    }
}

/// Now, on the clock that everything here counts on.
pub(crate) fn now() -> Time {
    Time(pgherd_guard::boottime_micros())
}

async fn ask_store(
    client: pgherd_store::Client,
    keys: Keys,
    within: Duration,
    words: mpsc::Sender<Word>,
) {
    loop {
        let asked = now();
        // A store that can't be reached is the watch's news.
        if let Ok(Ok(cluster)) = timeout(within, live::read(&client, &keys)).await
            && words.send(Word::Read(asked, Box::new(cluster))).await.is_err()
        {
            return;
        }
        sleep(EVERY).await;
    }
}

async fn ask_agent(rest: Client, mut doubt: watch::Receiver<Doubt>, words: mpsc::Sender<Word>) {
    loop {
        let Ok(asked_of) = doubt.wait_for(Option::is_some).await.map(|doubt| doubt.clone()) else {
            return;
        };
        let Some((leader, origin)) = asked_of else { continue };
        let asked = now();
        let url = format!("{origin}{}", paths::TERM);
        match rest.get::<TermBody>(&url).await {
            Ok(body) if body.name == leader => {
                if words.send(Word::Term(asked, body)).await.is_err() {
                    return;
                }
            }
            Ok(body) => tracing::debug!(%leader, answered = %body.name, "another agent answered"),
            Err(error) => tracing::debug!(%leader, %error, "the leader's agent didn't answer"),
        }
        sleep(EVERY).await;
    }
}

/// The topology with the word for its leader.
pub(crate) fn confirmed(
    mut topology: Topology,
    confirmer: Option<&Confirmer>,
    now: Time,
) -> Arc<Topology> {
    if let Some(confirmer) = confirmer {
        confirmer.confirm(&mut topology, now);
    }
    Arc::new(topology)
}
