//! PostgreSQL's parameters that are not the user's alone (contract 3.6).
//! Leaves writing configuration files and command lines to `pgherd-postgres`.

use crate::parse;

/// A parameter that every member must agree on, so that only the dynamic configuration sets it.
#[derive(Clone, Copy, Debug)]
pub struct Controlled {
    /// Its name.
    pub name: &'static str,
    /// What it is when nobody says anything else, or something that can't be.
    pub default: &'static str,
    /// What is accepted.
    pub accepts: Accepts,
    /// Where it is given to PostgreSQL.
    pub place: Place,
}

/// What a controlled parameter may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepts {
    /// On only.
    On,
    /// On or off.
    Switch,
    /// A whole number from this on.
    From(i64),
    /// So many megabytes or more.
    Megabytes(u64),
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// Where a controlled parameter is given to PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// On the command line, where nothing overrides it.
    CommandLine,
    /// In `postgresql.conf`.
    File,
}

/// The controlled parameters with Patroni's defaults and minimums.
pub const CONTROLLED: &[Controlled] = &[
    at_start("hot_standby", "on", Accepts::On),
    at_start("max_connections", "100", Accepts::From(25)),
    at_start("max_locks_per_transaction", "64", Accepts::From(32)),
    at_start("max_prepared_transactions", "0", Accepts::From(0)),
    at_start("max_replication_slots", "10", Accepts::From(4)),
    at_start("max_wal_senders", "10", Accepts::From(3)),
    at_start("max_worker_processes", "8", Accepts::From(2)),
    at_start("track_commit_timestamp", "off", Accepts::Switch),
    at_start("wal_level", "replica", Accepts::OneOf(&["replica", "logical", "hot_standby"])),
    at_start("wal_log_hints", "on", Accepts::Switch),
    Controlled {
        name: "wal_keep_size",
        default: "128MB",
        accepts: Accepts::Megabytes(16),
        place: Place::File,
    },
    // PostgreSQL 12's word for it, in segments of 16 MB.
    Controlled {
        name: "wal_keep_segments",
        default: "8",
        accepts: Accepts::From(1),
        place: Place::File,
    },
];

/// Parameters that nobody sets: they follow from other keys or from the node's part in the cluster.
/// Each with where the value comes from instead.
pub const DERIVED: &[(&str, &str)] = &[
    ("cluster_name", "it is the scope"),
    ("listen_addresses", "it follows from postgresql.listen"),
    ("port", "it follows from postgresql.listen"),
    ("data_directory", "it is postgresql.data_dir"),
    ("primary_conninfo", "it follows from who leads"),
    ("primary_slot_name", "it follows from the member's name"),
    ("recovery_target", "it belongs to a restore (bootstrap)"),
    ("recovery_target_action", "it belongs to a restore (bootstrap)"),
    ("recovery_target_inclusive", "it belongs to a restore (bootstrap)"),
    ("recovery_target_lsn", "it belongs to a restore (bootstrap)"),
    ("recovery_target_name", "it belongs to a restore (bootstrap)"),
    ("recovery_target_time", "it belongs to a restore (bootstrap)"),
    ("recovery_target_timeline", "it is always latest"),
    ("recovery_target_xid", "it belongs to a restore (bootstrap)"),
];

const fn at_start(name: &'static str, default: &'static str, accepts: Accepts) -> Controlled {
    Controlled { name, default, accepts, place: Place::CommandLine }
}

/// The controlled parameter of this name (in lower case).
#[must_use]
pub fn controlled(name: &str) -> Option<&'static Controlled> {
    CONTROLLED.iter().find(|guc| guc.name == name)
}

/// Why nobody sets this parameter (in lower case), when that is so.
#[must_use]
pub fn derived(name: &str) -> Option<&'static str> {
    DERIVED.iter().find(|(derived, _)| *derived == name).map(|(_, why)| *why)
}

impl Controlled {
    /// The value as it is given to PostgreSQL, or what was expected.
    ///
    /// # Errors
    /// PostgreSQL or the cluster could not live with it.
    pub fn accept(&self, text: &str) -> Result<String, String> {
        match self.accepts {
            Accepts::On => match parse::boolean(text) {
                Ok(true) => Ok("on".to_owned()),
                Ok(false) | Err(_) => Err("on".to_owned()),
            },
            Accepts::Switch => {
                parse::boolean(text).map(|on| if on { "on" } else { "off" }.to_owned())
            }
            Accepts::From(least) => match parse::integer(text) {
                Ok(number) if number >= least => Ok(number.to_string()),
                Ok(_) | Err(_) => Err(format!("a whole number, {least} or more")),
            },
            Accepts::Megabytes(least) => {
                // Without a unit: megabytes, PostgreSQL's own unit for it.
                let plain = text.trim().chars().all(|c| c.is_ascii_digit());
                let text = if plain { format!("{}MB", text.trim()) } else { text.to_owned() };
                match parse::bytes(&text) {
                    Ok(bytes) if bytes >= least << 20 => Ok(text),
                    Ok(_) | Err(_) => Err(format!("{least}MB or more")),
                }
            }
            Accepts::OneOf(words) => {
                let word = text.trim().to_ascii_lowercase();
                if !words.contains(&word.as_str()) {
                    return Err(format!("one of {}", words.join(", ")));
                }
                // PostgreSQL 9.5's name for it.
                Ok(if word == "hot_standby" { "replica".to_owned() } else { word })
            }
        }
    }
}
