//! One seed from its bootstrap to its verdict: faults, then healing, then the demand that the
//! cluster is whole again.

use pgherd_core::mutant::Mutant;
use pgherd_core::{Duration, Policy, Repair, SynchronousMode, Tags};

use crate::clock::Micros;
use crate::event::Ix;
use crate::invariants::Rule;
use crate::pg::{MAX_NODES, Run};
use crate::rng::Rng;
use crate::stats::Stats;
use crate::wal::Wal;
use crate::world::{Options, Trace, Violation, World};

const LIVENESS: Rule = Rule {
    name: "liveness",
    sentence: "when all faults are gone, one serving primary, all others streaming from it, and a write succeeds within two minutes",
};
const PRESENT: Rule = Rule {
    name: "acknowledged_writes_present",
    sentence: "every write acknowledged after waiting for standbys is there in the end",
};

/// What is asked of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// A fixed number of nodes instead of a drawn one.
    pub nodes: Option<usize>,
    /// A broken law.
    pub mutant: Option<Mutant>,
    /// Some nodes' agents are Patroni.
    pub patroni: bool,
    /// Only the model's rules are asked.
    pub by_model: bool,
    /// Print every event.
    pub trace: bool,
}

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What the seed drew, in words.
    pub world: String,
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// A number that depends on every event.
    pub hash: u64,
    /// The last lines of the trace, when an invariant was broken.
    pub last: Vec<String>,
    pub(crate) stats: Stats,
}

/// How long the safety phase lasts at most, after the bootstrap.
const BOOTSTRAP: Micros = 15_000_000;
/// How long healing may take.
const BUDGET: Micros = 150_000_000;

fn draw(seed: u64, wanted: Wanted) -> (Options, Micros) {
    let mut rng = Rng::new(seed ^ 0x5EED);
    let nodes = wanted.nodes.unwrap_or_else(|| match rng.below(10) {
        0 => 2,
        1 => 4,
        2 => 5,
        _ => 3,
    });
    let synchronous_mode = match rng.below(10) {
        0..=2 => SynchronousMode::Off,
        3..=4 => SynchronousMode::Priority,
        _ => SynchronousMode::Quorum,
    };
    let most = (nodes as u64 - 1).min(2);
    let policy = Policy {
        ttl: Duration::secs(rng.between(2, 10)),
        maximum_lag_on_failover: 1 << rng.between(13, 20),
        synchronous_mode,
        synchronous_mode_strict: rng.permille(400),
        synchronous_node_count: if rng.permille(200) { most as u32 } else { 1 },
        primary_start_timeout: Duration::secs(rng.between(5, 300)),
        failsafe_mode: rng.permille(600),
        ..Policy::default()
    };
    let length = rng.between(30_000_000, 120_000_000);
    let mut tags: [Tags; MAX_NODES] = std::array::from_fn(|_| Tags::default());
    if nodes > 2 && rng.permille(100) {
        tags[nodes - 1].failover_priority = 0;
    }
    tags[nodes - 1].clonefrom = rng.permille(200);
    let mut options = Options {
        seed,
        nodes,
        policy,
        mutant: wanted.mutant,
        tags,
        repair: Repair::default(),
        patroni: patroni(&mut rng, nodes, wanted),
        clients: true,
        plain_clocks: false,
        by_model: wanted.by_model,
    };
    more(&mut rng, &mut options);
    (options, length)
}

/// Settings that few clusters have.
fn more(rng: &mut Rng, options: &mut Options) {
    let nodes = options.nodes;
    if nodes > 2 && rng.permille(100) {
        options.tags[rng.below(nodes as u64) as usize].sync_priority = 0;
    }
    if rng.permille(200) {
        for tags in options.tags.iter_mut().filter(|tags| !tags.nofailover()) {
            tags.failover_priority = rng.between(1, 3) as u32;
            tags.sync_priority = tags.sync_priority.min(1) * rng.between(1, 3) as u32;
        }
    }
    let policy = &mut options.policy;
    policy.check_timeline = rng.permille(50);
    policy.maximum_lag_on_syncnode = rng.permille(100).then(|| rng.between(4_000, 1 << 20));
    policy.primary_stop_timeout =
        rng.permille(100).then(|| Duration::millis(rng.between(200, 5_000)));
    if rng.permille(100) {
        policy.primary_start_timeout = Duration::ZERO;
    }
    policy.disk_timeout = Duration::millis(rng.between(800, 4_000));
}

/// Some nodes but the first, which founds the cluster.
fn patroni(rng: &mut Rng, nodes: usize, wanted: Wanted) -> u32 {
    if !wanted.patroni {
        return 0;
    }
    let others = (1_u32 << nodes) - 2;
    let some = (rng.next() as u32) & others;
    if some == 0 { 1 << (nodes - 1) } else { some }
}

/// Runs one seed. After a violation it runs once more, to have the last events.
#[must_use]
pub fn seed(seed: u64, wanted: Wanted) -> Outcome {
    let trace = if wanted.trace { Trace::Print } else { Trace::Off };
    let mut outcome = once(seed, wanted, trace);
    if outcome.violation.is_some() && !wanted.trace && wanted.mutant.is_none() {
        let last = Trace::Last(std::collections::VecDeque::new(), 60);
        let again = once(seed, wanted, last);
        outcome.last = again.last;
    }
    outcome
}

fn once(seed: u64, wanted: Wanted, trace: Trace) -> Outcome {
    let (options, length) = draw(seed, wanted);
    let p = &options.policy;
    let mut words = format!(
        "{} nodes, {:?}{}, ttl {}, count {}, lag {}",
        options.nodes,
        p.synchronous_mode,
        if p.synchronous_mode_strict { " strict" } else { "" },
        p.ttl,
        p.synchronous_node_count,
        p.maximum_lag_on_failover
    );
    for (ix, tags) in options.tags.iter().enumerate().filter(|(_, t)| **t != Tags::default()) {
        words.push_str(&format!(", n{} {tags:?}", ix + 1));
    }
    if options.patroni != 0 {
        words.push_str(&format!(", Patroni {:b}", options.patroni));
    }
    let mut world = World::new(options);
    world.judge_by_model();
    world.trace = trace;
    world.faults.write_bytes = 2_000;
    world.run(BOOTSTRAP);
    world.faults_begin();
    words.push_str(&format!(", faults {:?}", families(world.faults.families)));
    world.run(BOOTSTRAP + length);
    if world.violation.is_none() {
        world.heal_and_demand();
    }
    world.stats.seeds = 1;
    world.stats.judged = world.refine.judged.clone();
    world.stats.events = world.steps;
    world.stats.micros = world.queue.now;
    let last = match std::mem::take(&mut world.trace) {
        Trace::Last(lines, _) => lines.into_iter().collect(),
        Trace::Off | Trace::Print => Vec::new(),
    };
    Outcome {
        seed,
        world: words,
        violation: world.violation,
        hash: world.hash,
        last,
        stats: world.stats,
    }
}

fn families(mask: u32) -> Vec<crate::faults::Family> {
    crate::faults::FAMILIES
        .iter()
        .enumerate()
        .filter(|(i, _)| mask & (1 << i) != 0)
        .map(|(_, f)| *f)
        .collect()
}

impl World {
    fn heal_and_demand(&mut self) {
        self.heal();
        self.pause(false);
        let healed = self.queue.now;
        let mut asked = false;
        while self.queue.now < healed + BUDGET && self.violation.is_none() {
            let until = self.queue.now + 1_000_000;
            self.run(until);
            if self.whole().is_ok() && self.ledger.last_ack + 1_000_000 > self.queue.now {
                // It must stay so.
                let until = self.queue.now + 5_000_000;
                self.run(until);
                if self.whole().is_ok() {
                    return self.count_lost();
                }
            }
            let stuck = self.queue.now > healed + 60_000_000;
            if stuck && !asked && self.needs_operator() {
                asked = true;
                self.stats.sometimes.last_resort += 1;
                let best = (0..self.nodes.len())
                    .filter(|ix| !self.options.tags[*ix].nofailover())
                    .filter(|ix| self.nodes[*ix].pg.wal().is_some())
                    .max_by_key(|ix| self.nodes[*ix].pg.wal().map(|w| w.end));
                self.ask_failover(None, best);
            }
        }
        // Patroni's members need what Patroni needs to go on: only safety is judged there.
        if self.violation.is_none() && self.options.patroni == 0 {
            let why = self.whole().err().unwrap_or_else(|| "no write succeeds".to_owned());
            self.broken(LIVENESS, why);
        }
    }

    /// Nobody leads, and the cluster is right to wait for a person: the former leader, who alone
    /// has everything, lost its data.
    fn needs_operator(&self) -> bool {
        let view = self.store.view();
        let former = view.term.as_ref().and_then(|t| self.index(&t.value.leader));
        let lost = former.is_none_or(|f| self.nodes[f].pg.dir.is_none());
        let alone = view.sync.as_ref().is_none_or(|s| !s.value.names_voters());
        let ended = view.leader.is_none();
        let barred = former.is_some_and(|former| self.options.tags[former].nofailover());
        let votes_not = |tags: &Tags| tags.nosync() || tags.replicatefrom.is_some();
        let few = self.options.tags.iter().any(votes_not) || self.options.policy.check_timeline;
        ended && (lost || alone || barred || few || self.nodes.len() == 2)
    }

    /// Whether the cluster is as it should be.
    pub(crate) fn whole(&self) -> Result<(), String> {
        let view = self.store.view();
        let leader = self.leader().ok_or("nobody leads")?;
        let ours = !view.foreign_leader();
        if ours && view.current_beat().is_none() {
            return Err("the leader has not beaten".to_owned());
        }
        if ours && view.current_beat().is_some_and(|beat| !beat.value.serving) {
            return Err(format!("n{} does not serve", leader + 1));
        }
        let primaries: Vec<usize> =
            (0..self.nodes.len()).filter(|ix| self.nodes[*ix].pg.run == Run::Primary).collect();
        if primaries != [leader] {
            return Err(format!("primaries are {primaries:?}, leader is {leader}"));
        }
        if self.router.route.map(|(node, _)| node) != Some(leader) {
            return Err(format!("the router leads to {:?}", self.router.route));
        }
        for ix in (0..self.nodes.len()).filter(|ix| *ix != leader) {
            let pg = &self.nodes[ix].pg;
            let from = self.should_stream_from(ix, leader);
            if pg.receiver.is_none_or(|r| r.from != from) {
                return Err(format!(
                    "n{} ({:?}) does not stream from n{}",
                    ix + 1,
                    pg.run,
                    from + 1
                ));
            }
        }
        Ok(())
    }

    /// The longest time between two acknowledgements, up to now.
    pub(crate) fn longest_gap(&self) -> Micros {
        self.ledger.longest_gap.max(self.queue.now - self.ledger.last_ack)
    }

    /// The leader, or the member that the node's tag names, when all is well.
    fn should_stream_from(&self, node: Ix, leader: Ix) -> Ix {
        let named = |ix: Ix| {
            let name = self.options.tags[ix].replicatefrom.as_ref();
            name.and_then(|name| self.index(name)).filter(|to| *to < self.nodes.len())
        };
        let ours = |ix: &Ix| !self.is_patroni(*ix);
        let Some(from) = named(node).filter(|from| ours(from) && ours(&node)) else {
            return leader;
        };
        let mut next = Some(from);
        for _ in 0..self.nodes.len() {
            let Some(ix) = next.filter(|ix| *ix != leader) else { break };
            if ix == node {
                return leader;
            }
            next = named(ix);
        }
        from
    }

    /// How many writes that waited for standbys the present leader lacks.
    pub(crate) fn lost_writes(&self) -> usize {
        self.lost(true)
    }

    fn lost(&self, waited: bool) -> usize {
        let Some(has) = self.leader().and_then(|leader| self.nodes[leader].pg.wal()) else {
            return 0;
        };
        let lost = |ack: &&(Wal, bool)| ack.1 == waited && !self.branches.contains(has, ack.0);
        self.ledger.acks.iter().filter(lost).count()
    }

    /// Counts what the final leader lacks.
    fn count_lost(&mut self) {
        self.stats.lost_async += self.lost(false) as u64;
        let waited = self.lost(true);
        if waited > 0 && self.stats.sometimes.operator == 0 {
            self.broken(PRESENT, format!("{waited} writes are gone"));
        }
    }
}
