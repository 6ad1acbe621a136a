//! Half-dead: PostgreSQL answers, and can't do its work, for its disk stalls, fails or is full, or its
//! replay stands still. A leader goes when somebody fit can follow, and stays, and says so, when
//! nobody can. Leaves trying the disks to the shell.

use serde::{Deserialize, Serialize};

use crate::cluster::{Purpose, ReignEnd};
use crate::disk::{Ailment, DiskFacts, Trouble, Volume};
use crate::mutant::Mutant;
use crate::node::Node;
use crate::peer::PeerPg;
use crate::postgres::{PgFacts, PgRole, PgState, ReplicaFacts};
use crate::reason::Reason;
use crate::state::Pg;
use crate::{Duration, Lsn, NodeName, OpId, Time};

/// One failed write may be an accident of its own; PostgreSQL panics at the second at the latest.
const FAILING: Duration = Duration::secs(2);
/// Replay may wait for queries for half a minute (max_standby_streaming_delay's default), and for a
/// long checkpoint.
const REPLAY: Duration = Duration::secs(60);
/// A disk on which WAL gets on is busy: a write to another file is waited for so many times longer.
const BUSY: u64 = 6;
/// After a kill, processes that can't end keep the key this long.
const UNENDING: Duration = Duration::millis(500);
/// Who is ill, but not mortally, leads when nobody else has taken the place for this long.
const LAST_RESORT: Duration = Duration::secs(3);
/// A hand-over that was called off is not tried again before this.
const TRY_AGAIN: Duration = Duration::secs(60);

/// What is remembered of one file system between two looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Watched {
    /// The write that is under way, and when it was first seen so, not counting the time in which
    /// this process stood still.
    pending: Option<(Time, Time)>,
    trouble: Option<(Trouble, Time)>,
    free: Option<u64>,
}

/// What is known of this node's health.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Health {
    data: Watched,
    wal: Option<Watched>,
    /// How far WAL is on disk, and since when it has been.
    written: Option<(Lsn, Time)>,
    /// Where replay stands, since when, and what had been received then.
    replay: Option<(Lsn, Time, Lsn)>,
    /// SIGKILL is pending on every process of PostgreSQL, and has been since.
    pub(crate) killed: Option<Time>,
    /// Why this reign ends: set before the kill.
    pub(crate) gives_up: Option<Ailment>,
    /// A hand-over for the sake of a full disk is not begun before.
    next_handover: Time,
}

impl Watched {
    fn look(&mut self, volume: &Volume, now: Time) {
        let seen = |before: Option<(Time, Time)>, since: Time| {
            let at = before.filter(|(known, _)| *known == since).map_or(now, |(_, at)| at);
            (since, at)
        };
        self.pending = volume.pending.map(|since| seen(self.pending, since));
        let troubled = |trouble: Trouble| {
            let before = self.trouble.filter(|(known, _)| *known == trouble);
            (trouble, before.map_or(now, |(_, at)| at))
        };
        self.trouble = volume.trouble.map(troubled);
        self.free = volume.free;
    }
}

impl Health {
    /// This process stood still: what it didn't see meanwhile proves nothing.
    pub(crate) fn stood_still(&mut self, gap: Duration) {
        for watched in [Some(&mut self.data), self.wal.as_mut()].into_iter().flatten() {
            if let Some((_, seen)) = &mut watched.pending {
                *seen += gap;
            }
        }
        if let Some((_, at)) = &mut self.written {
            *at += gap;
        }
        if let Some((_, at, _)) = &mut self.replay {
            *at += gap;
        }
    }

    /// PostgreSQL ran under this agent.
    pub(crate) fn has_seen_wal(&self) -> bool {
        self.written.is_some()
    }

    /// Notes how far WAL and its replay have come.
    pub(crate) fn on_facts(&mut self, facts: &PgFacts, now: Time) {
        let PgState::Running(running) = &facts.state else { return };
        let written = match &running.role {
            PgRole::Primary(primary) => primary.flushed,
            PgRole::Replica(replica) => replica.received,
        };
        if self.written.is_none_or(|(known, _)| known != written) {
            self.written = Some((written, now));
        }
        self.replay = match &running.role {
            PgRole::Replica(replica) => Some(self.replay_of(replica, now)),
            PgRole::Primary(_) => None,
        };
    }

    fn replay_of(&self, replica: &ReplicaFacts, now: Time) -> (Lsn, Time, Lsn) {
        match self.replay {
            Some(known @ (at, ..)) if at == replica.replayed && replica.received > at => known,
            _ => (replica.replayed, now, replica.received),
        }
    }
}

impl Node {
    pub(crate) fn on_disk(&mut self, facts: &DiskFacts) {
        let now = self.now;
        self.health.data.look(&facts.data, now);
        match &facts.wal {
            Some(volume) => self.health.wal.get_or_insert_default().look(volume, now),
            None => self.health.wal = None,
        }
    }

    /// SIGKILL is pending on every process of PostgreSQL: none can acknowledge anything any more,
    /// though some may not end before their disk lets go of them.
    pub(crate) fn on_killed(&mut self, id: OpId) {
        if self.kill == Some(id) {
            self.health.killed = Some(self.now);
        }
    }

    /// How long a write may take: by the cluster's settings; zero: no disk is to be tried.
    #[must_use]
    pub fn disk_timeout(&self) -> Duration {
        self.policy().disk_timeout
    }

    /// What this node is ill of, the worst of it.
    #[must_use]
    pub fn ailment(&self) -> Option<Ailment> {
        let volumes = [Some(&self.health.data), self.health.wal.as_ref()].into_iter().flatten();
        let of_disk = volumes.filter_map(|watched| self.ailment_of(watched));
        of_disk.chain(self.replay_stands().then_some(Ailment::ReplayStalled)).min()
    }

    fn ailment_of(&self, watched: &Watched) -> Option<Ailment> {
        let (timeout, least) = (self.policy().disk_timeout, self.policy().disk_min_free);
        if timeout == Duration::ZERO {
            return None;
        }
        let lasting = watched.trouble.filter(|(_, at)| self.passed(*at, FAILING));
        let trouble = lasting.map(|(trouble, _)| match trouble {
            Trouble::Failing => Ailment::DiskFailing,
            Trouble::ReadOnly => Ailment::DiskReadOnly,
            Trouble::Full => Ailment::DiskFull,
        });
        // A write that hangs may be the second after one that failed.
        let waits = watched.pending.map(|(_, seen)| self.now.since(seen)).unwrap_or_default();
        let busy = self.health.written.is_some_and(|(_, at)| !self.passed(at, timeout));
        let patience = if busy { Duration(timeout.0 * BUSY) } else { timeout };
        let stall = if waits >= patience {
            Some(Ailment::DiskStalled)
        } else {
            (waits.0 >= timeout.0 / 3).then_some(Ailment::DiskSlow)
        };
        let room = watched.free.and_then(|free| {
            let nearly = (free < least.saturating_mul(2)).then_some(Ailment::DiskNearlyFull);
            if free < least { Some(Ailment::DiskFull) } else { nearly }
        });
        [trouble, stall, room].into_iter().flatten().min()
    }

    fn replay_stands(&self) -> bool {
        let Some(replica) = self.replica() else { return false };
        self.health.replay.is_some_and(|(_, since, received)| {
            replica.received > received && self.passed(since, REPLAY)
        })
    }

    // === the leader ===

    /// A leader that can't do its work goes, when somebody can take its place: whatever else it is
    /// about to do hangs in the same disk.
    pub(crate) fn plan_mortal(&mut self) -> Option<Reason> {
        if self.health.gives_up.is_some() && self.kill.is_some() {
            return Some(self.while_killed());
        }
        let ailment = self.ailment().filter(|ailment| ailment.is_mortal())?;
        if !self.could_give_up() || self.pg == Pg::Empty || !self.somebody_well_could_lead() {
            return None;
        }
        self.health.gives_up = Some(ailment);
        if let Some(reign) = &mut self.reign {
            reign.handover = None;
        }
        self.kill_now();
        if self.breaks(Mutant::GivesUpUnkilled) {
            self.release(ReignEnd::Died);
        }
        Some(Reason::GaveUp(ailment))
    }

    /// PostgreSQL has been primary in this reign, and nothing decides about it now.
    fn could_give_up(&self) -> bool {
        let worked = self.reign.as_ref().is_some_and(|r| r.was_primary);
        worked && !self.policy().pause && self.in_flight(Purpose::TakeOver) == 0
    }

    /// A leader whose disk is full hands over in order, before PostgreSQL dies of it.
    pub(crate) fn plan_full(&mut self) -> Option<Reason> {
        let full = |ailment: &Ailment| ailment.unfits() && !ailment.is_mortal();
        let ailment = self.ailment().filter(full).filter(|_| self.could_give_up())?;
        let free = self.op.is_none() && !self.deciding() && self.now >= self.health.next_handover;
        let to = self.best_candidate_if(|node| self.is_well(node)).filter(|_| free)?;
        self.health.next_handover = self.now + TRY_AGAIN;
        self.begin_handover(to);
        Some(Reason::GaveUp(ailment))
    }

    /// What it leads in spite of.
    pub(crate) fn leads_ailing(&self) -> Option<Reason> {
        self.ailment().filter(|ailment| ailment.unfits()).map(Reason::LeadsAiling)
    }

    /// PostgreSQL is being killed. Killed is enough to let go of the key; that nothing is left of it
    /// is not waited for where it might take for ever.
    pub(crate) fn while_killed(&mut self) -> Reason {
        let gives_up = self.health.gives_up;
        let busy = gives_up.map_or(Reason::Busy, Reason::GaveUp);
        let Some(since) = self.health.killed else { return busy };
        let due = gives_up.is_some() || self.passed(since, UNENDING);
        if due && self.could_give_up() && self.somebody_could_lead() {
            self.release(ReignEnd::Died);
            return self.released_dead();
        }
        busy
    }

    pub(crate) fn released_dead(&self) -> Reason {
        self.health.gives_up.map_or(Reason::ReleasedAfterDeath, Reason::GaveUp)
    }

    /// Somebody could lead, and every voter that would elect him is well.
    fn somebody_well_could_lead(&self) -> bool {
        self.somebody_could_lead_if(|node| self.is_well(node))
    }

    /// A peer that is ill of nothing, as it said a moment ago. Patroni's agents don't say.
    fn is_well(&self, node: &NodeName) -> bool {
        self.patroni.contains_key(node)
            || self
                .fresh(node, Duration::millis(500))
                .is_some_and(|said| said.ailment.is_none() && said.pg != PeerPg::Busy)
    }

    // === the others ===

    /// Who is ill leads only when nobody else does, and not at all when it can't.
    pub(crate) fn too_ill_to_lead(&self) -> Option<Reason> {
        let ailment = self.ailment().filter(|ailment| ailment.unfits())?;
        let since = self.open_since.unwrap_or(self.now);
        let waits = ailment.is_mortal() || !self.passed(since, LAST_RESORT);
        (waits && !self.operator_named_me()).then_some(Reason::Ailing(ailment))
    }

    /// It can't lead at all.
    pub(crate) fn mortally_ill(&self) -> Option<Reason> {
        self.ailment().filter(|ailment| ailment.is_mortal()).map(Reason::Ailing)
    }

    /// What a voter says that it is ill of.
    pub(crate) fn peer_ailment(&self, node: &NodeName) -> Option<Ailment> {
        self.fresh(node, Duration::secs(1)).and_then(|said| said.ailment)
    }
}

#[cfg(test)]
mod tests;
