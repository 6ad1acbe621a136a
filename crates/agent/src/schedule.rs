//! Switchovers that are due later: the only place where the wall clock starts something. When the
//! moment has come, the leader's agent turns the scheduled wish into a plain one, for the core to
//! judge like any other.

use std::time::Duration;

use pgherd_api::{Cluster, encode};
use pgherd_core::Revision;
use pgherd_core::cluster::{FailoverRequest, Key};
use pgherd_store::{Client, Compare, Op, Txn};
use tokio::task::JoinHandle;

const STORE_LIMIT: Duration = Duration::from_secs(2);
/// A moment that passed longer ago was missed: nobody led, or the cluster was down. It is dropped.
const STALE_SECONDS: i64 = 60;

/// Watches the clock for the leader.
pub(crate) struct Scheduler {
    client: Client,
    /// The request that was handled last, by its revision: once is enough.
    handled: Revision,
    task: Option<JoinHandle<()>>,
}

impl Scheduler {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, handled: Revision(0), task: None }
    }

    /// Starts what is due.
    pub(crate) fn look(&mut self, cluster: &Cluster, now: i64) {
        let Some(schedule) = cluster.schedule() else { return };
        let revision = cluster.failover_modified();
        let busy = self.task.as_ref().is_some_and(|task| !task.is_finished());
        let paused = cluster.view().config.as_ref().is_some_and(|config| config.value.pause);
        if revision == self.handled || busy || paused {
            return;
        }
        let due = schedule.unix_seconds();
        if due.is_some_and(|due| now < due) {
            return;
        }
        self.handled = revision;
        let fresh = due.is_some_and(|due| now - due <= STALE_SECONDS);
        let request =
            FailoverRequest { leader: schedule.from.clone(), member: schedule.to.clone() };
        let value = match encode::failover(&request, None) {
            Ok(value) if fresh => value,
            Ok(_) | Err(_) => b"{}".to_vec(),
        };
        tracing::info!(at = schedule.at, fresh, "a scheduled switchover is due");
        let key = cluster.keys().path(&Key::Failover);
        let txn = Txn {
            compare: vec![Compare::mod_revision(key.clone(), revision.0)],
            then: vec![Op::put(key, value)],
            otherwise: Vec::new(),
        };
        let client = self.client.clone();
        self.task = Some(tokio::spawn(async move {
            match client.txn(txn, STORE_LIMIT).await {
                Ok(reply) if reply.succeeded => {}
                Ok(_) => tracing::info!("the scheduled switchover was changed meanwhile"),
                Err(error) => tracing::warn!(%error, "the scheduled switchover was not begun"),
            }
        }));
    }

    /// Waits for what was begun.
    pub(crate) async fn finish(mut self) {
        if let Some(task) = self.task.take() {
            // It ends within its limit, and reports by itself.
            let _ = task.await;
        }
    }
}
