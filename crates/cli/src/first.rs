//! The first process of a container (pid 1): starts this program again as a child, hands signals on
//! to it, reaps whatever loses its parent, and ends as the child ends.
//! An agent that crashes is started again here, as a container of its own would have been: its
//! guard and PostgreSQL have lived on, and the new agent takes them over.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

use crate::output::{Outcome, Printer};

/// How often in a row an agent is started again before the container ends.
const RESTARTS: u32 = 3;
/// An agent that has run for so long begins to count anew.
const LONG: Duration = Duration::from_secs(60);

/// Whether this process has that part to play.
pub(crate) fn applies(words: &[OsString]) -> bool {
    let role = words.get(1).and_then(|word| word.to_str());
    std::process::id() == 1
        && matches!(role, Some("agent" | "router" | "store" | "exporter" | "init"))
}

/// Runs the child until it ends for good.
pub(crate) fn run(words: &[OsString]) -> Outcome<ExitCode> {
    let again = words.get(1).is_some_and(|role| role == "agent");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(anyhow::Error::from)?.block_on(async {
        let mut restarts = 0;
        loop {
            let began = Instant::now();
            let (status, asked) = watch(words).await?;
            if began.elapsed() > LONG {
                restarts = 0;
            }
            // A code is the child's own word; a signal or a panic is a crash.
            let crashed = status.signal().is_some() || status.code() == Some(101);
            if !again || !crashed || asked || restarts == RESTARTS {
                let code = status.code().or(status.signal().map(|signal| 128 + signal));
                return Ok(ExitCode::from(u8::try_from(code.unwrap_or(1)).unwrap_or(1)));
            }
            restarts += 1;
            let words = format!("the agent crashed ({status}); starting it again");
            // A broken standard error leaves nobody to tell.
            let _ = Printer::new().error(words);
        }
    })
}

/// One life of the child: how it ended, and whether it had been asked to.
async fn watch(words: &[OsString]) -> Outcome<(ExitStatus, bool)> {
    let kinds = [
        (SignalKind::terminate(), Signal::TERM),
        (SignalKind::interrupt(), Signal::INT),
        (SignalKind::hangup(), Signal::HUP),
        (SignalKind::quit(), Signal::QUIT),
        (SignalKind::user_defined1(), Signal::USR1),
        (SignalKind::user_defined2(), Signal::USR2),
    ];
    let mut ended = signal(SignalKind::child())?;
    let (sender, mut signals) = tokio::sync::mpsc::channel(kinds.len());
    let mut forwards = tokio::task::JoinSet::new();
    for (kind, number) in kinds {
        let (mut stream, sender) = (signal(kind)?, sender.clone());
        forwards.spawn(async move {
            while stream.recv().await.is_some() && sender.send(number).await.is_ok() {}
        });
    }
    let mut command = Command::new("/proc/self/exe");
    // The child's name in lists of processes is the program's.
    command.arg0(words.first().map_or_else(|| "pgherd".into(), Clone::clone)).args(&words[1..]);
    let child = command.spawn().map_err(anyhow::Error::from)?;
    let pid = Pid::from_child(&child);
    let mut asked = false;
    loop {
        tokio::select! {
            Some(number) = signals.recv() => {
                asked |= number == Signal::TERM || number == Signal::INT || number == Signal::QUIT;
                // It may have ended by now.
                let _ = kill_process(pid, number);
            }
            _ = ended.recv() => {
                if let Some(status) = reap(pid) {
                    return Ok((status, asked));
                }
            }
        }
    }
}

/// Collects every process that has ended; the child's status when it was among them.
fn reap(child: Pid) -> Option<ExitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == child {
            found = Some(ExitStatus::from_raw(status.as_raw()));
        }
    }
    found
}
