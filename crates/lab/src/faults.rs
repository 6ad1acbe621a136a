//! What is done to a running site: each fault, and its end. Leaves when to `runner`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::crowd::Crowd;
use crate::machine::POSTGRES;
use crate::sandbox::run;
use crate::scenario::{Disk, Link, Part, Place, Ways, Who};
use crate::site::Site;

const BALLAST: &str = "ballast";

/// Who is who, from the beginning of a round to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roles {
    pub(crate) leader: usize,
    replica: usize,
    third: usize,
    etcd_leader: usize,
    /// How many were begun.
    pub(crate) timelines: usize,
}

impl Roles {
    pub(crate) fn of(site: &Site<'_>) -> Result<Self> {
        let leader = site.leader().context("nobody leads")?;
        let etcd_leader = site.etcd_leader().context("etcd has no leader")?;
        let (replica, third) = ((leader + 1) % 3, (leader + 2) % 3);
        Ok(Self { leader, replica, third, etcd_leader, timelines: site.timelines()? })
    }

    pub(crate) fn replicas(self) -> [usize; 2] {
        [self.replica, self.third]
    }

    /// The nodes; none is the router, or a leader where nobody leads.
    pub(crate) fn nodes(self, site: &Site<'_>, who: Who) -> Vec<usize> {
        match who {
            Who::Current => site.leader().into_iter().collect(),
            Who::Leader => vec![self.leader],
            Who::Replica => vec![self.replica],
            Who::Third => vec![self.third],
            Who::EtcdLeader => vec![self.etcd_leader],
            Who::EtcdQuorum => vec![self.etcd_leader, (self.etcd_leader + 1) % 3],
            Who::EtcdAll | Who::All => vec![0, 1, 2],
            Who::Router => Vec::new(),
        }
    }
}

impl Site<'_> {
    pub(crate) fn kill_part(&mut self, roles: Roles, who: Who, part: Part) -> Result<()> {
        let nodes = roles.nodes(self, who);
        for node in &nodes {
            self.kill_part_of(*node, part)?;
        }
        // Whoever starts them again shall not take them for living.
        for node in nodes {
            if matches!(part, Part::Node | Part::Etcd) {
                wait_end(&mut self.etcd[node]);
            }
            if matches!(part, Part::Node | Part::Agent) {
                wait_end(&mut self.agents[node]);
            }
        }
        Ok(())
    }

    fn kill_part_of(&self, node: usize, part: Part) -> Result<()> {
        match part {
            Part::Node => self.machine(node).kill("")?,
            Part::Etcd => self.machine(node).kill("etcd")?,
            Part::Agent => self.signal_agent(node, Signal::KILL)?,
            Part::Postmaster => send(self.postmaster(node)?, Signal::KILL)?,
            Part::Guard => send(self.guard(node)?, Signal::KILL)?,
            Part::Backend => send(self.backend(node)?, Signal::KILL)?,
            Part::Tree => {
                for pid in tree(self.guard(node)?) {
                    // Its children die with the guard, some before their turn.
                    let _ = send(pid, Signal::KILL);
                }
            }
            Part::Disk => bail!("a disk can't be killed"),
        }
        Ok(())
    }

    /// Starts again what was killed; a node is its etcd and its agent.
    pub(crate) fn start_part(&mut self, roles: Roles, who: Who, part: Part) -> Result<()> {
        for node in roles.nodes(self, who) {
            match part {
                Part::Node => {
                    self.start_etcd(node)?;
                    self.start_agent(node)?;
                }
                Part::Etcd => self.start_etcd(node)?,
                Part::Agent => self.start_agent(node)?,
                Part::Postmaster | Part::Tree | Part::Guard | Part::Backend | Part::Disk => {
                    bail!("only agents start it")
                }
            }
        }
        Ok(())
    }

    pub(crate) fn freeze_part(&self, roles: Roles, who: Who, part: Part) -> Result<()> {
        for node in roles.nodes(self, who) {
            match part {
                Part::Node => self.machine(node).freeze("")?,
                Part::Etcd => self.machine(node).freeze("etcd")?,
                Part::Agent => self.signal_agent(node, Signal::STOP)?,
                Part::Postmaster => send(self.postmaster(node)?, Signal::STOP)?,
                Part::Guard => send(self.guard(node)?, Signal::STOP)?,
                Part::Backend => send(self.backend(node)?, Signal::STOP)?,
                Part::Tree => tree(self.guard(node)?)
                    .into_iter()
                    .try_for_each(|pid| send(pid, Signal::STOP))?,
                Part::Disk => {
                    ensure!(self.cluster.disk == Disk::Loop, "only disk=loop can be frozen");
                    run("fsfreeze", &["-f", &self.disk(node).display().to_string()])?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn thaw_part(&self, roles: Roles, who: Who, part: Part) -> Result<()> {
        for node in roles.nodes(self, who) {
            match part {
                Part::Node => self.machine(node).thaw("")?,
                Part::Etcd => self.machine(node).thaw("etcd")?,
                Part::Agent => self.signal_agent(node, Signal::CONT)?,
                // It may have been killed meanwhile, for good reason.
                Part::Postmaster => {
                    drop(self.postmaster(node).and_then(|pid| send(pid, Signal::CONT)));
                }
                Part::Guard => drop(self.guard(node).and_then(|pid| send(pid, Signal::CONT))),
                Part::Backend => drop(self.backend(node).and_then(|it| send(it, Signal::CONT))),
                Part::Tree => bail!("thaw the postmaster or the guard"),
                Part::Disk => {
                    drop(run("fsfreeze", &["-u", &self.disk(node).display().to_string()])?);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn cut(&self, roles: Roles, who: Who, link: Link, ways: Ways) -> Result<()> {
        let nodes = roles.nodes(self, who);
        if nodes.is_empty() {
            let all = (0..3).map(|node| self.machine(node).address.clone());
            return self.router().cut(link, ways, &all.collect::<Vec<_>>());
        }
        for node in nodes {
            let others = (0..3).filter(|other| *other != node).map(|other| self.machine(other));
            let router = (link == Link::All).then(|| self.router());
            let others = others.chain(router).map(|machine| machine.address.clone());
            self.machine(node).cut(link, ways, &others.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    pub(crate) fn heal(&self) -> Result<()> {
        self.router().heal()?;
        (0..3).try_for_each(|node| self.machine(node).heal())
    }

    /// Writes to a node's disk until nothing more goes on it.
    pub(crate) fn fill(&self, roles: Roles, who: Who) -> Result<()> {
        ensure!(self.cluster.disk != Disk::Plain, "this would fill the machine's own disk");
        for node in roles.nodes(self, who) {
            let mut file = fs::File::create(self.disk(node).join(BALLAST)).context(BALLAST)?;
            for size in [1 << 20, 4096] {
                while file.write_all(&vec![0; size]).is_ok() {}
            }
        }
        Ok(())
    }

    /// Remounts a node's disk read-only, as a kernel does that has found an error.
    pub(crate) fn protect(&self, roles: Roles, who: Who) -> Result<()> {
        ensure!(self.cluster.disk == Disk::Loop, "only disk=loop can be protected");
        let mount = |node| {
            let disk = self.disk(node).display().to_string();
            // What is open for writing keeps nobody from this, as it would from a mere `ro`.
            run("mount", &["-o", "remount,abort", &disk]).map(drop)
        };
        roles.nodes(self, who).into_iter().try_for_each(mount)
    }

    /// Makes a protected disk writable again, once the node is dead: its journal is replayed.
    pub(crate) fn repair(&self, roles: Roles, who: Who) -> Result<()> {
        for node in roles.nodes(self, who) {
            let until = Instant::now() + Duration::from_secs(10);
            while self.machine(node).lives()? {
                ensure!(Instant::now() < until, "kill the node before its disk is repaired");
                std::thread::sleep(Duration::from_millis(20));
            }
            let disk = self.disk(node).display().to_string();
            run("umount", &[&disk])?;
            run("mount", &["-o", "loop", &format!("{disk}.img"), &disk])?;
        }
        Ok(())
    }

    /// Clients who take every slot.
    pub(crate) fn crowd(&self, roles: Roles, who: Who) -> Result<Vec<Crowd>> {
        let fill = |node: usize| Crowd::fill(&self.machine(node).address, POSTGRES);
        roles.nodes(self, who).into_iter().map(fill).collect()
    }

    pub(crate) fn empty(&self, roles: Roles, who: Who) -> Result<()> {
        let mut ballasts =
            roles.nodes(self, who).into_iter().map(|node| self.disk(node).join(BALLAST));
        ballasts.try_for_each(|file| fs::remove_file(file).context(BALLAST))
    }

    /// Moves etcd's leader; roles change with it.
    pub(crate) fn place_etcd_leader(&self, roles: &mut Roles, place: Place) -> Result<()> {
        let to = match place {
            Place::OnLeader => roles.leader,
            Place::OffLeader if roles.etcd_leader != roles.leader => roles.etcd_leader,
            Place::OffLeader => roles.replica,
        };
        self.move_etcd_leader(to)?;
        roles.etcd_leader = to;
        // An election makes etcd extend all leases; the next fault shall not profit from it.
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    fn signal_agent(&self, node: usize, signal: Signal) -> Result<()> {
        let agent = self.agents[node].as_ref().context("no agent was started there")?;
        send(agent.id().cast_signed(), signal)
    }

    fn postmaster(&self, node: usize) -> Result<i32> {
        let file = self.disk(node).join("data/postmaster.pid");
        let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        let first = text.lines().next().unwrap_or_default();
        first.parse().with_context(|| format!("{}: '{first}'", file.display()))
    }

    /// The one that writes WAL in the background: without it all of PostgreSQL recovers.
    fn backend(&self, node: usize) -> Result<i32> {
        let writes = |pid: &i32| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("walwriter")
        };
        tree(self.postmaster(node)?).into_iter().find(writes).context("no walwriter runs")
    }

    /// The postmaster's parent.
    fn guard(&self, node: usize) -> Result<i32> {
        parent(self.postmaster(node)?).context("the postmaster is gone")
    }
}

/// A killed process may need a moment; one that hangs on its disk is not waited for.
fn wait_end(child: &mut Option<Child>) {
    let until = Instant::now() + Duration::from_secs(5);
    let lives = |child: &mut Child| matches!(child.try_wait(), Ok(None));
    while child.as_mut().is_some_and(lives) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn send(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("a process id")?;
    kill_process(pid, signal).with_context(|| format!("signalling {pid:?}"))
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
}

/// A process and everything below it.
fn tree(root: i32) -> Vec<i32> {
    let entries = fs::read_dir(Path::new("/proc")).into_iter().flatten().flatten();
    let pids: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let mut all = vec![root];
    let mut at = 0;
    while at < all.len() {
        let above = all[at];
        all.extend(pids.iter().filter(|pid| parent(**pid) == Some(above)));
        at += 1;
    }
    all
}
