//! The disk's lane: durable records, in order, on a thread that may wait.

use std::path::PathBuf;
use std::time::Duration;

use pgherd_core::Durable;
use tokio::task::JoinHandle;

use crate::durable::{self, DurableError};

/// After a failure. A promise that can't be written is not answered, so somebody waits.
const RETRY: Duration = Duration::from_millis(500);

/// Writes the latest record; a newer one that waits replaces an older one, for it holds it.
pub(crate) struct Disk {
    run_dir: PathBuf,
    running: Option<JoinHandle<Written>>,
    waiting: Option<(u64, Durable)>,
}

struct Written {
    seq: u64,
    record: Durable,
    result: Result<(), DurableError>,
}

impl Disk {
    pub(crate) fn new(run_dir: PathBuf) -> Self {
        Self { run_dir, running: None, waiting: None }
    }

    /// Takes a record; its number comes out of [`Self::next`] when it is on disk.
    pub(crate) fn write(&mut self, seq: u64, record: Durable) {
        self.waiting = Some((seq, record));
        self.begin(Duration::ZERO);
    }

    fn begin(&mut self, after: Duration) {
        if self.running.is_some() {
            return;
        }
        let Some((seq, record)) = self.waiting.take() else { return };
        let run_dir = self.run_dir.clone();
        self.running = Some(tokio::task::spawn_blocking(move || {
            std::thread::sleep(after); // blocking thread
            let result = durable::save(&run_dir, &record);
            Written { seq, record, result }
        }));
    }

    /// The next record that is on disk, and with it all before it; never, while none is written.
    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> u64 {
        loop {
            let Some(running) = &mut self.running else { return std::future::pending().await };
            let written = running.await;
            self.running = None;
            match written {
                Ok(Written { seq, result: Ok(()), .. }) => {
                    self.begin(Duration::ZERO);
                    return seq;
                }
                Ok(Written { seq, record, result: Err(error) }) => {
                    tracing::error!(%error, "the node's record can't be written");
                    self.waiting.get_or_insert((seq, record));
                    self.begin(RETRY);
                }
                Err(error) => tracing::error!(%error, "writing the node's record broke"),
            }
        }
    }

    /// Waits for what is being written.
    pub(crate) async fn finish(mut self) {
        if let Some(running) = self.running.take() {
            // Its outcome no longer matters: nobody waits for an answer.
            let _ = running.await;
        }
    }
}
