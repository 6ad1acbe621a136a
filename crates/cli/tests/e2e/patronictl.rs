//! The real, unmodified patronictl on a cluster of ours, and `pgherd ctl` beside it: what is meant to
//! be equal is compared byte for byte, and each command of patronictl's is done once.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::many::{Options, Site};
use crate::mixed::{PYTHON, patroni_library};

const RUN: &str = "import sys; sys.argv[0] = 'patronictl'; from patroni.ctl import ctl; ctl()";
const LIMIT: Duration = Duration::from_secs(60);
const SCOPE: &str = "many";

pub(crate) fn works_and_looks_alike() {
    let Some(patroni) = patroni_library() else {
        crate::say("SKIPPED: no Patroni; run scripts/setup test, or name it in PGHERD_PATRONI");
        return;
    };
    let node = "tags: {zone: 'a: b', noloadbalance: false}\n".to_owned();
    let Some(mut site) = Site::new(&Options { node, ..Options::default() }) else { return };
    site.start();
    let pair = Pair { patroni, site: &site };
    pair.everything_that_is_shown();
    pair.transfers();
    pair.restarts();
    pair.copies();
    pair.settings();
    pair.queries();
    pair.without_the_store();
    pair.refusals();
    removal(&mut site);
}

/// Both tools on one cluster.
struct Pair<'a> {
    patroni: PathBuf,
    site: &'a Site,
}

impl Pair<'_> {
    fn theirs(&self, words: &[&str], input: &str) -> (i32, String) {
        let mut command = Command::new(PYTHON);
        command.args(["-c", RUN, "-c"]).arg(self.site.nodes[0].file()).args(words);
        command.env("PYTHONPATH", &self.patroni);
        said(&run(&mut command, input))
    }

    fn ours(&self, words: &[&str], input: &str) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgherd"));
        command.args(["ctl", "-c"]).arg(self.site.nodes[0].file()).args(words);
        said(&run(&mut command, input))
    }

    /// Theirs must succeed and say that.
    #[track_caller]
    fn they_say(&self, words: &[&str], expected: &str) {
        let (code, out) = self.theirs(words, "");
        let all = || self.site.everything();
        assert!(
            code == 0 && out.contains(expected),
            "patronictl {words:?}: {code}\n{out}{}",
            all()
        );
    }

    /// Ours must exit with that and say that.
    #[track_caller]
    fn we_say(&self, words: &[&str], code: i32, expected: &str) {
        let (found, out) = self.ours(words, "");
        let all = || self.site.everything();
        assert!(found == code && out.contains(expected), "ctl {words:?}: {found}\n{out}{}", all());
    }

    /// Positions move between two calls, so a difference is looked at again.
    #[track_caller]
    fn same(&self, words: &[&str]) -> String {
        let begin = Instant::now();
        loop {
            let (theirs, ours) = (self.theirs(words, ""), self.ours(words, ""));
            if theirs == ours {
                return ours.1;
            }
            let (theirs, ours) = (theirs.1, ours.1);
            let late = begin.elapsed() > Duration::from_secs(20);
            assert!(!late, "{words:?}\npatronictl:\n{theirs}\npgherd ctl:\n{ours}");
        }
    }

    /// A member that doesn't lead.
    fn replica(&self) -> String {
        let members = self.site.members();
        members.into_iter().find(|m| m.role != "Leader").expect("a replica").name
    }

    fn everything_that_is_shown(&self) {
        for words in [
            "list",
            "list -e",
            "list many -f json",
            "list -f yaml",
            "list -f tsv",
            "list -e -f tsv",
            "topology",
            "history",
            "history -f json",
            "show-config",
            "dsn",
            "dsn -r replica",
            "dsn -m node2",
            "dsn many -r leader",
        ] {
            self.same(&words.split(' ').collect::<Vec<_>>());
        }
    }

    fn transfers(&self) {
        let before = self.site.leader();
        self.they_say(&["switchover", "--force"], "Successfully switched over to \"");
        self.site.wait_whole();
        assert_ne!(self.site.leader(), before);
        let to = self.replica();
        let words = ["failover", SCOPE, "--candidate", &to, "--force"];
        self.they_say(&words, &format!("Successfully failed over to \"{to}\""));
        self.site.wait_whole();
        self.we_say(&["switchover", "--force"], 0, "Successfully switched over to \"");
        self.site.wait_whole();
        // The questions are answered through a pipe: leader, candidate, when, sure?
        let (from, to) = (self.site.leader().expect("a leader"), self.replica());
        let (code, out) = self.ours(&["switchover"], &format!("{from}\n{to}\nnow\ny\n"));
        assert!(code == 0 && out.contains(&format!("switched over to \"{to}\"")), "{out}");
        self.site.wait_whole();
        for format in ["pretty", "json", "yaml", "tsv"] {
            self.same(&["history", "-f", format]);
        }
        let later = ["switchover", "--force", "--scheduled", "2035-01-01T10:00+01:00"];
        self.they_say(&later, "Switchover scheduled");
        let out = self.same(&["list"]);
        assert!(out.contains("Switchover scheduled at: 2035-01-01T10:00:00+01:00"), "{out}");
        self.they_say(&["flush", SCOPE, "switchover"], "Success: scheduled switchover deleted");
        self.we_say(&later, 0, "Switchover scheduled");
        self.same(&["list"]);
        self.we_say(&["flush", SCOPE, "switchover"], 0, "Success: scheduled switchover deleted");
        self.we_say(&["flush", SCOPE, "switchover"], 0, "No pending scheduled switchover");
    }

    fn restarts(&self) {
        let node = self.replica();
        let done = format!("Success: restart on member {node}");
        self.they_say(&["restart", SCOPE, &node, "--force"], &done);
        self.site.wait_whole();
        self.we_say(&["restart", &node, "--force"], 0, &done);
        self.site.wait_whole();
        let old = ["restart", SCOPE, &node, "--force", "--pg-version", "9.6.0"];
        self.they_say(&old, "(restart conditions are not satisfied)");
        self.we_say(&old, 1, "(restart conditions are not satisfied)");
        let later = ["restart", SCOPE, &node, "--force", "--scheduled", "2035-01-01T10:00+01:00"];
        let flush = ["flush", SCOPE, &node, "restart", "--force"];
        let planned = |site: &Site| site.ctl(&["list"]).1.contains("2035-01-01T");
        for theirs in [true, false] {
            let words = format!("Success: restart scheduled on member {node}");
            if theirs {
                self.they_say(&later, &words);
            } else {
                self.we_say(&later, 0, &words);
            }
            self.site.wait_until("not planned", LIMIT, planned);
            self.same(&["list"]);
            let words = format!("Success: flush scheduled restart for member {node}");
            if theirs {
                self.they_say(&flush, &words);
            } else {
                self.we_say(&flush, 0, &words);
            }
            self.site.wait_until("still planned", LIMIT, |site| !planned(site));
        }
    }

    fn copies(&self) {
        let node = self.replica();
        let done = format!("Reinitialize is completed on: {node}");
        self.they_say(&["reinit", SCOPE, &node, "--force", "--wait"], &done);
        self.site.wait_whole();
        self.we_say(&["reinit", &node, "--force", "--wait", "--from-leader"], 0, &done);
        self.site.wait_whole();
        let leader = self.site.leader().expect("a leader");
        self.we_say(&["reinit", &leader, "--force"], 1, "I am the leader, can not reinitialize");
    }

    fn settings(&self) {
        self.they_say(&["pause", "--wait"], "Success: cluster management is paused");
        let out = self.same(&["list"]);
        assert!(out.ends_with(" Maintenance mode: on\n"), "{out}");
        self.we_say(&["pause"], 1, "Cluster is already paused");
        self.they_say(&["resume", "--wait"], "Success: cluster management is resumed");
        self.we_say(&["pause", "--wait"], 0, "Success: cluster management is paused");
        self.we_say(&["resume", "--wait"], 0, "Success: cluster management is resumed");
        let words = [
            "edit-config",
            "--force",
            "-s",
            "maximum_lag_on_failover=2097152",
            "-p",
            "work_mem=5MB",
        ];
        self.they_say(&words, "+maximum_lag_on_failover: 2097152");
        self.same(&["show-config"]);
        let back = [
            "edit-config",
            "--force",
            "-s",
            "maximum_lag_on_failover=1048576",
            "-p",
            "work_mem=null",
        ];
        self.we_say(&back, 0, "-maximum_lag_on_failover: 2097152");
        let out = self.same(&["show-config"]);
        assert!(!out.contains("work_mem"), "{out}");
        // In an editor, and from a file.
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgherd"));
        command.args(["ctl", "-c"]).arg(self.site.nodes[0].file()).arg("edit-config");
        command.env("EDITOR", "sed -i s/1048576/4194304/");
        let (code, out) = said(&run(&mut command, "y\n"));
        assert!(code == 0 && out.contains("+maximum_lag_on_failover: 4194304"), "{out}");
        let apply = ["edit-config", "--force", "--apply", "-"];
        let (code, out) = self.ours(&apply, "maximum_lag_on_failover: 1048576\n");
        assert!(code == 0 && out.contains("Configuration changed"), "{out}");
        self.we_say(
            &["edit-config", "-s", "ttl=soon", "--force"],
            2,
            "expected a number of seconds",
        );
    }

    fn queries(&self) {
        let select = ["query", "-U", "postgres", "-d", "postgres", "-c", "SELECT 1 AS a, 'x' AS b"];
        assert_eq!(self.same(&select), "a\tb\n1\tx\n");
        let json = [&select[..], &["--format", "json", "-r", "replica"]].concat();
        assert_eq!(self.same(&json), "[{\"a\": 1, \"b\": \"x\"}]\n");
        self.same(&[&select[..], &["--format", "pretty", "-m", "node2"]].concat());
        let wrong = ["query", "-U", "postgres", "-c", "SELECT 1/0"];
        self.they_say(&wrong, "SQLSTATE: 22012");
        self.we_say(&wrong, 1, "SQLSTATE: 22012");
        self.they_say(&["version", SCOPE, "node1"], "node1: Patroni 4.");
        self.we_say(&["version", SCOPE, "node1"], 0, "node1: pgherd, as Patroni 4.");
    }

    /// Any agent knows what the store knows.
    fn without_the_store(&self) {
        let agent = format!("http://127.0.0.1:{}", self.site.nodes[1].rest);
        let begin = Instant::now();
        for words in ["list", "list -f yaml", "topology", "history", "show-config", "dsn"] {
            let words: Vec<&str> = words.split(' ').collect();
            let asked = [&["--agent", &agent], &words[..]].concat();
            while self.ours(&asked, "") != self.ours(&words, "") {
                let (store, agent) = (self.ours(&words, ""), self.ours(&asked, ""));
                assert!(begin.elapsed() < LIMIT, "{words:?}\n{}\nnot\n{}", agent.1, store.1);
            }
        }
        let asked = ["pause", "--wait", "--agent", &agent];
        self.we_say(&asked, 0, "Success: cluster management is paused");
        let asked = ["resume", "--wait", "--agent", &agent];
        self.we_say(&asked, 0, "Success: cluster management is resumed");
        // A store that isn't there: the node's own agent is asked, and that is said.
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgherd"));
        command.args(["ctl", "-d", "etcd3://127.0.0.1:1", "-c"]).arg(self.site.nodes[0].file());
        let (code, out) = said(&run(command.arg("list"), ""));
        assert!(
            code == 0 && out.contains("is asked instead") && out.contains("| Leader "),
            "{out}"
        );
    }

    fn refusals(&self) {
        self.we_say(&["switchover"], 2, "nobody is there to answer: say --leader NAME and --force");
        let words = ["switchover", "--candidate", "nobody", "--force"];
        self.we_say(&words, 1, "Member nobody does not exist in cluster many");
        self.we_say(&["restart", "nobody", "--force"], 1, "there is no cluster 'nobody'");
        self.we_say(&["failover", "--force"], 2, "only to a specific candidate");
        self.we_say(&["list", "nowhere"], 1, "there is no cluster 'nowhere'");
    }
}

/// Nothing lives any more, and patronictl removes what is left.
fn removal(site: &mut Site) {
    let names: Vec<String> = site.nodes.iter().map(|node| node.name.clone()).collect();
    let leader = site.leader().expect("a leader");
    // The leader last, so that nobody follows it.
    names.iter().filter(|name| **name != leader).for_each(|name| site.stop_agent(name));
    site.stop_agent(&leader);
    let pair = Pair { patroni: patroni_library().expect("was there before"), site };
    let (code, out) = pair.ours(&["remove", SCOPE], "many\nno\n");
    assert!(code == 2 && out.contains("nothing was removed"), "{out}");
    let (code, out) = pair.theirs(&["remove", SCOPE], "many\nYes I am aware\n");
    assert!(code == 0, "{out}");
    pair.we_say(&["list"], 1, "there is no cluster 'many'");
}

fn run(command: &mut Command, input: &str) -> Output {
    command.env("PGPASSWORD", crate::many::PASSWORD).env_remove("DCS_URL");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who asks nothing doesn't read it.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> (i32, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout) + &text(&output.stderr))
}
