//! What is planned for later happens at its moment and not before it, and what nobody could do at
//! its moment is dropped: switchovers and restarts (contract 4.6, 4.15).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;

use crate::herd::Herd;
use crate::processes::send;
use crate::round::{verify, write_port};
use crate::started;
use crate::writer::{Writer, config, number_now};

/// How long ahead things are planned.
const AHEAD: i64 = 4;
/// How late they may be begun; and a switchover takes about a second.
const LATE: i64 = 8;
/// With `up`'s `loop_wait` of a second, what is later than this was missed.
const MISSED: i64 = 5;

pub(crate) fn what_is_planned_happens_at_its_moment() {
    let mut herd = started();
    let writer = Writer::start(write_port(&herd), 1);
    switchover(&herd);
    while_the_store_hangs(&mut herd);
    restart(&herd);
    missed_in_pause(&herd);
    let acknowledged = writer.finish();
    verify(&write_port(&herd), &acknowledged, || herd.everything());
    missed_while_nobody_led(&mut herd);
}

fn switchover(herd: &Herd) {
    let (before, at) = (leader(herd), now() + AHEAD);
    plan_switchover(herd, at);
    wait(herd, "no switchover", at + LATE, || herd.leader().is_some_and(|name| name != before));
    assert!(now() >= at, "before its moment");
    wait(herd, "the request is still there", at + 2 * LATE, || planned_switchover(herd).is_none());
    wait(herd, "not whole", at + 60, || herd.is_whole());
    let (_, out, _) = herd.ctl(&["flush", "pgherd", "switchover"]);
    assert!(out.contains("No pending scheduled switchover"), "{out}");
}

/// The moment passes while the store doesn't answer, and when it does it is not too late.
fn while_the_store_hangs(herd: &mut Herd) {
    let (before, at) = (leader(herd), now() + AHEAD);
    plan_switchover(herd, at);
    wait(herd, "no time", at, || now() >= at - 1);
    let store = herd.child("store");
    send(store, Signal::STOP);
    // Longer than the agent waits for an answer.
    std::thread::sleep(Duration::from_millis(3_500));
    send(store, Signal::CONT);
    wait(herd, "no switchover", at + LATE, || herd.leader().is_some_and(|name| name != before));
    wait(herd, "not whole", at + 60, || herd.is_whole());
}

fn restart(herd: &Herd) {
    let leads = leader(herd);
    let names = herd.members().into_iter().map(|member| member.name);
    let name = names.into_iter().find(|name| *name != leads).expect("a replica");
    let at = now() + AHEAD;
    let born = births(herd);
    plan_restart(herd, &name, at);
    wait(herd, "no restart", at + LATE, || birth(herd, &name).is_some_and(|born| born >= at));
    wait(herd, "the plan is still there", at + 2 * LATE, || planned_restarts(herd) == 0);
    wait(herd, "not whole", at + 60, || herd.is_whole());
    let changed = |(before, now): (&(String, i64), &(String, i64))| before != now;
    assert_eq!(born.iter().zip(&births(herd)).filter(|pair| changed(*pair)).count(), 1);
}

/// Nothing that is planned is done in pause; afterwards its moment is over.
fn missed_in_pause(herd: &Herd) {
    let (leads, born) = (leader(herd), births(herd));
    let at = now() + AHEAD;
    plan_switchover(herd, at);
    for (name, _) in &born {
        plan_restart(herd, name, at);
    }
    done(herd, &["pause", "--wait"]);
    wait(herd, "no time", at + 60, || now() > at + MISSED + 1);
    assert!(planned_switchover(herd).is_some() && planned_restarts(herd) == 3);
    assert_eq!(births(herd), born, "restarted in pause");
    done(herd, &["resume", "--wait"]);
    wait(herd, "it is kept", now() + 60, || {
        planned_switchover(herd).is_none() && planned_restarts(herd) == 0
    });
    assert_eq!(herd.logged("a planned restart is dropped").len(), 3);
    assert_eq!((leader(herd), births(herd)), (leads, born), "done although it was missed");
}

fn missed_while_nobody_led(herd: &mut Herd) {
    let due = |herd: &Herd| herd.logged("a scheduled switchover is due").len();
    let (at, before) = (now() + AHEAD, due(herd));
    plan_switchover(herd, at);
    herd.interrupt();
    let begins = at + MISSED + 1;
    std::thread::sleep(Duration::from_secs(u64::try_from(begins - now()).unwrap_or(0)));
    herd.start();
    wait(herd, "it is kept", now() + 60, || planned_switchover(herd).is_none());
    assert!(!herd.logged("a scheduled switchover was missed").is_empty(), "{}", herd.everything());
    assert_eq!(due(herd), before);
    assert!(herd.is_whole(), "{}", herd.everything());
}

fn plan_switchover(herd: &Herd, at: i64) {
    let at = pgherd_api::encode::iso8601(at);
    done(herd, &["switchover", "--force", "--scheduled", &at]);
    wait(herd, "not shown", now() + 10, || planned_switchover(herd).is_some());
}

fn plan_restart(herd: &Herd, name: &str, at: i64) {
    let at = pgherd_api::encode::iso8601(at);
    done(herd, &["restart", "pgherd", name, "--force", "--scheduled", &at]);
}

fn done(herd: &Herd, words: &[&str]) {
    let (code, out, err) = herd.ctl(words);
    assert_eq!(code, 0, "{words:?}: {out}{err}\n{}", herd.everything());
}

/// What `list` says below its table.
fn planned_switchover(herd: &Herd) -> Option<String> {
    let (_, out, _) = herd.ctl(&["list"]);
    out.lines().find(|line| line.contains("Switchover scheduled at")).map(str::to_owned)
}

fn rows(herd: &Herd) -> Vec<Value> {
    let (_, out, _) = herd.ctl(&["list", "-f", "json"]);
    let rows: Value = serde_json::from_str(&out).unwrap_or_default();
    rows.as_array().cloned().unwrap_or_default()
}

fn planned_restarts(herd: &Herd) -> usize {
    rows(herd).iter().filter(|row| row.get("Scheduled restart").is_some()).count()
}

/// When each node's PostgreSQL was started.
fn births(herd: &Herd) -> Vec<(String, i64)> {
    let names = herd.members().into_iter().map(|member| member.name);
    names.map(|name| (name.clone(), birth(herd, &name).unwrap_or(0))).collect()
}

fn birth(herd: &Herd, name: &str) -> Option<i64> {
    let row = rows(herd).into_iter().find(|row| row["Member"] == name)?;
    let port = row["Host"].as_str()?.rsplit(':').next()?.parse().ok()?;
    let query = "SELECT extract(epoch FROM pg_postmaster_start_time())::bigint";
    number_now(&config(port, &herd.password()), query)
}

fn leader(herd: &Herd) -> String {
    herd.leader().expect("a leader")
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// Until that moment of the wall clock, and a bit longer.
fn wait(herd: &Herd, what: &str, until: i64, condition: impl Fn() -> bool) {
    while !condition() {
        assert!(now() <= until, "{what}\n{}", herd.everything());
        std::thread::sleep(Duration::from_millis(50));
    }
}
