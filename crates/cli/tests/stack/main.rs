//! The compose stack on real Docker: first start, every fault, and what the README tells people to
//! do. One stack for all tests, in the order in which they stand here; each leaves it whole.
//! Where Docker can't run, that is said and nothing is tested.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that can't go on fails"
)]

mod care;
mod docker;
mod faults;
mod images;
mod newcomer;
mod stack;
mod start;
#[path = "../e2e/writer.rs"]
#[allow(dead_code, reason = "shared with the other end-to-end tests")]
mod writer;

use std::process::ExitCode;
use std::sync::{Mutex, OnceLock, PoisonError};

use libtest_mimic::{Arguments, Trial};

use docker::Docker;
use stack::Stack;

static STACK: OnceLock<Mutex<Option<Stack>>> = OnceLock::new();

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let mut trials = newcomer::trials();
    trials.extend(start::trials());
    trials.extend(faults::trials());
    trials.extend(care::trials());
    if !arguments.list {
        match Docker::find() {
            Ok(docker) => {
                let _ = STACK.set(Mutex::new(Some(Stack::prepare(docker))));
            }
            Err(why) => {
                eprintln!("SKIPPED: the compose stack was not tested: {why}");
                trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(stack) = STACK.get() {
        drop(stack.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
    conclusion.exit_code()
}

/// A test of the one stack.
fn trial(name: impl Into<String>, test: impl Fn(&Stack) + Send + 'static) -> Trial {
    Trial::test(name, move || {
        let stack = STACK.get().expect("prepared before any test");
        // A test that failed has left the stack in pieces: there is nothing to learn from the others.
        let stack = stack.lock().map_err(|_| "an earlier test failed")?;
        test(stack.as_ref().expect("dropped after all tests"));
        Ok(())
    })
}

fn say(words: &str) {
    eprintln!("    {words}");
}
