//! What happens on the server: sessions, locks, transactions, and the server itself.

use super::{ANY, Collector, Metric, Server, counter, gauge};
use crate::page::Kind;

pub(super) const COLLECTORS: &[Collector] = &[
    Collector {
        name: "static",
        versions: ANY,
        prefix: "pg",
        server: Server::Labelled,
        query: "SELECT version(), split_part(current_setting('server_version'), ' ', 1), 1",
        labels: &["version", "short_version"],
        metrics: &[Metric {
            suffix: "static",
            kind: Kind::Untyped,
            help: "Version string as reported by postgres",
        }],
    },
    Collector {
        name: "postmaster",
        versions: ANY,
        prefix: "pg_postmaster",
        server: Server::Plain,
        query: "SELECT extract(epoch FROM pg_postmaster_start_time())",
        labels: &[],
        metrics: &[gauge("start_time_seconds", "Time at which postmaster started")],
    },
    Collector {
        name: "roles",
        versions: ANY,
        prefix: "pg_roles",
        server: Server::Plain,
        query: "SELECT rolname, rolconnlimit FROM pg_roles",
        labels: &["rolname"],
        metrics: &[gauge("connection_limit", "Connection limit set for the role")],
    },
    Collector {
        name: "locks",
        versions: ANY,
        prefix: "pg_locks",
        server: Server::Plain,
        query: "
            SELECT d.datname, m.mode, count(l.mode)
            FROM pg_database d
            CROSS JOIN unnest(ARRAY['accesssharelock', 'rowsharelock', 'rowexclusivelock',
                'shareupdateexclusivelock', 'sharelock', 'sharerowexclusivelock',
                'exclusivelock', 'accessexclusivelock', 'sireadlock']) m(mode)
            LEFT JOIN pg_locks l ON l.database = d.oid AND lower(l.mode) = m.mode
            GROUP BY 1, 2 ORDER BY 1, 2",
        labels: &["datname", "mode"],
        metrics: &[gauge("count", "Number of locks")],
    },
    Collector {
        name: "stat_activity",
        versions: ANY,
        prefix: "pg_stat_activity",
        server: Server::Labelled,
        // Every state is there for every database, as 0 when nobody is in it: rules that sum by
        // state would otherwise see gaps.
        query: "
            SELECT d.datname, s.state, a.usename, a.application_name, a.backend_type,
                a.wait_event_type, a.wait_event, count(a.state),
                coalesce(max(extract(epoch FROM now() - a.xact_start)), 0)
            FROM pg_database d
            CROSS JOIN unnest(ARRAY['active', 'idle', 'idle in transaction',
                'idle in transaction (aborted)', 'fastpath function call', 'disabled']) s(state)
            LEFT JOIN pg_stat_activity a
                ON a.datname = d.datname AND a.state = s.state AND a.pid <> pg_backend_pid()
            GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7",
        labels: &[
            "datname",
            "state",
            "usename",
            "application_name",
            "backend_type",
            "wait_event_type",
            "wait_event",
        ],
        metrics: &[
            gauge("count", "number of connections in this state"),
            gauge(
                "max_tx_duration",
                "max duration in seconds any active transaction has been running",
            ),
        ],
    },
    Collector {
        name: "stat_database",
        versions: 1..=13,
        prefix: "pg_stat_database",
        server: Server::Plain,
        query: "
            SELECT datid, datname, numbackends, xact_commit, xact_rollback, blks_read, blks_hit,
                tup_returned, tup_fetched, tup_inserted, tup_updated, tup_deleted, conflicts,
                temp_files, temp_bytes, deadlocks, blk_read_time, blk_write_time,
                extract(epoch FROM coalesce(stats_reset, '1970-01-01Z'))
            FROM pg_stat_database WHERE datname IS NOT NULL",
        labels: &["datid", "datname"],
        metrics: DATABASE.split_at(DATABASE.len() - 1).0,
    },
    Collector {
        name: "stat_database",
        versions: 14..=u32::MAX,
        prefix: "pg_stat_database",
        server: Server::Plain,
        query: "
            SELECT datid, datname, numbackends, xact_commit, xact_rollback, blks_read, blks_hit,
                tup_returned, tup_fetched, tup_inserted, tup_updated, tup_deleted, conflicts,
                temp_files, temp_bytes, deadlocks, blk_read_time, blk_write_time,
                extract(epoch FROM coalesce(stats_reset, '1970-01-01Z')), active_time / 1000.0
            FROM pg_stat_database WHERE datname IS NOT NULL",
        labels: &["datid", "datname"],
        metrics: DATABASE,
    },
    Collector {
        name: "stat_database_conflicts",
        versions: ANY,
        prefix: "pg_stat_database_conflicts",
        server: Server::Labelled,
        query: "
            SELECT datid, datname, confl_tablespace, confl_lock, confl_snapshot, confl_bufferpin,
                confl_deadlock
            FROM pg_stat_database_conflicts",
        labels: &["datid", "datname"],
        metrics: &[
            counter("confl_tablespace", "Queries canceled due to dropped tablespaces"),
            counter("confl_lock", "Queries canceled due to lock timeouts"),
            counter("confl_snapshot", "Queries canceled due to old snapshots"),
            counter("confl_bufferpin", "Queries canceled due to pinned buffers"),
            counter("confl_deadlock", "Queries canceled due to deadlocks"),
        ],
    },
];

const DATABASE: &[Metric] = &[
    gauge("numbackends", "Number of backends currently connected to this database"),
    counter("xact_commit", "Transactions in this database that have been committed"),
    counter("xact_rollback", "Transactions in this database that have been rolled back"),
    counter("blks_read", "Disk blocks read in this database"),
    counter("blks_hit", "Disk blocks found in the buffer cache, so that no read was necessary"),
    counter("tup_returned", "Rows returned by queries in this database"),
    counter("tup_fetched", "Rows fetched by queries in this database"),
    counter("tup_inserted", "Rows inserted by queries in this database"),
    counter("tup_updated", "Rows updated by queries in this database"),
    counter("tup_deleted", "Rows deleted by queries in this database"),
    counter(
        "conflicts",
        "Queries canceled due to conflicts with recovery, on standby servers only",
    ),
    counter("temp_files", "Temporary files created by queries in this database"),
    counter("temp_bytes", "Data written to temporary files by queries in this database"),
    counter("deadlocks", "Deadlocks detected in this database"),
    counter("blk_read_time", "Time spent reading data file blocks by backends, in milliseconds"),
    counter("blk_write_time", "Time spent writing data file blocks by backends, in milliseconds"),
    counter("stats_reset", "Time at which these statistics were last reset"),
    counter(
        "active_time_seconds_total",
        "Time spent executing SQL statements in this database, in seconds",
    ),
];
