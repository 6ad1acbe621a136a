//! There is no cluster yet: one node makes the first data directory, the others wait.

use crate::cluster::{Initialize, Purpose};
use crate::node::Node;
use crate::postgres::{PgOp, PgState};
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
            PgState::Stopped(control) => never_member && Self::primary_data(control),
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
        self.start_op(PgOp::Init);
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
            _ => Reason::Busy,
        }
    }
}
