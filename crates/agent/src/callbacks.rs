//! The user's callbacks: what has happened to PostgreSQL, told to scripts (contract 3.8).
//! `Teller` is the pure part: from operations and their ends to calls. `Callbacks` runs them, each
//! kind of lane one at a time, and nothing waits for them. Leaves running a command to
//! `pgherd-postgres`.

use std::time::Duration;

use pgherd_config::lifecycle::{self, Command};
use pgherd_core::postgres::{PgOp, PgOpResult, Upstream};
use pgherd_postgres::run_command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the last callbacks may take when the agent ends: an address must be taken down, say.
const LAST: Duration = Duration::from_secs(10);

/// What a script is called for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Start,
    Stop,
    Restart,
    Reload,
    RoleChange,
}

/// The role that a script is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Primary,
    Replica,
    /// Leads a cluster that follows another one.
    StandbyLeader,
    /// Was primary until now.
    Demoted,
}

/// Why PostgreSQL is stopped or started, as far as that isn't in the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Context {
    Ordinary,
    /// An operator wanted a restart.
    Restarting,
    /// The agent stops.
    Leaving,
}

/// Remembers what scripts were told.
#[derive(Debug, Default)]
pub(crate) struct Teller {
    role: Option<Role>,
    up: bool,
    restarting: bool,
}

impl Teller {
    /// An operation ended.
    pub(crate) fn done(
        &mut self,
        op: &PgOp,
        result: &PgOpResult,
        context: Context,
    ) -> Option<(Call, Role)> {
        if *result != PgOpResult::Done {
            return None;
        }
        match op {
            PgOp::StartPrimary { .. } => Some(self.started(Role::Primary)),
            PgOp::StartReplica { upstream } => Some(self.started(in_recovery(upstream.as_ref()))),
            PgOp::Promote { .. } => {
                self.role = Some(Role::Primary);
                Some((Call::RoleChange, Role::Primary))
            }
            PgOp::Follow { upstream: Some(upstream) } => {
                let role = in_recovery(Some(upstream));
                let changed = self.role.replace(role) != Some(role);
                Some((if changed { Call::RoleChange } else { Call::Reload }, role))
            }
            PgOp::Stop | PgOp::Kill => self.stopped(context),
            // A pledge is no news for scripts.
            PgOp::Follow { upstream: None }
            | PgOp::Init
            | PgOp::Rewind { .. }
            | PgOp::Clone { .. }
            | PgOp::SetNames { .. }
            | PgOp::EnsureSlots { .. } => None,
        }
    }

    /// It ended, and nobody here had asked for that.
    pub(crate) fn crashed(&mut self) {
        self.up = false;
    }

    /// It was found running when the agent began.
    pub(crate) fn found(&mut self, role: Role) -> Option<(Call, Role)> {
        self.role.is_none().then(|| self.started(role))
    }

    fn started(&mut self, role: Role) -> (Call, Role) {
        let before = self.role.replace(role);
        self.up = true;
        let call = match (std::mem::take(&mut self.restarting), before, role) {
            (true, _, _) => Call::Restart,
            (false, Some(Role::Primary | Role::Demoted), Role::Replica | Role::StandbyLeader) => {
                Call::RoleChange
            }
            (false, _, _) => Call::Start,
        };
        (call, role)
    }

    fn stopped(&mut self, context: Context) -> Option<(Call, Role)> {
        if !std::mem::take(&mut self.up) {
            return None;
        }
        let role = self.role?;
        match context {
            Context::Restarting => {
                self.restarting = true;
                return None;
            }
            Context::Leaving => {}
            Context::Ordinary if role == Role::Primary => self.role = Some(Role::Demoted),
            Context::Ordinary => {}
        }
        Some((Call::Stop, self.role?))
    }
}

/// The role of a server that gets its WAL from there.
fn in_recovery(upstream: Option<&Upstream>) -> Role {
    if upstream == Some(&Upstream::Remote) { Role::StandbyLeader } else { Role::Replica }
}

/// Runs callbacks.
pub(crate) struct Callbacks {
    commands: lifecycle::Callbacks,
    scope: String,
    main: Option<JoinHandle<()>>,
    /// `on_reload` has its own lane: it kills nothing and is killed by nothing but itself.
    reload: Option<JoinHandle<()>>,
}

impl Callbacks {
    pub(crate) fn new(commands: lifecycle::Callbacks, scope: String) -> Self {
        Self { commands, scope, main: None, reload: None }
    }

    /// Other commands from now on.
    pub(crate) fn set(&mut self, commands: lifecycle::Callbacks) {
        self.commands = commands;
    }

    /// Calls the script, if there is one; one of the same lane that still runs is killed with its
    /// children first.
    pub(crate) fn call(&mut self, call: Call, role: Role) {
        let Some(command) = self.command(call).cloned() else { return };
        let arguments = [call.word(), role.word(), &self.scope].map(str::to_owned);
        let lane = if call == Call::Reload { &mut self.reload } else { &mut self.main };
        let last = lane.take();
        *lane = Some(tokio::spawn(async move {
            if let Some(last) = last {
                if !last.is_finished() {
                    tracing::warn!("the last callback still runs; killed for {}", call.word());
                }
                last.abort();
                // Aborted: what it says is no news.
                let _ = last.await;
            }
            tracing::info!(role = role.word(), "callback {}: {}", call.word(), command.program());
            if let Err(error) = run_command(&command, call.word(), arguments, &[], None).await {
                tracing::warn!("callback {error}");
            }
        }));
    }

    fn command(&self, call: Call) -> Option<&Command> {
        let commands = &self.commands;
        match call {
            Call::Start => commands.on_start.as_ref(),
            Call::Stop => commands.on_stop.as_ref(),
            Call::Restart => commands.on_restart.as_ref(),
            Call::Reload => commands.on_reload.as_ref(),
            Call::RoleChange => commands.on_role_change.as_ref(),
        }
    }

    /// Waits for what runs, and kills what doesn't end.
    pub(crate) async fn finish(self) {
        for mut task in [self.main, self.reload].into_iter().flatten() {
            if timeout(LAST, &mut task).await.is_err() {
                tracing::warn!("a callback did not end within {LAST:?}; killed");
                task.abort();
                // Aborted: what it says is no news.
                let _ = task.await;
            }
        }
    }
}

impl Call {
    fn word(self) -> &'static str {
        match self {
            Self::Start => "on_start",
            Self::Stop => "on_stop",
            Self::Restart => "on_restart",
            Self::Reload => "on_reload",
            Self::RoleChange => "on_role_change",
        }
    }
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::StandbyLeader => "standby_leader",
            Self::Demoted => "demoted",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use pgherd_core::postgres::SyncNames;

    use super::*;

    fn tell(teller: &mut Teller, ops: &[PgOp], context: Context) -> Vec<(Call, Role)> {
        ops.iter().filter_map(|op| teller.done(op, &PgOpResult::Done, context)).collect()
    }

    fn leader() -> Upstream {
        Upstream::Leader("n1".parse().unwrap())
    }

    fn start_replica() -> PgOp {
        PgOp::StartReplica { upstream: Some(leader()) }
    }

    fn start_primary() -> PgOp {
        PgOp::StartPrimary { names: SyncNames::default() }
    }

    #[test]
    fn a_switchover_as_the_contract_has_it() {
        let mut old = Teller::default();
        assert_eq!(
            tell(&mut old, &[start_primary()], Context::Ordinary),
            [(Call::Start, Role::Primary)]
        );
        let calls = tell(&mut old, &[PgOp::Stop, start_replica()], Context::Ordinary);
        assert_eq!(calls, [(Call::Stop, Role::Demoted), (Call::RoleChange, Role::Replica)]);
        let mut new = Teller::default();
        tell(&mut new, &[start_replica()], Context::Ordinary);
        let ops = [PgOp::Follow { upstream: None }, PgOp::Promote { names: SyncNames::default() }];
        let calls = tell(&mut new, &ops, Context::Ordinary);
        assert_eq!(calls, [(Call::RoleChange, Role::Primary)]);
        let mut bystander = Teller::default();
        tell(&mut bystander, &[start_replica()], Context::Ordinary);
        let ops = [PgOp::Follow { upstream: None }, PgOp::Follow { upstream: Some(leader()) }];
        assert_eq!(tell(&mut bystander, &ops, Context::Ordinary), [(Call::Reload, Role::Replica)]);
    }

    #[test]
    fn crashes_restarts_and_the_end() {
        let mut teller = Teller::default();
        assert_eq!(teller.found(Role::Primary), Some((Call::Start, Role::Primary)));
        assert_eq!(teller.found(Role::Primary), None);
        teller.crashed();
        let calls = tell(&mut teller, &[PgOp::Kill, start_primary()], Context::Ordinary);
        assert_eq!(calls, [(Call::Start, Role::Primary)]);
        let calls = tell(&mut teller, &[PgOp::Stop, start_primary()], Context::Restarting);
        assert_eq!(calls, [(Call::Restart, Role::Primary)]);
        // Fenced: it was alive, and was killed.
        let calls = tell(&mut teller, &[PgOp::Kill, start_replica()], Context::Ordinary);
        assert_eq!(calls, [(Call::Stop, Role::Demoted), (Call::RoleChange, Role::Replica)]);
        let calls = tell(&mut teller, &[PgOp::Stop], Context::Leaving);
        assert_eq!(calls, [(Call::Stop, Role::Replica)]);
        let failed = PgOpResult::Cancelled;
        assert_eq!(teller.done(&start_replica(), &failed, Context::Ordinary), None);
    }
}
