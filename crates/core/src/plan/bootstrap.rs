//! There is no cluster yet: one node makes the first data directory, the others wait. Or there is one, and
//! nobody has data.

use crate::cluster::{Initialize, Key, Purpose, Value};
use crate::node::Node;
use crate::postgres::{BrokenData, PgOp, PgState, Source};
use crate::reason::Reason;

impl Node {
    pub(crate) fn plan_bootstrap(&mut self) -> Reason {
        let Some(state) = self.pg_facts().map(|f| f.state.clone()) else {
            return if self.op.is_some() { self.founding() } else { Reason::WaitingForFacts };
        };
        // Data of a founder that died before it could write the cluster's keys may be used; any
        // other data belongs to a cluster whose store is not this one.
        let never_member = self.durable.wal_term.is_none();
        let usable = match &state {
            PgState::Absent => true,
            PgState::Stopped(control) => {
                never_member && (Self::primary_data(control) || self.policy().standby)
            }
            PgState::Broken(_) => never_member,
            PgState::NotAccepting(_) | PgState::Unresponsive { .. } | PgState::Running(_) => false,
        };
        if !usable || !self.config.may_found {
            return Reason::WaitingForFounder;
        }
        if self.op.is_some() {
            return self.founding();
        }
        if self.backoff.failures > 0 && self.now < self.backoff.until {
            return self.founding_failed();
        }
        if self.in_flight(Purpose::ReserveBootstrap) > 0
            || self.deciding()
            || self.lease_id().is_none()
        {
            return Reason::Founding;
        }
        match self.view.initialize.as_ref() {
            None => self.reserve_bootstrap(),
            Some(key) if key.value == Initialize::Bootstrapping && key.lease == self.lease_id() => {
                match state {
                    PgState::Stopped(control) => self.found(control.system_id),
                    PgState::Absent | PgState::Broken(_) => self.make_data(),
                    PgState::NotAccepting(_)
                    | PgState::Unresponsive { .. }
                    | PgState::Running(_) => {}
                }
            }
            Some(_) => return Reason::WaitingForFounder,
        }
        Reason::Founding
    }

    fn make_data(&mut self) {
        let standby = self.policy().standby;
        self.start_op(if standby { PgOp::Clone { source: Source::Remote } } else { PgOp::Init });
    }

    /// Another node may have more luck meanwhile.
    fn founding_failed(&mut self) -> Reason {
        let mine = self.view.initialize.as_ref().is_some_and(|key| {
            key.value == Initialize::Bootstrapping && key.lease == self.lease_id()
        });
        if mine && self.in_flight(Purpose::AbandonBootstrap) == 0 && !self.view_lags() {
            self.abandon_bootstrap();
        }
        Reason::FoundingFailed
    }

    fn founding(&self) -> Reason {
        match self.op.as_ref().map(|o| &o.op) {
            Some(PgOp::Init) => Reason::Founding,
            Some(PgOp::Clone { source: Source::Remote }) => Reason::CopyingRemote,
            _ => Reason::Busy,
        }
    }

    /// Somebody removed `initialize`, or wrote nonsense into it: without it nobody follows and nobody is
    /// elected. Who leads knows whose cluster it is (contract 4.1, row 4).
    pub(super) fn publish_initialize(&mut self) {
        let known = self.view.initialize.as_ref().map(|key| key.value);
        let Some(system) = self.running().map(|running| running.system_id) else { return };
        if matches!(known, Some(Initialize::Done(_)))
            || self.in_flight(Purpose::PublishInitialize) > 0
            || self.view_lags()
        {
            return;
        }
        let value = Value::Initialize(Initialize::Done(system));
        self.under_term(Purpose::PublishInitialize, Key::Initialize, value);
    }

    /// No data and no leader: a backup may be there.
    pub(super) fn restore_alone(&mut self) -> Reason {
        let Some(state) = self.pg_facts().map(|facts| &facts.state) else {
            return Reason::WaitingForFacts;
        };
        // What pg_rewind or a bad disk left may be repaired once there is a leader.
        let empty = matches!(state, PgState::Absent | PgState::Broken(BrokenData::InitInterrupted));
        let standby = self.policy().standby;
        if !empty || !(self.config.restores_alone || standby) || self.maybe_alive {
            return Reason::WaitingForLeader;
        }
        if self.durable.wal_term.take().is_some() {
            self.persist();
        }
        if self.all_persisted() {
            let source = if standby { Source::Remote } else { Source::Backup };
            self.start_op(PgOp::Clone { source });
        }
        if standby { Reason::CopyingRemote } else { Reason::RestoringBackup }
    }
}
