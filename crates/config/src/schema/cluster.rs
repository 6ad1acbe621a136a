//! Keys of the dynamic configuration: one for the whole cluster (contract 3.4).

use super::Kind::{
    Any, Bytes, BytesOrOff, Free, List, Section, Span, Switch, SyncMode, Text, Whole,
};
use super::{Key, dynamic};

const NOT_YET: &str = "pgherd reads this key of Patroni's but has no use for it yet";

pub(super) const KEYS: &[Key] = &[
    dynamic(
        "ttl",
        Span(2),
        "30",
        "How long a silent leader keeps its lease. A cluster that pgherd founds has 5.",
    ),
    dynamic("loop_wait", Span(1), "10", "How often Patroni's members look.")
        .unused("pgherd looks when something happens; Patroni's agents in the cluster heed it"),
    dynamic("retry_timeout", Span(1), "10", "How long Patroni's members try again.")
        .unused("pgherd's times follow from ttl; Patroni's agents in the cluster heed it"),
    dynamic(
        "maximum_lag_on_failover",
        Bytes,
        "1048576",
        "In asynchronous mode, who is further behind doesn't lead.",
    ),
    dynamic(
        "maximum_lag_on_syncnode",
        BytesOrOff,
        "-1",
        "A synchronous replica that is further behind is replaced.",
    ),
    dynamic("max_timelines_history", Whole(0), "0", "How many lines the history keeps; 0: all.")
        .unused(NOT_YET),
    dynamic(
        "primary_start_timeout",
        Span(0),
        "300",
        "How long a crashed primary may take to start again; 0: another takes over at once.",
    )
    .also("master_start_timeout"),
    dynamic(
        "primary_stop_timeout",
        Span(0),
        "0",
        "How long stopping a primary may take in synchronous mode; 0: no end.",
    )
    .also("master_stop_timeout"),
    dynamic(
        "primary_race_backoff",
        Span(0),
        "0",
        "How long others wait before they race with the former primary.",
    )
    .unused("who hears the leader or gets WAL from it doesn't race anyway"),
    dynamic(
        "synchronous_mode",
        SyncMode,
        "off",
        "Who must have a commit before it is acknowledged.",
    ),
    dynamic("synchronous_mode_strict", Switch, "off", "Nothing is acknowledged without a standby."),
    dynamic("synchronous_node_count", Whole(1), "1", "How many standbys must have a commit."),
    dynamic(
        "failsafe_mode",
        Switch,
        "off",
        "Without the store, the leader goes on while all members agree.",
    ),
    dynamic(
        "disk_timeout",
        Span(0),
        "10",
        "Who can't write to its disk for this long doesn't lead. 0: disks are not looked at. pgherd's own.",
    ),
    dynamic(
        "disk_min_free",
        Bytes,
        "33554432",
        "Who has less room on its disk hands over, and leads only when nobody else can. pgherd's own.",
    ),
    dynamic("check_timeline", Switch, "off", "Who is on an older timeline doesn't lead."),
    dynamic("pause", Switch, "off", "Nothing is promoted, demoted, started or stopped."),
    dynamic(
        "member_slots_ttl",
        Span(0),
        "1800",
        "How long the slot of a member that is gone is kept.",
    ),
    dynamic("slots", Free, "", "Slots that are always there.").also("permanent_slots"),
    dynamic("permanent_replication_slots", Free, "", "Another word for slots."),
    dynamic("ignore_slots", List, "", "Slots to leave alone."),
    dynamic("standby_cluster", Section, "", "This cluster follows another one."),
    dynamic("standby_cluster.host", Text, "", "Where the other cluster is."),
    dynamic("standby_cluster.port", Any, "", "Its port."),
    dynamic("standby_cluster.primary_slot_name", Text, "", "The slot there."),
    dynamic("standby_cluster.create_replica_methods", List, "", "How the leader gets its data."),
    dynamic("standby_cluster.restore_command", Text, "", "How it gets WAL."),
    dynamic(
        "standby_cluster.archive_cleanup_command",
        Text,
        "",
        "PostgreSQL's archive_cleanup_command.",
    ),
    dynamic("standby_cluster.recovery_min_apply_delay", Text, "", "How far it stays behind."),
];
