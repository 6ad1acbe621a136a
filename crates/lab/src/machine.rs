//! A machine of the lab: a network namespace on the bridge, and a cgroup with all of its processes.
//! Cuts links with iptables, freezes and kills as a whole. Leaves what runs on it to `site`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::sandbox::{Sandbox, run};
use crate::scenario::{Link, Ways};

/// The observing clients' address: the bridge itself.
const HUB: &str = "10.77.0.1";
pub(crate) const ETCD: u16 = 2379;
pub(crate) const POSTGRES: u16 = 5432;
pub(crate) const REST: u16 = 8008;

pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) address: String,
    cgroup: PathBuf,
}

/// Makes the bridge, with the observers' address.
pub(crate) fn bridge() -> Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["link", "add", "lab0", "type", "bridge"])?;
    run("ip", &["address", "add", &format!("{HUB}/24"), "dev", "lab0"])?;
    run("ip", &["link", "set", "lab0", "up"])?;
    Ok(())
}

impl Machine {
    /// A new one, wired to the bridge.
    pub(crate) fn new(sandbox: &Sandbox, name: &str, number: u8) -> Result<Self> {
        let address = format!("10.77.0.{}", 10 + number);
        let cgroup = sandbox.cgroup.join(name);
        fs::create_dir_all(cgroup.join("etcd")).context("the machine's cgroup")?;
        run("ip", &["netns", "add", name])?;
        let (outer, path) = (format!("lab{number}"), format!("/run/netns/{name}"));
        let pair = ["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", name];
        run("ip", &pair)?;
        run("ip", &["link", "set", &outer, "master", "lab0", "up"])?;
        let inside = |words: &[&str]| {
            let net = format!("--net={path}");
            run("nsenter", &[&[net.as_str(), "ip"], words].concat())
        };
        inside(&["link", "set", "lo", "up"])?;
        inside(&["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])?;
        Ok(Self { name: name.to_owned(), address, cgroup })
    }

    /// Starts a program in this machine.
    pub(crate) fn spawn(
        &self,
        part: &str,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<Child> {
        self.spawn_with(&[], part, program, arguments, log)
    }

    /// The same with more in its environment; `part` is a cgroup of its own within the machine's.
    pub(crate) fn spawn_with(
        &self,
        environment: &[(&str, String)],
        part: &str,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<Child> {
        let procs = self.cgroup.join(part).join("cgroup.procs");
        let net = format!("--net=/run/netns/{}", self.name);
        let file = File::options().create(true).append(true).open(log).context("a log file")?;
        Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec nsenter \"$@\""])
            .arg(procs)
            .arg(net)
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{} on {}", program.display(), self.name))
    }

    /// Stops the time of all processes in the machine, or in one part of it.
    pub(crate) fn freeze(&self, part: &str) -> Result<()> {
        self.control(part, "cgroup.freeze", "1")
    }

    pub(crate) fn thaw(&self, part: &str) -> Result<()> {
        self.control(part, "cgroup.freeze", "0")
    }

    /// kill -9 of all processes at once: no one can fork away, or see the others die.
    pub(crate) fn kill(&self, part: &str) -> Result<()> {
        self.control(part, "cgroup.kill", "1")
    }

    /// Whether any process is left.
    pub(crate) fn lives(&self) -> Result<bool> {
        let events = fs::read_to_string(self.cgroup.join("cgroup.events")).context("cgroup")?;
        Ok(events.contains("populated 1"))
    }

    /// The names of the processes that live there.
    pub(crate) fn programs(&self) -> Vec<String> {
        let pids = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap_or_default();
        let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        pids.lines().filter_map(name).map(|name| name.trim().to_owned()).collect()
    }

    fn control(&self, part: &str, file: &str, value: &str) -> Result<()> {
        let path = self.cgroup.join(part).join(file);
        fs::write(&path, value).with_context(|| format!("{}", path.display()))
    }

    /// Drops packets between this machine and others; silently, as a broken network does.
    pub(crate) fn cut(&self, link: Link, ways: Ways, others: &[String]) -> Result<()> {
        let mut rules: Vec<(&str, String)> = Vec::new();
        let mut both = |input: String, output: String| match ways {
            Ways::Both => rules.extend([("INPUT", input), ("OUTPUT", output)]),
            Ways::Inbound => rules.push(("INPUT", input)),
            Ways::Outbound => rules.push(("OUTPUT", output)),
        };
        match link {
            Link::Store => both(format!("-p tcp --sport {ETCD}"), format!("-p tcp --dport {ETCD}")),
            Link::Peers => {
                for other in others {
                    let ports = format!("-p tcp -m multiport --ports {POSTGRES},{REST}");
                    both(format!("-s {other} {ports}"), format!("-d {other} {ports}"));
                }
            }
            Link::All => others.iter().for_each(|o| both(format!("-s {o}"), format!("-d {o}"))),
        }
        rules
            .iter()
            .try_for_each(|(chain, rule)| self.iptables(&format!("-A {chain} {rule} -j DROP")))
    }

    pub(crate) fn heal(&self) -> Result<()> {
        self.iptables("-F")
    }

    fn iptables(&self, words: &str) -> Result<()> {
        let net = format!("--net=/run/netns/{}", self.name);
        let words: Vec<&str> = words.split(' ').collect();
        run("nsenter", &[&[net.as_str(), "iptables", "-w"], words.as_slice()].concat()).map(drop)
    }
}
