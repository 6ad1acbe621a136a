//! The log of a process that stays, with a router that never reaches its store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{open_dir, ports, text};

const LIMIT: Duration = Duration::from_secs(20);

struct Router {
    child: Child,
    dir: tempfile::TempDir,
    http: String,
}

impl Router {
    fn start(log: &str) -> Self {
        let dir = open_dir();
        // A router that was root writes as somebody else.
        let log_dir = dir.path().join("log");
        fs::create_dir(&log_dir).unwrap();
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&log_dir, all).unwrap();
        let [write, http, nobody] = ports();
        let base = format!(
            "scope: demo\netcd3: {{hosts: '127.0.0.1:{nobody}'}}\nwrite: 127.0.0.1:{write}\n\
             http: 127.0.0.1:{http}\n"
        );
        fs::write(dir.path().join("base"), &base).unwrap();
        let file = dir.path().join("router.yml");
        fs::write(&file, base + &log.replace("DIR", text(&log_dir))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pgherd"))
            .args(["router", text(&file)])
            .env("PATRONI_LOG_STATIC_FIELDS", "{app: front}")
            .env_remove("RUST_LOG")
            .stderr(fs::File::create(dir.path().join("stderr")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, dir, http }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log/router.log")
    }

    /// Other settings for the log, and SIGHUP.
    fn change(&self, log: &str) {
        let base = fs::read_to_string(self.dir.path().join("base")).unwrap();
        let log = log.replace("DIR", text(self.log().parent().unwrap()));
        fs::write(self.dir.path().join("router.yml"), base + &log).unwrap();
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    fn answers(&self) -> bool {
        let address = format!("127.0.0.1:{}", self.http);
        let Ok(mut stream) = std::net::TcpStream::connect(address) else { return false };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let request = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        answer.starts_with("HTTP/1.1 ")
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < LIMIT, "not {what} in {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_file_of_json_lines_that_follows_sighup() {
    let router =
        Router::start("log: {type: json, dir: DIR, mode: '0600', static_fields: {app: x}}\n");
    until("a line", || read(&router.log()).contains('\n'));
    for line in read(&router.log()).lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["app"], "front", "the environment is stronger: {line}");
        assert!(line["asctime"].is_string() && line["message"].is_string(), "{line}");
    }
    let mode = fs::metadata(router.log()).map(|known| known.permissions());
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.unwrap()) & 0o777, 0o600);
    // What a tool has moved away is opened anew, in the form of now.
    fs::rename(router.log(), router.dir.path().join("moved")).unwrap();
    let before = read(&router.dir.path().join("moved"));
    router.change("log: {dir: DIR, format: '%(levelname)s|%(name)s|%(message)s'}\n");
    let said = "INFO|pgherd::commands::router|the settings were read again";
    until("the new form", || read(&router.log()).contains(said));
    assert!(!before.contains('|'), "{before}");
    router.change("log: {dir: DIR}\nhold: 3s\n");
    until("the rest", || read(&router.log()).contains("changed, but read at the start only"));
    let count = || read(&router.log()).matches("the settings were read again").count();
    router.change("log: {dir: DIR, level: ERROR, loggers: {pgherd.commands: DEBUG}}\n");
    until("the module's own level", || count() == 2);
    router.change("log: {dir: DIR, level: ERROR}\nhold: 4s\n");
    router.change("log: {dir: DIR, level: LOUD}\n");
    until("the mistake", || read(&router.log()).contains("ERROR, WARNING, INFO or DEBUG"));
    assert_eq!(count(), 2);
    assert!(router.answers());
}

/// Nobody reads the pipe that the log goes to: the process goes on, and says afterwards how many
/// lines there was no room for.
#[test]
fn a_log_that_hangs_stops_nothing() {
    let router = Router::start("log: {dir: DIR, level: INFO}\n");
    until("a line", || read(&router.log()).contains('\n'));
    fs::remove_file(router.log()).unwrap();
    let made = Command::new("mkfifo").args(["-m", "666", text(&router.log())]).status().unwrap();
    assert!(made.success());
    // Opening the pipe hangs until somebody reads it.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        assert!(router.answers());
        router.change("log: {dir: DIR, max_queue_size: 5}\n");
        std::thread::sleep(Duration::from_millis(50));
    }
    let pipe = router.log();
    // Open for writing too: the pipe doesn't end when the file is opened anew.
    let mut held = fs::File::options();
    held.read(true).write(true);
    let reader = std::thread::spawn(move || {
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(held.open(pipe)?));
        let found =
            lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("lines were lost")));
        found.unwrap_or_else(|| Ok(String::new()))
    });
    until("the reader's end", || reader.is_finished());
    let said = reader.join().unwrap().unwrap();
    assert!(said.contains("WARN pgherd::log: "), "{said}");
    // It ends although nobody reads its last words any more.
    kill_process(Pid::from_child(&router.child), Signal::TERM).unwrap();
    let mut router = router;
    let begin = Instant::now();
    while router.child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < LIMIT, "it never ends");
        std::thread::sleep(Duration::from_millis(20));
    }
}
