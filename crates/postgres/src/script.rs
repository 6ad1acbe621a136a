//! Commands of the user: callbacks, hooks, bootstrap and replica methods (contract 3.8).
//! Runs them in a process group of their own, killed whole when nobody waits for them any more.
//! Leaves what their exit status means to the callers.

use std::ffi::{OsStr, OsString};
use std::process::Stdio;
use std::time::Duration;

use pgherd_config::lifecycle::Command;
use pgherd_core::postgres::PgFailureKind;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use crate::PgError;
use crate::tool::{Group, with_home};

/// For commands that are told nothing.
pub(crate) const NO_ARGUMENTS: [&str; 0] = [];
/// Lines that one run may log; the rest is counted.
const LOGGED: usize = 500;
/// How long what an ended process said may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs it to its end with further arguments, logging what it says under `what`. Dropping the
/// future kills the process group.
///
/// # Errors
/// [`PgError::Failed`]: it can't be run, ended with an error, or took longer than `bound`.
pub async fn run_command<A: AsRef<OsStr>>(
    command: &Command,
    what: &str,
    args: impl IntoIterator<Item = A>,
    env: &[(&str, OsString)],
    bound: Option<Duration>,
) -> Result<(), PgError> {
    let program = command.program();
    let mut process = tokio::process::Command::new(program);
    process
        .args(command.arguments())
        .args(args)
        .env_clear()
        .envs(script_environment())
        .envs(env.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let failed =
        |words: String| PgError::failed(PgFailureKind::ToolFailed, format!("{what}: {words}"));
    let spawned = process.spawn();
    let child = spawned.map_err(|error| failed(format!("{program} can't be run: {error}")))?;
    let mut group = Group::new(child);
    let (out, err) = (group.child.stdout.take(), group.child.stderr.take());
    let work = async {
        let mut said = std::pin::pin!(async { tokio::join!(log(what, out), log(what, err)) });
        // The process itself counts: a grandchild that keeps the pipes open is not waited for.
        tokio::select! {
            status = group.child.wait() => {
                let _ = tokio::time::timeout(LAST_WORDS, said).await;
                status
            }
            _ = &mut said => group.child.wait().await,
        }
    };
    let status = match bound {
        None => work.await,
        Some(bound) => match tokio::time::timeout(bound, work).await {
            Ok(status) => status,
            Err(_) => {
                let words = format!("{what}: {program} did not end within {bound:?}; killed");
                return Err(PgError::failed(PgFailureKind::TimedOut, words));
            }
        },
    };
    let status = status.map_err(|error| failed(error.to_string()))?;
    group.ended = true;
    if status.success() { Ok(()) } else { Err(failed(format!("{program} ended with {status}"))) }
}

async fn log(what: &str, pipe: Option<impl AsyncRead + Unpin>) {
    let Some(pipe) = pipe else { return };
    let mut lines = BufReader::new(pipe).split(b'\n');
    let mut count = 0_usize;
    while let Ok(Some(line)) = lines.next_segment().await {
        count += 1;
        if count <= LOGGED {
            tracing::info!("{what}: {}", String::from_utf8_lossy(&line).trim_end());
        }
    }
    if count > LOGGED {
        tracing::info!("{what}: {} more lines", count - LOGGED);
    }
}

/// The agent's environment, which archive tools need theirs from, without what configures agents
/// and may hold their passwords.
fn script_environment() -> Vec<(OsString, OsString)> {
    let kept = |name: &OsString| {
        let name = name.to_string_lossy();
        let foreign = ["PATRONI_", "PGHERD_", "PGPASSWORD", "NOTIFY_SOCKET"];
        let store = name.starts_with("ETCD") && name.contains("PASSWORD");
        !store && !foreign.iter().any(|prefix| name.starts_with(prefix))
    };
    with_home(std::env::vars_os().filter(|(name, _)| kept(name)))
}
