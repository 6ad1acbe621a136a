//! The tables of contract 5.3, character by character.

use pgherd_api::{Cluster, Keys, Record};

use super::{render, tree};
use crate::args::Format;

fn demo(extra: &[(&str, &str)]) -> Cluster {
    let mut keys = vec![
        ("initialize", "7711057973605780227"),
        ("leader", "pg-node1"),
        ("config", r#"{"synchronous_mode":"quorum"}"#),
        ("sync", r#"{"leader":"pg-node1","quorum":1,"sync_standby":"pg-node2"}"#),
        ("status", r#"{"optime":85032048}"#),
        (
            "members/pg-node1",
            r#"{"conn_url":"postgres://127.0.0.1:15431/postgres","api_url":"http://127.0.0.1:18001/patroni","state":"running","role":"primary","version":"4.1.4","tags":{"foo":"bar"},"xlog_location":85032048,"timeline":7}"#,
        ),
        (
            "members/pg-node2",
            r#"{"conn_url":"postgres://127.0.0.1:15432/postgres","api_url":"http://127.0.0.1:18002/patroni","state":"running","role":"replica","version":"4.1.4","tags":{"foo":"bar"},"xlog_location":85032048,"replay_lsn":85032048,"receive_lsn":85032048,"replication_state":"streaming","timeline":7}"#,
        ),
    ];
    keys.extend_from_slice(extra);
    let record = |(key, value): (&str, &str)| Record {
        key: format!("/service/demo/{key}").into_bytes(),
        value: value.as_bytes().to_vec(),
        created: 5,
        modified: 5,
        lease: 0,
    };
    Cluster::read(Keys::new("service", "demo"), 9, keys.into_iter().map(record))
}

#[test]
fn list_as_patronictl_draws_it() {
    let expected = "\
+ Cluster: demo (7711057973605780227) --------+-----------+----+-------------+-----+------------+-----+----------+
| Member   | Host            | Role           | State     | TL | Receive LSN | Lag | Replay LSN | Lag | Tags     |
+----------+-----------------+----------------+-----------+----+-------------+-----+------------+-----+----------+
| pg-node1 | 127.0.0.1:15431 | Leader         | running   |  7 |             |     |            |     | foo: bar |
| pg-node2 | 127.0.0.1:15432 | Quorum Standby | streaming |  7 |   0/5117C70 |   0 |  0/5117C70 |   0 | foo: bar |
+----------+-----------------+----------------+-----------+----+-------------+-----+------------+-----+----------+
";
    assert_eq!(render(&demo(&[]), Format::Pretty, false), expected);
}

#[test]
fn json_as_patronictl_prints_it() {
    let expected = r#"[{"Cluster": "demo", "Member": "pg-node1", "Host": "127.0.0.1:15431", "Role": "Leader", "State": "running", "TL": 7, "Tags": {"foo": "bar"}}, {"Cluster": "demo", "Member": "pg-node2", "Host": "127.0.0.1:15432", "Role": "Quorum Standby", "State": "streaming", "TL": 7, "Receive LSN": "0/5117C70", "Receive Lag": 0, "Replay LSN": "0/5117C70", "Replay Lag": 0, "Tags": {"foo": "bar"}}]
"#;
    assert_eq!(render(&demo(&[]), Format::Json, false), expected);
}

#[test]
fn the_tree_hangs_replicas_below_whom_they_follow() {
    let third = r#"{"conn_url":"postgres://127.0.0.1:15433/postgres","api_url":"http://127.0.0.1:18003/patroni","state":"running","role":"replica","version":"4.1.4","tags":{"replicatefrom":"pg-node2"},"replication_state":"streaming","timeline":7}"#;
    let text = tree(&demo(&[("members/pg-node3", third)]));
    let rows: Vec<&str> = text.lines().skip(3).take(3).collect();
    assert!(rows[0].starts_with("| pg-node1 "), "{text}");
    assert!(rows[1].starts_with("| + pg-node2 "), "{text}");
    assert!(rows[2].starts_with("|   + pg-node3 "), "{text}");
    assert!(rows[1].contains("{foo: bar}"), "{text}");
}

#[test]
fn pause_stands_below_the_table() {
    let text = render(
        &demo(&[("config", r#"{"synchronous_mode":"quorum","pause":true}"#)]),
        Format::Pretty,
        false,
    );
    assert!(text.ends_with("+\n Maintenance mode: on\n"), "{text}");
}

#[test]
fn tsv_has_a_header_and_flow_tags() {
    let text = render(&demo(&[]), Format::Tsv, false);
    assert!(text.starts_with("Cluster\tMember\tHost\tRole\tState\tTL\tReceive LSN\tReceive Lag"));
    assert!(text.contains("\t{foo: bar}\n"), "{text}");
}

#[test]
fn what_waits_for_a_restart_and_what_is_planned() {
    let third = r#"{"conn_url":"postgres://127.0.0.1:15433/postgres","state":"stopped","role":"replica","version":"4.1.4","pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"101"},"shared_preload_libraries":{"old_value":"","new_value":"pg_stat_statements,auto_explain,x"}},"scheduled_restart":{"schedule":"2030-01-01T00:00:00+00:00","postgres_version":"15.19","postmaster_start_time":"x"}}"#;
    let cluster = demo(&[("members/pg-node3", third)]);
    let text = render(&cluster, Format::Pretty, false);
    for part in [
        "| max_connections: 100->101                     |",
        "| shared_preload_libraries: [hidden - too long] |",
        "| 2030-01-01T00:00:00+00:00 if version < 15.19 |",
        // Nobody knows where it is.
        "|     unknown |     |    unknown |     |",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let text = render(&cluster, Format::Json, false);
    assert!(text.contains("->pg_stat_statements,auto_explain,x\""), "{text}");
}
