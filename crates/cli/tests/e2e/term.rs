//! The router's term check: who may vouch for a leader, and what happens when nobody does.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::herd::Herd;
use crate::processes::send;
use crate::round::{verify, write_port};
use crate::writer::{Writer, execute, longest_gap};
use crate::{LIMIT, say, started};

/// Longer than the ttl, so that whoever needs the store has lost it.
const AWAY: Duration = Duration::from_secs(8);
/// That of a cluster made by `pgherd up`.
const TTL: Duration = Duration::from_secs(5);

pub(crate) fn the_routers_term_check() {
    let mut herd = started();
    the_agent_vouches_while_the_store_is_away(&herd);
    herd.wait_whole();
    nothing_passes_when_nobody_vouches(&mut herd);
}

fn the_agent_vouches_while_the_store_is_away(herd: &Herd) {
    let store = herd.child("store");
    let writer = Writer::start(write_port(herd), 1);
    std::thread::sleep(Duration::from_secs(1));
    send(store, Signal::STOP);
    std::thread::sleep(AWAY);
    send(store, Signal::CONT);
    std::thread::sleep(Duration::from_secs(1));
    let acknowledged = writer.finish();
    verify(&write_port(herd), &acknowledged, || herd.everything());
    let gap = longest_gap(&acknowledged);
    say(&format!("store frozen for {} s: longest gap {} ms", AWAY.as_secs(), gap.as_millis()));
    assert!(gap < AWAY, "{gap:?}\n{}", herd.everything());
    assert_eq!(counted(herd, "sessions_unconfirmed_total"), 0);
}

/// PostgreSQL itself goes on until its guard's deadline, some five seconds.
fn nothing_passes_when_nobody_vouches(herd: &mut Herd) {
    let leader = herd.leader().expect("a leader");
    let frozen = [herd.child("store"), herd.agent(&leader).expect("its agent").cast_unsigned()];
    let writer = Writer::start(write_port(herd), 1_000_000);
    std::thread::sleep(Duration::from_secs(1));
    frozen.iter().for_each(|pid| send(*pid, Signal::STOP));
    let begun = Instant::now();
    let until = begun + LIMIT;
    while counted(herd, "sessions_unconfirmed_total") == 0 {
        assert!(Instant::now() < until, "no session was closed\n{}", herd.everything());
        std::thread::sleep(Duration::from_millis(20));
    }
    let closed = begun.elapsed();
    let acknowledged = writer.finish();
    frozen.iter().for_each(|pid| send(*pid, Signal::CONT));
    let last = acknowledged.last().map(|(_, at)| at.saturating_duration_since(begun));
    let last = last.expect("something was written");
    say(&format!(
        "store and agent frozen: last acknowledgement after {} ms, closed after {} ms",
        last.as_millis(),
        closed.as_millis()
    ));
    // A second by design; printed, not judged. What is judged: before the guard would have ended it.
    assert!(last < TTL, "acknowledged {last:?} after the last word");
    assert!(last < closed, "{last:?} {closed:?}");
    assert!(counted(herd, "term_lapses_total") >= 1);
    execute(&write_port(herd), "INSERT INTO acks VALUES (-1)", LIMIT);
    herd.wait_whole();
    verify(&write_port(herd), &acknowledged, || herd.everything());
}

/// One of the router's counters.
pub(crate) fn counted(herd: &Herd, name: &str) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", herd.ports[2])).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let name = format!("pgherd_router_{name} ");
    let line = text.lines().find_map(|line| line.strip_prefix(name.as_str()));
    line.unwrap_or_else(|| panic!("{name} is missing:\n{text}")).trim().parse().unwrap()
}
