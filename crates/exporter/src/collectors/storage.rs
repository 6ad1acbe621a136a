//! What lies on disk and how it gets there: databases, WAL, its archive, checkpoints.

use super::{ANY, Collector, Metric, Server, counter, gauge};

pub(super) const COLLECTORS: &[Collector] = &[
    Collector {
        name: "database",
        versions: ANY,
        prefix: "pg_database",
        server: Server::Plain,
        query: "
            SELECT datname, pg_database_size(oid), datconnlimit FROM pg_database
            WHERE datallowconn",
        labels: &["datname"],
        metrics: &[
            gauge("size_bytes", "Disk space used by the database"),
            gauge("connection_limit", "Connection limit set for the database"),
        ],
    },
    Collector {
        name: "database_wraparound",
        versions: ANY,
        prefix: "pg_database_wraparound",
        server: Server::Plain,
        query: "SELECT datname, age(datfrozenxid), mxid_age(datminmxid) FROM pg_database",
        labels: &["datname"],
        metrics: &[
            gauge("age_datfrozenxid_seconds", "Age of the oldest transaction ID not yet frozen"),
            gauge("age_datminmxid_seconds", "Age of the oldest multixact ID not yet replaced"),
        ],
    },
    Collector {
        name: "wal",
        versions: ANY,
        prefix: "pg_wal",
        server: Server::Plain,
        query: "SELECT count(*), coalesce(sum(size), 0) FROM pg_ls_waldir()
            WHERE name ~ '^[0-9A-F]{24}$'",
        labels: &[],
        metrics: &[
            gauge("segments", "Number of WAL segments"),
            gauge("size_bytes", "Total size of WAL segments"),
        ],
    },
    Collector {
        name: "archiver",
        versions: ANY,
        prefix: "pg_archiver",
        server: Server::Plain,
        query: "SELECT count(*) FROM pg_ls_archive_statusdir()
            WHERE name ~ '^[0-9A-F]{24}\\.ready$'",
        labels: &[],
        metrics: &[gauge("pending_wal_count", "Number of WAL files waiting to be archived")],
    },
    Collector {
        name: "stat_archiver",
        versions: ANY,
        prefix: "pg_stat_archiver",
        server: Server::Labelled,
        query: "
            SELECT archived_count, failed_count,
                coalesce(extract(epoch FROM now() - last_archived_time), 'NaN'::float8)
            FROM pg_stat_archiver",
        labels: &[],
        metrics: &[
            counter("archived_count", "WAL files that have been successfully archived"),
            counter("failed_count", "Failed attempts for archiving WAL files"),
            gauge("last_archive_age", "Seconds since the last WAL segment was archived"),
        ],
    },
    Collector {
        name: "stat_bgwriter",
        versions: 1..=16,
        prefix: "pg_stat_bgwriter",
        server: Server::Plain,
        query: "
            SELECT checkpoints_timed, checkpoints_req, checkpoint_write_time, checkpoint_sync_time,
                buffers_checkpoint, buffers_clean, maxwritten_clean, buffers_backend,
                buffers_backend_fsync, buffers_alloc,
                extract(epoch FROM coalesce(stats_reset, '1970-01-01Z'))
            FROM pg_stat_bgwriter",
        labels: &[],
        metrics: BGWRITER,
    },
    Collector {
        name: "stat_bgwriter",
        versions: 17..=u32::MAX,
        prefix: "pg_stat_bgwriter",
        server: Server::Plain,
        query: "
            SELECT c.num_timed, c.num_requested, c.write_time, c.sync_time, c.buffers_written,
                b.buffers_clean, b.maxwritten_clean, i.writes, i.fsyncs, b.buffers_alloc,
                extract(epoch FROM coalesce(b.stats_reset, '1970-01-01Z'))
            FROM pg_stat_bgwriter b, pg_stat_checkpointer c,
                (SELECT sum(writes) writes, sum(fsyncs) fsyncs FROM pg_stat_io
                 WHERE object = 'relation'
                    AND backend_type NOT IN ('background writer', 'checkpointer')) i",
        labels: &[],
        metrics: BGWRITER,
    },
    Collector {
        name: "stat_checkpointer",
        versions: 17..=u32::MAX,
        prefix: "pg_stat_checkpointer",
        server: Server::Plain,
        query: "
            SELECT num_timed, num_requested, restartpoints_timed, restartpoints_req,
                restartpoints_done, write_time, sync_time, buffers_written,
                extract(epoch FROM coalesce(stats_reset, '1970-01-01Z'))
            FROM pg_stat_checkpointer",
        labels: &[],
        metrics: &[
            counter("num_timed_total", "Scheduled checkpoints due to timeout"),
            counter("num_requested_total", "Requested checkpoints"),
            counter("restartpoints_timed_total", "Scheduled restartpoints due to timeout"),
            counter("restartpoints_req_total", "Requested restartpoints"),
            counter("restartpoints_done_total", "Restartpoints that have been performed"),
            counter("write_time_total", "Time spent writing files, in milliseconds"),
            counter("sync_time_total", "Time spent synchronizing files to disk, in milliseconds"),
            counter("buffers_written_total", "Buffers written by checkpoints and restartpoints"),
            counter("stats_reset_total", "Time at which these statistics were last reset"),
        ],
    },
];

const BGWRITER: &[Metric] = &[
    counter("checkpoints_timed_total", "Scheduled checkpoints that have been performed"),
    counter("checkpoints_req_total", "Requested checkpoints that have been performed"),
    counter("checkpoint_write_time_total", "Time of checkpoints writing files, in milliseconds"),
    counter("checkpoint_sync_time_total", "Time of checkpoints syncing files, in milliseconds"),
    counter("buffers_checkpoint_total", "Buffers written during checkpoints"),
    counter("buffers_clean_total", "Buffers written by the background writer"),
    counter("maxwritten_clean_total", "Times the background writer stopped a cleaning scan early"),
    counter("buffers_backend_total", "Buffers written directly by a backend"),
    counter("buffers_backend_fsync_total", "Times a backend had to execute its own fsync"),
    counter("buffers_alloc_total", "Buffers allocated"),
    counter("stats_reset_total", "Time at which these statistics were last reset"),
];
