//! Reading the configuration again: at SIGHUP, or when an operator asks (contract 3.2). What changed
//! is said by name; what only a start reads is said to wait for one. A configuration with mistakes
//! changes nothing.

use std::sync::Arc;

use pgherd_api::MemberSelf;
use pgherd_config::explain::changed;
use pgherd_config::{Problem, Settings};
use pgherd_core::Input;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::event::Event;
use crate::{AgentError, start};

/// Reads everything that was read at the start, again. It may wait for files.
pub type Reread = Arc<dyn Fn() -> Result<Settings, Vec<Problem>> + Send + Sync>;

/// The settings in force, and the way to new ones.
pub(crate) struct Reloader {
    settings: Box<Settings>,
    reread: Reread,
    events: mpsc::Sender<Event>,
    signal: Signal,
    task: Option<JoinHandle<()>>,
}

impl Reloader {
    pub(crate) fn new(
        settings: Settings,
        reread: Reread,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, AgentError> {
        let signal = signal(SignalKind::hangup()).map_err(AgentError::Signal)?;
        Ok(Self { settings: Box::new(settings), reread, events, signal, task: None })
    }

    /// The next SIGHUP. Cancel-safe.
    pub(crate) async fn hangup(&mut self) {
        if self.signal.recv().await.is_none() {
            // The runtime is going away.
            std::future::pending::<()>().await;
        }
    }

    /// Begins to read; the end comes as an event.
    pub(crate) fn begin(&mut self) {
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (reread, events) = (Arc::clone(&self.reread), self.events.clone());
        self.task = Some(tokio::spawn(async move {
            let read = tokio::task::spawn_blocking(move || reread());
            // It panicked, or the runtime is going away: there is nothing to tell.
            if let Ok(result) = read.await {
                let _ = events.send(Event::Reread(Box::new(result))).await;
            }
        }));
    }

    /// Takes what was read, and says what is new; `None` when it has mistakes.
    pub(crate) fn take(&mut self, read: Result<Settings, Vec<Problem>>) -> Option<&Settings> {
        let settings = match read {
            Ok(settings) => settings,
            Err(problems) => {
                for problem in problems {
                    tracing::error!("the configuration is not taken over: {problem}");
                }
                return None;
            }
        };
        let changes = changed(&self.settings.local, &settings.local);
        if changes.is_empty() {
            tracing::info!("No local configuration items changed.");
        }
        for change in changes {
            if change.fixed {
                tracing::warn!(
                    key = change.key,
                    "changed, but read at the start of the agent only"
                );
            } else {
                tracing::info!(key = change.key, "changed");
            }
        }
        *self.settings = settings;
        Some(&self.settings)
    }

    /// Ends a reading.
    pub(crate) async fn finish(self) {
        if let Some(task) = self.task {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Agent {
    /// Begins to read the configuration again.
    pub(crate) fn reload(&mut self) {
        self.notify.reloading();
        self.reloader.begin();
    }

    /// Takes over what a new reading says, as far as that is possible while the node runs.
    pub(crate) fn reconfigure(&mut self, read: Result<Settings, Vec<Problem>>) {
        self.notify.ready();
        let Some(settings) = self.reloader.take(read) else { return };
        let MemberSelf { conn_url, api_url, proxy_url, tags, .. } = start::member(settings);
        let shown = self.store.member();
        (shown.conn_url, shown.api_url) = (conn_url, api_url);
        (shown.proxy_url, shown.tags) = (proxy_url, tags);
        self.desk.send_modify(|desk| *desk = Arc::new(desk.with(settings)));
        self.hooks.reload(settings.local.clone());
        self.wishes.reload(settings.local.clone());
        self.watchdog = settings.watchdog.clone();
        let tags = crate::watch::tags(settings);
        self.watch();
        self.hook();
        self.wish();
        self.feed(Input::Tags(tags));
    }

    /// The watchdog's time follows the cluster's ttl.
    pub(crate) fn watch(&mut self) {
        let view = self.cluster.as_ref().map(|cluster| cluster.view());
        let config = view.as_ref().and_then(|view| view.config.as_ref());
        if let Some(ttl) = config.map(|config| config.value.ttl) {
            self.postgres.watch(crate::watch::plan(&self.watchdog, ttl));
        }
    }
}
