//! The verbs of scenarios. A verb acts on the world or expects something of it; what the world
//! tells meanwhile is its output.

use pgherd_core::{Duration, Input, NodeName, Policy, Repair, SynchronousMode, Tags};

use crate::clock::Micros;
use crate::disk::Disk;
use crate::event::{Event, Ix};
use crate::faults::Family;
use crate::net::Lane;
use crate::pg::{Hang, MAX_NODES, Run};
use crate::world::{Options, World, seconds};

/// The verbs, for who writes a scenario.
pub(crate) const VERBS: &str = "\
cluster N async|priority|quorum [strict] [ttl 5s] [count K] [lag BYTES] [patroni nX] [tag nX TAG[=VALUE]]\n  [synclag BYTES] [check_timeline] [start_timeout 0s] [stop_timeout 1s] [seed S]\n  [rewind on|off] [copies on|off]
tag nX TAG[=VALUE]
run 2s [quietly] | write [BYTES]
kill NODES postmaster|tree|agent|both | start NODES | stop NODES
crash NODES | boot NODES | freeze NODES [agent] | thaw NODES | hang NODES | starve NODES | unhang NODES
stall NODES | fill NODES | readonly NODES | mend NODES
remove data NODES | reinit NODES | restart NODES | slow NODES | refuse NODES | allow NODES
partition NODES | store | store down|up|election | heal
switchover [to NODE] | failover to NODE | pause | resume
expect leader NODE | expect no leader | expect whole | expect all streaming
expect streaming NODES | expect voters NODES | expect no voters | expect no lost writes
expect writes | expect no writes | expect terms N | expect gap under 300ms
NODES: n1 n2 ..., leader, former, replicas, replica1, all";

/// A world on the stage, and what the script remembers.
#[derive(Default)]
pub(crate) struct Stage {
    world: Option<World>,
    leader: Option<Ix>,
    former: Option<Ix>,
    frozen_agents: Vec<Ix>,
}

type Outcome = Result<Vec<String>, String>;

impl Stage {
    pub(crate) fn perform(&mut self, command: &str) -> Outcome {
        let words: Vec<&str> = command.split_whitespace().collect();
        let Some((verb, rest)) = words.split_first() else { return Ok(Vec::new()) };
        if *verb == "cluster" {
            self.world = Some(cluster(rest)?);
            return Ok(Vec::new());
        }
        if self.world.is_none() {
            return Err("a scenario begins with 'cluster'".to_owned());
        }
        self.notice_leader();
        let mut extra = self.act(verb, rest)?;
        self.notice_leader();
        let world = self.world()?;
        let mut lines: Vec<String> = std::mem::take(&mut world.story)
            .unwrap_or_default()
            .into_iter()
            .map(|(at, words)| format!("{} {words}", seconds(at)))
            .collect();
        world.story = Some(Vec::new());
        lines.append(&mut extra);
        if let Some(v) = &world.violation {
            return Err(format!("{} is broken: {} ({})", v.invariant, v.found, lines.join(" | ")));
        }
        Ok(lines)
    }

    fn world(&mut self) -> Result<&mut World, String> {
        self.world.as_mut().ok_or_else(|| "no cluster".to_owned())
    }

    fn notice_leader(&mut self) {
        let Some(leader) = self.world.as_ref().and_then(World::leader) else { return };
        if self.leader.is_some_and(|last| last != leader) {
            self.former = self.leader;
        }
        self.leader = Some(leader);
    }

    fn act(&mut self, verb: &str, rest: &[&str]) -> Outcome {
        match verb {
            "run" => {
                let span = duration(rest.first().copied().unwrap_or("1s"))?;
                let world = self.world()?;
                let until = world.now() + span;
                world.run(until);
                if rest.get(1) == Some(&"quietly") {
                    world.ledger.longest_gap = 0;
                    world.story = Some(Vec::new());
                }
                Ok(Vec::new())
            }
            "write" => self.write(rest.first().copied().unwrap_or("500")),
            "kill" | "start" | "stop" | "crash" | "boot" | "freeze" | "thaw" | "hang"
            | "starve" | "unhang" | "stall" | "fill" | "readonly" | "mend" | "refuse" | "allow"
            | "reinit" | "restart" | "slow" => self.each(verb, rest),
            "tag" => {
                let [node, tag] = rest else { return Err("tag wants a node and a tag".to_owned()) };
                let node = one_node(node)?;
                let world = self.world()?;
                let mut tags = world.options.tags[node].clone();
                set_tag(&mut tags, tag)?;
                world.retag(node, tags);
                Ok(Vec::new())
            }
            "remove" => self.each(verb, rest.get(1..).unwrap_or_default()),
            "partition" => self.partition(rest),
            "store" => self.store(rest.first().copied().unwrap_or_default()),
            "heal" => {
                let world = self.world()?;
                world.heal();
                Ok(Vec::new())
            }
            "switchover" | "failover" => self.ask(verb, rest),
            "pause" | "resume" => {
                self.world()?.pause(verb == "pause");
                Ok(Vec::new())
            }
            "expect" => self.expect(rest),
            other => Err(format!("no verb '{other}'; there are:\n{VERBS}")),
        }
    }

    fn write(&mut self, bytes: &str) -> Outcome {
        let bytes = bytes.parse().map_err(|_| format!("'{bytes}' is no number of bytes"))?;
        let world = self.world()?;
        if !world.write_now(bytes) {
            return Ok(vec![format!("{} nobody takes a write", seconds(world.now()))]);
        }
        let until = world.now() + 500_000;
        while world.told_waits() && world.now() < until && world.violation.is_none() {
            let step = world.now() + 1_000;
            world.run(step);
        }
        let words =
            if world.told_waits() { "the write waits" } else { "the write is acknowledged" };
        Ok(vec![format!("{} {words}", seconds(world.now()))])
    }

    // ---- nodes ----------------------------------------------------------------------------------

    /// The nodes that a selector names now.
    fn select(&self, words: &[&str]) -> Result<Vec<Ix>, String> {
        let world = self.world.as_ref().ok_or("no cluster")?;
        let count = world.nodes.len();
        let leader = world.leader().or(self.leader);
        let replicas: Vec<Ix> = (0..count).filter(|ix| Some(*ix) != leader).collect();
        let mut out = Vec::new();
        for word in words {
            let number = |prefix: &str| {
                word.strip_prefix(prefix).and_then(|n| n.parse::<usize>().ok()).filter(|n| *n > 0)
            };
            if *word == "leader" {
                out.push(leader.ok_or("nobody leads")?);
            } else if *word == "former" {
                out.push(self.former.ok_or("there was no former leader")?);
            } else if *word == "replicas" {
                out.extend(&replicas);
            } else if *word == "all" {
                out.extend(0..count);
            } else if let Some(nth) = number("replica") {
                out.push(*replicas.get(nth - 1).ok_or(format!("no {word}"))?);
            } else if let Some(ix) = number("n").filter(|n| *n <= count) {
                out.push(ix - 1);
            } else {
                return Err(format!("'{word}' names no node"));
            }
        }
        Ok(out)
    }

    /// A verb for each of the named nodes.
    fn each(&mut self, verb: &str, rest: &[&str]) -> Outcome {
        let hows = ["postmaster", "tree", "agent", "both"];
        let how = rest.last().copied().filter(|w| hows.contains(w));
        let named = if how.is_some() { &rest[..rest.len() - 1] } else { rest };
        let nodes = self.select(named)?;
        for node in nodes {
            if verb == "freeze" && how == Some("agent") {
                self.frozen_agents.push(node);
            }
            let world = self.world()?;
            match (verb, how) {
                ("kill", Some("postmaster")) => world.postmaster_dies(node),
                ("kill", Some("tree")) => world.kill_tree(node, 0, 0),
                ("kill", Some("agent")) => world.agent_crash(node),
                ("kill", Some("both")) => {
                    world.agent_crash(node);
                    world.postmaster_dies(node);
                }
                ("start", _) => {
                    world.nodes[node].agent.stopped = false;
                    world.queue.after(0, Event::AgentStart { node });
                }
                ("stop", _) => {
                    world.nodes[node].agent.stopped = true;
                    world.tell_agent(node, 0, Input::Shutdown);
                }
                ("crash", _) => world.node_crash(node),
                ("boot", _) => world.node_boot(node),
                ("freeze", Some(_)) => world.agent_freeze(node),
                ("freeze", None) => world.node_freeze(node),
                ("thaw", _) => {
                    world.node_thaw(node, false);
                    world.agent_thaw(node);
                }
                ("hang", _) => world.nodes[node].pg.hang = Hang::All,
                ("starve", _) => world.nodes[node].pg.hang = Hang::Starved,
                ("unhang", _) => world.nodes[node].pg.hang = Hang::No,
                ("stall", _) => {
                    let since = world.now();
                    world.disk_breaks(node, Disk::Stalled { since });
                }
                ("fill", _) => world.disk_breaks(node, Disk::Full),
                ("readonly", _) => world.disk_breaks(node, Disk::ReadOnly),
                ("mend", _) => world.disk_breaks(node, Disk::Well),
                ("refuse" | "allow", _) => world.nodes[node].refuses = verb == "refuse",
                ("remove", _) => world.remove_data(node),
                ("reinit", _) => world.reinitialize(node),
                ("restart", _) => world.restart(node),
                ("slow", _) => world.strike(Family::SlowReplay, node, 3_600_000_000),
                _ => return Err(format!("how to {verb}?\n{VERBS}")),
            }
            let name = node + 1;
            let what = how.map_or(String::new(), |h| format!(" ({h})"));
            world.story(|| format!("--- {verb} n{name}{what}"));
        }
        Ok(Vec::new())
    }

    fn partition(&mut self, rest: &[&str]) -> Outcome {
        let at = rest.iter().position(|w| *w == "|").ok_or("partition NODES | NODES")?;
        let (left, right) = (&rest[..at], &rest[at + 1..]);
        let (lane, right) = match right.split_last() {
            Some((&"peers", named)) => (Lane::Peer, named),
            Some((&"pg", named)) => (Lane::Pg, named),
            _ => (Lane::All, right),
        };
        let left = self.select(left)?;
        if right == ["store"] {
            for node in left {
                self.world()?.cut_store(node, true, true);
            }
        } else {
            let right = self.select(right)?;
            let world = self.world()?;
            for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
                if a != b {
                    world.net.cut(lane, a, b);
                    world.net.cut(lane, b, a);
                }
            }
        }
        let words = format!("--- partition {}", rest.join(" "));
        self.world()?.story(|| words);
        Ok(Vec::new())
    }

    fn store(&mut self, what: &str) -> Outcome {
        let world = self.world()?;
        match what {
            "down" => world.store_down = true,
            "up" => world.store_down = false,
            "election" => {
                let now = world.now();
                world.store.leader_change(now);
            }
            other => return Err(format!("store down, up or election, not '{other}'")),
        }
        world.story(|| format!("--- store {what}"));
        Ok(Vec::new())
    }

    fn ask(&mut self, verb: &str, rest: &[&str]) -> Outcome {
        let named = rest.strip_prefix(&["to"]).unwrap_or(rest);
        let member = self.select(named)?.first().copied();
        let leader = self.leader.filter(|_| verb == "switchover");
        let world = self.world()?;
        world.ask_failover(leader, member);
        let words = format!("--- {verb} {}", rest.join(" "));
        world.story(|| words.trim_end().to_owned());
        Ok(Vec::new())
    }

    // ---- expectations ---------------------------------------------------------------------------

    fn expect(&mut self, rest: &[&str]) -> Outcome {
        let ok = |holds: bool, else_words: String| {
            if holds { Ok(Vec::new()) } else { Err(else_words) }
        };
        let world = self.world.as_ref().ok_or("no cluster")?;
        match rest {
            ["leader", node] => {
                let wanted = self.select(&[*node])?;
                let is = world.leader();
                ok(
                    is.is_some() && wanted == is.into_iter().collect::<Vec<_>>(),
                    format!("it is {is:?}"),
                )
            }
            ["no", "leader"] => ok(world.leader().is_none(), "somebody leads".to_owned()),
            ["whole"] => world.whole().map(|()| Vec::new()),
            ["all", "streaming"] => world.whole().map(|()| Vec::new()),
            ["streaming", named @ ..] => {
                let lonely = |ix: &Ix| world.nodes[*ix].pg.receiver.is_none();
                let lonely: Vec<Ix> = self.select(named)?.into_iter().filter(lonely).collect();
                ok(lonely.is_empty(), format!("{lonely:?} are not"))
            }
            ["voters", named @ ..] => {
                let mut wanted: Vec<_> =
                    self.select(named)?.into_iter().map(|ix| world.names[ix].clone()).collect();
                wanted.sort();
                let voters = Self::voters(world);
                ok(voters == wanted, format!("they are {voters:?}"))
            }
            ["no", "voters"] => {
                let voters = Self::voters(world);
                ok(voters.is_empty(), format!("they are {voters:?}"))
            }
            ["no", "lost", "writes"] => {
                let lost = world.lost_writes();
                ok(lost == 0, format!("{lost} are lost"))
            }
            ["gap", "under", limit] => {
                let (limit, gap) = (duration(limit)?, world.longest_gap());
                ok(gap < limit, format!("it was {}", seconds(gap)))
            }
            ["writes"] => self.writes(true),
            ["no", "writes"] => self.writes(false),
            ["terms", count] => {
                let terms = world.ledger.leaders.len();
                ok(count.parse() == Ok(terms), format!("there were {terms}"))
            }
            other => Err(format!("can't expect '{}'\n{VERBS}", other.join(" "))),
        }
    }

    fn voters(world: &World) -> Vec<NodeName> {
        let sync = world.store.view().sync.as_ref();
        sync.map(|s| s.value.voters.keys().cloned().collect()).unwrap_or_default()
    }

    /// Whether somebody acknowledged within the last half second.
    fn writes(&mut self, wanted: bool) -> Outcome {
        let world = self.world()?;
        let recent = world.ledger.last_ack + 500_000 > world.now();
        let primaries =
            (0..world.nodes.len()).filter(|ix| world.nodes[*ix].pg.run == Run::Primary).count();
        if recent == wanted {
            Ok(Vec::new())
        } else {
            Err(format!(
                "the last was acknowledged at {}, {primaries} primaries",
                seconds(world.ledger.last_ack)
            ))
        }
    }
}

/// `cluster 3 quorum strict ttl 5s`.
fn cluster(words: &[&str]) -> Result<World, String> {
    let mut policy = Policy::default();
    let mut seed = 1;
    let mut patroni = 0;
    let mut repair = Repair::default();
    let mut tags: [Tags; MAX_NODES] = std::array::from_fn(|_| Tags::default());
    let mut rest = words.iter();
    let count = rest.next().and_then(|n| n.parse().ok()).filter(|n| (1..=5).contains(n));
    let nodes = count.ok_or("cluster wants 1 to 5 nodes")?;
    while let Some(word) = rest.next() {
        let mut value = || rest.next().copied().ok_or(format!("{word} wants a value"));
        match *word {
            "async" => policy.synchronous_mode = SynchronousMode::Off,
            "priority" => policy.synchronous_mode = SynchronousMode::Priority,
            "quorum" => policy.synchronous_mode = SynchronousMode::Quorum,
            "strict" => policy.synchronous_mode_strict = true,
            "ttl" => policy.ttl = Duration(duration(value()?)?),
            "count" => policy.synchronous_node_count = number(value()?)? as u32,
            "lag" => policy.maximum_lag_on_failover = number(value()?)?,
            "patroni" => {
                patroni |= 1 << one_node(value()?)?;
            }
            "rewind" => repair.rewind = value()? == "on",
            "copies" => {
                let on = value()? == "on";
                (repair.copy_after_failure, repair.copy_diverged) = (on, on);
            }
            "failsafe" => policy.failsafe_mode = value()? == "on",
            "seed" => seed = number(value()?)?,
            "tag" => {
                let node = one_node(value()?)?;
                set_tag(&mut tags[node], value()?)?;
            }
            "synclag" => policy.maximum_lag_on_syncnode = Some(number(value()?)?),
            "check_timeline" => policy.check_timeline = true,
            "start_timeout" => policy.primary_start_timeout = Duration(duration(value()?)?),
            "stop_timeout" => policy.primary_stop_timeout = Some(Duration(duration(value()?)?)),
            other => return Err(format!("a cluster has no '{other}'")),
        }
    }
    let options = Options {
        seed,
        nodes,
        policy,
        mutant: None,
        tags,
        repair,
        patroni,
        clients: true,
        plain_clocks: true,
        by_model: false,
    };
    let mut world = World::new(options);
    world.faults.write_bytes = 2_000;
    world.story = Some(Vec::new());
    Ok(world)
}

/// `n2`.
fn one_node(word: &str) -> Result<Ix, String> {
    let node = number(word.strip_prefix('n').unwrap_or_default())?;
    Ok((node.clamp(1, MAX_NODES as u64) - 1) as Ix)
}

/// `nosync`, `failover_priority=2`, `replicatefrom=n2`, `nostream=off`.
fn set_tag(tags: &mut Tags, word: &str) -> Result<(), String> {
    let (name, value) = word.split_once('=').unwrap_or((word, "0"));
    match name {
        "nofailover" => tags.failover_priority = 0,
        "failover_priority" => tags.failover_priority = number(value)? as u32,
        "nosync" => tags.sync_priority = 0,
        "sync_priority" => tags.sync_priority = number(value)? as u32,
        "clonefrom" => tags.clonefrom = true,
        "nostream" => tags.nostream = value != "off",
        "replicatefrom" => tags.replicatefrom = NodeName::new(value).ok(),
        other => return Err(format!("there is no tag '{other}'")),
    }
    Ok(())
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("'{word}' is no number"))
}

/// `2s`, `500ms`, `2m`.
fn duration(word: &str) -> Result<Micros, String> {
    let units = [("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000)];
    units
        .iter()
        .find_map(|(unit, micros)| Some(word.strip_suffix(unit)?.parse::<u64>().ok()? * micros))
        .ok_or_else(|| format!("'{word}' is no time: 500ms, 2s or 1m"))
}
