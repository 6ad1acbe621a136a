//! What is due later, by the wall clock: the only place where that starts something. When a
//! switchover's moment has come, the leader's agent turns the scheduled wish into a plain one, for the
//! core to judge like any other. Planned restarts ask here only whether it is time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgherd_api::{Cluster, encode};
use pgherd_core::cluster::{FailoverRequest, Key};
use pgherd_store::{Client, Compare, Op, Txn};
use tokio::task::JoinHandle;

const STORE_LIMIT: Duration = Duration::from_secs(2);
/// The loop looks about once a second, so a shorter patience than this could miss everything.
const PATIENCE_SECONDS: i64 = 5;

/// How a moment stands to the clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    Later,
    Now,
    /// Nobody could do it in time: paused, nobody led, the cluster was down.
    Missed,
}

/// `patience` is how many seconds later it may still be done.
pub(crate) fn moment(at: i64, now: i64, patience: i64) -> Moment {
    if now < at {
        Moment::Later
    } else if now - at <= patience {
        Moment::Now
    } else {
        Moment::Missed
    }
}

/// Patroni's rule: one and a half times `loop_wait` (contract 4.6).
pub(crate) fn patience(cluster: &Cluster) -> i64 {
    let times = cluster.config().map(|config| pgherd_config::dynamic::timing(&config.json));
    let wait = times.map_or(Duration::from_secs(10), |times| times.loop_wait.to_std());
    let late = (wait * 3 / 2).as_secs();
    i64::try_from(late).unwrap_or(i64::MAX).max(PATIENCE_SECONDS)
}

/// Watches the clock for the leader.
pub(crate) struct Scheduler {
    client: Client,
    /// The revision of the request that was handled last: once is enough.
    handled: Arc<AtomicU64>,
    task: Option<JoinHandle<()>>,
    /// When it was tried last: a store that refuses at once isn't asked in each turn of the loop.
    tried: i64,
    /// What was said last, of which revision: each try of a store that is away is no news.
    said: Option<(u64, Moment)>,
}

impl Scheduler {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, handled: Arc::default(), task: None, tried: 0, said: None }
    }

    /// Starts what is due.
    pub(crate) fn look(&mut self, cluster: &Cluster, now: i64) {
        let Some(schedule) = cluster.schedule() else { return };
        let revision = cluster.failover_modified().0;
        let busy = self.task.as_ref().is_some_and(|task| !task.is_finished());
        let paused = cluster.view().config.as_ref().is_some_and(|config| config.value.pause);
        let handled = self.handled.load(Ordering::Relaxed) == revision;
        if handled || busy || paused || self.tried == now {
            return;
        }
        // A text that is no moment never comes.
        let due = schedule.unix_seconds().map_or(Moment::Missed, |at| {
            let patience = patience(cluster);
            moment(at, now, patience)
        });
        let news = self.said.replace((revision, due)) != Some((revision, due));
        let request =
            FailoverRequest { leader: schedule.from.clone(), member: schedule.to.clone() };
        let value = match (due, encode::failover(&request, None)) {
            (Moment::Later, _) => return,
            (Moment::Now, Ok(value)) => {
                if news {
                    tracing::info!(at = schedule.at, "a scheduled switchover is due");
                }
                value
            }
            (Moment::Now | Moment::Missed, _) => {
                if news {
                    tracing::warn!(at = schedule.at, "a scheduled switchover was missed: dropped");
                }
                b"{}".to_vec()
            }
        };
        self.tried = now;
        let key = cluster.keys().path(&Key::Failover);
        let txn = Txn {
            compare: vec![Compare::mod_revision(key.clone(), revision)],
            then: vec![Op::put(key, value)],
            otherwise: Vec::new(),
        };
        let (client, handled) = (self.client.clone(), Arc::clone(&self.handled));
        self.task = Some(tokio::spawn(async move {
            match client.txn(txn, STORE_LIMIT).await {
                Ok(reply) => {
                    handled.store(revision, Ordering::Relaxed);
                    if !reply.succeeded {
                        tracing::info!("the scheduled switchover was changed meanwhile");
                    }
                }
                // It is tried again; where it was written after all, the revision tells. That the store
                // can't be used is said by who uses it.
                Err(error) => tracing::debug!(%error, "the scheduled switchover was not begun"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_comes_and_is_missed() {
        let states = [999, 1_000, 1_015, 1_016].map(|now| moment(1_000, now, 15));
        assert_eq!(states, [Moment::Later, Moment::Now, Moment::Now, Moment::Missed]);
    }

    #[test]
    fn patience_is_patronis() {
        let cluster = |config: &str| {
            let keys = pgherd_api::Keys::new("/service", "demo");
            let record = pgherd_api::Record {
                key: keys.path(&Key::Config).into_bytes(),
                value: config.as_bytes().to_vec(),
                created: 1,
                modified: 1,
                lease: 0,
            };
            Cluster::read(keys, 1, [record])
        };
        assert_eq!(patience(&cluster(r#"{"ttl": 30, "loop_wait": 10}"#)), 15);
        assert_eq!(patience(&cluster("{}")), 15);
        assert_eq!(patience(&cluster(r#"{"ttl": 5, "loop_wait": 1}"#)), PATIENCE_SECONDS);
    }
}
