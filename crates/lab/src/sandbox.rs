//! The lab's own little machine: new network, process and mount namespaces, made by `unshare`.
//! Whatever dies, the kernel ends everything inside with it: processes, bridge, links, mounts.
//! What can be left is a directory and an empty cgroup, which the next run removes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Given to the process inside: directory and cgroup, apart by a colon.
pub(crate) const INSIDE: &str = "PGHERD_LAB_INSIDE";
const PREFIX: &str = "pgherd-lab-";

/// Where the inside finds its things.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: PathBuf,
}

/// Why the lab can't run here, if so.
pub(crate) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root: network namespaces and cgroups need it".into());
    }
    let needed = ["unshare", "setpriv", "nsenter", "ip", "iptables", "etcdctl"];
    if let Some(name) = needed.into_iter().find(|name| on_path(name).is_none()) {
        return Some(format!("no {name} (Debian: util-linux, iproute2, iptables, etcd-client)"));
    }
    if etcd_program().is_none() {
        return Some("no etcd; install etcd-server, or name it in PGHERD_ETCD".into());
    }
    if cgroups().is_none_or(|root| !root.join("cgroup.procs").exists()) {
        return Some("no cgroup v2 mounted: nodes could not be frozen or killed as a whole".into());
    }
    let tried = Command::new("unshare").args(["-n", "-m", "-p", "--fork", "true"]).status();
    let works = tried.is_ok_and(|status| status.success());
    (!works).then(|| "this machine lets nobody make network and process namespaces".into())
}

/// `PGHERD_ETCD`, or etcd on the PATH.
pub(crate) fn etcd_program() -> Option<PathBuf> {
    std::env::var_os("PGHERD_ETCD").map(PathBuf::from).or_else(|| on_path("etcd"))
}

pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Where cgroup v2 is mounted.
fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.into_iter().find(|f| f.get(2) == Some(&"cgroup2")).map(|f| PathBuf::from(f[1]))
}

/// Runs this program again, inside, with the same arguments, and clears up behind it.
pub(crate) fn enter(below: &Path, length: Option<u64>) -> Result<ExitCode> {
    let root = cgroups().context("cgroup v2 is not mounted")?;
    sweep(below, &root);
    let name = format!("{PREFIX}{}", std::process::id());
    let sandbox = Sandbox { dir: below.join(&name), cgroup: root.join(&name) };
    fs::create_dir_all(&sandbox.dir).with_context(|| format!("{}", sandbox.dir.display()))?;
    fs::create_dir(&sandbox.cgroup).with_context(|| format!("{}", sandbox.cgroup.display()))?;
    let own = std::env::current_exe().context("this program's own path")?;
    // Death passes on: to unshare by the first, to all the inside by the second.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "-n", "-m", "-p", "--fork", "--kill-child"])
        .arg("--mount-proc")
        .arg(own)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, format!("{}:{}", sandbox.dir.display(), sandbox.cgroup.display()))
        .envs(length.map(|seconds| (crate::operator::LENGTH, seconds.to_string())))
        .status()
        .context("unshare")?;
    remove(&sandbox);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What runs of the past left, whose process is gone.
fn sweep(below: &Path, root: &Path) {
    for place in [below, root] {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                remove(&Sandbox { dir: below.join(&name), cgroup: root.join(&name) });
            }
        }
    }
}

fn remove(sandbox: &Sandbox) {
    // Their processes have been killed, and may need a moment.
    let until = Instant::now() + Duration::from_secs(5);
    while sandbox.cgroup.exists() && Instant::now() < until {
        thaw_disks(sandbox);
        remove_cgroup(&sandbox.cgroup);
        std::thread::sleep(Duration::from_millis(50));
    }
    // Gone already after a run that never began.
    let _ = fs::remove_dir_all(&sandbox.dir);
}

/// Nobody dies who writes to a frozen file system: whoever is left there shows the way to it.
fn thaw_disks(sandbox: &Sandbox) {
    for node in ["node1", "node2", "node3"] {
        let procs = fs::read_to_string(sandbox.cgroup.join(node).join("cgroup.procs"));
        let Some(pid) = procs.ok().and_then(|pids| Some(pids.lines().next()?.to_owned())) else {
            continue;
        };
        for site in fs::read_dir(&sandbox.dir).into_iter().flatten().flatten() {
            // Refused where nothing is frozen.
            let _ = Command::new("nsenter")
                .arg(format!("--mount=/proc/{pid}/ns/mnt"))
                .args(["fsfreeze", "-u"])
                .arg(site.path().join(node).join("disk"))
                .output();
        }
    }
}

/// A cgroup's directory holds files that can't be removed; only empty groups can.
fn remove_cgroup(path: &Path) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|e| e.path().is_dir()).for_each(|e| remove_cgroup(&e.path()));
    // Refused while somebody lives there; the caller tries again.
    let _ = fs::remove_dir(path);
}

/// The first process inside: starts the lab, reaps whoever loses his parents, and ends with it.
pub(crate) fn init(given: &str) -> Result<ExitCode> {
    let own = std::env::current_exe().context("this program's own path")?;
    let mut lab = Command::new(own);
    lab.args(std::env::args_os().skip(1)).env(INSIDE, given);
    let lab = lab.spawn().context("the lab inside")?.id().cast_signed();
    loop {
        let reaped = rustix::process::wait(rustix::process::WaitOptions::empty());
        match reaped {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == lab => {
                let passed = status.exit_status() == Some(0);
                return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("waiting for the lab"),
        }
    }
}

impl Sandbox {
    /// Inside, before anything else.
    pub(crate) fn open(given: &str) -> Result<Self> {
        let (dir, cgroup) = given.split_once(':').context("the sandbox's two paths")?;
        let sandbox = Self { dir: dir.into(), cgroup: cgroup.into() };
        // Namespaces' names and iptables' lock shall be nobody else's.
        run("mount", &["-t", "tmpfs", "lab-run", "/run"])?;
        fs::create_dir_all("/run/netns").context("/run/netns")?;
        Ok(sandbox)
    }
}

/// Runs a tool; its complaint is the error.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().context(program.to_owned())?;
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), err.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
