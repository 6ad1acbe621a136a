//! The cluster's health in one sentence, as a pure function.

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

use pgherd_core::types::NodeName;

use crate::table::{NoPrimary, Routes};
use crate::topology::{Role, Topology};

/// One sentence, and how worried to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Health {
    pub(crate) level: Level,
    pub(crate) sentence: String,
}

/// How worried to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Ok,
    /// Works, but something is missing.
    Warn,
    /// Writes have nowhere to go.
    Bad,
}

/// What the sentence is made of.
pub(crate) struct View<'a> {
    pub(crate) topology: &'a Topology,
    pub(crate) routes: &'a Routes,
    /// How long ago the view was confirmed, when that is too long.
    pub(crate) stale_for: Option<Duration>,
    /// How long the state of the write route lasts.
    pub(crate) primary_for: Duration,
    pub(crate) held: usize,
}

/// Says how the cluster is.
pub(crate) fn health(view: &View<'_>) -> Health {
    let (mut level, mut sentence) = match &view.routes.write {
        Ok(primary) => {
            let (level, replicas) = replicas(view.topology);
            let term = primary.term.map_or_else(String::new, |term| format!(" (term {term})"));
            (level, format!("{} is primary{term} — {replicas}", primary.name))
        }
        Err(NoPrimary::NeverConfirmed) => {
            (Level::Bad, "Waiting for the first view of the cluster from the store".to_owned())
        }
        Err(why) => (Level::Bad, format!("No primary for {}: {why}", span(view.primary_for))),
    };
    if view.topology.paused {
        level = level.max(Level::Warn);
        sentence.push_str("; automatic failover is paused");
    }
    if let Some(age) = view.stale_for {
        level = level.max(Level::Warn);
        sentence = format!("Not confirmed for {} — last known: {sentence}", span(age));
    }
    match view.held {
        0 => {}
        1 => sentence.push_str("; 1 connection waits"),
        n => sentence.push_str(&format!("; {n} connections wait")),
    }
    Health { level, sentence }
}

fn replicas(topology: &Topology) -> (Level, String) {
    let leads =
        |name: &NodeName| topology.leader.as_ref().is_some_and(|leader| leader.name == *name);
    let all: Vec<_> = topology.members.iter().filter(|m| !leads(&m.name)).collect();
    let streaming: Vec<_> = all.iter().filter(|m| m.streaming && m.role == Role::Replica).collect();
    let lag = streaming.iter().filter_map(|m| m.lag_bytes).max();
    let lag_text = lag.map_or_else(String::new, |lag| format!(", lag {}", bytes(lag)));
    let behind = lag.is_some_and(|lag| lag > topology.max_lag);
    let level = if behind { Level::Warn } else { Level::Ok };
    match (streaming.len(), all.len()) {
        (_, 0) => (Level::Warn, "it has no replica".to_owned()),
        (0, 1) => (Level::Warn, "its replica is not streaming".to_owned()),
        (0, n) => (Level::Warn, format!("none of its {n} replicas is streaming")),
        (1, 1) => (level, format!("1 replica streaming{lag_text}")),
        (s, n) if s == n => (level, format!("{n} replicas streaming{lag_text}")),
        (s, n) => (Level::Warn, format!("only {s} of {n} replicas streaming{lag_text}")),
    }
}

/// A number of bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let power = ((63 - n.leading_zeros()) / 10) as usize;
    let unit = UNITS.get(power - 1).copied().unwrap_or("EiB");
    // Tenths in integers: a u64 has more digits than a float.
    let tenths = u128::from(n) * 10 / (1u128 << (10 * power));
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A span of time for people.
pub(crate) fn span(time: Duration) -> String {
    match time.as_secs() {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}
