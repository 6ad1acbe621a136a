//! The guard with real processes: one executable that is test runner, agent (`--agent DIR`) and
//! guard (by `argv[0]`). The "postmaster" is a shell that makes the trees it is told to.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use pgherd_guard::{
    ARGV0, Cause, Driver, Guard, GuardError, GuardSpec, NEVER, Phase, Watchdog, WatchdogState,
    boottime_micros, last_words, living_in, sweep,
};
use rustix::process::{Pid, Signal};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    if args.next().is_some_and(|name| name == ARGV0) {
        return pgherd_guard::main(std::env::args_os());
    }
    if args.next().is_some_and(|first| first == "--agent") {
        let dir = PathBuf::from(args.next().unwrap());
        let _guard = Guard::spawn(&spec(&dir, TREE, NEVER)).unwrap();
        std::fs::write(dir.join("agent-ready"), "").unwrap();
        loop {
            std::thread::park();
        }
    }
    let trials = vec![
        trial("deadline_kills_the_whole_tree", deadline_kills_the_whole_tree),
        trial("extended_deadline_does_not_fire", extended_deadline_does_not_fire),
        trial("lowered_deadline_fires_at_once", lowered_deadline_fires_at_once),
        trial("kill_request", kill_request),
        trial("sigterm_kills", sigterm_kills),
        trial("stopped_processes_die_too", stopped_processes_die_too),
        trial("wide_and_deep_tree", wide_and_deep_tree),
        trial("a_cgroup_where_one_can_be_had", a_cgroup_where_one_can_be_had),
        trial("postmaster_exit_takes_orphans_along", postmaster_exit_takes_orphans_along),
        trial("postmaster_that_cannot_start", postmaster_that_cannot_start),
        trial("guard_killed_kills_postmaster", guard_killed_kills_postmaster),
        trial("agent_killed_nothing_dies", agent_killed_nothing_dies),
        trial("one_guard_per_directory", one_guard_per_directory),
        trial("environment_is_only_what_was_given", environment_is_only_what_was_given),
        trial("watchdog_is_fed_with_beliefs_only", watchdog_is_fed_with_beliefs_only),
        trial("watchdog_that_starves_kills_first", watchdog_that_starves_kills_first),
        trial("watchdog_that_hangs_delays_no_kill", watchdog_that_hangs_delays_no_kill),
        trial("watchdog_that_cant_be_used_is_said", watchdog_that_cant_be_used_is_said),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: &str, test: fn(&Path)) -> Trial {
    Trial::test(name, move || {
        let dir = tempfile::tempdir().unwrap();
        let _cleanup = Cleanup(dir.path().to_owned());
        test(dir.path());
        Ok(())
    })
}

/// Whatever went wrong: nothing of a test outlives it.
struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let Ok(Some(guard)) = Guard::adopt(&self.0) {
            guard.kill();
        }
        let _ = sweep(&self.0, Duration::from_secs(5));
    }
}

/// A postmaster, a child, and a grandchild that forked twice and left the session.
const TREE: &str =
    "sleep 1000 & (setsid sh -c 'setsid sleep 1000 & sleep 1000' &) ; exec sleep 1000";
/// How many processes [`TREE`] makes.
const TREE_SIZE: usize = 5;

fn spec(dir: &Path, script: &str, deadline: u64) -> GuardSpec {
    let script = format!("cd '{}'; {script}", dir.display());
    GuardSpec {
        exe: "/proc/self/exe".into(),
        run_dir: dir.to_owned(),
        argv: ["/bin/sh", "-c", &script].map(OsString::from).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        log_file: dir.join("log"),
        deadline,
        term: 7,
        watchdog: None,
    }
}

fn start(dir: &Path, script: &str, size: usize, deadline: u64) -> Guard {
    let guard = Guard::spawn(&spec(dir, script, deadline)).unwrap();
    until("the tree is there", || living_in(dir).len() == size);
    guard
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn say(words: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{words}");
}

fn ends_empty(dir: &Path, guard: &Guard, cause: Cause) {
    until("empty", || guard.status().phase == Phase::Empty);
    assert_eq!(guard.status().cause, cause);
    assert_eq!(living_in(dir), Vec::<i32>::new());
    until("the guard has ended", || !guard.is_alive());
}

fn deadline_kills_the_whole_tree(dir: &Path) {
    let deadline = boottime_micros() + 300_000;
    let guard = start(dir, TREE, TREE_SIZE, deadline);
    assert!(boottime_micros() < deadline, "the machine is too slow for this test");
    until("killed", || guard.status().phase >= Phase::Killed);
    let late = boottime_micros() - deadline;
    ends_empty(dir, &guard, Cause::Deadline);
    assert!(late < 100_000, "killed {late} us after the deadline");
    assert_eq!(guard.status().fired_term, Some(7));
    assert_eq!(guard.status().wait_status, Some(9));
    assert_eq!(last_words(dir).unwrap().fired_term, Some(7));
    assert!(!guard.set_deadline(NEVER), "fired stays fired");
}

fn extended_deadline_does_not_fire(dir: &Path) {
    let guard = start(dir, TREE, TREE_SIZE, boottime_micros() + 400_000);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1200) {
        assert!(guard.set_deadline(boottime_micros() + 400_000));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(guard.status().phase, Phase::Running);
    assert_eq!(living_in(dir).len(), TREE_SIZE);
    ends_empty(dir, &guard, Cause::Deadline);
}

fn lowered_deadline_fires_at_once(dir: &Path) {
    let guard = start(dir, TREE, TREE_SIZE, NEVER);
    let begin = Instant::now();
    guard.arm(9, boottime_micros());
    ends_empty(dir, &guard, Cause::Deadline);
    assert!(begin.elapsed() < Duration::from_millis(300), "{:?}", begin.elapsed());
    assert_eq!(guard.status().fired_term, Some(9));
}

fn kill_request(dir: &Path) {
    let guard = start(dir, TREE, TREE_SIZE, NEVER);
    guard.kill();
    ends_empty(dir, &guard, Cause::Request);
    assert_eq!(guard.status().fired_term, None);
}

fn sigterm_kills(dir: &Path) {
    let guard = start(dir, TREE, TREE_SIZE, NEVER);
    for harmless in [Signal::HUP, Signal::INT, Signal::USR1] {
        rustix::process::kill_process(guard.pid(), harmless).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(guard.status().phase, Phase::Running);
    rustix::process::kill_process(guard.pid(), Signal::TERM).unwrap();
    ends_empty(dir, &guard, Cause::Signal);
}

fn stopped_processes_die_too(dir: &Path) {
    let guard = start(dir, TREE, TREE_SIZE, NEVER);
    for pid in living_in(dir) {
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    }
    guard.kill();
    ends_empty(dir, &guard, Cause::Request);
}

/// 300 children, a chain of 20, and one that keeps forking while it is being killed.
fn wide_and_deep_tree(dir: &Path) {
    let script = "i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); done; \
        deep() { if [ $1 -gt 0 ]; then (deep $(($1-1))); else sleep 1000; fi; }; deep 20 & \
        (while :; do sh -c 'sleep 0.01' & sleep 0.005; done) & exec sleep 1000";
    let guard = Guard::spawn(&spec(dir, script, NEVER)).unwrap();
    until("the tree is there", || living_in(dir).len() > 320);
    let begin = Instant::now();
    guard.kill();
    until("killed", || guard.status().phase >= Phase::Killed);
    let took = begin.elapsed();
    ends_empty(dir, &guard, Cause::Request);
    assert!(took < Duration::from_millis(500), "killed after {took:?}");
}

/// Also what a guard that was killed left: the next one finds it in the group.
fn a_cgroup_where_one_can_be_had(dir: &Path) {
    let guard = start(dir, TREE, TREE_SIZE, NEVER);
    let group = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
    };
    let postmaster = guard.postmaster_pid().unwrap().as_raw_nonzero().get();
    let place = group(postmaster);
    if !place.contains("/pgherd-") {
        say("SKIPPED: no cgroup of its own can be had here (cgroup v2, root or delegated)");
        return;
    }
    assert!(living_in(dir).iter().all(|&pid| group(pid) == place), "all of it is in {place}");
    rustix::process::kill_process(guard.pid(), Signal::KILL).unwrap();
    until("the guard is gone", || !guard.is_alive());
    until("the postmaster is gone", || living_in(dir).len() == TREE_SIZE - 1);
    let second = start(dir, TREE, TREE_SIZE * 2 - 1, NEVER);
    second.kill();
    ends_empty(dir, &second, Cause::Request);
    // Where it is mounted beside version 1, and where alone.
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let mount = mounts.into_iter().find(|mount| mount.join("cgroup.procs").exists()).unwrap();
    let gone = || !mount.join(place.trim_start_matches('/')).exists();
    until("the group is removed", gone);
}

fn postmaster_exit_takes_orphans_along(dir: &Path) {
    let script = "(setsid sh -c 'setsid sleep 1000 & sleep 1000' &); sleep 0.2; exit 3";
    let guard = Guard::spawn(&spec(dir, script, NEVER)).unwrap();
    ends_empty(dir, &guard, Cause::PostmasterExit);
    assert_eq!(guard.status().wait_status, Some(3 << 8));
    assert_eq!(last_words(dir).unwrap().wait_status, Some(3 << 8));
}

fn postmaster_that_cannot_start(dir: &Path) {
    let mut wanted = spec(dir, "", NEVER);
    wanted.argv[0] = "/nonexistent/postgres".into();
    let error = Guard::spawn(&wanted).err().unwrap();
    assert!(matches!(error, GuardError::Postmaster { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/postgres"), "{error}");
}

fn guard_killed_kills_postmaster(dir: &Path) {
    let guard = start(dir, TREE, TREE_SIZE, NEVER);
    let postmaster = guard.postmaster_pid().unwrap().as_raw_nonzero().get();
    rustix::process::kill_process(guard.pid(), Signal::KILL).unwrap();
    until("the postmaster is gone", || !living_in(dir).contains(&postmaster));
    until("the guard is gone", || !guard.is_alive());
    assert_eq!(living_in(dir).len(), TREE_SIZE - 1, "the kernel kills the postmaster only");
    assert_eq!(sweep(dir, Duration::from_secs(5)).unwrap(), TREE_SIZE - 1);
    assert_eq!(living_in(dir), Vec::<i32>::new());
}

fn agent_killed_nothing_dies(dir: &Path) {
    use std::os::unix::process::CommandExt;
    // Its own process group, which is then killed as a whole.
    let exe = "/proc/self/exe";
    let mut agent = Command::new(exe).arg("--agent").arg(dir).process_group(0).spawn().unwrap();
    let begin = Instant::now();
    while !dir.join("agent-ready").exists() && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let group = Pid::from_child(&agent);
    rustix::process::kill_process_group(group, Signal::TERM).unwrap();
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
    agent.wait().unwrap();
    assert!(dir.join("agent-ready").exists(), "the agent became ready");
    until("the tree is there", || living_in(dir).len() == TREE_SIZE);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(living_in(dir).len(), TREE_SIZE, "all live on");

    let guard = Guard::adopt(dir).unwrap().unwrap();
    assert_eq!(guard.status().phase, Phase::Running);
    assert_eq!(guard.armed(), (7, NEVER));
    assert!(guard.arm(8, boottime_micros() + 60_000_000));
    assert!(living_in(dir).contains(&guard.postmaster_pid().unwrap().as_raw_nonzero().get()));
    guard.kill();
    ends_empty(dir, &guard, Cause::Request);
    assert!(Guard::adopt(dir).unwrap().is_none(), "nothing is left to adopt");
}

fn one_guard_per_directory(dir: &Path) {
    let guard = start(dir, TREE, TREE_SIZE, NEVER);
    let second = Guard::spawn(&spec(dir, TREE, NEVER)).err().unwrap();
    assert!(matches!(second, GuardError::AlreadyRunning { .. }), "{second}");
    guard.kill();
    ends_empty(dir, &guard, Cause::Request);
    let third = start(dir, TREE, TREE_SIZE, NEVER);
    third.kill();
    ends_empty(dir, &third, Cause::Request);
}

fn environment_is_only_what_was_given(dir: &Path) {
    let guard = start(dir, "exec sleep 1000", 1, NEVER);
    let pids = [guard.pid(), guard.postmaster_pid().unwrap()];
    for pid in pids {
        let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()));
        let environment = String::from_utf8(environment.unwrap()).unwrap();
        assert!(!environment.contains("CARGO"), "{environment}");
    }
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", pids[0].as_raw_nonzero()));
    assert_eq!(comm.unwrap().trim(), ARGV0);
    guard.kill();
    ends_empty(dir, &guard, Cause::Request);
}

/// A guard with a file for a watchdog, which gets everything in writing.
fn watched(dir: &Path, device: &Path, driver: Driver, timeout: u64, deadline: u64) -> Guard {
    let watchdog = Some((Watchdog { device: device.to_owned(), driver }, timeout));
    Guard::spawn(&GuardSpec { watchdog, ..spec(dir, "exec sleep 1000", deadline) }).unwrap()
}

fn watchdog_is_fed_with_beliefs_only(dir: &Path) {
    let device = dir.join("watchdog");
    std::fs::write(&device, "").unwrap();
    let fed = || std::fs::read_to_string(&device).unwrap();
    let guard = watched(dir, &device, Driver::Testing, 20, NEVER);
    // A replica's: nothing is armed.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((fed().as_str(), guard.watchdog()), ("", WatchdogState::Off));
    guard.arm(8, boottime_micros() + 50_000_000);
    until("opened", || guard.watchdog() == WatchdogState::Running);
    assert_eq!(fed(), "Ctimeout=20\n1");
    // Being alive is no belief, and one that is nearly over isn't fed.
    std::thread::sleep(Duration::from_millis(300));
    guard.arm(8, boottime_micros() + 19_000_000);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(fed(), "Ctimeout=20\n1");
    guard.arm(8, boottime_micros() + 60_000_000);
    until("fed", || fed() == "Ctimeout=20\n11");
    guard.set_watchdog(30);
    guard.arm(8, boottime_micros() + 61_000_000);
    until("another timeout", || fed() == "Ctimeout=20\n11Ctimeout=30\n1");
    guard.arm(8, NEVER);
    until("given back", || fed() == "Ctimeout=20\n11Ctimeout=30\n1V");
    guard.arm(8, boottime_micros() + 60_000_000);
    until("taken again", || guard.watchdog() == WatchdogState::Running);
    guard.kill();
    ends_empty(dir, &guard, Cause::Request);
    assert!(fed().ends_with("1V"), "{}", fed());
}

/// The belief would go on, but the watchdog was fed too long ago: the reset finds nothing to fence.
fn watchdog_that_starves_kills_first(dir: &Path) {
    let device = dir.join("watchdog");
    std::fs::write(&device, "").unwrap();
    let begin = Instant::now();
    let guard = watched(dir, &device, Driver::Testing, 4, boottime_micros() + 60_000_000);
    ends_empty(dir, &guard, Cause::Deadline);
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(2_800) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(std::fs::read_to_string(&device).unwrap(), "Ctimeout=4\n1V");
}

/// Opening a pipe that nobody reads hangs.
fn watchdog_that_hangs_delays_no_kill(dir: &Path) {
    let device = dir.join("watchdog");
    assert!(Command::new("mkfifo").arg(&device).status().unwrap().success());
    let deadline = boottime_micros() + 500_000;
    let watchdog = Some((Watchdog { device, driver: Driver::Testing }, 0));
    let guard = Guard::spawn(&GuardSpec { watchdog, ..spec(dir, TREE, deadline + 60_000_000) });
    let guard = guard.unwrap();
    until("the tree is there", || living_in(dir).len() == TREE_SIZE);
    guard.set_watchdog(1);
    std::thread::sleep(Duration::from_millis(100));
    guard.set_deadline(boottime_micros() + 100_000);
    let begin = Instant::now();
    until("empty", || guard.status().phase == Phase::Empty);
    assert!(begin.elapsed() < Duration::from_millis(400), "{:?}", begin.elapsed());
    until("the guard has ended", || !guard.is_alive());
}

fn watchdog_that_cant_be_used_is_said(dir: &Path) {
    let deadline = boottime_micros() + 60_000_000;
    let guard = watched(dir, &dir.join("none"), Driver::Testing, 2, deadline);
    until("failed", || guard.watchdog() == WatchdogState::Failed(libc_enoent()));
    assert_eq!(guard.status().phase, Phase::Running);
    guard.kill();
    ends_empty(dir, &guard, Cause::Request);
    // A file is no device of the kernel's.
    let device = dir.join("watchdog");
    std::fs::write(&device, "").unwrap();
    let guard = watched(dir, &device, Driver::Kernel, 2, deadline);
    until("failed", || matches!(guard.watchdog(), WatchdogState::Failed(_)));
    // It was opened, and may be running.
    assert_eq!(std::fs::read_to_string(&device).unwrap(), "V");
    guard.kill();
    ends_empty(dir, &guard, Cause::Request);
}

fn libc_enoent() -> i32 {
    rustix::io::Errno::NOENT.raw_os_error()
}
