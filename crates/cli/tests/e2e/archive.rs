//! A standby cluster that has nothing of the other one but its archive (`restore_command` without a
//! host): made from a backup there, led from node to node, delayed, and promoted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::LIMIT;
use crate::herd::Member;
use crate::lifecycle::as_postgres;
use crate::many::{Options, PASSWORD, Site, give};
use crate::processes::free_ports;
use crate::writer::{config, execute, number_now};

const WHOLE: Duration = Duration::from_secs(90);

/// PostgreSQL runs in its data directory.
const DCS: &str = "    standby_cluster:
      restore_command: cp ../../other/archive/%f %p
      create_replica_methods: [backup]
";

/// `$1` directory, `$2` port: the other cluster, one server that archives, and a backup of it.
const OTHER: &str = r#"
set -eu
cd "$1"; mkdir archive; echo e2e-superuser > pw
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
"$bin/initdb" -D old -U postgres --pwfile pw -A scram-sha-256 --data-checksums > prepare.log
"$bin/pg_ctl" -D old -w -l old.log -o "-p $2 -k $1 -c listen_addresses=127.0.0.1 -c fsync=off \
  -c archive_mode=on -c 'archive_command=cp %p $1/archive/new && mv $1/archive/new $1/archive/%f'" start
export PGPASSWORD=e2e-superuser PGHOST=$1 PGPORT=$2 PGUSER=postgres
"$bin/psql" -qc "CREATE TABLE t (n bigint)" \
  -c "CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'e2e-replicator'" \
  -c "CREATE ROLE rewind LOGIN PASSWORD 'e2e-rewind'"
"$bin/pg_basebackup" -D backup -X none -c fast
"#;

struct Pair {
    site: Site,
    other: u16,
}

pub(crate) fn a_cluster_follows_an_archive() {
    let dcs = DCS.to_owned();
    let Some(site) = Site::new(&Options { dcs, ..Options::default() }) else { return };
    let [other] = free_ports();
    let mut pair = Pair { site, other };
    pair.prepare();
    pair.site.launch();
    pair.wait_standby();
    pair.arrives(1);

    let before = pair.leader();
    let (code, out, err) = pair.site.ctl(&["switchover", "--force"]);
    assert_eq!(code, 0, "{out}{err}\n{}", pair.site.everything());
    pair.wait_standby();
    assert_ne!(pair.leader(), before);
    pair.arrives(2);

    pair.replays_late();
    pair.is_promoted();
}

impl Pair {
    fn prepare(&self) {
        let dir = self.site.dir.join("other");
        give(&dir, None);
        let (dir, port) = (dir.display().to_string(), self.other);
        for (name, text) in [
            ("prepare.sh", OTHER.to_owned()),
            (
                "copy.sh",
                format!(
                    "mkdir -p -m 700 \"${{3#--datadir=}}\"\ncp -a {dir}/backup/. \"${{3#--datadir=}}\""
                ),
            ),
        ] {
            let path = self.site.dir.join("other").join(name);
            give(&path, Some(&format!("#!/bin/sh\nset -eu\n{text}\n")));
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        as_postgres(&format!("exec {dir}/prepare.sh {dir} {port}"));
        for node in &self.site.nodes {
            let methods = format!(
                "  create_replica_methods: [basebackup, backup]\n  backup:\n    \
                 command: {dir}/copy.sh\n    no_leader: true\n  authentication:\n"
            );
            let text = fs::read_to_string(node.file()).unwrap();
            give(&node.file(), Some(&text.replace("  authentication:\n", &methods)));
        }
    }

    fn members(&self) -> Vec<Member> {
        self.site.members()
    }

    fn leader(&self) -> String {
        let leads = |member: &Member| member.role == "Standby Leader";
        self.members().into_iter().find(leads).expect("a standby leader").name
    }

    /// Who leads reads the archive, as Patroni says it, and the others stream from there.
    fn wait_standby(&self) {
        self.site.wait_until("no whole standby cluster", WHOLE, |site| {
            let members = site.members();
            let leads = |member: &&Member| {
                member.role == "Standby Leader" && member.state == "in archive recovery"
            };
            let streams = members.iter().filter(|m| m.state == "streaming").count();
            members.iter().filter(leads).count() == 1 && streams == 2
        });
    }

    fn ask(&self, node: &str, query: &str) -> Option<i64> {
        number_now(&config(self.site.node(node).postgres, PASSWORD), query)
    }

    /// Writes a row in the other cluster, and has its WAL archived.
    fn write(&self, n: i64) {
        let other = config(self.other, PASSWORD);
        execute(&other, &format!("INSERT INTO t VALUES ({n})"), LIMIT);
        execute(&other, "SELECT pg_switch_wal()", LIMIT);
        let archived = "SELECT count(*) FROM pg_stat_archiver WHERE last_archived_wal >= \
                        pg_walfile_name(pg_current_wal_lsn() - 1)";
        self.site.wait_until("not archived", LIMIT, |_| number_now(&other, archived) == Some(1));
    }

    fn has(&self, node: &str, n: i64) -> bool {
        self.ask(node, &format!("SELECT count(*) FROM t WHERE n = {n}")) == Some(1)
    }

    fn arrives(&self, n: i64) {
        self.write(n);
        self.site.wait_until(&format!("{n} did not arrive"), WHOLE, |site| {
            site.nodes.iter().all(|node| self.has(&node.name, n))
        });
    }

    /// `recovery_min_apply_delay` of the section is the leader's alone, and the others have no more
    /// than it has.
    fn replays_late(&self) {
        self.delay("4s", 4_000);
        let begin = Instant::now();
        self.write(3);
        let leader = self.leader();
        self.site.wait_until("3 did not arrive", WHOLE, |_| self.has(&leader, 3));
        assert!(begin.elapsed() >= Duration::from_secs(4), "seen after {:?}", begin.elapsed());
        self.arrives(4);
    }

    fn delay(&self, words: &str, milliseconds: i64) {
        let set = format!("standby_cluster.recovery_min_apply_delay={words}");
        let (code, out, err) = self.site.ctl(&["edit-config", "--force", "-s", &set]);
        assert_eq!(code, 0, "{out}{err}");
        let setting =
            "SELECT setting::bigint FROM pg_settings WHERE name = 'recovery_min_apply_delay'";
        let leader = self.leader();
        self.site.wait_until("no delay", LIMIT, |site| {
            site.nodes.iter().all(|node| {
                let wanted = if node.name == leader { milliseconds } else { 0 };
                self.ask(&node.name, setting) == Some(wanted)
            })
        });
    }

    /// What is in the archive and was held back is there, at once.
    fn is_promoted(&self) {
        self.delay("1h", 3_600_000);
        self.write(5);
        let leader = self.leader();
        assert!(!self.has(&leader, 5), "there was no delay");
        let (code, out, err) = self.site.ctl(&["promote-cluster", "--force"]);
        assert_eq!(code, 0, "{out}{err}\n{}", self.site.everything());
        self.site.wait_whole();
        let rows = number_now(&self.site.write_port(), "SELECT count(DISTINCT n) FROM t");
        assert_eq!(rows, Some(5), "{}", self.site.everything());
        execute(&self.site.write_port(), "INSERT INTO t VALUES (6)", LIMIT);
    }
}
