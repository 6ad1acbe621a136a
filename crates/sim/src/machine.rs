//! One machine: its agent, its guard, its PostgreSQL; how they are born, frozen and killed.
//! What the agent wants done is carried out in `actions.rs`.

use pgherd_core::mutant::Mutant;
use pgherd_core::{
    Durable, Incarnation, Input, Node, NodeConfig, OpId, Term, Time, postgres::PgOp,
};

use crate::clock::{Clock, Micros};
use crate::disk::Disk;
use crate::event::{Event, Ix, Part};
use crate::patroni::Patroni;
use crate::pg::{Hang, Pg, Run};
use crate::world::{World, note};

/// One life of the agent, or none.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    pub(crate) node: Option<Node>,
    /// Counts its lives.
    pub(crate) life: u32,
    pub(crate) frozen: bool,
    /// What is on disk.
    pub(crate) durable: Durable,
    /// What is being written: sequence number and record, in order.
    pub(crate) writing: std::collections::VecDeque<(u64, Durable)>,
    /// The earliest tick in the queue.
    pub(crate) tick: Micros,
    pub(crate) watch_cut: bool,
    /// Views arrive in order: not before this.
    pub(crate) watch_arrives: Micros,
    /// Stays down until somebody starts it.
    pub(crate) stopped: bool,
}

/// The guard.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    pub(crate) armed: Option<(Term, Time)>,
    /// Numbers the deadlines.
    pub(crate) number: u32,
    /// The last term for which it has fired.
    pub(crate) fired: Option<Term>,
}

/// An operation that runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) number: u32,
    pub(crate) id: OpId,
    pub(crate) op: PgOp,
    pub(crate) term: Option<Term>,
    /// The agent's life that waits for it.
    pub(crate) life: u32,
    /// PostgreSQL's life that it acts on.
    pub(crate) pg: u32,
    pub(crate) fails: Option<pgherd_core::postgres::PgFailureKind>,
    /// It fails, and yet has its effect.
    pub(crate) anyway: bool,
}

/// What a kill may need, and the moment that a look takes.
const KILL: Micros = 150_000;

/// One machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) clock: Clock,
    pub(crate) up: bool,
    pub(crate) frozen: bool,
    pub(crate) frozen_at: Micros,
    /// Its `pre_promote` fails.
    pub(crate) refuses: bool,
    pub(crate) thawed_at: Micros,
    /// A hypervisor held it since its last proof.
    pub(crate) held_clock: bool,
    /// On its own clock, when a hypervisor last let it go on: what it counts from before is wrong.
    pub(crate) held_until: Time,
    /// When it last acknowledged something believing that management is paused.
    pub(crate) paused_at: Micros,
    /// What waits for a thaw.
    pub(crate) held: Vec<(Part, Event)>,
    pub(crate) agent: Agent,
    /// Instead of an agent of ours.
    pub(crate) patroni: Patroni,
    pub(crate) guard: Guard,
    pub(crate) pg: Pg,
    pub(crate) ops: Vec<Running>,
    /// When the agent heard of an operation's end, on its clock.
    pub(crate) op_ended: Time,
    /// Operations take so many times longer.
    pub(crate) slow: u64,
    pub(crate) disk: Disk,
    /// The agent's last news of its disk was bad.
    pub(crate) told_ill: bool,
}

impl Machine {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            up: true,
            frozen: false,
            frozen_at: 0,
            refuses: false,
            thawed_at: 0,
            held_clock: false,
            held_until: Time::default(),
            paused_at: 0,
            held: Vec::new(),
            agent: Agent::default(),
            patroni: Patroni::default(),
            guard: Guard::default(),
            pg: Pg::new(),
            ops: Vec::new(),
            op_ended: Time(0),
            slow: 1,
            disk: Disk::Well,
            told_ill: false,
        }
    }
}

/// How often what waits for a disk looks at it again.
pub(crate) const DISK_AGAIN: Micros = 50_000;
/// How often the agent looks at PostgreSQL.
const OBSERVE: Micros = 100_000;

impl World {
    /// In maintenance nothing fences; who was frozen in it may not know yet that it is over. When it
    /// hears of it, it kills.
    pub(crate) fn believes_in_pause(&mut self, node: Ix) -> bool {
        let now = self.queue.now;
        let machine = &mut self.nodes[node];
        if machine.agent.node.as_ref().is_some_and(|n| n.durable().paused) {
            machine.paused_at = now;
        }
        machine.paused_at > 0 && now - machine.paused_at < KILL
    }

    // ---- the agent ------------------------------------------------------------------------------

    pub(crate) fn agent_start(&mut self, node: Ix) {
        let machine = &self.nodes[node];
        let runs = machine.agent.node.is_some() || machine.patroni.alive;
        if !machine.up || runs || machine.agent.stopped {
            return;
        }
        if self.is_patroni(node) {
            return self.patroni_start(node);
        }
        let config = NodeConfig {
            name: self.names[node].clone(),
            tags: self.options.tags[node].clone(),
            repair: self.options.repair,
            restores_alone: false,
            founding_policy: self.options.policy.clone(),
            may_found: true,
            seed: self.rng.next(),
            mutant: self.mutant(),
        };
        let incarnation = Incarnation(self.rng.next());
        let now = self.clock(node);
        let machine = &mut self.nodes[node];
        let adopted = matches!(machine.pg.run, Run::Primary | Run::Replica);
        let agent = &mut machine.agent;
        agent.life += 1;
        agent.frozen = false;
        agent.tick = Micros::MAX;
        agent.watch_cut = false;
        agent.node = Some(Node::new(config, incarnation, agent.durable.clone(), now));
        let life = agent.life;
        self.clocks_agent(node);
        self.ledger.last_decision[node] = None;
        self.stats.sometimes.adopted += u64::from(adopted);
        let adopts = if adopted { ", adopts PostgreSQL" } else { "" };
        note!(self, "n{} agent starts (life {life}){adopts}", node + 1);
        let name = node + 1;
        self.story(|| format!("n{name} agent starts{adopts}"));
        let watch = self.rng.between(2_000, 30_000);
        self.queue.after(watch, Event::WatchResume { node, life });
        let look = self.rng.between(1_000, 20_000);
        self.queue.after(look, Event::Observe { node, life, again: true });
        self.drain(node);
    }

    fn mutant(&self) -> Option<Mutant> {
        self.options.mutant
    }

    /// SIGKILL for the agent alone. The tools that it ran die with it.
    pub(crate) fn agent_crash(&mut self, node: Ix) {
        let patroni = std::mem::take(&mut self.nodes[node].patroni).alive;
        if self.nodes[node].agent.node.take().is_none() && !patroni {
            return;
        }
        note!(self, "n{} agent is killed", node + 1);
        let agent = &mut self.nodes[node].agent;
        agent.frozen = false;
        agent.writing.clear();
        self.drop_held(node, Part::Agent);
        let life = self.nodes[node].agent.life;
        self.nodes[node].ops.retain(|op| {
            let tool = matches!(op.op, PgOp::Init | PgOp::Rewind { .. } | PgOp::Clone { .. });
            !(tool && op.life == life)
        });
        self.half_done(node, life);
        self.model_agent_dies(node);
        if self.nodes[node].up {
            self.tell_peers_closed(node);
        }
    }

    /// An agent writes the list and sends a signal: when it dies meanwhile, PostgreSQL has the list within
    /// a moment, or never.
    fn half_done(&mut self, node: Ix, life: u32) {
        let sets = |op: &PgOp| matches!(op, PgOp::SetNames { .. });
        let ops = self.nodes[node].ops.iter().filter(|op| op.life == life && sets(&op.op));
        let numbers: Vec<u32> = ops.map(|op| op.number).collect();
        for number in numbers {
            if self.rng.permille(500) {
                self.nodes[node].ops.retain(|op| op.number != number);
            } else {
                let soon = self.rng.between(100, 5_000);
                self.queue.after(soon, Event::OpEnd { node, op: number });
            }
        }
    }

    pub(crate) fn agent_input(&mut self, node: Ix, life: u32, input: Input) {
        let now = self.clock(node);
        let machine = &mut self.nodes[node];
        if machine.agent.life != life {
            return;
        }
        if machine.agent.node.is_none() {
            return;
        }
        if let Input::Postgres(facts) = &input {
            self.stats.sometimes.stale_facts += u64::from(facts.at < machine.op_ended);
        } else if let Input::OpDone { .. } = &input {
            machine.op_ended = now;
        }
        if self.tracing()
            && let Some(words) = crate::report::input(&input)
        {
            let line = format!("n{} < {words}", node + 1);
            self.tell(&line);
        }
        if let Input::Store { id, outcome } = &input {
            self.model_answered(node, *id, outcome);
            self.clocks_answered(node, *id, outcome);
        } else if let Input::View(view) = &input {
            self.model_looks(node, view);
            self.clocks_look(node, view);
        }
        let Some(core) = self.nodes[node].agent.node.as_mut() else { return };
        core.handle(now, input);
        self.drain(node);
    }

    pub(crate) fn agent_tick(&mut self, node: Ix, life: u32) {
        let now = self.clock(node);
        let agent = &mut self.nodes[node].agent;
        if agent.life != life {
            return;
        }
        agent.tick = Micros::MAX;
        let Some(core) = agent.node.as_mut() else { return };
        let (deadline, _) = core.poll_deadline();
        if deadline <= now {
            core.handle(now, Input::Tick);
        }
        self.drain(node);
    }

    /// Puts the agent's next deadline into the queue, when it isn't there yet.
    pub(crate) fn arm_tick(&mut self, node: Ix) {
        let machine = &mut self.nodes[node];
        let Some(core) = machine.agent.node.as_ref() else { return };
        let (deadline, _) = core.poll_deadline();
        let at = machine.clock.world(deadline).max(self.queue.now + 10);
        if at < machine.agent.tick {
            machine.agent.tick = at;
            let late = self.rng.below(1_500);
            let life = self.nodes[node].agent.life;
            if at < Micros::MAX / 2 {
                self.queue.push(at + late, Event::Tick { node, life });
            }
        }
    }

    pub(crate) fn persisted(&mut self, node: Ix, life: u32) {
        let agent = &mut self.nodes[node].agent;
        if agent.life != life || agent.node.is_none() {
            return;
        }
        if !self.nodes[node].disk.takes_records() {
            self.queue.after(DISK_AGAIN, Event::Persisted { node, life });
            return;
        }
        let agent = &mut self.nodes[node].agent;
        if let Some((seq, record)) = agent.writing.pop_front() {
            agent.durable = record.clone();
            self.model_persisted(node, &record);
            self.agent_input(node, life, Input::Persisted { seq });
        }
    }

    pub(crate) fn observe(&mut self, node: Ix, life: u32, again: bool) {
        let agent = &self.nodes[node].agent;
        if agent.life != life || agent.node.is_none() {
            return;
        }
        if let Some(facts) = self.facts(node) {
            let delay = if self.rng.permille(20) {
                self.rng.between(20_000, 80_000)
            } else {
                self.rng.between(300, 3_000)
            };
            self.tell_agent(node, delay, Input::Postgres(facts));
        }
        self.tell_disk(node);
        self.check_belief(node);
        if again {
            let next = OBSERVE + self.rng.below(5_000);
            self.queue.after(next, Event::Observe { node, life, again });
        }
    }

    // ---- freezing -------------------------------------------------------------------------------

    pub(crate) fn agent_freeze(&mut self, node: Ix) {
        if self.nodes[node].agent.node.is_some() || self.nodes[node].patroni.alive {
            note!(self, "n{} agent is frozen", node + 1);
            self.nodes[node].agent.frozen = true;
        }
    }

    pub(crate) fn agent_thaw(&mut self, node: Ix) {
        if self.nodes[node].agent.frozen {
            note!(self, "n{} agent thaws", node + 1);
            self.nodes[node].agent.frozen = false;
            self.release_held(node);
        }
    }

    pub(crate) fn node_freeze(&mut self, node: Ix) {
        let machine = &mut self.nodes[node];
        if machine.up && !machine.frozen {
            machine.frozen = true;
            machine.frozen_at = self.queue.now;
            note!(self, "n{} is frozen as a whole", node + 1);
        }
    }

    /// `held`: a hypervisor stopped the machine's clock too.
    pub(crate) fn node_thaw(&mut self, node: Ix, held: bool) {
        let machine = &mut self.nodes[node];
        if !machine.frozen {
            return;
        }
        machine.frozen = false;
        machine.thawed_at = self.queue.now;
        if held {
            machine.held_until = machine.clock.at(machine.frozen_at);
            machine.clock.offset -= (self.queue.now - machine.frozen_at) as i64;
            machine.held_clock = true;
        }
        note!(self, "n{} thaws", node + 1);
        self.release_held(node);
        self.rearm_guard(node);
    }

    /// What waited happens now, in its order, a little late.
    fn release_held(&mut self, node: Ix) {
        let held = std::mem::take(&mut self.nodes[node].held);
        let mut delay = 0;
        for (part, event) in held {
            let still =
                self.nodes[node].frozen || (part == Part::Agent && self.nodes[node].agent.frozen);
            if still {
                self.nodes[node].held.push((part, event));
            } else {
                delay += self.rng.below(300);
                self.queue.after(delay, event);
            }
        }
    }

    fn drop_held(&mut self, node: Ix, which: Part) {
        self.nodes[node].held.retain(|(part, _)| *part != which);
    }

    // ---- deaths ---------------------------------------------------------------------------------

    /// Power off.
    pub(crate) fn node_crash(&mut self, node: Ix) {
        if !self.nodes[node].up {
            return;
        }
        note!(self, "n{} crashes", node + 1);
        let machine = &mut self.nodes[node];
        machine.up = false;
        machine.frozen = false;
        machine.held.clear();
        self.agent_crash(node);
        self.pg_gone(node, false);
        let machine = &mut self.nodes[node];
        machine.ops.clear();
        machine.guard.armed = None;
        machine.guard.number += 1;
    }

    /// Power on; the agent follows.
    pub(crate) fn node_boot(&mut self, node: Ix) {
        if self.nodes[node].up {
            return;
        }
        note!(self, "n{} boots", node + 1);
        self.nodes[node].up = true;
        self.nodes[node].guard.fired = None;
        self.tell_peers_closed(node);
        let delay = self.rng.between(100_000, 1_000_000);
        self.queue.after(delay, Event::AgentStart { node });
    }

    /// SIGKILL for the postmaster alone: its backends live on until the guard has killed them.
    pub(crate) fn postmaster_dies(&mut self, node: Ix) {
        let pg = &mut self.nodes[node].pg;
        let primary = match pg.run {
            Run::Down | Run::Zombie { .. } => return,
            Run::Primary => true,
            Run::Replica | Run::Starting { .. } | Run::Stopping { .. } => false,
        };
        note!(self, "n{} the postmaster is killed", node + 1);
        let pg = &mut self.nodes[node].pg;
        pg.run = Run::Zombie { primary };
        pg.hang = Hang::No;
        self.stats.sometimes.zombies += u64::from(primary);
        let delay = self.rng.between(200, 1_500);
        self.tell_agent(node, delay, Input::PostgresExited);
        let (low, high) = (3_000, 40_000);
        self.kill_tree(node, low, high);
        self.orphan_replication(node, true);
    }

    /// SIGKILL for all processes of PostgreSQL: they go within `low` to `high` microseconds.
    pub(crate) fn kill_tree(&mut self, node: Ix, low: Micros, high: Micros) {
        let pg = &mut self.nodes[node].pg;
        if pg.run == Run::Down || pg.dying {
            return;
        }
        pg.dying = true;
        let life = pg.life;
        let delay = self.rng.between(low, high);
        self.queue.after(delay, Event::Killed { node, pg: life });
    }

    pub(crate) fn killed(&mut self, node: Ix, life: u32) {
        let pg = &self.nodes[node].pg;
        if pg.life != life || pg.run == Run::Down {
            return;
        }
        if self.nodes[node].disk.hangs() {
            self.killed_and_hangs(node, life);
            return;
        }
        let postmaster = !matches!(pg.run, Run::Zombie { .. });
        note!(self, "n{} nothing of PostgreSQL is left", node + 1);
        self.pg_gone(node, false);
        if postmaster {
            self.tell_agent(node, 100, Input::PostgresExited);
        }
        let delay = self.rng.between(200, 1_000);
        self.tell_agent(node, delay, Input::PostgresEmpty);
        self.end_kills(node);
    }

    /// SIGKILL is pending on all of them, and they hang in a write.
    fn killed_and_hangs(&mut self, node: Ix, life: u32) {
        self.queue.after(DISK_AGAIN, Event::Killed { node, pg: life });
        if std::mem::replace(&mut self.nodes[node].pg.killed, true) {
            return;
        }
        note!(self, "n{} PostgreSQL is killed, and hangs in its disk", node + 1);
        self.stats.sometimes.killed_not_empty += 1;
        let kills = self.nodes[node].ops.iter().filter(|o| o.op == PgOp::Kill);
        for id in kills.map(|o| o.id).collect::<Vec<_>>() {
            self.tell_agent(node, 500, Input::PostgresKilled { id });
        }
    }

    // ---- the guard ------------------------------------------------------------------------------

    pub(crate) fn rearm_guard(&mut self, node: Ix) {
        let machine = &mut self.nodes[node];
        machine.guard.number += 1;
        let Some((_, deadline)) = machine.guard.armed else { return };
        let at = machine.clock.world(deadline);
        let number = machine.guard.number;
        if at < Micros::MAX / 2 {
            let late = self.rng.below(1_000);
            self.queue.push(at + late, Event::Guard { node, number });
        }
    }

    pub(crate) fn guard_due(&mut self, node: Ix, number: u32) {
        let guard = &mut self.nodes[node].guard;
        if guard.number != number {
            return;
        }
        let Some((term, _)) = guard.armed.take() else { return };
        guard.fired = guard.fired.max(Some(term));
        note!(self, "n{} the guard's deadline for term {term} has passed", node + 1);
        if self.nodes[node].pg.run != Run::Down {
            self.stats.sometimes.guard_fired += 1;
            let name = node + 1;
            self.story(|| format!("n{name} the guard kills PostgreSQL"));
            self.kill_tree(node, 1_000, 40_000);
        }
    }
}
