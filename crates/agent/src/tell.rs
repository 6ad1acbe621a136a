//! What the loop tells people and their scripts: what an operation has done, what was found running,
//! that no more clients come in. Nothing waits for any of it.

use pgherd_core::postgres::{PgFacts, PgOp, PgOpResult, PgRole, PgState};

use crate::agent::Agent;
use crate::callbacks::{Context, Role};

impl Agent {
    /// Scripts hear what an operation has done; nothing waits for them.
    pub(crate) fn tell_of(&mut self, op: &PgOp, result: &PgOpResult) {
        self.killing &= *op != PgOp::Kill;
        let context = if self.leaving {
            Context::Leaving
        } else if self.node.is_restarting() {
            Context::Restarting
        } else {
            Context::Ordinary
        };
        if let Some((call, role)) = self.teller.done(op, result, context) {
            self.callbacks.call(call, role);
        }
    }

    /// PostgreSQL may run when the agent begins.
    pub(crate) fn tell_of_found(&mut self, facts: &PgFacts) {
        let PgState::Running(running) = &facts.state else { return };
        if self.operation.is_some() || self.killing {
            return;
        }
        let role = match running.role {
            PgRole::Primary(_) => Role::Primary,
            PgRole::Replica(_) => Role::Replica,
        };
        if let Some((call, role)) = self.teller.found(role) {
            self.callbacks.call(call, role);
        }
    }

    /// A PostgreSQL that takes no more clients lives; people want to know all the same.
    pub(crate) fn tell_of_room(&mut self, room: Option<u32>) {
        let crowded = room == Some(0);
        if std::mem::replace(&mut self.crowded, crowded) == crowded {
            return;
        }
        if crowded {
            tracing::warn!(
                "all connection slots for clients are taken: they are refused until some leave; see \
                 max_connections"
            );
        } else {
            tracing::info!(room, "PostgreSQL takes clients again");
        }
    }
}
