//! One PostgreSQL server: reports facts, obeys commands, decides nothing.
//!
//! [`discover`] finds the programs; [`Server::open`] takes hold of a data directory (and of a
//! PostgreSQL that an earlier life of this agent left running); [`Server::facts`] observes;
//! [`Server::execute`] does one operation; [`Server::kill`] interrupts it and kills the process tree,
//! waiting for nothing else; [`Server::arm`] moves the deadline at which the guard would.
//!
//! Left to others: every decision (core), the store, and the processes' fence (`pgherd-guard`).

mod carry;
mod conf;
mod control;
mod discover;
mod disk;
mod durable;
mod error;
mod facts;
mod files;
mod life;
mod names;
mod ops;
mod pending;
mod script;
mod server;
mod settings;
mod slot_file;
mod slots;
mod sql;
mod tool;
mod vet;
mod wanted;
mod watch;

pub use carry::Carried;
pub use control::{ControlError, ControlFile, read_control};
pub use discover::{Binaries, DiscoverError, Names, discover, discover_named};
pub use disk::DiskProbe;
pub use durable::{read_durable, remove_durable, write_durable};
pub use error::PgError;
pub use facts::Shown;
pub use names::{parse as parse_names, render as render_names};
pub use ops::diverged::LostWal;
pub use pending::{Pending, PendingChange};
pub use script::run_command;
pub use server::{Found, Progress, Server};
pub use settings::{Address, Credentials, Peers, Secret, Settings, account};
pub use slots::{Dropping, LogicalSlot, SlotPattern, SlotSeen, SlotWishes};
pub use wanted::{COMMAND_LINE, Configuration, MemberSlots, Remote, Wanted};
pub use watch::{Driver, WatchPlan, Watchdog};

/// Parameters that pgherd sets itself; the user's values for them are ignored.
pub const CONTROLLED: &[&str] = &[
    "cluster_name",
    "config_file",
    "data_directory",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "synchronous_standby_names",
    "unix_socket_directories",
];
