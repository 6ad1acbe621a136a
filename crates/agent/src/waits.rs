//! Says what no acknowledgement covers: synchronous waits that somebody cancelled, and terms that go
//! on without their commits. Leaves finding them to the core.

use crate::agent::Agent;

impl Agent {
    /// What no acknowledgement covers is said once, where it happens and where it is missing.
    pub(crate) fn tell_of_waits(&self) {
        let before = self.board.borrow();
        let cancelled = self.node.cancelled_waits();
        if cancelled > before.cancelled_waits {
            tracing::warn!(
                cancelled = cancelled - before.cancelled_waits,
                unreplicated = self.node.unreplicated().map(tracing::field::display),
                "synchronous waits were cancelled: their commits are visible, and too few have them"
            );
        }
        if let Some(term) = self.node.leads().filter(|_| before.leads != self.node.leads())
            && let Some(record) = &self.node.view().term
            && record.modified.0 == term.0
            && let Some(without) = record.value.without
        {
            tracing::warn!(
                term = term.0, %without,
                "commits up to this position were visible on the leader before, their synchronous \
                 wait cancelled; some are not in this term"
            );
        }
    }
}
