//! `docs/migrating-from-patroni.md`, carried out: every command on the page, in its order, on three
//! Patronis with a client that writes. A command that this file doesn't know fails the test, so that
//! page and test can't part. What `systemctl` would do is done to processes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::mixed::{Agent, Mixed};
use crate::patroni::tell;
use crate::round::verify;
use crate::say;
use crate::writer::{Writer, execute};

const PAGE: &str = include_str!("../../../../docs/migrating-from-patroni.md");
const FILE: &str = "/etc/patroni/patroni.yml";
const DROP_IN: &str = "/etc/systemd/system/patroni.service.d/";
const LIMIT: Duration = Duration::from_secs(60);

/// A line of the page: below which heading, on which node, what.
struct Command {
    step: &'static str,
    node: &'static str,
    words: Vec<&'static str>,
}

pub(crate) fn the_guide_step_by_step() {
    let Some(mut site) = Mixed::new("") else { return };
    for name in ["node1", "node2", "node3"] {
        site.start(name, Agent::Patroni);
        site.wait_leader(|leader| leader == "node1");
    }
    site.wait_whole(2);
    let primary = site.primary();
    execute(&primary, "CREATE TABLE acks (n bigint PRIMARY KEY)", LIMIT);
    let writer = Writer::start(primary.clone(), 1);
    let mut steps: Vec<(&str, Instant)> = Vec::new();
    let mut wanted = BTreeMap::new();
    for command in commands() {
        if steps.last().is_none_or(|(step, _)| *step != command.step) {
            std::thread::sleep(Duration::from_secs(1));
            steps.push((command.step, Instant::now()));
        }
        carry_out(&mut site, &mut wanted, &command);
        site.wait_whole(2);
    }
    std::thread::sleep(Duration::from_secs(1));
    steps.push(("end", Instant::now()));
    let acknowledged = writer.finish();
    verify(&primary, &acknowledged, || site.everything());
    for pair in steps.windows(2) {
        tell(pair[0].0, &acknowledged, pair[0].1, pair[1].1);
    }
    say(&format!("{} writes acknowledged", acknowledged.len()));
    let agents: Vec<_> = wanted.into_values().collect();
    assert_eq!(agents, [Agent::Pgherd, Agent::Pgherd, Agent::Patroni], "migrated, and one back");
}

fn carry_out(site: &mut Mixed, wanted: &mut BTreeMap<&str, Agent>, command: &Command) {
    let in_file = |words: &[&str]| words.first() == Some(&"-c") && words.get(1) == Some(&FILE);
    let (good, out) = match command.words.as_slice() {
        ["cp", "pgherd.conf", place] if *place == DROP_IN => {
            wanted.insert(command.node, Agent::Pgherd);
            return;
        }
        ["rm", file] if *file == format!("{DROP_IN}pgherd.conf") => {
            wanted.insert(command.node, Agent::Patroni);
            return;
        }
        ["systemctl", "daemon-reload"] => return,
        ["systemctl", "restart", "patroni"] => {
            site.stop(command.node);
            site.start(command.node, wanted[command.node]);
            site.wait_gone_and_back(command.node);
            return;
        }
        ["pgherd", "check-config", file] if *file == FILE => site.check_config(command.node),
        ["patronictl", rest @ ..] if in_file(rest) => site.patronictl(&rest[2..]),
        ["pgherd", "ctl", rest @ ..] if in_file(rest) => site.ctl(&rest[2..]),
        other => panic!("the guide has a command that its test doesn't know: {other:?}"),
    };
    assert!(good, "{:?}: {out}\n{}", command.words, site.everything());
}

/// The lines of the page's `console` blocks.
fn commands() -> Vec<Command> {
    let (mut step, mut inside) = ("", false);
    let mut all = Vec::new();
    for line in PAGE.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let (true, Some((node, command))) = (inside, line.split_once("# ")) {
            all.push(Command { step, node, words: command.split_whitespace().collect() });
        } else if let Some(heading) = line.strip_prefix("## ") {
            step = heading;
        }
    }
    assert!(all.len() > 15, "the guide's blocks are not where the test looks for them");
    all
}
