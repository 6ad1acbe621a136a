//! `cargo sim`: see `cargo sim --help`. Everything is in the library, but the two things that no
//! simulation may touch: the wall clock and chance.
#![expect(clippy::disallowed_types, reason = "a run without a seed draws one, and prints it")]
#![expect(clippy::disallowed_methods, reason = "the bin measures its own speed")]

use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

fn elapsed() -> Duration {
    BEGAN.elapsed()
}

fn main() -> ExitCode {
    elapsed();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let random = RandomState::new().hash_one(0_u8);
    pgherd_sim::main(&words, pgherd_sim::Outside { elapsed, random })
}
