//! Where a cluster's keys lie in the store: `/<namespace>/<scope>/...` (contract 1.1, 1.2).

use std::ops::Range;

use pgherd_core::NodeName;
use pgherd_core::cluster::Key;

/// The keys of one cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keys {
    prefix: String,
    scope: String,
}

impl Keys {
    /// The keys of the cluster `scope` below `namespace`. Repeated slashes collapse, as in Patroni.
    #[must_use]
    pub fn new(namespace: &str, scope: &str) -> Self {
        let parts = namespace.split('/').chain(scope.split('/'));
        let mut prefix = String::from("/");
        for part in parts.filter(|part| !part.is_empty()) {
            prefix.push_str(part);
            prefix.push('/');
        }
        Self { prefix, scope: scope.to_owned() }
    }

    /// What all keys of this cluster begin with; ends with a slash.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The cluster's name.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// All keys below the prefix, as the store's half-open range.
    #[must_use]
    pub fn range(&self) -> Range<Vec<u8>> {
        let start = self.prefix.clone().into_bytes();
        let mut end = start.clone();
        // The prefix ends with '/', whose successor is '0'.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        start..end
    }

    /// The path of a key.
    #[must_use]
    pub fn path(&self, key: &Key) -> String {
        let relative = match key {
            Key::Initialize => "initialize",
            Key::Config => "config",
            Key::Leader => "leader",
            Key::Term => "term",
            Key::Beat => "beat",
            Key::Claim => "claim",
            Key::Sync => "sync",
            Key::Status => "status",
            Key::Failover => "failover",
            Key::History => "history",
            Key::Failsafe => "failsafe",
            Key::Member(name) => return format!("{}members/{name}", self.prefix),
        };
        format!("{}{relative}", self.prefix)
    }

    /// The key at a path; `None` for keys that aren't ours to read (contract 1.2: ignored).
    #[must_use]
    pub fn parse(&self, path: &str) -> Option<Key> {
        let relative = path.strip_prefix(&self.prefix)?;
        Some(match relative {
            "initialize" => Key::Initialize,
            "config" => Key::Config,
            "leader" => Key::Leader,
            "term" => Key::Term,
            "beat" => Key::Beat,
            "claim" => Key::Claim,
            "sync" => Key::Sync,
            "status" => Key::Status,
            "failover" => Key::Failover,
            "history" => Key::History,
            "failsafe" => Key::Failsafe,
            other => Key::Member(NodeName::new(other.strip_prefix("members/")?).ok()?),
        })
    }
}
