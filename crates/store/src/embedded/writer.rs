//! The one owner of writes: a thread with its own copy of the state. It takes what is queued, decides
//! it, makes it durable with one sync, and only then lets the readers' copy have it and answers.
//! Leaves rules to `state`, files to `journal`, the wire to `serve`.
//!
//! Two copies, because a disk can take long: reads and keepalives are served from the readers' copy,
//! which holds nothing that a crash could take back, and never wait for a sync. Keys and values are
//! shared between the copies. A thread, because a sync blocks; the queue before it is bounded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use super::history::History;
use super::journal::{Journal, JournalError};
use super::record::{Batch, Effects, LeaseRow, Snapshot};
use super::state::{Done, State, Write};

/// Writes that wait for the disk. More callers wait in their own tasks; each has one in flight.
const QUEUE_BOUND: usize = 256;
/// Writes that share one sync.
const BATCH_BOUND: usize = 64;
/// How many revisions are reserved at once. Each start skips what is left of the last block.
pub(crate) const RESERVE: i64 = 100_000;

/// Who this store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random, made with the directory.
    pub cluster_id: u64,
    /// Random, made with the directory.
    pub member_id: u64,
    /// How often it was opened; etcd's clients see it as the consensus term.
    pub starts: u64,
}

/// Now, also counting the time that the machine slept.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What readers see: durable, all of it.
#[derive(Debug)]
pub(crate) struct Visible {
    pub(crate) state: State,
    pub(crate) history: History,
    pub(crate) journal_bytes: u64,
}

/// The readers' copy and the news about it. Locked for memory operations only.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    visible: Mutex<Visible>,
    revision: watch::Sender<i64>,
}

impl Shared {
    pub(crate) fn new(identity: Identity, state: State, journal_bytes: u64) -> Self {
        let revision = watch::Sender::new(state.revision());
        let history = History::begin(state.revision());
        let visible = Mutex::new(Visible { state, history, journal_bytes });
        Self { identity, visible, revision }
    }

    pub(crate) fn visible(&self) -> MutexGuard<'_, Visible> {
        // No code panics while it holds this lock; if it did, the state is still whole between changes.
        self.visible.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when the revision has changed.
    pub(crate) fn news(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }
}

enum Job {
    Write {
        write: Write,
        reply: oneshot::Sender<Result<Done, Status>>,
    },
    /// Only wakes the thread up, so that it sees that it shall stop.
    Wake,
}

/// Hands writes to the thread.
#[derive(Clone, Debug)]
pub(crate) struct Queue(mpsc::Sender<Job>);

/// A write whose answer isn't there yet.
pub(crate) type Pending = oneshot::Receiver<Result<Done, Status>>;

impl Queue {
    /// Writes, and answers when it is durable.
    pub(crate) async fn write(&self, write: Write) -> Result<Done, Status> {
        let (reply, answer) = oneshot::channel();
        let stopped = |_| Status::unavailable("the store has stopped");
        self.0.send(Job::Write { write, reply }).await.map_err(|_| stopped(()))?;
        // Whether it reached the disk before the store stopped, nobody knows.
        answer.await.map_err(|_| stopped(()))?
    }

    /// Whether there is room for one more write now.
    pub(crate) fn has_room(&self) -> bool {
        self.0.capacity() > 0
    }

    /// Queues a write if there is room, without waiting for its end.
    pub(crate) fn try_write(&self, write: Write) -> Option<Pending> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Job::Write { write, reply }).ok().map(|()| answer)
    }
}

/// The thread. It ends when it is told to, or when the disk fails. Dropping this tells it, and waits
/// for the sync that may be running: afterwards the directory is free.
#[derive(Debug)]
pub(crate) struct Writer {
    thread: Option<JoinHandle<()>>,
    queue: Queue,
    stop: Arc<AtomicBool>,
    outcome: watch::Receiver<Option<Arc<JournalError>>>,
}

impl Writer {
    pub(crate) fn start(
        journal: Journal,
        state: State,
        reserved: i64,
        shared: Arc<Shared>,
    ) -> std::io::Result<Self> {
        let (sender, jobs) = mpsc::channel(QUEUE_BOUND);
        let (failure, outcome) = watch::channel(None);
        let stop = Arc::new(AtomicBool::new(false));
        let mut work = Work { journal, state, reserved, shared, stop: stop.clone() };
        let thread =
            std::thread::Builder::new().name("pgherd-journal".to_owned()).spawn(move || {
                if let Err(error) = work.run(jobs) {
                    tracing::error!(%error, source = %error.cause(), "the store's disk failed");
                    failure.send_replace(Some(Arc::new(error)));
                }
            })?;
        Ok(Self { thread: Some(thread), queue: Queue(sender), stop, outcome })
    }

    pub(crate) fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Waits until the thread ends although nobody told it to: the disk failed, or (none) it
    /// panicked.
    pub(crate) async fn failed(&mut self) -> Option<Arc<JournalError>> {
        loop {
            if let Some(error) = self.outcome.borrow_and_update().clone() {
                return Some(error);
            }
            if self.outcome.changed().await.is_err() {
                return self.outcome.borrow().clone();
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // If the queue is full the thread is awake anyway.
        let _ = self.queue.0.try_send(Job::Wake);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal thread panicked");
        }
    }
}

struct Work {
    journal: Journal,
    state: State,
    reserved: i64,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
}

type Answer = (oneshot::Sender<Result<Done, Status>>, Result<Done, Status>);

impl Work {
    fn run(&mut self, mut jobs: mpsc::Receiver<Job>) -> Result<(), JournalError> {
        let mut queued = Vec::with_capacity(BATCH_BOUND);
        while jobs.blocking_recv_many(&mut queued, BATCH_BOUND) > 0 {
            if self.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            let mut batch = Batch::default();
            let mut answers: Vec<Answer> = Vec::with_capacity(queued.len());
            for job in queued.drain(..) {
                let Job::Write { write, reply } = job else { continue };
                let answer = self.state.execute(now(), write).map_err(Status::from);
                let answer = answer.map(|(done, effects)| {
                    if !effects.is_empty() {
                        batch.effects.push(effects);
                    }
                    done
                });
                answers.push((reply, answer));
            }
            self.commit(batch)?;
            for (reply, answer) in answers {
                // A caller that left doesn't want it.
                let _ = reply.send(answer);
            }
            if self.journal.is_due_for_rotation() {
                self.journal.rotate(self.snapshot())?;
                self.shared.visible().journal_bytes = self.journal.length();
            }
        }
        Ok(())
    }

    /// Durable first, visible then. The next block of revisions is reserved long before the last one
    /// is used up, so that the reservation doesn't stand in the same record as its first use.
    fn commit(&mut self, mut batch: Batch) -> Result<(), JournalError> {
        if batch.effects.is_empty() {
            return Ok(());
        }
        if self.state.revision() + RESERVE / 2 > self.reserved {
            self.reserved = self.state.revision() + RESERVE;
            batch.reserved = self.reserved;
        }
        let effects = batch.effects.clone();
        self.journal.append(batch)?;
        self.publish(&effects);
        Ok(())
    }

    fn publish(&self, effects: &[Effects]) {
        let now = now();
        let revision = {
            let mut visible = self.shared.visible();
            for effects in effects {
                let events = visible.state.apply(now, effects);
                visible.history.push(effects.revision, events);
            }
            visible.journal_bytes = self.journal.length();
            visible.state.revision()
        };
        self.shared
            .revision
            .send_if_modified(|known| std::mem::replace(known, revision) < revision);
    }

    fn snapshot(&self) -> Snapshot {
        snapshot(&self.state, self.shared.identity, self.reserved)
    }
}

pub(crate) fn snapshot(state: &State, identity: Identity, reserved: i64) -> Snapshot {
    let leases = state.leases().iter();
    Snapshot {
        cluster_id: identity.cluster_id,
        member_id: identity.member_id,
        revision: state.revision(),
        reserved,
        kvs: state.kvs().cloned().collect(),
        leases: leases.map(|(id, lease)| LeaseRow { id: *id, ttl: lease.ttl }).collect(),
        starts: identity.starts,
    }
}
