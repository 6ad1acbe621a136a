//! The store as a whole: client and servers together, disks and processes that fail.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]
#![allow(unreachable_pub)]

mod certificates;
mod child;
mod conformance;
mod durability;
mod etcd;
mod etcdctl;
mod failover;
mod model;
mod nameserver;
mod srv;
mod support;
mod tls;
mod watch;
