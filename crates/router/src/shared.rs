//! What every part of a running router sees, and taking over a new topology.
//! Leaves who does what with it to `listen`, `session` and `http`.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use pgherd_core::types::Term;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock::boottime;
use crate::config::RouterConfig;
use crate::confirm::{Lapse, Next, Standing, TermCheck};
use crate::history::History;
use crate::registry::Registry;
use crate::resolve::Resolver;
use crate::stats::Stats;
use crate::table::{NoPrimary, Port, ReadFallback, Routes, Target, diff};
use crate::topology::Topology;
use crate::witness::Witness;

/// One running router.
pub(crate) struct Shared {
    pub(crate) config: RouterConfig,
    pub(crate) registry: Arc<Registry>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) resolver: Resolver,
    /// Changes only when a route changes, so that a mere confirmation wakes no waiting session.
    pub(crate) routes: watch::Sender<Arc<Routes>>,
    /// Where views come from.
    topology: watch::Receiver<Arc<Topology>>,
    pub(crate) witness: Arc<dyn Witness>,
    /// The view that was taken over last, which the routes belong to.
    applied: Mutex<Arc<Topology>>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) started: Instant,
    pub(crate) started_at: Timestamp,
    history: Mutex<History>,
    next_reader: AtomicUsize,
}

/// How far the router's life has got.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    Running,
    /// Takes no new connections; the sessions go on.
    Draining,
    /// Ends everything.
    Stopped,
}

/// Waits until the router's life has got this far.
pub(crate) async fn reached(phase: &mut watch::Receiver<Phase>, at_least: Phase) {
    // It fails only when the router is gone, which is as far as it gets.
    let _ = phase.wait_for(|phase| *phase >= at_least).await;
}

impl Shared {
    pub(crate) fn new(
        config: RouterConfig,
        topology: watch::Receiver<Arc<Topology>>,
        witness: Arc<dyn Witness>,
    ) -> Self {
        Self {
            config,
            registry: Arc::default(),
            stats: Arc::default(),
            resolver: Resolver::default(),
            routes: watch::Sender::new(Arc::new(Routes::nothing())),
            topology,
            witness,
            applied: Mutex::default(),
            phase: watch::Sender::new(Phase::Running),
            started: Instant::now(),
            started_at: Timestamp::now(),
            history: Mutex::default(),
            next_reader: AtomicUsize::new(0),
        }
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view that the routes belong to.
    pub(crate) fn applied(&self) -> Arc<Topology> {
        Arc::clone(&self.applied.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn close_unconfirmed(&self, standing: &Standing) {
        let closed = self.registry.close_unconfirmed();
        if closed > 0 {
            self.stats.sessions_unconfirmed.fetch_add(closed as u64, Relaxed);
            if let Standing::Lapsed(why) = standing {
                tracing::warn!(closed, %why, "write sessions closed");
            }
        }
    }

    fn count_lapse(&self, before: &Routes, after: &Routes) {
        if before.write.is_ok() && matches!(after.write, Err(NoPrimary::Unconfirmed(_))) {
            self.stats.term_lapses.fetch_add(1, Relaxed);
        }
    }

    /// Whole seconds since the start.
    pub(crate) fn second(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// The servers to try for a new session, in order.
    pub(crate) fn candidates(&self, routes: &Routes, port: Port) -> Vec<Arc<Target>> {
        let mut candidates = routes.targets(port).to_vec();
        if port == Port::Read && !candidates.is_empty() {
            let turn = self.next_reader.fetch_add(1, Relaxed) % candidates.len();
            candidates.rotate_left(turn);
            // When no replica answers, the primary is as good as when there is none.
            if self.config.read_fallback == ReadFallback::Leader
                && let Ok(primary) = &routes.write
                && !candidates.contains(primary)
            {
                candidates.push(Arc::clone(primary));
            }
        }
        candidates
    }
}

/// Takes over one topology after the other.
pub(crate) struct Follower {
    seen: Option<Term>,
    lapse: Lapse,
    next: Next,
}

impl Follower {
    /// A follower that has taken over what is known already.
    pub(crate) fn start(shared: &Shared) -> Self {
        let mut follower = Self { seen: None, lapse: Lapse::default(), next: Next::Rest };
        let first = shared.topology.borrow().clone();
        follower.apply(shared, first);
        follower
    }

    /// Follows until the router stops. When the sender is gone, the last view stays.
    pub(crate) async fn run(mut self, shared: Arc<Shared>) {
        let mut topology = shared.topology.clone();
        let mut phase = shared.phase.subscribe();
        loop {
            let next = topology.borrow_and_update().clone();
            self.apply(&shared, next);
            let due = async {
                match self.next {
                    Next::Look(at) | Next::Close(at) => sleep(at.since(boottime()).to_std()).await,
                    Next::Rest => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                changed = topology.changed() => if changed.is_err() {
                    tracing::warn!("nobody feeds the topology any more; the last view stays");
                    break;
                },
                () = reached(&mut phase, Phase::Stopped) => return,
            }
        }
        reached(&mut phase, Phase::Stopped).await;
    }

    /// Ends what the new view, or the time, ends; then opens the new routes.
    fn apply(&mut self, shared: &Shared, new: Arc<Topology>) {
        let old = shared.applied();
        let check = shared.config.term_check;
        let now = boottime();
        let standing = Standing::of(&new, check, now);
        self.next = self.lapse.look(&standing, check, now);
        if *new == *old && check == TermCheck::Off {
            return;
        }
        let routes = Routes::of(&new, shared.config.read_fallback, self.seen, &standing);
        let closed = shared.registry.apply(&new, &diff(&old, &new), standing.passes_until());
        if let Next::Close(_) = self.next {
            shared.close_unconfirmed(&standing);
        }
        self.seen = self.seen.max(new.leader.as_ref().map(|leader| leader.term));
        let changed = {
            let mut history = shared.history();
            history.set_primary(routes.write.is_ok(), Instant::now());
            history.record(&old, &new, Timestamp::now())
        };
        if changed {
            shared.stats.leader_changes.fetch_add(1, Relaxed);
        }
        if closed > 0 {
            shared.stats.sessions_closed.fetch_add(closed as u64, Relaxed);
            tracing::warn!(closed, "sessions closed because the cluster changed");
        }
        shared.routes.send_if_modified(|current| {
            let modified = **current != routes;
            if modified {
                shared.count_lapse(current, &routes);
                log_routes(&routes);
                *current = Arc::new(routes);
            }
            modified
        });
        *shared.applied.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

fn log_routes(routes: &Routes) {
    let read: Vec<&str> = routes.read.iter().map(|target| target.name.as_str()).collect();
    match &routes.write {
        Ok(target) => tracing::info!(
            write = %target.name, term = ?target.term, read = read.join(","), "routes changed"
        ),
        Err(why) => tracing::warn!(%why, read = read.join(","), "no route for writes"),
    }
}
