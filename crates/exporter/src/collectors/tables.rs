//! Tables of the database that the exporter is connected to.

use super::{ANY, Collector, Server, counter, gauge};

pub(super) const COLLECTORS: &[Collector] = &[
    Collector {
        name: "stat_user_tables",
        versions: ANY,
        prefix: "pg_stat_user_tables",
        server: Server::Plain,
        query: "
            SELECT current_database(), schemaname, relname, seq_scan, seq_tup_read, idx_scan,
                idx_tup_fetch, n_tup_ins, n_tup_upd, n_tup_del, n_tup_hot_upd, n_live_tup,
                n_dead_tup, n_mod_since_analyze,
                extract(epoch FROM coalesce(last_vacuum, '1970-01-01Z')),
                extract(epoch FROM coalesce(last_autovacuum, '1970-01-01Z')),
                extract(epoch FROM coalesce(last_analyze, '1970-01-01Z')),
                extract(epoch FROM coalesce(last_autoanalyze, '1970-01-01Z')),
                vacuum_count, autovacuum_count, analyze_count, autoanalyze_count,
                pg_indexes_size(relid), pg_table_size(relid)
            FROM pg_stat_user_tables",
        labels: &["datname", "schemaname", "relname"],
        metrics: &[
            counter("seq_scan", "Number of sequential scans initiated on this table"),
            counter("seq_tup_read", "Number of live rows fetched by sequential scans"),
            counter("idx_scan", "Number of index scans initiated on this table"),
            counter("idx_tup_fetch", "Number of live rows fetched by index scans"),
            counter("n_tup_ins", "Number of rows inserted"),
            counter("n_tup_upd", "Number of rows updated"),
            counter("n_tup_del", "Number of rows deleted"),
            counter("n_tup_hot_upd", "Number of rows HOT updated"),
            gauge("n_live_tup", "Estimated number of live rows"),
            gauge("n_dead_tup", "Estimated number of dead rows"),
            gauge("n_mod_since_analyze", "Estimated number of rows changed since last analyze"),
            gauge("last_vacuum", "Last time at which this table was manually vacuumed"),
            gauge("last_autovacuum", "Last time at which autovacuum vacuumed this table"),
            gauge("last_analyze", "Last time at which this table was manually analyzed"),
            gauge("last_autoanalyze", "Last time at which autovacuum analyzed this table"),
            counter("vacuum_count", "Number of times this table has been manually vacuumed"),
            counter("autovacuum_count", "Number of times autovacuum has vacuumed this table"),
            counter("analyze_count", "Number of times this table has been manually analyzed"),
            counter("autoanalyze_count", "Number of times autovacuum has analyzed this table"),
            gauge("index_size_bytes", "Disk space used by this table's indexes, in bytes"),
            gauge("table_size_bytes", "Disk space used by this table, in bytes"),
        ],
    },
    Collector {
        name: "statio_user_tables",
        versions: ANY,
        prefix: "pg_statio_user_tables",
        server: Server::Plain,
        query: "
            SELECT current_database(), schemaname, relname, heap_blks_read, heap_blks_hit,
                idx_blks_read, idx_blks_hit, toast_blks_read, toast_blks_hit, tidx_blks_read,
                tidx_blks_hit
            FROM pg_statio_user_tables",
        labels: &["datname", "schemaname", "relname"],
        metrics: &[
            counter("heap_blocks_read", "Disk blocks read from this table"),
            counter("heap_blocks_hit", "Buffer hits in this table"),
            counter("idx_blocks_read", "Disk blocks read from all indexes on this table"),
            counter("idx_blocks_hit", "Buffer hits in all indexes on this table"),
            counter("toast_blocks_read", "Disk blocks read from this table's TOAST table"),
            counter("toast_blocks_hit", "Buffer hits in this table's TOAST table"),
            counter("tidx_blocks_read", "Disk blocks read from this table's TOAST index"),
            counter("tidx_blocks_hit", "Buffer hits in this table's TOAST index"),
        ],
    },
];
