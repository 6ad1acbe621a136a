//! The log of a process that stays: every line is made where something happens, and written by a
//! thread of its own, so that nothing ever waits for a disk or a pipe.
//!
//! `line` makes lines, `queue` holds a bounded number of them, `sink` writes them. Leaves what the
//! settings mean to `pgherd_config::log`.

mod line;
mod queue;
mod sink;

use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use pgherd_config::LogSettings;
use pgherd_config::log::Level;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use self::line::{Form, Record};
use self::queue::Queue;
use self::sink::Sink;

/// At the end what is left is written, but not for longer than this.
const FAREWELL: Duration = Duration::from_secs(2);

/// The log, until it is dropped.
pub(crate) struct Log {
    handle: Handle,
    writer: Option<thread::JoinHandle<()>>,
}

/// The way to other settings while the process runs.
#[derive(Clone)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
    filter: reload::Handle<EnvFilter, Registry>,
    file_name: &'static str,
}

struct Shared {
    form: RwLock<Arc<Form>>,
    queue: Queue,
}

/// Begins to log. `file_name` is what a log file is called. For one process once.
pub(crate) fn start(settings: &LogSettings, file_name: &'static str) -> Log {
    let form = RwLock::new(Arc::new(Form::of(settings)));
    let shared = Arc::new(Shared { form, queue: Queue::new(settings.queue) });
    let (filter, handle) = reload::Layer::new(filter(settings));
    let sink = Sink::new(settings.file.as_ref(), file_name);
    let writer = Arc::clone(&shared);
    let writer = thread::Builder::new().name("log".into()).spawn(move || write(&writer, sink)).ok();
    if writer.is_none() {
        shared.queue.close();
    }
    let lines = Lines(Arc::clone(&shared));
    // Somebody else's subscriber can't be there: this is the only place that sets one.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    let log = Log { handle: Handle { shared, filter: handle, file_name }, writer };
    flush_before_panics(log.handle.shared.clone());
    log
}

impl Log {
    /// For changes later.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let queue = &self.handle.shared.queue;
        queue.flush(FAREWELL);
        queue.close();
        // A writer that hangs is left behind; the process ends without it.
        if let Some(writer) = self.writer.take_if(|writer| writer.is_finished()) {
            let _ = writer.join();
        }
    }
}

impl Handle {
    /// Logs by these settings from now on; a log file is opened anew.
    pub(crate) fn apply(&self, settings: &LogSettings) {
        // It fails only when the subscriber is gone.
        let _ = self.filter.reload(filter(settings));
        let form = Arc::new(Form::of(settings));
        *self.shared.form.write().unwrap_or_else(PoisonError::into_inner) = form;
        let sink = Sink::new(settings.file.as_ref(), self.file_name);
        self.shared.queue.change(settings.queue, sink);
    }
}

/// A panic ends the process where it happens; what led to it should be read.
fn flush_before_panics(shared: Arc<Shared>) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        shared.queue.flush(Duration::from_millis(200));
        usual(info);
    }));
}

/// `RUST_LOG`, or the levels of the settings.
fn filter(settings: &LogSettings) -> EnvFilter {
    if let Ok(filter) = EnvFilter::try_from_default_env() {
        return filter;
    }
    let word = |level: Level| match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warning => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::All => LevelFilter::TRACE,
    };
    let mut words = vec![word(settings.level).to_string()];
    words.extend(settings.loggers.iter().map(|(path, level)| format!("{path}={}", word(*level))));
    EnvFilter::new(words.join(","))
}

/// Takes what happens and leaves a line in the queue.
struct Lines(Arc<Shared>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let form = Arc::clone(&self.0.form.read().unwrap_or_else(PoisonError::into_inner));
        self.0.queue.push(form.line(&Record::of(event)));
    }
}

/// The writer's life: until the queue is closed and empty.
fn write(shared: &Shared, mut sink: Sink) {
    while let Some(batch) = shared.queue.take() {
        if let Some(changed) = batch.sink {
            sink = changed;
        }
        let form = Arc::clone(&shared.form.read().unwrap_or_else(PoisonError::into_inner));
        if batch.lost > 0 {
            let words = format!("{} lines were lost: nobody took them fast enough", batch.lost);
            sink.write(&form.line(&Record::own(words)), &form);
        }
        for line in &batch.lines {
            sink.write(line, &form);
        }
        shared.queue.done();
    }
}
