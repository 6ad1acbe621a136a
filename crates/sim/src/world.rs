//! The world: its parts, its loop, and how it ends when an invariant is broken.
//! What each event does is in the file of the part that it moves.

use std::collections::VecDeque;

use pgherd_core::mutant::Mutant;
use pgherd_core::{Duration, Input, NodeName, Policy, Repair, SynchronousMode, Tags, Time};

use crate::client::{Client, Router};
use crate::clock::{Clock, Micros};
use crate::cluster_store::ClusterStore;
use crate::event::{Event, Ix, Part};
use crate::faults::Faults;
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::net::Net;
use crate::pg::MAX_NODES;
use crate::queue::Queue;
use crate::refine::Refine;
use crate::rng::Rng;
use crate::stats::Stats;
use crate::wal::Branches;

/// What a world is made of.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) policy: Policy,
    pub(crate) mutant: Option<Mutant>,
    /// What each node is fit for.
    pub(crate) tags: [Tags; MAX_NODES],
    /// What may be done to diverged data.
    pub(crate) repair: Repair,
    /// Nodes whose agent is Patroni, one bit each.
    pub(crate) patroni: u32,
    /// Clients write by themselves.
    pub(crate) clients: bool,
    /// All clocks are the world's.
    pub(crate) plain_clocks: bool,
    /// Only the model judges.
    pub(crate) by_model: bool,
}

/// A broken invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Its name: the file in `src/invariants`.
    pub invariant: &'static str,
    /// Its sentence.
    pub sentence: &'static str,
    /// What was found.
    pub found: String,
    /// The number of the event.
    pub step: u64,
    /// Virtual time.
    pub at: Micros,
}

/// What is told of a run while it goes.
#[derive(Default)]
pub(crate) enum Trace {
    #[default]
    Off,
    /// The last lines, so many.
    Last(VecDeque<String>, usize),
    /// Every line, at once.
    Print,
}

/// One world.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) queue: Queue,
    pub(crate) rng: Rng,
    pub(crate) names: Vec<NodeName>,
    pub(crate) nodes: Vec<Machine>,
    pub(crate) branches: Branches,
    pub(crate) store: ClusterStore,
    pub(crate) store_down: bool,
    pub(crate) net: Net,
    pub(crate) clients: Vec<Client>,
    pub(crate) router: Router,
    pub(crate) faults: Faults,
    pub(crate) ledger: Ledger,
    pub(crate) refine: Refine,
    pub(crate) stats: Stats,
    pub(crate) trace: Trace,
    /// Decisions and role changes, for scenarios.
    pub(crate) story: Option<Vec<(Micros, String)>>,
    pub(crate) violation: Option<Violation>,
    pub(crate) hash: u64,
    pub(crate) steps: u64,
    pub(crate) connections: u32,
    pub(crate) numbers: u32,
}

/// Tells a line of the trace; the words are only made when somebody listens.
macro_rules! note {
    ($world:expr, $($words:tt)*) => {
        if $world.tracing() {
            let line = format!($($words)*);
            $world.tell(&line);
        }
    };
}
pub(crate) use note;

impl World {
    pub(crate) fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let names: Vec<NodeName> =
            (1..=options.nodes).filter_map(|n| NodeName::new(&format!("n{n}")).ok()).collect();
        let clock = |rng: &mut Rng| {
            if options.plain_clocks {
                return Clock { offset: 0, ppm: 0 };
            }
            let ppm = rng.between(0, 19_000) as i64 - 9_500;
            Clock { offset: rng.between(1_000_000, 1_000_000_000_000) as i64, ppm }
        };
        let nodes: Vec<Machine> = names.iter().map(|_| Machine::new(clock(&mut rng))).collect();
        let mut world = Self {
            queue: Queue::default(),
            names,
            nodes,
            branches: Branches::default(),
            store: ClusterStore::new(),
            store_down: false,
            net: Net::default(),
            clients: Vec::new(),
            router: Router::default(),
            faults: Faults::default(),
            ledger: Ledger::new(options.nodes),
            refine: Refine::new(),
            stats: Stats::default(),
            trace: Trace::Off,
            story: None,
            violation: None,
            hash: 0xCBF2_9CE4_8422_2325,
            steps: 0,
            connections: 0,
            numbers: 0,
            rng,
            options,
        };
        for node in 0..world.nodes.len() {
            let delay = if world.options.plain_clocks {
                node as u64 * 10_000
            } else {
                world.rng.between(0, 3_000_000)
            };
            world.queue.after(delay, Event::AgentStart { node });
        }
        world.queue.after(crate::store::SCAN, Event::StoreScan);
        world.add_clients();
        world
    }

    /// Lets the world go on until `until`, or until an invariant is broken.
    pub(crate) fn run(&mut self, until: Micros) {
        while self.violation.is_none() {
            let Some(event) = self.queue.pop(until) else { return };
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        if let Some((node, part)) = event.target() {
            let machine = &mut self.nodes[node];
            if machine.frozen || (part == Part::Agent && machine.agent.frozen) {
                machine.held.push((part, event));
                return;
            }
        }
        self.steps += 1;
        let mixed = self.hash ^ self.queue.now ^ (event.code() << 40);
        self.hash = mixed.wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        self.dispatch(event);
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Agent { node, life, input } => self.agent_input(node, life, *input),
            Event::Peer { from, node, life, input } => {
                if self.net.peer(from, node) {
                    self.agent_input(node, life, *input);
                }
            }
            Event::Tick { node, life } => self.agent_tick(node, life),
            Event::Observe { node, life, again } => self.observe(node, life, again),
            Event::AgentStart { node } => self.agent_start(node),
            Event::Patroni { node, life, again } => self.patroni(node, life, again),
            Event::Persisted { node, life } => self.persisted(node, life),
            Event::StoreArrive { node, life, id, request, ask } => {
                self.store_arrive(node, life, id, *request, ask);
            }
            Event::Watch { node, life, view } => self.watch(node, life, view),
            Event::WatchResume { node, life } => self.watch_resume(node, life),
            Event::StoreScan => self.store_scan(),
            Event::Guard { node, number } => self.guard_due(node, number),
            Event::Killed { node, pg } => self.killed(node, pg),
            Event::Started { node, pg, op } => self.started(node, pg, op),
            Event::Checkpoint { node, pg } => self.checkpoint(node, pg),
            Event::NamesSeen { node, pg, op } => self.names_seen(node, pg, op),
            Event::OpEnd { node, op } => self.op_end(node, op),
            Event::Receiver { node, pg } => self.receiver(node, pg),
            Event::Wal { node, conn, wal } => self.wal_arrives(node, conn, wal),
            Event::Reply { node, of, conn, flushed, replayed } => {
                self.reply_arrives(node, of, conn, flushed, replayed);
            }
            Event::Poke { node, to, conn } => self.poke(node, to, conn),
            Event::Hangup { node, peer, conn } => self.hangup(node, peer, conn),
            Event::Client { client } => self.client(client),
            Event::Router { view } => self.router_sees(&view),
            Event::Fault => self.fault(),
            Event::Mend(mend) => self.mend(mend),
            Event::Operator => self.operator(),
        }
    }

    // ---- small things that all parts use --------------------------------------------------------

    pub(crate) fn now(&self) -> Micros {
        self.queue.now
    }

    /// What a node's own clock shows.
    pub(crate) fn clock(&self, node: Ix) -> Time {
        self.nodes[node].clock.at(self.queue.now)
    }

    pub(crate) fn index(&self, name: &NodeName) -> Option<Ix> {
        self.names.iter().position(|n| n == name)
    }

    pub(crate) fn synchronous(&self) -> bool {
        self.options.policy.synchronous_mode != SynchronousMode::Off
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.options.policy.ttl
    }

    /// A number that is used once.
    pub(crate) fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    /// An input for the agent that lives on a node now.
    pub(crate) fn tell_agent(&mut self, node: Ix, delay: Micros, input: Input) {
        if self.nodes[node].agent.node.is_some() {
            let life = self.nodes[node].agent.life;
            self.queue.after(delay, Event::Agent { node, life, input: Box::new(input) });
        }
    }

    /// Records the first broken invariant; the world stops after this event.
    pub(crate) fn broken(&mut self, rule: crate::invariants::Rule, found: String) {
        let judges = !self.options.by_model || rule.name == crate::refine::RULE.name;
        if self.violation.is_none() && judges {
            note!(self, "VIOLATION {}: {found}", rule.name);
            self.violation = Some(Violation {
                invariant: rule.name,
                sentence: rule.sentence,
                found,
                step: self.steps,
                at: self.queue.now,
            });
        }
    }

    pub(crate) fn tracing(&self) -> bool {
        !matches!(self.trace, Trace::Off)
    }

    pub(crate) fn tell(&mut self, words: &str) {
        let line = format!("{} {words}", seconds(self.queue.now));
        match &mut self.trace {
            Trace::Off => {}
            Trace::Last(lines, most) => {
                if lines.len() == *most {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
            Trace::Print => crate::report::line(&line),
        }
    }

    /// A line of a scenario's output.
    pub(crate) fn story(&mut self, words: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push((self.queue.now, words()));
        }
    }
}

/// Virtual time for the reader.
pub(crate) fn seconds(at: Micros) -> String {
    format!("{:>3}.{:03}", at / 1_000_000, at / 1_000 % 1_000)
}
