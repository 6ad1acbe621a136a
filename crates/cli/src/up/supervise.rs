//! A cluster's processes from start to stop: everything starts at once, what happens is told, and
//! at the end each stops in its turn.
//! Leaves who leads to the agents, and the words to `progress`.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use pgherd_agent::StoreSettings;
use rustix::process::Signal;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc;

use super::children::{ChildEvent, Job, Kept};
use super::layout::{Layout, Marker};
use super::progress::{Progress, has_voters};
use crate::args::Format;
use crate::ctl::list;
use crate::live::{self, Live, News};
use crate::output::{Failure, Outcome, Printer};
use crate::settings::node::ClusterId;

/// How often conditions are looked at while the cluster starts.
const LOOK: Duration = Duration::from_millis(10);
/// After so long a start is slow, and what is missing is said.
const SLOW: Duration = Duration::from_secs(20);
/// How long a guard may take to kill everything.
const KILL_BOUND: Duration = Duration::from_secs(5);
/// The primary's agent tells its peers within this time that it stops; its PostgreSQL needs longer.
const PRIMARY_AHEAD: Duration = Duration::from_millis(50);
/// A store that dies so often at once will not come.
const STORE_DEATHS_MAX: u32 = 4;

/// A process says at most two things each time it ends, and pauses between ends; the reader always
/// reads.
const EVENTS_BOUND: usize = 64;

/// What to run.
pub(super) struct Run<'a> {
    pub(super) layout: &'a Layout,
    pub(super) marker: &'a Marker,
    pub(super) user: &'a str,
    pub(super) as_root: bool,
    pub(super) start: Instant,
}

struct Herd<'a> {
    run: Run<'a>,
    printer: Printer,
    store: Kept,
    router: Kept,
    agents: Vec<Kept>,
    sender: mpsc::Sender<ChildEvent>,
    events: mpsc::Receiver<ChildEvent>,
    live: Live,
    progress: Progress,
    router_up: bool,
    complete: bool,
    said_slow: bool,
    status_width: usize,
    status_line: String,
    store_deaths: u32,
}

/// Runs the cluster until it is told to stop.
pub(super) async fn run(run: Run<'_>, printer: Printer) -> Outcome {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut herd = Herd::start(run, printer)?;
    let ended = herd.watch(&mut interrupt, &mut terminate).await;
    herd.clear_status()?;
    let stopped = herd.stop(&mut interrupt, &mut terminate).await;
    ended.and(stopped)
}

impl<'a> Herd<'a> {
    fn start(run: Run<'a>, printer: Printer) -> Outcome<Self> {
        let (sender, events) = mpsc::channel(EVENTS_BOUND);
        let layout = run.layout;
        let store = Kept::start(store_job(&run), sender.clone());
        let file = layout.router_file();
        let job = file_job(&run, "router", "router", &file, layout.log().join("router.log"));
        let router = Kept::start(job, sender.clone());
        let endpoint = format!("unix://{}", layout.store_socket().display());
        let client =
            live::client(&StoreSettings { endpoints: vec![endpoint], ..StoreSettings::default() })?;
        let id = ClusterId { namespace: "service".to_owned(), scope: run.marker.scope.clone() };
        let live = Live::follow(&client, &live::keys(&id));
        Ok(Self {
            run,
            printer,
            store,
            router,
            agents: Vec::new(),
            sender,
            events,
            live,
            progress: Progress::default(),
            router_up: false,
            complete: false,
            said_slow: false,
            status_width: 0,
            status_line: String::new(),
            store_deaths: 0,
        })
    }

    /// Tells what happens until a signal comes.
    async fn watch(&mut self, interrupt: &mut Signals, terminate: &mut Signals) -> Outcome {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                Some(event) = self.events.recv() => self.child(event)?,
                news = self.live.next() => match news {
                    Some(news) => self.news(&news)?,
                    None => return Ok(()),
                },
                _ = looks.tick(), if !self.complete => self.look().await?,
            }
        }
    }

    fn news(&mut self, news: &News) -> Outcome {
        // Losing the store is told by its process's end; before the start is complete it is normal.
        if *news != News::Cluster {
            return Ok(());
        }
        if self.agents.is_empty() {
            self.start_agents();
        }
        if let Some(cluster) = self.live.cluster() {
            for line in self.progress.take(cluster) {
                self.say(&line)?;
            }
        }
        Ok(())
    }

    /// The agents start when the store has shown what it holds: whatever is written later is theirs.
    fn start_agents(&mut self) {
        let revision = self.live.cluster().map(|cluster| cluster.view().revision);
        self.progress = Progress::since(revision.unwrap_or_default());
        let (run, layout) = (&self.run, self.run.layout);
        let agents = run.marker.nodes.iter().map(|node| {
            let file = layout.node_file(&node.name);
            let log = layout.node(&node.name).join("agent.log");
            Kept::start(file_job(run, &node.name, "agent", &file, log), self.sender.clone())
        });
        self.agents = agents.collect();
    }

    /// While starting: is the router there, does everybody stream?
    async fn look(&mut self) -> Outcome {
        if !self.router_up {
            let address = ("127.0.0.1", self.run.marker.http_port);
            self.router_up = tokio::net::TcpStream::connect(address).await.is_ok();
            if self.router_up {
                self.say("the router listens")?;
            }
        }
        let there = self.live.cluster().map_or(0, |cluster| self.progress.in_place(cluster));
        let all = self.run.marker.nodes.len();
        let voters = all == 1 || self.live.cluster().is_some_and(has_voters);
        if self.router_up && self.progress.serving() && there == all && voters {
            self.complete = true;
            self.clear_status()?;
            return self.summary();
        }
        if !self.said_slow && self.run.start.elapsed() > SLOW {
            self.said_slow = true;
            let logs = self.run.layout.dir.display();
            self.say(&format!(
                "this takes longer than usual; the logs are in {logs}/node*/agent.log and {logs}/log"
            ))?;
        }
        self.status(&format!("{there} of {all} members in place"))
    }

    fn summary(&mut self) -> Outcome {
        let elapsed = self.run.start.elapsed().as_secs_f64();
        let Some(cluster) = self.live.cluster() else { return Ok(()) };
        let table = list::render(cluster, Format::Pretty, false);
        let (layout, marker) = (self.run.layout, self.run.marker);
        let pass = layout.pgpass();
        let dsn = |port: u16| {
            let pass = libpq_quoted(&pass);
            format!(
                "psql \"host=127.0.0.1 port={port} user=postgres dbname=postgres passfile={pass}\""
            )
        };
        let words = format!(
            "\n{} after {elapsed:.1} s.\n\n{table}\n\
             write      {}\n\
             read       {}\n\
             dashboard  http://127.0.0.1:{}/\n\
             members    pgherd ctl --dir {} list\n\
             passwords  {} (superuser 'postgres' on its first line; for {} only)\n\n\
             Ctrl-C stops everything in order; the next 'pgherd up' finds its data again.\n",
            self.printer.green("Ready"),
            dsn(marker.write_port),
            dsn(marker.read_port),
            marker.http_port,
            layout.dir.display(),
            pass.display(),
            if self.run.as_root { format!("'{}' and root", self.run.user) } else { "you".into() },
        );
        Ok(self.printer.line(words)?)
    }

    fn child(&mut self, event: ChildEvent) -> Outcome {
        match event {
            ChildEvent::Unstartable { name, why } => {
                self.say(&format!("{name} can't be started: {why}"))
            }
            ChildEvent::Restarted { name } => self.say(&format!("{name}: started again")),
            ChildEvent::Died { name, how } => {
                let log = self.log_of(&name);
                self.say(&format!("{name}: its process ended ({how}); log: {}", log.display()))?;
                if name == self.store.name && !self.complete {
                    self.store_deaths += 1;
                    if self.store_deaths >= STORE_DEATHS_MAX {
                        let last = last_line(&log);
                        return Err(Failure::Failed(anyhow::anyhow!(
                            "the store can't run: {last}"
                        )));
                    }
                }
                Ok(())
            }
        }
    }

    fn log_of(&self, name: &str) -> std::path::PathBuf {
        let layout = self.run.layout;
        match name {
            "store" | "router" => layout.log().join(format!("{name}.log")),
            node => layout.node(node).join("agent.log"),
        }
    }

    /// Everybody in turn. The agents agree on the order among themselves: replicas that know of
    /// the primary's stop wait for its last record, and a primary whose replicas stop too keeps its
    /// right to return instead of handing over. So the primary hears it a moment earlier, and the
    /// others before its PostgreSQL is down. The store, which all need to let go of their keys, is
    /// the last.
    async fn stop(&mut self, interrupt: &mut Signals, terminate: &mut Signals) -> Outcome {
        self.complete = true;
        self.say("stopping ... (Ctrl-C again hurries)")?;
        let leader = self.progress.leader().map(ToString::to_string);
        let is_leader = |kept: &&Kept| leader.as_deref() == Some(kept.name.as_str());
        if let Some(leader) = self.agents.iter().find(is_leader) {
            leader.stop(Signal::TERM);
            tokio::time::sleep(PRIMARY_AHEAD).await;
        }
        self.agents.iter().for_each(|kept| kept.stop(Signal::TERM));
        let mut said = vec![false; self.agents.len()];
        let mut looks = tokio::time::interval(LOOK);
        let mut hurries = 0;
        while said.contains(&false) {
            tokio::select! {
                _ = looks.tick() => {}
                _ = interrupt.recv() => hurries += 1,
                _ = terminate.recv() => hurries += 1,
            }
            if hurries > 0 {
                // What they leave is killed below; PostgreSQL's next start recovers.
                self.agents.iter().for_each(|kept| kept.stop(Signal::KILL));
            }
            for (kept, said) in self.agents.iter().zip(&mut said) {
                if kept.has_ended() && !*said {
                    *said = true;
                    let words = format!("{}: stopped", kept.name);
                    say(&mut self.printer, self.run.start, &words)?;
                }
            }
        }
        self.clear_up()?;
        for kept in [&mut self.router, &mut self.store] {
            kept.stop(Signal::TERM);
            kept.ended().await;
        }
        self.say("everything is stopped")
    }

    /// An agent that was killed leaves PostgreSQL to its guard; a paused one leaves it running on
    /// purpose.
    fn clear_up(&mut self) -> Outcome {
        for node in &self.run.marker.nodes {
            let guard = pgherd_guard::Guard::adopt(&self.run.layout.run(&node.name));
            let Some(guard) = guard.map_err(anyhow::Error::from)? else { continue };
            if self.progress.paused() {
                let words = "its PostgreSQL goes on, because management is paused";
                say(&mut self.printer, self.run.start, &format!("{}: {words}", node.name))?;
                continue;
            }
            guard.kill();
            let until = Instant::now() + KILL_BOUND;
            while guard.is_alive() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            let words = format!("{}: its PostgreSQL was killed", node.name);
            say(&mut self.printer, self.run.start, &words)?;
        }
        Ok(())
    }

    fn say(&mut self, words: &str) -> Outcome {
        self.clear_status()?;
        say(&mut self.printer, self.run.start, words)
    }

    /// On a terminal: one line at the bottom that is written over.
    fn status(&mut self, words: &str) -> Outcome {
        if !self.printer.terminal {
            return Ok(());
        }
        let elapsed = self.run.start.elapsed().as_secs_f64();
        let line = format!("{elapsed:6.1} s  {words}");
        if line == self.status_line {
            return Ok(());
        }
        let width = self.status_width.max(line.len());
        self.printer.raw(format_args!("\r{line:<width$}"))?;
        self.status_width = line.len();
        self.status_line = line;
        Ok(())
    }

    fn clear_status(&mut self) -> Outcome {
        if self.status_width > 0 {
            self.printer.raw(format_args!("\r{:<1$}\r", "", self.status_width))?;
            self.status_width = 0;
            self.status_line.clear();
        }
        Ok(std::io::stdout().flush()?)
    }
}

/// In the first minute the time since the start counts; later the hour.
fn say(printer: &mut Printer, start: Instant, words: &str) -> Outcome {
    let elapsed = start.elapsed();
    let time = if elapsed < Duration::from_secs(60) {
        format!("{:6.2} s", elapsed.as_secs_f64())
    } else {
        jiff::Zoned::now().strftime("%H:%M:%S").to_string()
    };
    let time = printer.dim(&time);
    Ok(printer.line(format_args!("{time}  {words}"))?)
}

fn store_job(run: &Run<'_>) -> Job {
    let layout = run.layout;
    let mut args: Vec<OsString> = ["store", "--with-parent", "--user", run.user, "--dir"]
        .iter()
        .map(OsString::from)
        .collect();
    args.push(layout.store().into());
    args.push("--socket".into());
    args.push(layout.store_socket().into());
    for node in &run.marker.nodes {
        args.push("--outlive".into());
        args.push(layout.run(&node.name).join("agent.lock").into());
    }
    Job { name: "store".to_owned(), args, log: layout.log().join("store.log") }
}

fn file_job(run: &Run<'_>, name: &str, command: &str, file: &Path, log: std::path::PathBuf) -> Job {
    let words = [command, "--with-parent", "--user", run.user];
    let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
    args.push(file.into());
    Job { name: name.to_owned(), args, log }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("it says nothing").to_owned()
}

/// A path as a value of a libpq connection string within double quotes of a shell.
fn libpq_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        let escaped = text.replace('\\', "\\\\").replace('\'', "\\'");
        format!("'{}'", escaped.replace(['"', '$', '`'], "?"))
    }
}
