//! Why a node does what it does: closed vocabularies, and the only place with English sentences.
//! Logs, metrics, the API, the dashboard and `ctl explain` all show these and nothing else.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::disk::Ailment;
use crate::peer::PledgeRefusal;
use crate::{NodeName, Term, Time};

/// What a node decided, and the one reason for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// When, on this node's clock.
    pub at: Time,
    /// The term that it knew.
    pub term: Option<Term>,
    /// What it found itself in.
    pub situation: Situation,
    /// Why it does what it does.
    pub reason: Reason,
}

/// What a node finds itself in. Exactly one applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Situation {
    /// Nothing is known yet.
    Starting,
    /// There is no cluster yet.
    Bootstrap,
    /// This node leads.
    Leader,
    /// Another node leads.
    Replica,
    /// Nobody leads, or the leader is silent.
    Election,
    /// This node hands over.
    Switchover,
    /// This node's PostgreSQL must not be primary.
    Fence,
    /// Management is paused.
    Paused,
    /// The agent stops.
    Shutdown,
}

/// The one reason of a decision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The store has not answered yet.
    WaitingForStore,
    /// PostgreSQL has not been looked at yet.
    WaitingForFacts,
    /// An operation runs; what follows is decided when it ends.
    Busy,
    /// The `initialize` key is absent and this node has no data.
    Founding,
    /// The first data directory could not be made; tried again later.
    FoundingFailed,
    /// Another node makes the first data directory.
    WaitingForFounder,
    /// The data directory belongs to another cluster.
    ForeignData,
    /// The leader key is held and PostgreSQL is primary.
    Leading,
    /// The leader key is held, and PostgreSQL streams from the cluster that this one follows.
    LeadsStandby,
    /// The same, but nothing comes from there.
    WaitingForRemote,
    /// No data; copying the cluster that this one follows.
    CopyingRemote,
    /// The cluster is to follow another one: its primary stops, to be a replica.
    EndsPrimary,
    /// The key is held; PostgreSQL starts in place.
    StartingInPlace,
    /// The key is held; recovery ends.
    Promoting,
    /// Primary, but the voters don't have the end of recovery yet.
    WaitingForVoters,
    /// PostgreSQL died; another node is fitter to go on.
    ReleasedAfterDeath,
    /// `pre_promote` failed: the key is free for others, and this node stays out for the ttl.
    PromotionRefused,
    /// PostgreSQL doesn't answer; it is killed, and another node goes on.
    Unresponsive,
    /// The leader's PostgreSQL has not answered for a while.
    AnswersLate,
    /// This leader can't do its work; somebody fit takes its place.
    GaveUp(Ailment),
    /// This leader can't do its work, and nobody fit could take its place.
    LeadsAiling(Ailment),
    /// This node is not fit to lead.
    Ailing(Ailment),
    /// The data directory vanished under PostgreSQL.
    DataVanished,
    /// Starting in place failed or took too long.
    StartFailed,
    /// The deadline passed without a confirmed beat.
    BeliefEnded,
    /// PostgreSQL is primary and this node holds no term.
    PrimaryWithoutTerm,
    /// The key belongs to somebody else now.
    Deposed,
    /// Streaming from the leader.
    Following,
    /// Streams from that member, which its tag names.
    FollowingMember(NodeName),
    /// About to stream from that member, which its tag names.
    GoingOver(NodeName),
    /// Tagged `nostream`: its WAL comes from the archive.
    FromArchive,
    /// The leader's address or term changed; following it.
    FollowNewLeader,
    /// PostgreSQL is down; starting it as a replica.
    StartingReplica,
    /// No data; copying the leader.
    Copying,
    /// No data, and nobody leads; restoring a backup.
    RestoringBackup,
    /// This WAL goes past the point where the leader's timeline branched off.
    Diverged,
    /// pg_rewind can't repair this directory; copying the leader anew.
    RewindImpossible,
    /// This data diverged, and the settings allow neither pg_rewind nor a new copy.
    MayNotRepair,
    /// An interrupted operation left data that can't be used; copying the leader anew.
    BrokenData,
    /// PostgreSQL stops in order and starts again, because an operator asked.
    Restarting,
    /// About to stop, but commits still wait for this node.
    Leaving,
    /// Stopping, though commits may still wait for this node.
    LeftListed,
    /// An operator asked for a new copy.
    Reinitializing,
    /// The leader isn't ready to be copied or followed.
    WaitingForLeader,
    /// Somebody must lead, and the former leader has the first right.
    WaitingForFormerLeader,
    /// A hand-over names another node.
    WaitingForCandidate(NodeName),
    /// The leader has been silent, but not for the ttl.
    WaitingForSilence,
    /// Another node is further ahead, or comes first among equals.
    AnotherIsAhead(NodeName),
    /// A voter has WAL that this candidate lacks, and doesn't lead itself.
    Fetching(NodeName),
    /// Another candidate asked for pledges and got this node's.
    Pledged(NodeName),
    /// Pledges are being asked for.
    AskingPledges,
    /// Members with Patroni agents are being asked where they stand.
    AskingPatroni,
    /// Its agent's lease is over, but its PostgreSQL still runs as primary.
    PrimaryStillRuns(NodeName),
    /// Too few voters can be reached or agree.
    TooFewPledges {
        /// How many are needed, this node included.
        needed: u32,
        /// How many have pledged, this node included.
        have: u32,
        /// The latest refusal.
        refused: Option<PledgeRefusal>,
    },
    /// `sync` doesn't name this node, and only those it names surely have every commit.
    NotAVoter,
    /// `sync` names nobody: only the former leader surely has every commit.
    OnlyFormerLeader,
    /// An operator named this node, but the leader gives signs of life.
    LeaderLives,
    /// The leader asked this node to hold its term while the store was away.
    Holding,
    /// `failsafe` doesn't name this node: the leader may go on without asking it.
    NotInFailsafe,
    /// The store is away; the members confirm this leader.
    Failsafe,
    /// This node is too far behind (`maximum_lag_on_failover`).
    TooFarBehind,
    /// `check_timeline`: the last leader was on a later timeline.
    OlderTimeline,
    /// `nofailover`.
    NotElectable,
    /// Its WAL's end isn't known yet.
    NoPosition,
    /// Taking over.
    TakingOver,
    /// Waiting until the candidate is fit.
    SwitchoverWaitsForCandidate(NodeName),
    /// A request that can't be fulfilled was cleared.
    SwitchoverRefused(SwitchoverRefusal),
    /// Stopping PostgreSQL in order, to hand over.
    SwitchoverStopping(NodeName),
    /// The candidate doesn't have the last record yet.
    SwitchoverCatchingUp(NodeName),
    /// The key is handed over.
    HandedOver(NodeName),
    /// `pause` is set.
    Paused,
    /// Stopping in order.
    Stopping,
    /// Everything is stopped.
    Stopped,
}

/// Why a switchover was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchoverRefusal {
    /// The request names another leader.
    NotTheLeader,
    /// The candidate is this leader.
    AlreadyLeader,
    /// No such member.
    UnknownCandidate,
    /// The candidate isn't streaming or isn't a voter.
    CandidateUnfit,
    /// Nobody is fit.
    NobodyFit,
    /// The candidate did not get everything in time.
    CandidateTooSlow,
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Bootstrap => "bootstrap",
            Self::Leader => "leader",
            Self::Replica => "replica",
            Self::Election => "election",
            Self::Switchover => "switchover",
            Self::Fence => "fence",
            Self::Paused => "paused",
            Self::Shutdown => "shutdown",
        })
    }
}

impl fmt::Display for SwitchoverRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTheLeader => "the request names another leader",
            Self::AlreadyLeader => "the candidate leads already",
            Self::UnknownCandidate => "there is no such member",
            Self::CandidateUnfit => "the candidate does not stream from the leader, or is no voter",
            Self::NobodyFit => "no member is fit to follow",
            Self::CandidateTooSlow => "the candidate did not receive everything in time",
        })
    }
}

impl fmt::Display for PledgeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HearsLeader => "it hears the leader",
            Self::NewerClaim => "it knows a newer claim",
            Self::Paused => "management is paused",
            Self::NoPosition => "its PostgreSQL can't say how far it got",
            Self::Stopping => "it is stopping",
            Self::Leads => "it leads",
            Self::Holds => "it promised the leader to hold its term while the store is away",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())?;
        #[expect(clippy::wildcard_enum_match_arm, reason = "`sentence` lists every variant")]
        match self {
            Self::WaitingForCandidate(node) => write!(f, "the key was handed to {node}"),
            Self::GoingOver(node) => write!(f, "going over to {node} (replicatefrom)"),
            Self::FollowingMember(node) => write!(f, "streaming from {node} (replicatefrom)"),
            Self::AnotherIsAhead(node) => write!(f, "{node} is ahead, or comes first among equals"),
            Self::Fetching(node) => write!(f, "fetching what {node} has and this node lacks"),
            Self::Pledged(node) => write!(f, "pledged to {node}"),
            Self::PrimaryStillRuns(node) => {
                write!(f, "PostgreSQL on {node} still runs as primary")
            }
            Self::TooFewPledges { needed, have, refused } => {
                write!(f, "{have} of {needed} pledges needed")?;
                refused.map_or(Ok(()), |why| write!(f, "; a voter refused: {why}"))
            }
            Self::SwitchoverWaitsForCandidate(node) => write!(f, "waiting until {node} is fit"),
            Self::SwitchoverRefused(why) => write!(f, "switchover refused: {why}"),
            Self::SwitchoverStopping(node) => {
                write!(f, "stopping PostgreSQL to hand over to {node}")
            }
            Self::SwitchoverCatchingUp(node) => {
                write!(f, "{node} does not have the last record yet")
            }
            Self::HandedOver(node) => write!(f, "handed over to {node}"),
            Self::GaveUp(why) => write!(f, "gives up the key for a member that is fit: {why}"),
            Self::LeadsAiling(why) => {
                write!(f, "primary, with the leader key, though {why}; no member is fit to follow")
            }
            Self::Ailing(why) => write!(f, "not fit to lead: {why}"),
            _ => Ok(()),
        }
    }
}

impl Reason {
    /// The sentence of a reason that carries no value; empty for those that do.
    #[expect(clippy::too_many_lines, reason = "one line for each reason")]
    fn sentence(&self) -> &'static str {
        match self {
            Self::WaitingForStore => "the store has not answered yet",
            Self::WaitingForFacts => "PostgreSQL has not been looked at yet",
            Self::Busy => "an operation on PostgreSQL runs",
            Self::Founding => "there is no cluster yet; making the first data directory",
            Self::FoundingFailed => {
                "the first data directory could not be made (the log says why); trying again later"
            }
            Self::WaitingForFounder => "another node makes the first data directory",
            Self::ForeignData => {
                "the data directory belongs to another cluster; move it away or correct the scope"
            }
            Self::Leading => "primary, with the leader key",
            Self::StartingInPlace => "holds the leader key; PostgreSQL starts in place",
            Self::Promoting => "holds the leader key; promoting",
            Self::WaitingForVoters => "primary; waiting until the voters have everything",
            Self::ReleasedAfterDeath => {
                "PostgreSQL died; the key was released for a replica that has everything"
            }
            Self::PromotionRefused => {
                "pre_promote or the watchdog refused; the key was released, and this node stays out for the ttl"
            }
            Self::Unresponsive => "PostgreSQL does not answer; killed",
            Self::AnswersLate => "PostgreSQL does not answer; giving it time",
            Self::DataVanished => "the data directory vanished; PostgreSQL was killed",
            Self::StartFailed => "PostgreSQL could not be started as primary; the key was released",
            Self::BeliefEnded => {
                "no confirmed beat within the ttl; PostgreSQL was stopped before another node can lead"
            }
            Self::PrimaryWithoutTerm => "PostgreSQL was primary without a term; killed",
            Self::Deposed => "another node took the key; PostgreSQL was killed",
            Self::Following => "streaming from the leader",
            Self::FromArchive => "restoring WAL from the archive (nostream)",
            Self::FollowNewLeader => "following the new leader",
            Self::LeadsStandby => {
                "standby leader, streaming from the cluster that this one follows"
            }
            Self::WaitingForRemote => {
                "standby leader; doesn't stream from the cluster that this one follows (standby_cluster)"
            }
            Self::CopyingRemote => "no data here; copying the cluster that this one follows",
            Self::EndsPrimary => {
                "the cluster is to follow another one; PostgreSQL stops being primary"
            }
            Self::StartingReplica => "starting PostgreSQL as a replica",
            Self::Copying => "no data here; copying the leader",
            Self::RestoringBackup => "no data here, and nobody leads; restoring a backup",
            Self::Diverged => "this WAL goes past the branch of the leader's timeline; pg_rewind",
            Self::RewindImpossible => "pg_rewind can't repair this data; copying the leader",
            Self::MayNotRepair => {
                "this data diverged from the leader's or lacks WAL, and neither use_pg_rewind nor \
                 remove_data_directory_on_... lets it be repaired; 'ctl reinit' makes a new copy"
            }
            Self::BrokenData => "an interrupted operation left unusable data; copying the leader",
            Self::Reinitializing => "a new copy was asked for",
            Self::Leaving => "about to stop; waiting until no commit waits for this node",
            Self::LeftListed => {
                "stopping, though commits may wait for this node: the leader did not take it off the list"
            }
            Self::Restarting => "PostgreSQL stops in order and starts again, as asked",
            Self::WaitingForLeader => "the leader is not ready yet",
            Self::WaitingForFormerLeader => "the former leader has the first right to return",
            Self::WaitingForSilence => "the leader is silent, but not yet for the ttl",
            Self::AskingPledges => "asking the voters for pledges",
            Self::AskingPatroni => "asking the members that Patroni manages where they stand",
            Self::NotAVoter => {
                "'sync' does not name this node; only those it names surely have every commit"
            }
            Self::OnlyFormerLeader => {
                "'sync' names no voter; only the former leader surely has every commit"
            }
            Self::LeaderLives => "an operator named this node, but the leader gives signs of life",
            Self::Holding => "holds the leader's term, as it asked while the store was away",
            Self::NotInFailsafe => "'failsafe' does not name this node",
            Self::Failsafe => "primary; the store is away, and the members confirm this leader",
            Self::TooFarBehind => "further behind than maximum_lag_on_failover",
            Self::OlderTimeline => "on an older timeline than the last leader (check_timeline)",
            Self::NotElectable => "tagged nofailover, failover_priority: 0, or nostream",
            Self::NoPosition => "the end of the local WAL is not known yet",
            Self::TakingOver => "taking over",
            Self::Paused => "management is paused",
            Self::Stopping => "stopping in order",
            Self::Stopped => "stopped",
            Self::WaitingForCandidate(_)
            | Self::GaveUp(_)
            | Self::LeadsAiling(_)
            | Self::Ailing(_)
            | Self::FollowingMember(_)
            | Self::GoingOver(_)
            | Self::AnotherIsAhead(_)
            | Self::Fetching(_)
            | Self::Pledged(_)
            | Self::PrimaryStillRuns(_)
            | Self::TooFewPledges { .. }
            | Self::SwitchoverWaitsForCandidate(_)
            | Self::SwitchoverRefused(_)
            | Self::SwitchoverStopping(_)
            | Self::SwitchoverCatchingUp(_)
            | Self::HandedOver(_) => "",
        }
    }
}
