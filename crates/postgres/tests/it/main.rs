//! One PostgreSQL, really running. The executable is test runner and guard (by `argv[0]`), and when
//! it is started by root it first becomes the user `postgres`, because PostgreSQL refuses root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]

mod basics;
mod configuration;
mod disk;
mod killing;
mod lifecycle;
mod node;
mod replication;
mod slots;
mod sources;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == pgherd_guard::ARGV0) {
        return pgherd_guard::main(std::env::args_os());
    }
    let args = Arguments::from_args();
    if rustix::process::getuid().is_root() && !args.list {
        return as_postgres();
    }
    let mut trials = Vec::new();
    basics::add(&mut trials);
    configuration::add(&mut trials);
    disk::add(&mut trials);
    replication::add(&mut trials);
    slots::add(&mut trials);
    sources::add(&mut trials);
    killing::add(&mut trials);
    lifecycle::add(&mut trials);
    libtest_mimic::run(&args, trials).exit_code()
}

/// Runs itself as `postgres`. `/proc/self/exe` is found even where that user may not look.
fn as_postgres() -> ExitCode {
    let id = |flag| {
        let output = Command::new("id").args([flag, "postgres"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().ok()
    };
    let (Some(uid), Some(gid)) = (id("-u"), id("-g")) else {
        eprintln!(
            "there is no user postgres to run PostgreSQL as; install Debian's postgresql-common"
        );
        return ExitCode::FAILURE;
    };
    let small = node::SmallFileSystem::mount(uid, gid);
    let status = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .uid(uid)
        .gid(gid)
        .current_dir("/")
        .envs(small.as_ref().map(|small| (node::SMALL, &small.0)))
        .status()
        .unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A test that runs in a runtime of its own and leaves no process behind.
fn trial(trials: &mut Vec<Trial>, name: &'static str, test: impl AsyncFnOnce() + Send + 'static) {
    trials.push(Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(test());
        Ok(())
    }));
}
