//! The store as a whole: client and servers together, disks and processes that fail.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, unreachable_pub)]

mod conformance;
mod support;
