//! The core's closed vocabularies in Patroni's words, and back (contract 1.3, 2.6).

use pgherd_core::cluster::{MemberRole, MemberState};

/// `state` of a member or status body.
#[must_use]
pub fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::Initializing => "initializing new cluster",
        MemberState::CreatingReplica => "creating replica",
        MemberState::Starting => "starting",
        MemberState::Running => "running",
        MemberState::Stopping => "stopping",
        MemberState::Stopped => "stopped",
        MemberState::Crashed => "crashed",
        MemberState::Other => "unknown",
    }
}

/// The state that a word means; words that decide nothing are [`MemberState::Other`].
#[must_use]
pub fn parse_state(word: &str) -> MemberState {
    match word {
        "initializing new cluster" | "running custom bootstrap script" => MemberState::Initializing,
        "creating replica" => MemberState::CreatingReplica,
        "starting" | "restarting" | "starting after custom bootstrap" => MemberState::Starting,
        "running" | "streaming" | "in archive recovery" => MemberState::Running,
        "stopping" => MemberState::Stopping,
        "stopped" => MemberState::Stopped,
        "crashed" => MemberState::Crashed,
        _ => MemberState::Other,
    }
}

/// The number that `patroni_postgres_state` gives a state word; -1 for an unknown one.
#[must_use]
pub fn state_index(word: &str) -> i32 {
    STATES.iter().position(|&known| known == word).map_or(-1, |at| i32::try_from(at).unwrap_or(-1))
}

/// Patroni's states, at their metric's index.
const STATES: [&str; 15] = [
    "initializing new cluster",
    "initdb failed",
    "running custom bootstrap script",
    "custom bootstrap failed",
    "creating replica",
    "running",
    "starting",
    "starting after custom bootstrap",
    "start failed",
    "restarting",
    "restart failed",
    "stopping",
    "stopped",
    "stop failed",
    "crashed",
];

/// `role` of a member.
#[must_use]
pub fn role(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Uninitialized => "uninitialized",
        MemberRole::Replica => "replica",
        MemberRole::Primary => "primary",
        MemberRole::Demoted => "demoted",
        MemberRole::StandbyLeader => "standby_leader",
    }
}

/// The role that a word means. `master` is Patroni's former word for `primary`; a promoted node
/// acts as primary already, and a standby leader is in recovery.
#[must_use]
pub fn parse_role(word: &str) -> MemberRole {
    match word {
        "primary" | "master" | "promoted" => MemberRole::Primary,
        "replica" => MemberRole::Replica,
        "standby_leader" => MemberRole::StandbyLeader,
        "demoted" => MemberRole::Demoted,
        _ => MemberRole::Uninitialized,
    }
}
