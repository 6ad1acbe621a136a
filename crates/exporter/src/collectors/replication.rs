//! Who follows whom, how far behind, and which slots keep WAL.

use super::{ANY, Collector, Server, gauge};

pub(super) const COLLECTORS: &[Collector] = &[
    Collector {
        name: "replication",
        versions: ANY,
        prefix: "pg_replication",
        server: Server::Plain,
        // A replica that has replayed all it received isn't behind, however long nobody wrote.
        query: "
            SELECT CASE
                    WHEN NOT pg_is_in_recovery() THEN 0
                    WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
                    ELSE greatest(0, extract(epoch FROM now() - pg_last_xact_replay_timestamp()))
                END,
                pg_is_in_recovery()::int,
                extract(epoch FROM now() - pg_last_xact_replay_timestamp())",
        labels: &[],
        metrics: &[
            gauge("lag_seconds", "Replication lag behind master in seconds"),
            gauge("is_replica", "Indicates if the server is a replica"),
            gauge("last_replay_seconds", "Age of last transaction replay in seconds"),
        ],
    },
    Collector {
        name: "stat_replication",
        versions: ANY,
        prefix: "pg_stat_replication",
        server: Server::Labelled,
        query: "
            SELECT r.application_name, r.client_addr, r.state, s.slot_name, r.sync_state,
                pg_wal_lsn_diff(l.lsn, '0/0'), pg_wal_lsn_diff(l.lsn, r.replay_lsn),
                pg_wal_lsn_diff(l.lsn, r.flush_lsn), extract(epoch FROM r.write_lag),
                extract(epoch FROM r.flush_lag), extract(epoch FROM r.replay_lag)
            FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                ELSE pg_current_wal_lsn() END AS lsn) l,
                pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid",
        labels: &["application_name", "client_addr", "state", "slot_name", "sync_state"],
        metrics: &[
            gauge("pg_current_wal_lsn_bytes", "WAL position in bytes"),
            gauge("pg_wal_lsn_diff", "WAL in bytes that the standby has yet to replay"),
            gauge("pg_wal_flush_lsn_diff", "WAL in bytes that the standby has yet to flush"),
            gauge("write_lag_seconds", "Time until the standby had written recent WAL"),
            gauge("flush_lag_seconds", "Time until the standby had flushed recent WAL"),
            gauge("replay_lag_seconds", "Time until the standby had replayed recent WAL"),
        ],
    },
    Collector {
        name: "replication_slots",
        versions: ANY,
        prefix: "pg_replication_slots",
        server: Server::Labelled,
        query: "
            SELECT s.slot_name, s.database, s.active::int, pg_wal_lsn_diff(l.lsn, s.restart_lsn)
            FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                ELSE pg_current_wal_lsn() END AS lsn) l, pg_replication_slots s",
        labels: &["slot_name", "database"],
        metrics: &[
            gauge("active", "Flag indicating if the slot is active"),
            gauge("pg_wal_lsn_diff", "WAL in bytes that the slot keeps"),
        ],
    },
    Collector {
        name: "replication_slot",
        versions: ANY,
        prefix: "pg_replication_slot",
        server: Server::Plain,
        query: "
            SELECT s.slot_name, s.slot_type, pg_wal_lsn_diff(l.lsn, '0/0'),
                CASE WHEN s.active
                    THEN pg_wal_lsn_diff(coalesce(s.confirmed_flush_lsn, '0/0'), '0/0') END,
                s.active::int, s.safe_wal_size
            FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                ELSE pg_current_wal_lsn() END AS lsn) l, pg_replication_slots s",
        labels: &["slot_name", "slot_type"],
        metrics: &[
            gauge("slot_current_wal_lsn", "current wal lsn value"),
            gauge("slot_confirmed_flush_lsn", "last lsn confirmed flushed to the replication slot"),
            gauge("slot_is_active", "whether the replication slot is active or not"),
            gauge("safe_wal_size_bytes", "WAL that can be written before the slot may be lost"),
        ],
    },
    Collector {
        name: "replication_slot_wal_status",
        versions: ANY,
        prefix: "pg_replication_slot",
        server: Server::Plain,
        query: "
            SELECT slot_name, slot_type, wal_status, 1 FROM pg_replication_slots
            WHERE wal_status IS NOT NULL",
        labels: &["slot_name", "slot_type", "wal_status"],
        metrics: &[gauge("wal_status", "availability of WAL files claimed by this slot")],
    },
    Collector {
        name: "stat_wal_receiver",
        versions: ANY,
        prefix: "pg_stat_wal_receiver",
        server: Server::Plain,
        query: "
            SELECT sender_host, slot_name, status, pg_wal_lsn_diff(flushed_lsn, '0/0'),
                received_tli, extract(epoch FROM last_msg_receipt_time),
                pg_wal_lsn_diff(latest_end_lsn, '0/0')
            FROM pg_stat_wal_receiver",
        labels: &["upstream_host", "slot_name", "status"],
        metrics: &[
            gauge("flushed_lsn", "Last WAL position received and flushed to disk"),
            gauge("received_tli", "Timeline of the last WAL position received and flushed"),
            gauge("last_msg_receipt_time", "When the last message of the sender came"),
            gauge("latest_end_lsn", "Last WAL position that the sender told"),
        ],
    },
];
