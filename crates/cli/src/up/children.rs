//! The processes of a cluster: each is started, watched by its end, and started again.
//! Leaves what they do to themselves, and what their ends mean to the reader of the events.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// How long to wait before each start after a death; the last one goes on.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// Who has lived this long gets a fresh start.
const SETTLED: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// `store`, `router`, or a node's name.
    pub(super) name: String,
    pub(super) args: Vec<std::ffi::OsString>,
    pub(super) log: PathBuf,
}

/// Something happened to a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ChildEvent {
    /// It could not be started.
    Unstartable { name: String, why: String },
    /// It ended by itself.
    Died { name: String, how: String },
    /// It was started once more.
    Restarted { name: String },
}

/// One process that is kept alive until it is told to stop.
pub(super) struct Kept {
    pub(super) name: String,
    stop: watch::Sender<Option<Signal>>,
    task: JoinHandle<()>,
}

impl Kept {
    /// Starts it. Must be called on the thread that lives as long as this process: the kernel ties
    /// a child's life to its parent's thread.
    pub(super) fn start(job: Job, events: mpsc::Sender<ChildEvent>) -> Self {
        let (stop, orders) = watch::channel(None);
        let name = job.name.clone();
        let task = tokio::spawn(keep(job, events, orders));
        Self { name, stop, task }
    }

    /// Sends a signal, and never starts it again.
    pub(super) fn stop(&self, signal: Signal) {
        self.stop.send_replace(Some(signal));
    }

    /// Completes when it has ended for good.
    pub(super) async fn ended(&mut self) {
        if !self.task.is_finished() {
            // The task neither panics nor is aborted; either way the process is not kept any more.
            let _ = (&mut self.task).await;
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

async fn keep(
    job: Job,
    events: mpsc::Sender<ChildEvent>,
    mut orders: watch::Receiver<Option<Signal>>,
) {
    let mut deaths = 0;
    loop {
        if orders.borrow().is_some() {
            return;
        }
        let started = Instant::now();
        let how = match spawn(&job) {
            Err(error) => {
                ChildEvent::Unstartable { name: job.name.clone(), why: error.to_string() }
            }
            Ok(mut child) => {
                if deaths > 0 {
                    let _ = events.send(ChildEvent::Restarted { name: job.name.clone() }).await;
                }
                let Some(status) = attend(&mut child, &mut orders).await else { return };
                ChildEvent::Died { name: job.name.clone(), how: describe(status) }
            }
        };
        // Nobody listens only when everything ends.
        let _ = events.send(how).await;
        deaths = if started.elapsed() > SETTLED { 1 } else { deaths + 1 };
        let pause = PAUSES[(deaths - 1).min(PAUSES.len() - 1)];
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = orders.changed() => {}
        }
    }
}

/// Waits for its end, passing signals on; `None` when the end was asked for.
async fn attend(
    child: &mut Child,
    orders: &mut watch::Receiver<Option<Signal>>,
) -> Option<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => {
                let asked = orders.borrow().is_some();
                return status.ok().filter(|_| !asked);
            }
            changed = orders.changed() => {
                let signal = *orders.borrow_and_update();
                let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
                if let (Some(signal), Some(pid)) = (signal, pid) {
                    // It may have ended in this moment; then wait() says so.
                    let _ = kill_process(pid, signal);
                }
                if changed.is_err() {
                    let _ = child.wait().await;
                    return None;
                }
            }
        }
    }
}

/// The program is this one: `/proc/self/exe` works also where its path can't be reached, or was
/// replaced meanwhile. A group of its own keeps the terminal's Ctrl-C away.
fn spawn(job: &Job) -> std::io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&job.log)?;
    Command::new("/proc/self/exe")
        .arg0("pgherd")
        .args(&job.args)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "killed with SIGKILL".to_owned(),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
