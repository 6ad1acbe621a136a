//! PostgreSQL that lets nobody in without TLS: agents, `ctl query`, exporter and `init` all speak it,
//! and each `sslmode` believes whom libpq's would.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::LIMIT;
use crate::certificates::Certificates;
use crate::many::{Options, PASSWORD, Site, give, postgres_user};
use crate::processes::{free_ports, send};
use crate::writer::{execute, numbers};

const PGHERD: &str = env!("CARGO_BIN_EXE_pgherd");

/// A whole cluster under `hostssl` alone, with a failover and a rewind; then the tools.
pub(crate) fn nobody_comes_in_without_tls() {
    let outer = tempfile::Builder::new().prefix("pgherd-tls-").tempdir().unwrap();
    fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let tls = Tls::new(&outer.path().join("tls"));
    let Some(mut site) = site(&tls) else { return };
    site.start();
    let write = site.write_port();
    execute(&write, "CREATE TABLE acks (n bigint PRIMARY KEY)", LIMIT);
    streams_by_tls(&site);

    // Before that, a primary that dies starts again in place.
    site.wait_until("the voters are known", Duration::from_secs(60), |site| {
        site.members().iter().filter(|member| member.role == "Quorum Standby").count() == 2
    });
    let leader = site.leader().expect("a leader");
    let pid = fs::read_to_string(site.node(&leader).dir.join("data/postmaster.pid")).unwrap();
    send(pid.lines().next().unwrap().parse().unwrap(), Signal::KILL);
    site.wait_until("another leads", Duration::from_secs(60), |site| {
        site.leader().is_some_and(|now| now != leader)
    });
    site.wait_whole();
    let log = fs::read_to_string(site.node(&leader).log()).unwrap();
    assert!(log.contains("pg_rewind"), "{log}");
    assert!(!log.contains("copying the leader"), "it could not be rewound\n{log}");
    streams_by_tls(&site);

    queries(&site, &tls);
    let port = site.nodes[0].postgres;
    exporter(port, &tls);
    init(&site, outer.path(), &tls);
    certificates_of_all_kinds(&site, &tls);
}

/// Certificates as people make them.
struct Tls(Certificates);

impl Tls {
    fn new(dir: &Path) -> Self {
        give(dir, None);
        let made = Certificates::new("openssl".into(), dir.to_owned());
        made.authority("other");
        made.sign("server", "server", "IP:127.0.0.1,DNS:localhost", "2");
        made.sign("rewind", "rewind", "DNS:rewind", "2");
        let tls = Self(made);
        // As PostgreSQL's documentation makes them: one that signed itself, without a name, and one
        // of the first version.
        tls.openssl(
            "req -x509 -newkey rsa:2048 -nodes -keyout self.key -out self.pem -subj /CN=db",
        );
        let made = "-newkey rsa:2048 -nodes -keyout first.key -subj /CN=db";
        // From 3.2 on openssl makes the first version only when told to; before, it can't be told.
        if !tls.tries(&format!("req -x509 -x509v1 {made} -out first.pem")).status.success() {
            tls.openssl(&format!("req {made} -out first.csr"));
            tls.openssl("x509 -req -in first.csr -signkey first.key -out first.pem");
        }
        for file in fs::read_dir(dir).unwrap().flatten() {
            let mode =
                if file.path().extension().is_some_and(|e| e == "key") { 0o600 } else { 0o644 };
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            if rustix::process::geteuid().is_root() {
                let (uid, gid) = postgres_user();
                std::os::unix::fs::chown(file.path(), Some(uid), Some(gid)).unwrap();
            }
        }
        tls
    }

    fn path(&self, file: &str) -> String {
        self.0.path(file).display().to_string()
    }

    fn openssl(&self, words: &str) {
        let output = self.tries(words);
        assert!(output.status.success(), "{output:?}");
    }

    fn tries(&self, words: &str) -> Output {
        let dir = self.0.path("");
        Command::new("openssl").current_dir(dir).args(words.split(' ')).output().unwrap()
    }
}

fn site(tls: &Tls) -> Option<Site> {
    let dcs = format!(
        "    postgresql:
      parameters:
        ssl: on
        ssl_cert_file: {}
        ssl_key_file: {}
        ssl_ca_file: {}
      pg_hba:
      - hostssl all rewind all scram-sha-256 clientcert=verify-ca
      - hostssl all all all scram-sha-256
      - hostssl replication replicator all scram-sha-256
",
        tls.path("server.pem"),
        tls.path("server.key"),
        tls.path("ca.pem")
    );
    let site = Site::new(&Options { dcs, ..Options::default() })?;
    let ca = tls.path("ca.pem");
    for node in &site.nodes {
        let text = fs::read_to_string(node.file()).unwrap();
        let full = format!("sslmode: verify-full, sslrootcert: {ca}, channel_binding: require");
        let cert =
            format!("sslcert: {}, sslkey: {}", tls.path("rewind.pem"), tls.path("rewind.key"));
        let text = text
            .replace("{username: postgres,", "{sslmode: require, username: postgres,")
            .replace("{username: replicator,", &format!("{{{full}, username: replicator,"))
            .replace("{username: rewind,", &format!("{{{full}, {cert}, username: rewind,"));
        give(&node.file(), Some(&text));
    }
    Some(site)
}

fn streams_by_tls(site: &Site) {
    let query = "SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl";
    assert_eq!(numbers(&site.write_port(), query, LIMIT), [2], "{}", site.everything());
}

fn query(site: &Site, environment: &[(&str, &str)]) -> Result<String, String> {
    let output = Command::new(PGHERD)
        .args(["ctl", "-c"])
        .arg(site.nodes[0].file())
        .args(["query", "-c", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"])
        .args(["-U", "postgres", "-m", &site.nodes[0].name])
        .env("PGPASSWORD", PASSWORD)
        .env_remove("HOME")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// `ctl query` by libpq's variables.
fn queries(site: &Site, tls: &Tls) {
    let (ca, other) = (tls.path("ca.pem"), tls.path("other.pem"));
    for good in [
        &[][..],
        &[("PGSSLMODE", "allow")],
        &[("PGSSLMODE", "require"), ("PGCHANNELBINDING", "require")],
        &[("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", &ca)],
        &[("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", &ca), ("PGGSSENCMODE", "disable")],
    ] {
        let answer = query(site, good);
        assert!(answer.as_ref().is_ok_and(|rows| rows.contains('t')), "{good:?}: {answer:?}");
    }
    for (bad, words) in [
        (&[("PGSSLMODE", "disable")][..], "no encryption"),
        (&[("PGSSLMODE", "verify-full")], "sslrootcert"),
        (&[("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", &other)], "certificate"),
        (&[("PGSSLMODE", "require"), ("PGSSLROOTCERT", &other)], "certificate"),
        (&[("PGSSLMODE", "always")], "expected disable, allow"),
    ] {
        let answer = query(site, bad).expect_err("it must not come in");
        assert!(answer.contains(words), "{bad:?}: {answer}");
        assert!(!answer.contains(PASSWORD), "{answer}");
    }
}

fn exporter(port: u16, tls: &Tls) {
    let [listen] = free_ports();
    let name = format!(
        "postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert={}",
        tls.path("ca.pem")
    );
    let mut child = Command::new(PGHERD)
        .arg("exporter")
        .arg(format!("--web.listen-address=127.0.0.1:{listen}"))
        .env("DATA_SOURCE_NAME", name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = std::time::Instant::now();
    let page = loop {
        let page = get(listen).unwrap_or_default();
        if page.contains("pg_up") || begin.elapsed() > LIMIT {
            break page;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(page.lines().any(|line| line.starts_with("pg_up") && line.ends_with(" 1")), "{page}");
}

fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page)
}

/// Through the router, which passes TLS on.
fn init(site: &Site, outer: &Path, tls: &Tls) {
    let dir = outer.join("init");
    give(&dir, None);
    give(&dir.join("1.sql"), Some("CREATE TABLE by_init ();\n"));
    let port = site.write_port().get_ports()[0];
    let url = format!("postgresql://postgres@localhost:{port}/postgres?sslmode=verify-full");
    let output = Command::new(PGHERD)
        .args(["init", "--url", &url])
        .arg(&dir)
        .env("PGPASSWORD", PASSWORD)
        .env("PGSSLROOTCERT", tls.path("ca.pem"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let there = "SELECT count(*) FROM pg_class WHERE relname = 'by_init'";
    assert_eq!(numbers(&site.write_port(), there, LIMIT), [1]);
}

/// The server takes other certificates on; who is believed by which mode.
fn certificates_of_all_kinds(site: &Site, tls: &Tls) {
    let own = tls.path("self.pem");
    for (server, cases) in [
        (
            "self",
            &[
                (&[("PGSSLMODE", "require")][..], true),
                (&[("PGSSLMODE", "require"), ("PGCHANNELBINDING", "require")], true),
                (&[("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", &own)], true),
                // It names no address.
                (&[("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", &own)], false),
                (&[("PGSSLMODE", "require"), ("PGSSLROOTCERT", &tls.path("ca.pem"))], false),
            ][..],
        ),
        (
            "first",
            &[
                (&[("PGSSLMODE", "require")][..], true),
                // Its signature can't be read, so it binds nothing.
                (&[("PGSSLMODE", "require"), ("PGCHANNELBINDING", "require")], false),
            ],
        ),
    ] {
        let parameters = ["cert.pem", "key.key"]
            .map(|word| word.split_once('.').unwrap())
            .map(|(name, end)| format!("ssl_{name}_file={}", tls.path(&format!("{server}.{end}"))));
        let words = ["edit-config", "--force", "-p", &parameters[0], "-p", &parameters[1]];
        let (code, out, err) = site.ctl(&words);
        assert_eq!(code, 0, "{out}{err}");
        let loaded = |site: &Site| {
            let sees = [("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", own.as_str())];
            query(site, &sees).is_ok() == (server == "self")
        };
        site.wait_until("the new certificate is shown", LIMIT, loaded);
        for (environment, good) in cases {
            let answer = query(site, environment);
            assert_eq!(answer.is_ok(), *good, "{server}, {environment:?}: {answer:?}");
        }
    }
}
