//! etcd's own command line tool against the embedded server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pgherd_store::{Op, Txn};

use crate::support::{Embedded, WITHIN, find};

struct Etcdctl {
    program: PathBuf,
    endpoint: String,
}

impl Etcdctl {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint]).args(args);
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What it prints, when it succeeds.
    fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "etcdctl {args:?}: {out}{err}");
        out
    }

    fn txn(&self, text: &str) -> String {
        let mut child =
            self.command(&["txn"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert!(child.wait().unwrap().success(), "etcdctl txn: {out}");
        out
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_works() {
    let Some(program) = find("PGHERD_ETCDCTL", "etcdctl") else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let ctl = Etcdctl { program, endpoint: server.address.to_string() };
    let ctl = tokio::task::spawn_blocking(move || {
        keys(&ctl);
        transactions(&ctl);
        leases(&ctl);
        the_cluster(&ctl);
        history(&ctl);
        ctl
    });
    let ctl = ctl.await.unwrap();
    let client = server.client();
    let mut child = ctl
        .command(&["watch", "--prefix", "w/", "--prev-kv"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for value in ["1", "2"] {
        client
            .txn(Txn { then: vec![Op::put("w/a", value)], ..Txn::default() }, WITHIN)
            .await
            .unwrap();
    }
    client.txn(Txn { then: vec![Op::delete("w/a")], ..Txn::default() }, WITHIN).await.unwrap();
    let lines = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Vec<_> = lines.take(12).map(Result::unwrap).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        lines
    });
    let lines = lines.await.unwrap();
    assert_eq!(lines.join("|"), "PUT|w/a|1|PUT|w/a|1|w/a|2|DELETE|w/a|2|w/a");
    server.stop().await;
}

fn keys(ctl: &Etcdctl) {
    assert_eq!(ctl.run(&["put", "k/a", "1"]), "OK\n");
    assert_eq!(ctl.run(&["put", "k/b", "2"]), "OK\n");
    assert_eq!(ctl.run(&["put", "k/b", "3", "--prev-kv"]), "OK\nk/b\n2\n");
    assert_eq!(ctl.run(&["get", "k/a"]), "k/a\n1\n");
    assert_eq!(ctl.run(&["get", "--prefix", "k/", "--keys-only"]), "k/a\n\nk/b\n\n");
    assert_eq!(ctl.run(&["get", "--from-key", "k/b", "--print-value-only"]), "3\n");
    assert_eq!(ctl.run(&["get", "--prefix", "k/", "--order=DESCEND", "--limit=1"]), "k/b\n3\n");
    assert_eq!(ctl.run(&["put", "k/b", "--ignore-value", "--lease=0"]), "OK\n");
    let json = ctl.run(&["get", "k/b", "-w", "json"]);
    assert!(json.contains("\"version\":3"), "{json}");
    assert_eq!(ctl.run(&["del", "--prefix", "k/"]), "2\n");
    assert_eq!(ctl.run(&["get", "--prefix", ""]), "");
}

fn transactions(ctl: &Etcdctl) {
    let text = "ver(\"t\") = \"0\"\n\nput t 1\n\nget t\n\n";
    assert_eq!(ctl.txn(text), "SUCCESS\n\nOK\n");
    assert_eq!(ctl.txn(text), "FAILURE\n\nt\n1\n");
    let text = "val(\"t\") = \"1\"\nmod(\"t\") > \"1\"\n\ndel t\n\n\n";
    assert_eq!(ctl.txn(text), "SUCCESS\n\n1\n");
}

fn leases(ctl: &Etcdctl) {
    let granted = ctl.run(&["lease", "grant", "30"]);
    let id = granted.split_whitespace().nth(1).unwrap().to_owned();
    assert!(granted.ends_with("granted with TTL(30s)\n"), "{granted}");
    ctl.run(&["put", "l/a", "1", &format!("--lease={id}")]);
    let left = ctl.run(&["lease", "timetolive", &id, "--keys"]);
    assert!(left.contains("granted with TTL(30s), remaining(29s)"), "{left}");
    assert!(left.contains("attached keys([l/a])"), "{left}");
    assert!(ctl.run(&["lease", "list"]).contains(&id));
    let kept = ctl.run(&["lease", "keep-alive", "--once", &id]);
    assert!(kept.contains("keepalived with TTL(30)"), "{kept}");
    assert!(ctl.run(&["lease", "revoke", &id]).contains("revoked"));
    assert_eq!(ctl.run(&["get", "l/a"]), "");
    let gone = ctl.run(&["lease", "timetolive", &id]);
    assert!(gone.contains("already expired"), "{gone}");

    let granted = ctl.run(&["lease", "grant", "1"]);
    let id = granted.split_whitespace().nth(1).unwrap().to_owned();
    ctl.run(&["put", "l/b", "1", &format!("--lease={id}")]);
    let since = Instant::now();
    while !ctl.run(&["get", "l/b"]).is_empty() {
        assert!(since.elapsed() < Duration::from_secs(3), "the lease does not expire");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!ctl.output(&["lease", "revoke", &id]).status.success());
}

fn the_cluster(ctl: &Etcdctl) {
    let health = ctl.command(&["endpoint", "health"]).output().unwrap();
    assert!(health.status.success(), "{health:?}");
    let status = ctl.run(&["endpoint", "status", "-w", "json"]);
    assert!(status.contains("pgherd"), "{status}");
    let members = ctl.run(&["member", "list"]);
    assert!(members.contains("started, pgherd"), "{members}");
    assert!(members.contains(&ctl.endpoint), "{members}");
    assert_eq!(ctl.run(&["alarm", "list"]), "");
}

fn history(ctl: &Etcdctl) {
    ctl.run(&["put", "h", "1"]);
    let json = ctl.run(&["put", "h", "2", "-w", "json"]);
    let revision = json.split("\"revision\":").nth(1).unwrap();
    let revision: u64 = revision.split([',', '}']).next().unwrap().parse().unwrap();
    assert_eq!(ctl.run(&["get", "h", &format!("--rev={}", revision - 1)]), "h\n1\n");
    let compacted = ctl.run(&["compaction", &revision.to_string()]);
    assert!(compacted.contains(&format!("compacted revision {revision}")), "{compacted}");
    let past = ctl.output(&["get", "h", &format!("--rev={}", revision - 1)]);
    let words = String::from_utf8(past.stderr).unwrap();
    assert!(words.contains("required revision has been compacted"), "{words}");
    let watch = ctl.output(&["watch", "h", "--rev=2"]);
    let words = String::from_utf8([watch.stdout, watch.stderr].concat()).unwrap();
    assert!(words.contains("compact"), "{words}");
}
