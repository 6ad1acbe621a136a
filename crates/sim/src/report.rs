//! Words for the reader: trace lines, summaries, tables. The only file that writes to the terminal.

use std::io::{IsTerminal, Write};

use pgherd_core::cluster::Accession;
use pgherd_core::peer::{PeerMessage, PledgeAnswer};
use pgherd_core::postgres::{PgFacts, PgRole, PgState};
use pgherd_core::{Action, Input, StoreRequest};

use crate::run::Outcome;
use crate::stats::Stats;

/// One line on standard output. A closed pipe ends nothing.
pub(crate) fn line(words: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{words}");
}

/// One line on standard error.
pub(crate) fn error(words: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{words}");
}

/// A line that the next one overwrites; only where somebody can see it.
pub(crate) fn progress(words: &str) {
    let mut out = std::io::stderr().lock();
    if out.is_terminal() {
        let _ = write!(out, "\r\x1b[K{words}");
        let _ = out.flush();
    }
}

/// What the trace's lines mean.
pub(crate) const LEGEND: &str = "\
trace: SECONDS WHO WHAT, in virtual time. 'n1 < x': the agent of n1 is told x. 'n1 > x': it wants x.
'store:', 'router:', 'fault:', 'operator:' speak for themselves. Beats between peers and looks at
PostgreSQL that show nothing new are left out.";

/// An input in a few words; `None` for what only repeats.
pub(crate) fn input(input: &Input) -> Option<String> {
    Some(match input {
        Input::Tick => return None,
        Input::View(view) => format!("view of revision {}", view.revision),
        Input::Store { id, outcome } => format!("request {}: {outcome:?}", id.0),
        Input::Postgres(facts) => state(facts),
        Input::PostgresExited => "postmaster exited".to_owned(),
        Input::PostgresEmpty => "nothing of PostgreSQL is left".to_owned(),
        Input::PostgresKilled { id } => format!("operation {}: PostgreSQL is killed", id.0),
        Input::Disk(_) => return None,
        Input::OpDone { id, result } => format!("operation {}: {result:?}", id.0),
        Input::Peer { from, message } => match message {
            PeerMessage::Beat(_) => return None,
            PeerMessage::AskPledge { ballot } => format!("{from} asks a pledge for {ballot}"),
            PeerMessage::Pledge { ballot, answer } => {
                format!("{from} answers {ballot}: {}", pledge(answer))
            }
            PeerMessage::Hold { term, .. } => format!("{from} asks to hold term {term}"),
            PeerMessage::Held { term, .. } => format!("{from} holds term {term}"),
        },
        Input::PeerLost(lost) => format!("{lost:?}"),
        Input::Patroni { from, answer, .. } => format!("{from} (Patroni) says {answer:?}"),
        Input::Persisted { seq } => format!("persisted {seq}"),
        Input::Shutdown => "shut down".to_owned(),
        Input::Reinitialize => "reinitialize".to_owned(),
        Input::MemberChanged => "member changed".to_owned(),
        Input::Tags(tags) => format!("{tags:?}"),
        Input::Repair(repair) => format!("{repair:?}"),
        Input::ReinitializeNow => "reinitialize now".to_owned(),
        Input::Restart => "restart".to_owned(),
        Input::RestartForSlots => "restart for slots".to_owned(),
    })
}

fn pledge(answer: &PledgeAnswer) -> String {
    match answer {
        PledgeAnswer::Pledged { position, .. } => {
            format!("pledged at {} of term {}", position.lsn, position.term)
        }
        PledgeAnswer::Refused(why) => format!("refused, {why}"),
    }
}

fn state(facts: &PgFacts) -> String {
    let words = match &facts.state {
        PgState::Absent => "no data".to_owned(),
        PgState::Broken(why) => format!("broken data ({why:?})"),
        PgState::Stopped(control) => format!("stopped ({:?})", control.state),
        PgState::NotAccepting(_) => "not accepting".to_owned(),
        PgState::Unresponsive { .. } => "unresponsive".to_owned(),
        PgState::Running(running) => match &running.role {
            PgRole::Primary(p) => format!(
                "primary on {} at {}, {} senders, list {} of {:?}",
                running.timeline,
                p.flushed,
                p.senders.len(),
                p.names.count,
                p.names.names
            ),
            PgRole::Replica(r) => format!(
                "replica on {} at {}{}{}",
                running.timeline,
                r.received,
                if r.streaming { ", streaming" } else { "" },
                if r.at_end { ", at the end" } else { "" }
            ),
        },
    };
    format!("facts: {words}")
}

/// An action in a few words; `None` for what only repeats.
pub(crate) fn action(action: &Action) -> Option<String> {
    Some(match action {
        Action::Store { id, request } => match request {
            StoreRequest::Txn(txn) => format!(
                "request {}: {:?}, {} compares, {}",
                id.0,
                txn.purpose,
                txn.compare.len(),
                ops(&txn.then)
            ),
            StoreRequest::GrantLease { .. } | StoreRequest::KeepAlive(_) | StoreRequest::Read => {
                format!("request {}: {request:?}", id.0)
            }
        },
        Action::Postgres { id, op, term } => {
            format!("operation {}: {op:?} under term {:?}", id.0, term.map(|t| t.0))
        }
        Action::Arm { .. } => return None,
        Action::Disarm => "disarm".to_owned(),
        Action::Send { to, message } => match message {
            PeerMessage::Beat(_) => return None,
            PeerMessage::AskPledge { ballot } => format!("asks {to} a pledge for {ballot}"),
            PeerMessage::Pledge { ballot, answer } => {
                format!("answers {to} {ballot}: {}", pledge(answer))
            }
            PeerMessage::Hold { term, .. } => format!("asks {to} to hold term {term}"),
            PeerMessage::Held { term, .. } => format!("tells {to} that it holds term {term}"),
        },
        Action::AskPatroni { node } => format!("asks {node} (Patroni)"),
        Action::Persist { seq, record } => format!("persist {seq}: {record:?}"),
        Action::Decided(d) => format!("decided {}: {}", d.situation, d.reason),
        Action::Exit => "exit".to_owned(),
    })
}

fn ops(then: &[pgherd_core::cluster::Op]) -> String {
    use pgherd_core::cluster::{Op, Value};
    let one = |op: &Op| match op {
        Op::Delete(key) => format!("delete {key:?}"),
        Op::Put(_, Value::Sync(sync), _) => format!("{sync:?}"),
        Op::Put(_, Value::Beat(beat), _) => format!(
            "Beat {} at {}{}{}",
            beat.seq,
            beat.lsn,
            if beat.serving { ", serving" } else { "" },
            beat.ended.as_ref().map_or(String::new(), |e| format!(", {e:?}"))
        ),
        Op::Put(_, Value::Term(term), _) => format!("{term:?}"),
        Op::Put(_, Value::Claim(claim), _) => format!("{claim:?}"),
        Op::Put(key, ..) => format!("{key:?}"),
    };
    then.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// How a term began, for the reader.
pub(crate) fn accession(by: Accession) -> &'static str {
    match by {
        Accession::Founding => "it founded the cluster",
        Accession::HandOver => "the former leader handed over",
        Accession::Pledges => "enough voters pledged",
        Accession::Silence => "the former leader was silent or had released",
        Accession::Return => "it was the former leader",
        Accession::Operator => "an operator named it",
    }
}

/// A broken invariant with all that is needed to see it again.
pub(crate) fn violation(outcome: &Outcome) {
    let Some(v) = &outcome.violation else { return };
    line("");
    for event in &outcome.last {
        line(event);
    }
    line("");
    line(&format!("seed       {}", outcome.seed));
    line(&format!("world      {}", outcome.world));
    line(&format!("step       {}", v.step));
    line(&format!("time       {} s", crate::world::seconds(v.at).trim()));
    line(&format!("invariant  {}: {}", v.invariant, v.sentence));
    line(&format!("found      {}", v.found));
    line(&format!("again      cargo sim {} --trace", outcome.seed));
}

/// The sums of many runs.
pub(crate) fn summary(stats: &Stats, wall: std::time::Duration) {
    let hours = stats.micros as f64 / 3.6e9;
    let rate = stats.events as f64 / wall.as_secs_f64().max(1e-6);
    line(&format!(
        "{} seeds, {} events, {hours:.1} virtual hours, {:.1} s, {rate:.0} events/s",
        stats.seeds,
        stats.events,
        wall.as_secs_f64()
    ));
    line(&format!(
        "{} failovers, {} writes, {} acknowledged, {} lost (asynchronous), {} reads",
        stats.failovers, stats.writes, stats.acks, stats.lost_async, stats.reads
    ));
    let each = stats.sometimes.each();
    let row = |(words, count): &(&str, u64)| format!("  {count:>8}  {words}");
    for counter in &each {
        line(&row(counter));
    }
    let shown = stats.judged.each();
    if stats.judged.worlds + stats.judged.skipped > 0 {
        line("held against the model:");
        shown.iter().for_each(|counter| line(&row(counter)));
    }
    let never: Vec<_> = each.iter().filter(|(_, n)| *n == 0).map(|(w, _)| *w).collect();
    if stats.seeds >= 1000 && !never.is_empty() {
        line(&format!("NEVER in {} seeds: {}", stats.seeds, never.join(", ")));
    }
}
