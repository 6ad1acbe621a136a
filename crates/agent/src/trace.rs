//! Every input and action of a node as a line of the level `trace`: where a failover's time goes.
//! Leaves what the lines mean to whoever reads them.

use pgherd_core::{Action, Input};

/// What comes in. A view is long and said elsewhere: its revision tells which it was.
pub(crate) fn input(input: &Input) {
    if !tracing::enabled!(tracing::Level::TRACE) {
        return;
    }
    match input {
        Input::View(view) => tracing::trace!(revision = view.revision.0, "< view"),
        Input::Tick
        | Input::Store { .. }
        | Input::Postgres(_)
        | Input::PostgresExited
        | Input::PostgresEmpty
        | Input::PostgresKilled { .. }
        | Input::Disk(_)
        | Input::OpDone { .. }
        | Input::Peer { .. }
        | Input::PeerLost(_)
        | Input::Patroni { .. }
        | Input::Persisted { .. }
        | Input::Shutdown
        | Input::Reinitialize
        | Input::MemberChanged
        | Input::Tags(_)
        | Input::Repair(_)
        | Input::ReinitializeNow
        | Input::Restart
        | Input::RestartForSlots => tracing::trace!("< {input:?}"),
    }
}

/// What goes out.
pub(crate) fn action(action: &Action) {
    tracing::trace!("> {action:?}");
}
