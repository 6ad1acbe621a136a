//! Changing PostgreSQL's parameters for the whole cluster, as an operator does.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::herd::Herd;
use crate::started;
use crate::writer::{config, number_now};

const LIMIT: Duration = Duration::from_secs(60);

/// What a reload can do happens everywhere; what needs a restart is said everywhere, with its
/// reason, and happens nowhere by itself.
pub(crate) fn edit_config_reaches_every_node() {
    let herd = started();
    let born = on_all(&herd, "extract(epoch FROM pg_postmaster_start_time())::bigint");
    edit(&herd, &["-p", "work_mem=7MB", "-p", "max_connections=90"]);
    until(&herd, "work_mem everywhere", |herd| on_all(herd, &setting("work_mem")) == [7168; 3]);
    let reason = "max_connections: 100->90";
    until(&herd, "a pending restart everywhere", |herd| {
        let rows = rows(herd);
        rows.len() == 3 && rows.iter().all(|row| row["Pending restart reason"] == reason)
    });
    // Every node that can lead has a slot for each of the others.
    let slots = "count(*) FROM pg_replication_slots WHERE slot_name LIKE 'node_'";
    until(&herd, "slots everywhere", |herd| on_all(herd, slots) == [2; 3]);
    assert_eq!(on_all(&herd, &setting("max_connections")), [100; 3]);

    // What PostgreSQL can't take changes nothing, and the rest of the change arrives.
    edit(&herd, &["-p", "work_mem=lots", "-p", "max_connections=null", "-p", "no.such=1"]);
    edit(&herd, &["-p", "no_such_thing=1", "-p", "maintenance_work_mem=65MB"]);
    until(&herd, "nothing pending", |herd| {
        rows(herd).iter().all(|row| row.get("Pending restart reason").is_none())
            && on_all(herd, &setting("maintenance_work_mem")) == [65 << 10; 3]
    });
    assert_eq!(on_all(&herd, &setting("work_mem")), [7168; 3]);
    assert!(herd.is_whole(), "{}", herd.everything());
    let now = on_all(&herd, "extract(epoch FROM pg_postmaster_start_time())::bigint");
    assert_eq!(now, born, "nothing was restarted");
}

fn setting(name: &str) -> String {
    format!("(SELECT setting::bigint FROM pg_settings WHERE name = '{name}')")
}

pub(crate) fn edit(herd: &Herd, words: &[&str]) {
    let (code, out, err) = herd.ctl(&[&["edit-config", "--force"], words].concat());
    assert_eq!(code, 0, "{out}{err}");
}

pub(crate) fn rows(herd: &Herd) -> Vec<Value> {
    let (_, out, _) = herd.ctl(&["list", "-f", "json"]);
    let rows: Value = serde_json::from_str(&out).unwrap_or_default();
    rows.as_array().cloned().unwrap_or_default()
}

/// A number from each node's PostgreSQL; -1 where there was no answer.
pub(crate) fn on_all(herd: &Herd, expression: &str) -> Vec<i64> {
    let query = format!("SELECT {expression}");
    let port = |row: &Value| row["Host"].as_str()?.rsplit(':').next()?.parse().ok();
    let answer = |row: &Value| number_now(&config(port(row)?, &herd.password()), &query);
    rows(herd).iter().map(|row| answer(row).unwrap_or(-1)).collect()
}

fn until(herd: &Herd, what: &str, done: impl Fn(&Herd) -> bool) {
    let begin = Instant::now();
    while !done(herd) {
        assert!(begin.elapsed() < LIMIT, "not {what} in {LIMIT:?}\n{}", herd.everything());
        std::thread::sleep(Duration::from_millis(100));
    }
}
