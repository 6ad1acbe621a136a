//! Real PostgreSQL behind the router: psql, pgbench, a cancel, and a promotion. Skipped, loudly,
//! where PostgreSQL 15 isn't installed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pgherd_router::{RouterConfig, Topology};

use crate::{cluster, config, eventually, start_with};

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// One server, stopped when dropped.
struct Server {
    data: PathBuf,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = as_postgres("pg_ctl")
            .arg("-D")
            .arg(&self.data)
            .args(["-m", "immediate", "stop"])
            .output();
    }
}

fn as_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// A command of PostgreSQL, as a user that it accepts.
fn as_postgres(program: &str) -> Command {
    let program = format!("{BIN}/{program}");
    let mut command = if as_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", &program]);
        command
    } else {
        Command::new(program)
    };
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").current_dir("/");
    command.stdin(Stdio::null());
    command
}

fn run(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {errors}");
    output
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start_server(data: &Path) -> Server {
    let port = free_port();
    let settings = format!(
        "\nport = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n\
         fsync = off\nmax_connections = 50\nshared_buffers = 16MB\n"
    );
    let conf = data.join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap() + &settings;
    std::fs::write(conf, text).unwrap();
    let mut command = as_postgres("pg_ctl");
    command.arg("-D").arg(data).arg("-l").arg(data.join("log")).args(["-w", "start"]);
    // pg_ctl's child inherits the pipes; a file doesn't keep anybody waiting.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success(), "PostgreSQL in {} didn't start", data.display());
    Server { data: data.into(), address: SocketAddr::from(([127, 0, 0, 1], port)) }
}

fn psql(address: SocketAddr, sql: &str) -> Command {
    let mut command = as_postgres("psql");
    let port = address.port();
    let dsn = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    command.args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", &dsn, "-c", sql]);
    command
}

fn ask(address: SocketAddr, sql: &str) -> String {
    String::from_utf8(run(psql(address, sql)).stdout).unwrap().trim().to_owned()
}

fn pgbench(address: SocketAddr, more: &[&str]) -> String {
    let mut command = as_postgres("pgbench");
    let port = address.port().to_string();
    command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]).args(more).arg("postgres");
    String::from_utf8(run(command).stdout).unwrap()
}

/// A primary and a streaming standby below `dir`.
fn two_servers(dir: &Path) -> (Server, Server) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    let mut initdb = as_postgres("initdb");
    initdb.args(["-A", "trust", "-U", "postgres", "-N", "-D"]).arg(&a);
    run(initdb);
    let primary = start_server(&a);
    let port = primary.address.port().to_string();
    let mut copy = as_postgres("pg_basebackup");
    copy.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-R", "-c", "fast", "-D"]).arg(&b);
    run(copy);
    let standby = start_server(&b);
    (primary, standby)
}

#[tokio::test(flavor = "multi_thread")]
async fn real_postgres() {
    if !Path::new(BIN).join("postgres").exists() {
        eprintln!(
            "\nskipped: NO POSTGRESQL 15 IN {BIN}: the router was not tested with a real one\n"
        );
        return;
    }
    // Short and readable by the postgres user.
    let dir = tempfile::Builder::new().prefix("pgherd-router").tempdir_in("/tmp").unwrap();
    if as_root() {
        run({
            let mut chown = Command::new("chown");
            chown.arg("postgres:postgres").arg(dir.path());
            chown
        });
    }
    let (a, b) = two_servers(dir.path());
    let members = [("a", a.address), ("b", b.address)];
    let config = RouterConfig { hold: Duration::from_secs(20), ..config() };
    let fixture = start_with(config, cluster(Some(("a", 1)), &members));
    let (write, read) = (fixture.write, fixture.read);

    assert_eq!(ask(write, "select pg_is_in_recovery()"), "f");
    assert_eq!(ask(read, "select pg_is_in_recovery()"), "t");
    pgbench(write, &["-i", "-q", "-s", "1"]);
    let report = pgbench(write, &["-c", "8", "-j", "2", "-t", "50", "-n", "-C"]);
    assert!(report.contains("400/400"), "{report}");
    let report = pgbench(write, &["-c", "8", "-j", "2", "-t", "100", "-n", "-M", "prepared"]);
    assert!(report.contains("800/800"), "{report}");
    eventually("the standby has caught up", || {
        ask(read, "select count(*) from pgbench_history") == "1200"
    })
    .await;
    let report = pgbench(read, &["-n", "-S", "-c", "8", "-j", "2", "-t", "100"]);
    assert!(report.contains("800/800"), "{report}");

    cancel(write, a.address).await;
    refusal_as_psql_shows_it(&members).await;

    // A switch: the held connection gets the promoted server.
    fixture.set(cluster(None, &members));
    crate::http::wait_for_writes_to(fixture.http, "nobody").await;
    let held = std::thread::spawn(move || {
        ask(write, "select pg_is_in_recovery(), count(*) from pgbench_history")
    });
    crate::http::wait_for_held(fixture.http, 1).await;
    let mut promote = as_postgres("pg_ctl");
    promote.arg("-D").arg(&b.data).args(["-w", "promote"]);
    run(promote);
    fixture.set(cluster(Some(("b", 2)), &members));
    assert_eq!(held.join().unwrap(), "f|1200");
}

/// Ctrl-C in psql ends the query on the server, through the router.
async fn cancel(write: SocketAddr, server: SocketAddr) {
    let mut query = psql(write, "select pg_sleep(600)");
    query.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = query.spawn().unwrap();
    let sleeping = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'";
    eventually("the query runs", || ask(server, sleeping) == "1").await;
    // setpriv has become psql: the pid is the same.
    run({
        let mut kill = Command::new("kill");
        kill.arg("-INT").arg(child.id().to_string());
        kill
    });
    let output =
        tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("canceling statement due to user request"), "{errors}");
    assert_eq!(ask(server, sleeping), "0");
}

/// What a person sees when there is no primary.
async fn refusal_as_psql_shows_it(members: &[(&str, SocketAddr)]) {
    let config = RouterConfig { hold: Duration::from_millis(200), ..config() };
    let nobody: Topology = cluster(None, members);
    let fixture = start_with(config, nobody);
    let mut command = psql(fixture.write, "select 1");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("FATAL:  no primary since"), "{errors}");
    assert!(errors.contains("nobody holds the leader key"), "{errors}");
}
