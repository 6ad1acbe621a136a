//! Topologies for unit tests.
use pgherd_core::time::Time;
use pgherd_core::types::{Lsn, NodeName, Term, Timeline};

use crate::topology::{HostPort, LeaderRoute, MemberRoute, Role, SyncRole, Topology};

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(crate) fn leader(who: &str, term: u64) -> Option<LeaderRoute> {
    let address = HostPort::new(who, 5432);
    Some(LeaderRoute {
        name: name(who),
        term: Term(term),
        serving: true,
        address,
        confirmed_until: None,
    })
}

/// A replica that streams without lag.
pub(crate) fn member(who: &str) -> MemberRoute {
    MemberRoute {
        name: name(who),
        address: HostPort::new(who, 5432),
        role: Role::Replica,
        state: "streaming".into(),
        streaming: true,
        timeline: Some(Timeline(1)),
        lsn: Some(Lsn(100)),
        lag_bytes: Some(0),
        noloadbalance: false,
        api_url: None,
        sync: SyncRole::None,
    }
}

pub(crate) fn topology(leader: Option<LeaderRoute>, members: &[&str]) -> Topology {
    let mut members: Vec<MemberRoute> = members.iter().map(|who| member(who)).collect();
    for member in &mut members {
        if leader.as_ref().is_some_and(|leader| leader.name == member.name) {
            member.role = Role::Leader;
            member.state = "running".into();
            member.streaming = false;
        }
    }
    Topology {
        cluster: "demo".into(),
        revision: 7,
        fresh_at: Some(Time(1)),
        leader,
        members,
        max_lag: 1_000,
        ..Topology::default()
    }
}
