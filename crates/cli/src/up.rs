//! `pgherd up`: a whole cluster on this machine, in the foreground.
//! First everything is checked, then files are written, then processes are started and watched.

mod check;
mod children;
mod create;
pub(crate) mod layout;
mod plan;
mod progress;
pub(crate) use progress::Progress;
mod supervise;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use pgherd_postgres::Binaries;

use crate::args::UpArgs;
use crate::lock::{Lock, LockError};
use crate::output::{Failure, Outcome, Printer};
use crate::privilege::{self, Account};
use crate::settings::problem::Problem;
use check::{Contents, Machine};
use layout::{Layout, Marker};

/// How long the processes of an earlier run may take to end.
const PREDECESSORS: Duration = Duration::from_secs(60);

/// Everything that was found out before anything was changed.
struct Ready {
    layout: Layout,
    marker: Marker,
    binaries: Binaries,
    account: Option<Account>,
    user: String,
    new: bool,
}

/// Runs a cluster until Ctrl-C.
pub(crate) fn run(args: &UpArgs) -> Outcome {
    let start = Instant::now();
    let mut printer = Printer::new();
    let dir = match &args.dir {
        Some(dir) => std::path::absolute(dir)?,
        None => default_dir()?,
    };
    let layout = Layout::new(dir);
    let account = privilege::is_root().then(|| privilege::account(&args.user)).transpose()?;
    let ready = check_all(args, layout, account, &mut printer)?;
    let writer = create::Writer { layout: &ready.layout, owner: ready.account.as_ref() };
    writer.base()?;
    // Held until this process ends, however it ends.
    let lock = Lock::take(&ready.layout.lock());
    let _lock = lock.map_err(|error| in_use(&ready.layout, &error))?;
    writer.all(&ready.marker, &ready.binaries.dir)?;
    announce(&ready, &mut printer)?;
    // One thread for all: the kernel ties the children's lives to the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime can't be started")?;
    let run = supervise::Run {
        layout: &ready.layout,
        marker: &ready.marker,
        user: &ready.user,
        as_root: ready.account.is_some(),
        start,
    };
    runtime.block_on(Box::pin(supervise::run(run, printer)))
}

/// Where a cluster lives when nobody says.
pub(crate) fn default_dir() -> Outcome<PathBuf> {
    if privilege::is_root() {
        return Ok(PathBuf::from("/var/lib/pgherd"));
    }
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let data = variable("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let data = data.or_else(|| variable("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("pgherd")).ok_or_else(|| {
        Failure::refused("--dir", "there is no HOME to take a default from; say where with --dir")
    })
}

fn check_all(
    args: &UpArgs,
    layout: Layout,
    account: Option<Account>,
    printer: &mut Printer,
) -> Outcome<Ready> {
    let mut problems = check::access(&layout, account.as_ref());
    let existing = match check::contents(&layout) {
        Ok(Contents::Nothing) => None,
        Ok(Contents::Cluster(marker)) => Some(marker),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    if let Some(marker) = &existing {
        wait_for_predecessors(&layout, marker, printer)?;
        problems.extend(check::one_cluster(&layout, marker));
    }
    let binaries = programs(args.pg_bin.as_deref(), &layout, existing.as_ref());
    let created = jiff::Timestamp::now().to_string();
    let machine = Machine { layout: &layout };
    let plan = plan::plan(&args.into(), existing.as_ref(), &created, &machine);
    match (binaries, plan) {
        (Ok(binaries), Ok(marker)) if problems.is_empty() => Ok(Ready {
            new: existing.is_none(),
            user: args.user.clone(),
            layout,
            marker,
            binaries,
            account,
        }),
        (binaries, plan) => {
            problems.extend(plan.err().unwrap_or_default());
            problems.extend(binaries.err());
            Err(Failure::Refused { place: String::new(), problems })
        }
    }
}

/// PostgreSQL's programs: those that were asked for, those of the last start, or the newest. They
/// must fit data that is there.
fn programs(
    wanted: Option<&Path>,
    layout: &Layout,
    existing: Option<&Marker>,
) -> Result<Binaries, Problem> {
    let wrong = |words: String| Problem::error(None, "PostgreSQL", words);
    let first = existing.and_then(|marker| marker.nodes.first());
    let version = first.map(|node| layout.data(&node.name).join("PG_VERSION"));
    let version = version.and_then(|file| std::fs::read_to_string(file).ok());
    let major: Option<u32> = version.and_then(|text| text.trim().parse().ok());
    let debian = major.map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    let fitting = debian.filter(|dir| dir.join("postgres").exists());
    let found = pgherd_postgres::discover(wanted.or(fitting.as_deref()));
    let binaries = found.map_err(|error| wrong(error.to_string()))?;
    match major.filter(|major| *major != binaries.major) {
        None => Ok(binaries),
        Some(major) => Err(wrong(format!(
            "the cluster's data are of version {major}, and {} has version {}; name the directory \
             of PostgreSQL {major} with --pg-bin",
            binaries.dir.display(),
            binaries.version
        ))),
    }
}

/// Another `up` is refused; processes that it left behind when it was killed are about to end.
fn wait_for_predecessors(layout: &Layout, marker: &Marker, printer: &mut Printer) -> Outcome {
    if let Some(pid) = Lock::holder(&layout.lock()) {
        return Err(in_use(layout, &LockError::Held { path: layout.lock(), pid }));
    }
    let agents = marker.nodes.iter().map(|node| layout.run(&node.name).join("agent.lock"));
    let mut locks: Vec<PathBuf> = agents.collect();
    locks.push(layout.store_lock());
    locks.push(layout.router_file().with_extension("lock"));
    let until = Instant::now() + PREDECESSORS;
    let mut said = false;
    loop {
        let held = locks.iter().find_map(|lock| Some((lock, Lock::holder(lock)?)));
        let Some((lock, pid)) = held else { return Ok(()) };
        if Instant::now() > until {
            let words = format!(
                "process {pid} of an earlier run still holds {}; stop it (kill {pid}) and try again",
                lock.display()
            );
            return Err(Failure::refused(layout.dir.display().to_string(), words));
        }
        if !said {
            printer.line("Waiting for the processes of the last run to stop ...")?;
            said = true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn in_use(layout: &Layout, error: &LockError) -> Failure {
    let words = match error {
        LockError::Held { pid, .. } => format!(
            "another 'pgherd up' (process {pid}) runs the cluster in this directory; look at it \
             with 'pgherd ctl --dir {} list', or choose another with --dir",
            layout.dir.display()
        ),
        LockError::Io { .. } => error.to_string(),
    };
    Failure::refused(layout.dir.display().to_string(), words)
}

fn announce(ready: &Ready, printer: &mut Printer) -> Outcome {
    let marker = &ready.marker;
    let what = if ready.new { "New cluster" } else { "Cluster" };
    let count = marker.nodes.len();
    printer.line(format_args!(
        "{what} {} in {}: {count} x PostgreSQL {}, {}",
        printer.bold(&format!("'{}'", marker.scope)),
        ready.layout.dir.display(),
        ready.binaries.version,
        ready.binaries.dir.display(),
    ))?;
    if let Some(account) = &ready.account {
        let words = format!("PostgreSQL and pgherd's processes run as '{}'.", account.name);
        printer.line(words)?;
    }
    Ok(())
}
