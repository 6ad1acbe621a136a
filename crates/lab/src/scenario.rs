//! The texts of `scenarios/lab`: what is set up, what happens in a round, what must be true after it.
//! Leaves doing it to `runner`.
//!
//! ```text
//! # What it shows, in a sentence.
//! cluster quorum ttl=5          the first line of setting up; also async, strict; failsafe, disk=tmpfs,
//!                               clock (agents' clocks can be stepped), quota=MB (etcd's)
//! goal write 300 postmaster     optional: a row of the goals' table, median in milliseconds
//! ci                            optional: one of those that CI runs
//!
//! kill leader postmaster        a round: roles are those at its beginning, until it ends; `current`
//!                               is whoever leads at that moment
//! again 3 700ms kill current postmaster     that often, with that much time after each
//! wait whole
//! expect leader changed
//! ```

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// One text.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) cluster: Cluster,
    pub(crate) goal: Option<Goal>,
    pub(crate) ci: bool,
    /// Acknowledgements of two primaries are counted, and don't fail it.
    pub(crate) allow_overlap: bool,
    pub(crate) round: Vec<Step>,
}

/// What is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) mode: Mode,
    /// Seconds.
    pub(crate) ttl: u32,
    pub(crate) failsafe: bool,
    pub(crate) disk: Disk,
    /// The wall clock of each agent can be stepped.
    pub(crate) clock: bool,
    /// What etcd's data may grow to, in megabytes.
    pub(crate) quota: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Async,
    Quorum,
    Strict,
}

/// What the data directories lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// The lab's directory.
    Plain,
    /// A small tmpfs each, which `fill` fills.
    Tmpfs,
    /// A loop device with ext4 each, which `freeze leader disk` freezes.
    Loop,
}

/// A row of the table of goals.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    pub(crate) client: Client,
    pub(crate) limit: Duration,
    pub(crate) row: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Writer,
    Reader,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Run(Duration),
    Kill(Who, Part),
    Start(Who, Part),
    Freeze(Who, Part),
    Thaw(Who, Part),
    Cut(Who, Link, Ways),
    /// That many times cut and healed again, each that long.
    Flap(Who, Link, u32, Duration),
    Heal,
    Fill(Who),
    /// Remounts its disk read-only.
    Protect(Who),
    /// Makes that good, where the node is dead.
    Repair(Who),
    /// Takes every connection slot that clients may have, and keeps them until the round ends.
    Crowd(Who),
    Empty(Who),
    /// Fills etcd until it is full and says so by its alarm, and back.
    FillEtcd,
    EmptyEtcd,
    /// That many times frozen and running again: how long each.
    Stutter(Who, Part, u32, Duration, Duration),
    /// Steps the wall clock of the agent by so many seconds.
    Clock(Who, i64),
    /// Until a program of that name runs on the machine.
    Await(Who, String),
    Operate(Operation),
    Again(u32, Duration, Box<Step>),
    Restart(Who, Part),
    /// Moves etcd's leader onto the leader's node, or away from it.
    EtcdLeader(Place),
    WaitWhole,
    /// Until a write that was begun after this step is acknowledged.
    WaitWrites,
    Expect(Expectation),
}

/// What operators and users do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Switchover,
    /// As many at once, to one replica and the other in turn; at least one succeeds.
    Switchovers(u32),
    /// Begins one and doesn't wait for its end, nor ask for success.
    BeginSwitchover,
    /// A parameter of PostgreSQL, for the whole cluster.
    Parameter(String),
    /// So much WAL, in megabytes, and a checkpoint that removes what nobody holds.
    Churn(u32),
    /// pgbench with so many clients; the time can be given in the command line.
    Load(u32, Duration),
}

/// Roles at the beginning of the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Leader,
    Replica,
    Third,
    /// Whoever leads at that moment.
    Current,
    All,
    EtcdLeader,
    /// Two members of etcd, its leader among them.
    EtcdQuorum,
    EtcdAll,
    Router,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Postmaster,
    /// Guard and everything below it.
    Tree,
    Agent,
    Guard,
    /// One of PostgreSQL's processes, not the postmaster.
    Backend,
    /// Every process of the machine, etcd's member too.
    Node,
    Etcd,
    Disk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Store,
    /// The other nodes' PostgreSQL and agents; not etcd's members.
    Peers,
    /// Every machine but the observing clients'.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ways {
    Both,
    Inbound,
    Outbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    OnLeader,
    OffLeader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expectation {
    LeaderChanged,
    LeaderSame,
    /// No term and no timeline began since the round did.
    NoFailover,
    /// The longest time without an acknowledged write, from the round's begin until now.
    GapBelow(Duration),
}

impl Scenario {
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let about = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default();
        let mut scenario = Self {
            name: name.to_owned(),
            about: about.to_owned(),
            cluster: Cluster::of(Mode::Quorum),
            goal: None,
            ci: false,
            allow_overlap: false,
            round: Vec::new(),
        };
        for (index, line) in lines.enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            scenario.line(line).with_context(|| format!("{name}, line {}: '{line}'", index + 2))?;
        }
        ensure!(!scenario.round.is_empty(), "{name}: nothing happens in it");
        Ok(scenario)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["ci"] => self.ci = true,
            ["allow", "overlap"] => self.allow_overlap = true,
            ["cluster", mode, more @ ..] => self.cluster = cluster(mode, more)?,
            ["goal", client, limit, row @ ..] => self.goal = Some(goal(client, limit, row)?),
            words => self.round.push(step(words)?),
        }
        Ok(())
    }
}

impl Cluster {
    fn of(mode: Mode) -> Self {
        Self { mode, ttl: 5, failsafe: false, disk: Disk::Plain, clock: false, quota: None }
    }
}

fn cluster(mode: &str, more: &[&str]) -> Result<Cluster> {
    let mode = match mode {
        "async" => Mode::Async,
        "quorum" => Mode::Quorum,
        "strict" => Mode::Strict,
        other => bail!("'{other}' is no mode: async, quorum or strict"),
    };
    let mut cluster = Cluster::of(mode);
    for word in more {
        match word.split_once('=') {
            None if *word == "failsafe" => cluster.failsafe = true,
            None if *word == "clock" => cluster.clock = true,
            Some(("quota", size)) => cluster.quota = Some(size.parse().context("megabytes")?),
            Some(("ttl", seconds)) => cluster.ttl = seconds.parse().context("ttl in seconds")?,
            Some(("disk", "tmpfs")) => cluster.disk = Disk::Tmpfs,
            Some(("disk", "loop")) => cluster.disk = Disk::Loop,
            None | Some(_) => {
                bail!("'{word}': ttl=SECONDS, failsafe, disk=tmpfs or loop, clock, quota=MB")
            }
        }
    }
    Ok(cluster)
}

fn goal(client: &str, limit: &str, row: &[&str]) -> Result<Goal> {
    let client = match client {
        "write" => Client::Writer,
        "read" => Client::Reader,
        other => bail!("'{other}': a goal is for write or read"),
    };
    let limit = Duration::from_millis(limit.parse().context("a goal in milliseconds")?);
    Ok(Goal { client, limit, row: row.join(" ") })
}

fn step(words: &[&str]) -> Result<Step> {
    Ok(match words {
        ["run", time] => Step::Run(duration(time)?),
        ["kill", who, part] => Step::Kill(who.parse()?, part.parse()?),
        ["start", who, part] => Step::Start(who.parse()?, part.parse()?),
        ["freeze", who, part] => Step::Freeze(who.parse()?, part.parse()?),
        ["thaw", who, part] => Step::Thaw(who.parse()?, part.parse()?),
        ["cut", who, "from", link] => Step::Cut(who.parse()?, link.parse()?, Ways::Both),
        ["cut", who, "from", link, ways] => Step::Cut(who.parse()?, link.parse()?, ways.parse()?),
        ["flap", who, "from", link, times, each] => {
            let times = times.parse().context("how often")?;
            Step::Flap(who.parse()?, link.parse()?, times, duration(each)?)
        }
        ["heal"] => Step::Heal,
        ["fill", "etcd"] => Step::FillEtcd,
        ["empty", "etcd"] => Step::EmptyEtcd,
        ["fill", who] => Step::Fill(who.parse()?),
        ["protect", who] => Step::Protect(who.parse()?),
        ["repair", who] => Step::Repair(who.parse()?),
        ["crowd", who] => Step::Crowd(who.parse()?),
        ["empty", who] => Step::Empty(who.parse()?),
        ["etcd-leader", "on", "leader"] => Step::EtcdLeader(Place::OnLeader),
        ["etcd-leader", "off", "leader"] => Step::EtcdLeader(Place::OffLeader),
        ["wait", "whole"] => Step::WaitWhole,
        ["wait", "writes"] => Step::WaitWrites,
        words => longer_step(words)?,
    })
}

fn longer_step(words: &[&str]) -> Result<Step> {
    Ok(match words {
        ["stutter", who, part, times, frozen, running] => {
            let times = times.parse().context("how often")?;
            let (frozen, running) = (duration(frozen)?, duration(running)?);
            Step::Stutter(who.parse()?, part.parse()?, times, frozen, running)
        }
        ["clock", who, seconds] => {
            let seconds = seconds.strip_suffix('s').context("seconds, as -3600s")?;
            Step::Clock(who.parse()?, seconds.parse().context("seconds, as -3600s")?)
        }
        ["await", who, program] => Step::Await(who.parse()?, (*program).to_owned()),
        ["restart", who, part] => Step::Restart(who.parse()?, part.parse()?),
        ["again", times, each, words @ ..] => {
            let times = times.parse().context("how often")?;
            Step::Again(times, duration(each)?, Box::new(step(words)?))
        }
        ["expect", "leader", "changed"] => Step::Expect(Expectation::LeaderChanged),
        ["expect", "leader", "same"] => Step::Expect(Expectation::LeaderSame),
        ["expect", "no", "failover"] => Step::Expect(Expectation::NoFailover),
        ["expect", "gap", "<", time] => Step::Expect(Expectation::GapBelow(duration(time)?)),
        words => Step::Operate(operation(words)?),
    })
}

fn operation(words: &[&str]) -> Result<Operation> {
    Ok(match words {
        ["switchover"] => Operation::Switchover,
        ["switchovers", times] => Operation::Switchovers(times.parse().context("how many")?),
        ["begin", "switchover"] => Operation::BeginSwitchover,
        ["parameter", setting] => Operation::Parameter((*setting).to_owned()),
        ["churn", megabytes] => Operation::Churn(megabytes.parse().context("megabytes")?),
        ["load", clients, time] => {
            Operation::Load(clients.parse().context("clients")?, duration(time)?)
        }
        _ => bail!("no such step; crates/lab/src/scenario.rs has them all"),
    })
}

fn duration(text: &str) -> Result<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').context("a time ends in s or ms")?, 1000),
    };
    Ok(Duration::from_millis(number.parse::<u64>().context("a whole number")? * unit))
}

/// A closed set of words.
macro_rules! words {
    ($type:ty, $($word:literal => $value:ident),+) => {
        impl FromStr for $type {
            type Err = anyhow::Error;
            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($word => Ok(Self::$value),)+
                    _ => bail!("'{text}' is none of: {}", [$($word),+].join(", ")),
                }
            }
        }
    };
}

words!(Who, "leader" => Leader, "replica" => Replica, "third" => Third, "router" => Router,
    "current" => Current, "all" => All,
    "etcd-leader" => EtcdLeader, "etcd-quorum" => EtcdQuorum, "etcd" => EtcdAll);
words!(Part, "postmaster" => Postmaster, "tree" => Tree, "agent" => Agent, "guard" => Guard,
    "node" => Node, "etcd" => Etcd, "disk" => Disk, "backend" => Backend);
words!(Link, "store" => Store, "peers" => Peers, "all" => All);
words!(Ways, "both" => Both, "inbound" => Inbound, "outbound" => Outbound);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read() {
        let text = "# About.\ncluster async ttl=3 failsafe\ngoal write 3500 node killed\nci\n\n\
                    cut leader from store inbound # why\nflap leader from peers 5 300ms\nrun 2s\n\
                    again 3 1s kill current tree\nclock leader -7200s\n";
        let scenario = Scenario::parse("x", text).expect("it is right");
        assert_eq!(scenario.about, "About.");
        assert_eq!((scenario.cluster.mode, scenario.cluster.ttl), (Mode::Async, 3));
        assert!(scenario.ci && scenario.cluster.failsafe);
        let every = Duration::from_millis(300);
        assert_eq!(
            scenario.round,
            [
                Step::Cut(Who::Leader, Link::Store, Ways::Inbound),
                Step::Flap(Who::Leader, Link::Peers, 5, every),
                Step::Run(Duration::from_secs(2)),
                Step::Again(
                    3,
                    Duration::from_secs(1),
                    Box::new(Step::Kill(Who::Current, Part::Tree))
                ),
                Step::Clock(Who::Leader, -7200),
            ]
        );
    }

    #[test]
    fn a_mistake_names_its_line() {
        let error = Scenario::parse("x", "# A.\ncluster quorum\nkill leader kidney\n");
        let words = format!("{:#}", error.expect_err("there is no such part"));
        assert!(
            words.starts_with("x, line 3: 'kill leader kidney': 'kidney' is none of:"),
            "{words}"
        );
    }
}
