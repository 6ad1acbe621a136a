//! Running PostgreSQL's programs: own process group, scrubbed environment, killed when dropped.
//! Leaves what their words mean to the operations.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::Stdio;

use pgherd_core::postgres::PgFailureKind;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::PgError;
use crate::settings::{Settings, account_home};

/// A program to run, and what to tell it.
pub(crate) struct Tool<'a> {
    program: &'static str,
    command: Command,
    stdin: Option<&'a [u8]>,
}

/// How a program ended.
pub(crate) struct Output {
    /// Exit status 0.
    pub(crate) success: bool,
    /// The last lines of standard error.
    pub(crate) errors: Vec<String>,
}

/// Lines of a tool's output that are kept.
const KEPT: usize = 200;

impl<'a> Tool<'a> {
    /// `sh` takes SIGHUP's default away before the program runs: a reload of the agent must not end
    /// its tools, and what is ignored stays ignored through exec.
    pub(crate) fn new(settings: &Settings, program: &'static str) -> Self {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
            .arg(settings.bin.program(program))
            .env_clear()
            .envs(tool_environment(settings))
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true);
        Self { program, command, stdin: None }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// What the program reads; secrets go this way.
    pub(crate) fn stdin(mut self, bytes: &'a [u8]) -> Self {
        self.stdin = Some(bytes);
        self
    }

    /// Runs it to its end, handing on each line it says (on either stream).
    pub(crate) async fn run(mut self, mut said: impl FnMut(&str)) -> Result<Output, PgError> {
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed = |error: io::Error| {
            let words = format!("{} can't be run: {error}", self.program);
            PgError::failed(PgFailureKind::ToolFailed, words)
        };
        let mut group = Group::new(self.command.spawn().map_err(failed)?);
        if let (Some(bytes), Some(mut pipe)) = (self.stdin, group.child.stdin.take()) {
            // A program that ends early says why itself.
            let _ = pipe.write_all(bytes).await;
        }
        let mut errors = Vec::new();
        if let Some(pipe) = group.child.stderr.take() {
            let mut lines = BufReader::new(pipe).split(b'\n');
            while let Some(line) = lines.next_segment().await.map_err(failed)? {
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                said(&line);
                if errors.len() == KEPT {
                    errors.remove(0);
                }
                errors.push(line);
            }
        }
        let status = group.child.wait().await.map_err(failed)?;
        group.ended = true;
        Ok(Output { success: status.success(), errors })
    }

    /// Runs it to its end, however that is, handing on each line of its standard output.
    pub(crate) async fn read(mut self, mut said: impl FnMut(&str)) -> Result<(), PgError> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let failed = |error: io::Error| {
            let words = format!("{} can't be run: {error}", self.program);
            PgError::failed(PgFailureKind::ToolFailed, words)
        };
        let mut group = Group::new(self.command.spawn().map_err(failed)?);
        if let Some(pipe) = group.child.stdout.take() {
            let mut lines = BufReader::new(pipe).split(b'\n');
            while let Some(line) = lines.next_segment().await.map_err(failed)? {
                said(&String::from_utf8_lossy(&line));
            }
        }
        group.child.wait().await.map_err(failed)?;
        group.ended = true;
        Ok(())
    }
}

impl Output {
    /// Whether it said this.
    pub(crate) fn said(&self, words: &str) -> bool {
        self.errors.iter().any(|line| line.contains(words))
    }

    /// The line that says why: the first error, or the last line.
    pub(crate) fn reason(&self) -> String {
        let grave = |line: &&String| {
            ["FATAL", "PANIC", "ERROR", "error:", "fatal:"].iter().any(|word| line.contains(word))
        };
        let line = self.errors.iter().find(grave).or_else(|| self.errors.last());
        line.cloned().unwrap_or_else(|| "it said nothing".to_owned())
    }

    /// The failure, of this class unless the disk is full.
    pub(crate) fn failure(&self, program: &str, kind: PgFailureKind) -> PgError {
        let full = self.said("No space left on device");
        let kind = if full { PgFailureKind::DiskFull } else { kind };
        PgError::failed(kind, format!("{program}: {}", self.reason()))
    }
}

/// A process group that is killed unless it was seen to end.
pub(crate) struct Group {
    pub(crate) child: Child,
    group: Option<Pid>,
    /// Its end was seen: nothing is left to kill.
    pub(crate) ended: bool,
}

impl Group {
    pub(crate) fn new(child: Child) -> Self {
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Self { child, group, ended: false }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let (Some(group), false) = (self.group, self.ended) {
            // The leader isn't reaped yet, so the number is still this group's.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

fn tool_environment(settings: &Settings) -> Vec<(OsString, OsString)> {
    let mut all = vec![
        ("PATH".into(), search_path(&settings.bin.dir)),
        // Their words are read.
        ("LC_ALL".into(), "C".into()),
        ("HOME".into(), settings.run_dir.clone().into()),
        ("PGPASSFILE".into(), settings.passfile.clone().into()),
    ];
    for name in ["TZ", "TMPDIR", "LD_LIBRARY_PATH"] {
        all.extend(std::env::var_os(name).map(|value| (name.into(), value)));
    }
    all
}

fn search_path(bin: &Path) -> OsString {
    let mut path = bin.as_os_str().to_owned();
    path.push(":/usr/local/bin:/usr/bin:/bin");
    path
}

/// The postmaster's environment: the agent's, because archive and restore commands need theirs,
/// without what configures agents and libpq (contract 3.6) and without passwords.
pub(crate) fn postmaster_environment() -> Vec<(OsString, OsString)> {
    let kept = |name: &OsString| {
        let name = name.to_string_lossy();
        let foreign = ["PATRONI_", "PGHERD_", "KUBERNETES_", "PG", "NOTIFY_SOCKET", "LC_", "LANG"];
        !foreign.iter().any(|prefix| name.starts_with(prefix))
            && !name.to_ascii_uppercase().contains("PASSWORD")
    };
    with_home(std::env::vars_os().filter(|(name, _)| kept(name)))
}

/// An environment of PostgreSQL's or of a script's, with [`home`] as its `HOME`.
pub(crate) fn with_home(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let rest = all.filter(|(name, _)| name != "HOME");
    rest.chain(home().map(|home| ("HOME".into(), home))).collect()
}

/// The agent's `HOME`, unless its user may not look into it, as after root was given up: then the
/// user's own. In a `HOME` that is closed libpq can't look for a client's certificate, and so makes no
/// connection with TLS: a standby's receiver would get none, or with `sslmode=prefer` do without TLS.
pub(crate) fn home() -> Option<OsString> {
    let said = std::env::var_os("HOME")?;
    let looked = std::fs::metadata(Path::new(&said).join(".postgresql/postgresql.crt"));
    let closed = looked.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    if closed { account_home().map(Into::into) } else { Some(said) }
}
