//! Keys of the `postgresql` section (contract 3.3): what only the node says, and what both say.

use super::Kind::{Any, Free, HostPort, List, Options, Path, PgListen, Secret, Section, Span};
use super::Kind::{Switch, Text};
use super::{Key, both, dynamic, local};

/// One account: its section, and libpq's words for how it logs in.
macro_rules! account {
    ($name:literal, $about:literal, $user:literal) => {
        [
            local(concat!("postgresql.authentication.", $name), Section, "", $about),
            local(
                concat!("postgresql.authentication.", $name, ".username"),
                Text,
                $user,
                "The role's name.",
            ),
            local(
                concat!("postgresql.authentication.", $name, ".password"),
                Secret,
                "",
                "Its password.",
            ),
            local(
                concat!("postgresql.authentication.", $name, ".sslmode"),
                Text,
                "prefer",
                "libpq's sslmode.",
            ),
            local(
                concat!("postgresql.authentication.", $name, ".sslcert"),
                Path,
                "",
                "The client's certificate.",
            ),
            local(concat!("postgresql.authentication.", $name, ".sslkey"), Path, "", "Its key."),
            local(
                concat!("postgresql.authentication.", $name, ".sslpassword"),
                Secret,
                "",
                "The key's password.",
            )
            .unused("write the key without a password: tools show their arguments"),
            local(
                concat!("postgresql.authentication.", $name, ".sslrootcert"),
                Path,
                "",
                "Who signs servers' certificates.",
            ),
            local(
                concat!("postgresql.authentication.", $name, ".sslcrl"),
                Path,
                "",
                "Certificates that no longer count.",
            ),
            local(
                concat!("postgresql.authentication.", $name, ".sslcrldir"),
                Path,
                "",
                "A directory of such.",
            ),
            local(
                concat!("postgresql.authentication.", $name, ".gssencmode"),
                Text,
                "prefer",
                "libpq's gssencmode.",
            ),
            local(
                concat!("postgresql.authentication.", $name, ".channel_binding"),
                Text,
                "prefer",
                "libpq's channel_binding.",
            ),
            local(
                concat!("postgresql.authentication.", $name, ".sslnegotiation"),
                Text,
                "postgres",
                "libpq's sslnegotiation.",
            ),
        ]
    };
}

const SUPERUSER: [Key; 13] = account!("superuser", "The superuser, who works locally.", "postgres");
const REPLICATION: [Key; 13] =
    account!("replication", "Who streams WAL and copies data.", "replicator");
const REWIND: [Key; 13] = account!("rewind", "Who runs pg_rewind; the superuser when absent.", "");

const OTHERS: [Key; 56] = [
    both("postgresql", Section, "", "PostgreSQL."),
    local(
        "postgresql.name",
        Text,
        "",
        "The member's name, in Patroni's old place; used when there is no name at the root.",
    ),
    local("postgresql.listen", PgListen, "", "Where it listens.").required().fixed(),
    local("postgresql.connect_address", HostPort, "", "Where others reach it.").required(),
    local("postgresql.proxy_address", HostPort, "", "Where a connection pooler in front of it is."),
    local("postgresql.data_dir", Path, "", "The data directory.").required().fixed(),
    local(
        "postgresql.config_dir",
        Path,
        "",
        "The directory of the configuration files; the data directory by default.",
    ),
    both("postgresql.bin_dir", Path, "", "Where PostgreSQL's programs are; searched when absent.")
        .fixed(),
    both("postgresql.bin_name", Section, "", "Other names of PostgreSQL's programs."),
    both("postgresql.bin_name.pg_ctl", Text, "pg_ctl", "The program's name.").fixed(),
    both("postgresql.bin_name.initdb", Text, "initdb", "The program's name.").fixed(),
    both("postgresql.bin_name.pg_controldata", Text, "pg_controldata", "The program's name.").fixed(),
    both("postgresql.bin_name.pg_basebackup", Text, "pg_basebackup", "The program's name.").fixed(),
    both("postgresql.bin_name.postgres", Text, "postgres", "The program's name.").fixed(),
    both("postgresql.bin_name.pg_isready", Text, "pg_isready", "The program's name.").unused("pgherd asks PostgreSQL itself"),
    both("postgresql.bin_name.pg_rewind", Text, "pg_rewind", "The program's name.").fixed(),
    both(
        "postgresql.database",
        Text,
        "postgres",
        "The database that the agent and connection strings name.",
    ),
    local("postgresql.pgpass", Path, "", "The password file; in pgherd.run_dir by default."),
    local("postgresql.authentication", Section, "", "The accounts that pgherd uses."),
    both(
        "postgresql.parameters",
        Free,
        "",
        "PostgreSQL's parameters. Those that all members must agree on are heard in the dynamic configuration only.",
    ),
    both("postgresql.parameters_primary", Free, "", "Parameters of a primary, over the others."),
    both("postgresql.parameters_replica", Free, "", "Parameters of a replica, over the others."),
    both(
        "postgresql.parameters_standby_leader",
        Free,
        "",
        "Parameters of a standby cluster's leader, over the others.",
    ),
    both("postgresql.pg_hba", List, "", "The lines of pg_hba.conf."),
    both("postgresql.pg_hba_primary", List, "", "Instead of pg_hba, on a primary."),
    both("postgresql.pg_hba_replica", List, "", "Instead of pg_hba, on a replica."),
    both(
        "postgresql.pg_hba_standby_leader",
        List,
        "",
        "Instead of pg_hba, on a standby cluster's leader.",
    ),
    both("postgresql.pg_ident", List, "", "The lines of pg_ident.conf."),
    both("postgresql.pg_ident_primary", List, "", "Instead of pg_ident, on a primary."),
    both("postgresql.pg_ident_replica", List, "", "Instead of pg_ident, on a replica."),
    both(
        "postgresql.pg_ident_standby_leader",
        List,
        "",
        "Instead of pg_ident, on a standby cluster's leader.",
    ),
    both(
        "postgresql.recovery_conf",
        Free,
        "",
        "Recovery parameters of replicas, like restore_command.",
    ),
    both(
        "postgresql.custom_conf",
        Path,
        "",
        "The file to include instead of postgresql.base.conf.",
    ),
    both("postgresql.use_unix_socket", Switch, "off", "Connect to PostgreSQL through its socket.")
        .unused("pgherd always does"),
    both(
        "postgresql.use_unix_socket_repl",
        Switch,
        "off",
        "Connect for replication through the socket.",
    )
    .unused("pgherd always does, locally"),
    both("postgresql.callbacks", Section, "", "Commands that run when something has happened."),
    both("postgresql.callbacks.on_start", Text, "", "After PostgreSQL started."),
    both("postgresql.callbacks.on_stop", Text, "", "After PostgreSQL stopped."),
    both("postgresql.callbacks.on_restart", Text, "", "After PostgreSQL was restarted."),
    both(
        "postgresql.callbacks.on_reload",
        Text,
        "",
        "After PostgreSQL read its configuration again.",
    ),
    both("postgresql.callbacks.on_role_change", Text, "", "After the role changed."),
    both(
        "postgresql.create_replica_methods",
        List,
        "basebackup",
        "How a replica gets its data, in this order: basebackup, or sections of these names.",
    )
    .also("create_replica_method"),
    both("postgresql.basebackup", Options, "", "Options of pg_basebackup."),
    both(
        "postgresql.pg_ctl_timeout",
        Span(0),
        "60",
        "How long starting, stopping and promoting may take.",
    )
    .unused("primary_start_timeout bounds a start and a promotion; a stop that takes over 30 s is a kill"),
    both(
        "postgresql.use_pg_rewind",
        Switch,
        "on",
        "Diverged data is rewound rather than copied anew. Patroni's default is off.",
    ),
    both("postgresql.rewind", Options, "", "Options of pg_rewind."),
    both(
        "postgresql.remove_data_directory_on_rewind_failure",
        Switch,
        "on",
        "When rewinding fails, copy anew; the old data is kept beside it. Patroni's default is off.",
    ),
    both(
        "postgresql.remove_data_directory_on_diverged_timelines",
        Switch,
        "on",
        "When timelines diverged and nothing is rewound, copy anew; the old data is kept. Patroni's default is off.",
    ),
    both(
        "postgresql.pre_promote",
        Text,
        "",
        "A command before promoting; when it fails, nothing is promoted.",
    ),
    both("postgresql.before_stop", Text, "", "A command before PostgreSQL is stopped."),
    both("postgresql.krbsrvname", Text, "", "Kerberos' service name, for streaming, pg_basebackup and pg_rewind.")
        .fixed(),
    both(
        "postgresql.config_base_name",
        Text,
        "postgresql",
        "The name of the configuration file without .conf.",
    )
    .unused("the file is postgresql.conf; custom_conf includes another one"),
    dynamic("postgresql.use_slots", Switch, "on", "Members have replication slots."),
    both("postgresql.pg_rewind", Any, "", "Patroni's old word for authentication.rewind.")
        .unused("write postgresql.authentication.rewind"),
    both("postgresql.superuser", Any, "", "Patroni's old word for authentication.superuser.")
        .unused("write postgresql.authentication.superuser"),
    both("postgresql.replication", Any, "", "Patroni's old word for authentication.replication.")
        .unused("write postgresql.authentication.replication"),
];

const COUNT: usize = OTHERS.len() + SUPERUSER.len() + REPLICATION.len() + REWIND.len();

pub(super) const KEYS: &[Key] = &{
    let mut all = [OTHERS[0]; COUNT];
    let parts: [&[Key]; 4] = [&OTHERS, &SUPERUSER, &REPLICATION, &REWIND];
    let (mut part, mut at) = (0, 0);
    while part < parts.len() {
        let mut key = 0;
        while key < parts[part].len() {
            all[at] = parts[part][key];
            (key, at) = (key + 1, at + 1);
        }
        part += 1;
    }
    all
};
