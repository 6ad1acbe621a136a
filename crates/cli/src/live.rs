//! The cluster as the store shows it, now and from now on.
//! Leaves what to make of it to `topology`, `up` and `ctl`.

use std::time::Duration;

use anyhow::Context;
use pgherd_agent::StoreSettings;
use pgherd_api::{Change, Cluster, Keys, Record};
use pgherd_store::{Client, Error, Event, KeyValue, WatchEvent, Watcher};

use crate::settings::node::ClusterId;

/// How long a single read may take in all.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// A client of the store at that address.
pub(crate) fn client(address: &StoreSettings) -> anyhow::Result<Client> {
    Ok(Client::new(pgherd_agent::store_options(address)?))
}

/// The cluster's keys.
pub(crate) fn keys(id: &ClusterId) -> Keys {
    Keys::new(&id.namespace, &id.scope)
}

/// The cluster as it is now: one linearizable read.
pub(crate) async fn read(client: &Client, keys: &Keys) -> anyhow::Result<Cluster> {
    let snapshot = client.prefix(keys.prefix().to_owned(), READ_LIMIT).await;
    let snapshot = snapshot.context("the cluster can't be read")?;
    Ok(Cluster::read(keys.clone(), snapshot.revision, snapshot.kvs.into_iter().map(record)))
}

/// The cluster, followed.
#[derive(Debug)]
pub(crate) struct Live {
    keys: Keys,
    watcher: Watcher,
    cluster: Option<Cluster>,
    connected: bool,
    refused: Option<Error>,
}

/// What the store had to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// The cluster changed, or is confirmed as it was.
    Cluster,
    /// The store can't be reached; what was known stays.
    Lost(String),
}

impl Live {
    /// Begins to follow. Must be called within a runtime.
    pub(crate) fn follow(client: &Client, keys: &Keys) -> Self {
        let watcher = client.watch_prefix(keys.prefix().to_owned());
        Self { keys: keys.clone(), watcher, cluster: None, connected: false, refused: None }
    }

    /// The next news; `None` when the runtime shuts down. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<News> {
        let event = self.watcher.next().await?;
        Some(self.take(event))
    }

    /// The cluster as of the last news.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Whether the store confirms what is known.
    pub(crate) fn connected(&self) -> bool {
        self.connected
    }

    /// Why the store will never let us in, when it never did.
    pub(crate) fn refused(&self) -> Option<&Error> {
        self.refused.as_ref()
    }

    fn take(&mut self, event: WatchEvent) -> News {
        match event {
            WatchEvent::Reset(snapshot) => {
                let records = snapshot.kvs.into_iter().map(record);
                self.cluster = Some(Cluster::read(self.keys.clone(), snapshot.revision, records));
            }
            WatchEvent::Changed { revision, events } => {
                if let Some(cluster) = &mut self.cluster {
                    cluster.apply(revision, events.into_iter().map(change));
                }
            }
            WatchEvent::Resumed { .. } => {}
            WatchEvent::Disconnected { error, .. } => {
                self.connected = false;
                let words = error.to_string();
                if self.cluster.is_none() && error.is_misconfiguration() {
                    self.refused = Some(error);
                }
                return News::Lost(words);
            }
            WatchEvent::ForeignCluster { endpoint, expected, found } => {
                self.connected = false;
                return News::Lost(format!(
                    "{endpoint} is another store than before ({found:016x}, not {expected:016x})"
                ));
            }
        }
        self.connected = true;
        News::Cluster
    }
}

fn record(kv: KeyValue) -> Record {
    let KeyValue { key, value, create_revision, mod_revision, lease, .. } = kv;
    Record {
        key: Vec::from(key),
        value: Vec::from(value),
        created: create_revision,
        modified: mod_revision,
        lease,
    }
}

fn change(event: Event) -> Change {
    match event {
        Event::Put(kv) => Change::Put(record(kv)),
        Event::Delete { key, revision } => Change::Delete { key: key.to_vec(), revision },
    }
}
