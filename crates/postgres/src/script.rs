//! Commands of the user: callbacks, hooks, bootstrap and replica methods (contract 3.8).
//! Runs them in a process group of their own, killed whole when nobody waits for them any more.
//! Leaves what their exit status means to the callers.

use std::ffi::{OsStr, OsString};
use std::process::Stdio;
use std::time::Duration;

use pgherd_core::postgres::PgFailureKind;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

use crate::PgError;
use crate::tool::Group;

/// The words of a command: a program and its arguments. No shell reads them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script(Vec<String>);

/// A text that is no command.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScriptError {
    /// Nothing in it.
    #[error("expected a command, found nothing")]
    Empty,
    /// A quote without its end.
    #[error("expected a command, found a quote that is never closed in '{0}'")]
    OpenQuote(String),
}

/// Lines that one run may log; the rest is counted.
const LOGGED: usize = 500;
/// How long what an ended process said may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Script {
    /// Splits a text as a shell would, without expanding anything.
    ///
    /// # Errors
    /// [`ScriptError`] for an empty text or an open quote.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let words = shlex::split(text).ok_or_else(|| ScriptError::OpenQuote(text.to_owned()))?;
        if words.first().is_none_or(String::is_empty) {
            Err(ScriptError::Empty)
        } else {
            Ok(Self(words))
        }
    }

    /// The program, for logs.
    #[must_use]
    pub fn program(&self) -> &str {
        self.0.first().map(String::as_str).unwrap_or_default()
    }

    /// Runs it to its end with further arguments, logging what it says under `what`. Dropping the
    /// future kills the process group.
    ///
    /// # Errors
    /// [`PgError::Failed`]: it can't be run, ended with an error, or took longer than `bound`.
    pub async fn run<A: AsRef<OsStr>>(
        &self,
        what: &str,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, OsString)],
        bound: Option<Duration>,
    ) -> Result<(), PgError> {
        let (program, words) = self.0.split_first().ok_or(PgError::Cancelled)?;
        let mut command = Command::new(program);
        command
            .args(words)
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
        let spawned = command.spawn();
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
        if status.success() {
            Ok(())
        } else {
            Err(failed(format!("{program} ended with {status}")))
        }
    }
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
    std::env::vars_os().filter(|(name, _)| kept(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Script, ScriptError};

    #[test]
    fn words_are_split_as_a_shell_would() {
        let script = Script::parse("/bin/sh -c 'exit 1' \"a b\"").unwrap();
        assert_eq!(script.0, ["/bin/sh", "-c", "exit 1", "a b"]);
        assert_eq!(Script::parse("  "), Err(ScriptError::Empty));
        assert!(matches!(Script::parse("a 'b"), Err(ScriptError::OpenQuote(_))));
    }
}
