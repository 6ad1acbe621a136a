//! The user's methods and hooks, as this node's and the cluster's settings have them together: read
//! again whenever the cluster's change. Leaves running them to `callbacks` and `pgherd-postgres`.

use pgherd_api::Cluster;
use pgherd_config::lifecycle::{self, Hooks};
use pgherd_config::{Local, Role, effective};
use pgherd_core::Revision;

/// Reads hooks, each state of the cluster's settings once.
pub(crate) struct HookReader {
    local: Local,
    made_of: Option<Revision>,
}

impl HookReader {
    pub(crate) fn new(local: Local) -> Self {
        Self { local, made_of: None }
    }

    /// The node says something else from now on.
    pub(crate) fn reload(&mut self, local: Local) {
        self.local = local;
        self.made_of = None;
    }

    /// The hooks, when the cluster's settings have changed since the last time.
    pub(crate) fn news(&mut self, cluster: &Cluster) -> Option<Hooks> {
        let config = cluster.config()?;
        if self.made_of.replace(config.modified) == Some(config.modified) {
            return None;
        }
        let settings = effective(&self.local, &config.json, Role::Replica);
        let (hooks, problems) = lifecycle::merged(&settings.section);
        for problem in problems {
            tracing::warn!("postgresql: {problem}");
        }
        Some(hooks)
    }
}
