//! The routes as a pure value: topology in, targets out; and which sessions a change ends.
//! Leaves sockets, time and counting to the rest of the crate.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use pgherd_core::types::{NodeName, Term};

use crate::confirm::{Lapsed, Standing};
use crate::topology::{HostPort, LeaderRoute, MemberRoute, Role, Topology};

/// Which of the two services a connection asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Port {
    /// Goes to the primary.
    Write,
    /// Goes to a replica.
    Read,
}

/// Where read sessions go when no replica is eligible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadFallback {
    /// To the primary.
    #[default]
    Leader,
    /// Nowhere: they wait for a replica.
    None,
}

/// One PostgreSQL that may get a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: HostPort,
    /// The member's name.
    pub name: NodeName,
    /// The reign under which it was chosen; `None` when no leader was known (read port only).
    pub term: Option<Term>,
}

/// Why there is no primary to route to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoPrimary {
    /// The store has never confirmed a view.
    NeverConfirmed,
    /// The leader key is absent.
    NoLeader,
    /// The leader doesn't accept writes yet.
    NotServing(NodeName, Term),
    /// The leader's term is older than one that was seen before: a view from the past.
    OlderTerm {
        /// The term that the view shows.
        shown: Term,
        /// The highest term seen.
        seen: Term,
    },
    /// Nobody confirms the leader's term any more.
    Unconfirmed(Lapsed),
}

/// What kind of targets the read port has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadSource {
    /// Streaming replicas within the lag limit.
    Replicas,
    /// The primary, for want of an eligible replica.
    Leader,
    /// Replicas that run but don't stream: there is no primary that they could stream from.
    /// Reads go on while writes can't.
    Waiting,
    /// Nobody.
    Nobody,
}

/// Where new sessions go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Routes {
    /// The primary, or why there is none.
    pub write: Result<Arc<Target>, NoPrimary>,
    /// The targets of the read port, in the members' order.
    pub read: Vec<Arc<Target>>,
    /// What kind of targets those are.
    pub read_source: ReadSource,
}

/// Which sessions a change of the topology ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Closures {
    /// Sessions of the write port.
    pub write: WriteClosure,
    /// Members whose read sessions end.
    pub read: Vec<NodeName>,
}

/// Which write sessions end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteClosure {
    /// The reign goes on: none.
    Nothing,
    /// Every session to another member than this leader.
    AllBut(NodeName),
    /// There is no reign: all.
    All,
}

impl Routes {
    /// Works out the routes. `seen` is the highest term that was ever seen: a leader of an older
    /// one is a view from the past and gets no writes. `standing` is how the leader's term stands.
    #[must_use]
    pub fn of(
        topology: &Topology,
        fallback: ReadFallback,
        seen: Option<Term>,
        standing: &Standing,
    ) -> Self {
        let write = primary(topology, seen, standing);
        let (read, read_source) = readers(topology, fallback, write.as_ref().ok());
        Self { write, read, read_source }
    }

    /// No routes at all, as before the first view.
    #[must_use]
    pub fn nothing() -> Self {
        let write = Err(NoPrimary::NeverConfirmed);
        Self { write, read: Vec::new(), read_source: ReadSource::Nobody }
    }

    /// The targets of a port, in the members' order.
    #[must_use]
    pub fn targets(&self, port: Port) -> &[Arc<Target>] {
        match port {
            Port::Write => self.write.as_ref().map_or(&[], std::slice::from_ref),
            Port::Read => &self.read,
        }
    }
}

fn primary(
    topology: &Topology,
    seen: Option<Term>,
    standing: &Standing,
) -> Result<Arc<Target>, NoPrimary> {
    if topology.fresh_at.is_none() {
        return Err(NoPrimary::NeverConfirmed);
    }
    let leader = topology.leader.as_ref().ok_or(NoPrimary::NoLeader)?;
    if let Some(seen) = seen.filter(|seen| *seen > leader.term) {
        return Err(NoPrimary::OlderTerm { shown: leader.term, seen });
    }
    if !leader.serving {
        return Err(NoPrimary::NotServing(leader.name.clone(), leader.term));
    }
    if let Standing::Lapsed(lapsed) = standing {
        return Err(NoPrimary::Unconfirmed(lapsed.clone()));
    }
    Ok(Arc::new(Target {
        address: leader.address.clone(),
        name: leader.name.clone(),
        term: Some(leader.term),
    }))
}

fn readers(
    topology: &Topology,
    fallback: ReadFallback,
    primary: Option<&Arc<Target>>,
) -> (Vec<Arc<Target>>, ReadSource) {
    if topology.fresh_at.is_none() {
        return (Vec::new(), ReadSource::Nobody);
    }
    let pick = |eligible: &dyn Fn(&MemberRoute) -> bool| -> Vec<Arc<Target>> {
        let leader = topology.leader.as_ref();
        topology.members.iter().filter(|m| eligible(m)).map(|m| target(m, leader)).collect()
    };
    let streaming = pick(&|m| is_reader(topology, m) && m.streaming && within_lag(topology, m));
    if !streaming.is_empty() {
        return (streaming, ReadSource::Replicas);
    }
    if let Some(primary) = primary {
        return match fallback {
            ReadFallback::Leader => (vec![Arc::clone(primary)], ReadSource::Leader),
            ReadFallback::None => (Vec::new(), ReadSource::Nobody),
        };
    }
    let waiting = pick(&|m| is_reader(topology, m) && within_lag(topology, m));
    let source = if waiting.is_empty() { ReadSource::Nobody } else { ReadSource::Waiting };
    (waiting, source)
}

/// A replica whose PostgreSQL runs and that may be given read sessions.
fn is_reader(topology: &Topology, member: &MemberRoute) -> bool {
    let leads = topology.leader.as_ref().is_some_and(|leader| leader.name == member.name);
    let runs = member.state == "running" || member.state == "streaming";
    member.role == Role::Replica && runs && !leads && !member.noloadbalance
}

/// An unknown lag excludes nobody: while there is no leader nobody's lag is known.
fn within_lag(topology: &Topology, member: &MemberRoute) -> bool {
    member.lag_bytes.is_none_or(|lag| lag <= topology.max_lag)
}

/// Whether a member is a running replica that is left out only because it lies too far behind.
#[must_use]
pub fn is_lagging(topology: &Topology, member: &MemberRoute) -> bool {
    member.role == Role::Replica && !within_lag(topology, member)
}

fn target(member: &MemberRoute, leader: Option<&LeaderRoute>) -> Arc<Target> {
    Arc::new(Target {
        address: member.address.clone(),
        name: member.name.clone(),
        term: leader.map(|leader| leader.term),
    })
}

/// Which sessions end when `old` becomes `new`.
///
/// Write sessions end when the leader key shows another member, and when it is gone, because then
/// the reign is over. The same member under a new term keeps them: its agent was restarted, and where
/// PostgreSQL was too, its sessions ended by themselves. A leader that merely stops serving keeps
/// what is left of them as well. Read sessions end only with their member: lag comes and
/// goes, and a replica that becomes leader still answers reads.
#[must_use]
pub fn diff(old: &Topology, new: &Topology) -> Closures {
    let reign = |topology: &Topology| topology.leader.as_ref().map(|l| (l.name.clone(), l.term));
    let write = match (reign(old), reign(new)) {
        (was, is) if was == is => WriteClosure::Nothing,
        // A view from the past ends nothing: the newer reign goes on.
        (Some((_, was)), Some((_, is))) if is < was => WriteClosure::Nothing,
        (_, Some((name, _))) => WriteClosure::AllBut(name),
        (_, None) => WriteClosure::All,
    };
    let gone = |m: &&MemberRoute| !new.members.iter().any(|n| n.name == m.name);
    Closures { write, read: old.members.iter().filter(gone).map(|m| m.name.clone()).collect() }
}

impl Port {
    /// Both ports.
    pub const ALL: [Self; 2] = [Self::Write, Self::Read];

    /// The port's name in metrics, logs and the status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for NoPrimary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverConfirmed => {
                f.write_str("the cluster's state hasn't been read from the store yet")
            }
            Self::NoLeader => f.write_str("nobody holds the leader key"),
            Self::NotServing(name, term) => {
                write!(f, "{name} holds the leader key (term {term}) but doesn't accept writes yet")
            }
            Self::OlderTerm { shown, seen } => write!(
                f,
                "the store shows term {shown}, older than term {seen} that was seen before \
                 (restart the router if the store was restored)"
            ),
            Self::Unconfirmed(lapsed) => write!(f, "{lapsed}"),
        }
    }
}
