//! What surrounds an agent that runs: systemd's socket, the kernel's watchdog (a file that gets
//! everything in writing), SIGHUP and reloads, log files, who asked for what, the first process of a
//! container.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::LIMIT;
use crate::many::{Options, Site, give};
use crate::processes::{parent, pids, send, words};
use crate::writer::{execute, numbers};

/// Longer than a ttl of 20 s with everything that may follow it.
const LONG: Duration = Duration::from_secs(90);

/// A site whose agents have a watchdog and a log directory, and tell `notify` how it goes.
fn site() -> Option<Site> {
    let mut site = Site::new(&Options::default())?;
    for node in &site.nodes {
        let dir = node.dir.display();
        let text =
            fs::read_to_string(node.file()).unwrap().replace("    ttl: 5\n", "    ttl: 20\n");
        let more = format!(
            "log: {{type: json, dir: {dir}/log}}\n\
             watchdog: {{mode: required, device: {dir}/watchdog, safety_margin: -1, driver: testing}}\n"
        );
        give(&node.file(), Some(&(text + &more)));
        give(&node.dir.join("log"), None);
        give(&node.dir.join("watchdog"), Some(""));
    }
    let socket = site.dir.join("notify");
    site.environment = vec![
        ("NOTIFY_SOCKET".to_owned(), socket.display().to_string()),
        ("WATCHDOG_USEC".to_owned(), "900000".to_owned()),
    ];
    Some(site)
}

pub(crate) fn an_agent_and_what_surrounds_it() {
    let Some(mut site) = site() else { return };
    let systemd = Systemd::listen(&site.dir.join("notify"));
    site.start();
    execute(&site.write_port(), "CREATE TABLE acks (n bigint PRIMARY KEY)", LIMIT);
    for (word, times) in [
        ("READY=1", 3),
        ("STATUS=leader: primary, with the leader key", 1),
        ("STATUS=replica: streaming from the leader", 2),
        ("WATCHDOG=1", 10),
    ] {
        systemd.heard(word, times);
    }
    reloads(&site, &systemd);
    the_log_is_json(&site);
    a_log_that_hangs(&site);
    who_asked(&site);
    the_watchdog_goes_with_the_leader(&site);
    let name = site.nodes[0].name.clone();
    site.stop_agent(&name);
    systemd.heard("STOPPING=1", 1);
}

/// systemd's end of the socket.
struct Systemd(Arc<Mutex<Vec<String>>>);

impl Systemd {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(path, all).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let words = Arc::clone(&heard);
        // It ends with the test: the socket never closes.
        std::thread::spawn(move || {
            let mut buffer = [0; 500];
            while let Ok(length) = socket.recv(&mut buffer) {
                words.lock().unwrap().push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        });
        Self(heard)
    }

    /// Waits until this was said so many times.
    fn heard(&self, word: &str, times: usize) {
        let begin = Instant::now();
        while self.0.lock().unwrap().iter().filter(|said| said.contains(word)).count() < times {
            assert!(
                begin.elapsed() < LIMIT,
                "not {times} times {word}: {:?}",
                self.0.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `GET`, status and head and body as one text.
fn get(site: &Site, node: usize, path: &str) -> String {
    call(site, node, "GET", path, "")
}

fn call(site: &Site, node: usize, method: &str, path: &str, more: &str) -> String {
    use std::io::{Read as _, Write as _};
    let port = site.nodes[node].rest;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// SIGHUP, `POST /reload` and `ctl reload`: each takes over what the file says by then; a file with
/// a mistake changes nothing.
fn reloads(site: &Site, systemd: &Systemd) {
    let node = &site.nodes[0];
    let original = fs::read_to_string(node.file()).unwrap();
    let rest = |more: &str| original.replace("restapi:\n", &format!("restapi:\n{more}"));
    let until = |what: &str| {
        site.wait_until(what, LIMIT, |site| get(site, 0, "/patroni").contains(what));
    };
    assert!(get(site, 0, "/patroni").contains("server: pgherd/"));
    let tags = "tags: {zone: north}\n";
    let headers = "  http_extra_headers: {X-Rack: 'four'}\n  server_tokens: productonly\n";
    give(&node.file(), Some(&(rest(headers) + tags)));
    let agent = site.agent(&node.name);
    send(agent, Signal::HUP);
    until("\"zone\": \"north\"");
    let answer = get(site, 0, "/patroni");
    assert!(
        answer.contains("x-rack: four\r\n") && answer.contains("server: Patroni\r\n"),
        "{answer}"
    );
    systemd.heard("RELOADING=1\nMONOTONIC_USEC=", 1);
    systemd.heard("READY=1", 4);
    // Others read it in the store.
    site.wait_until("the tag in the list", LIMIT, |site| {
        site.ctl(&["list"]).1.contains("zone: north")
    });

    give(&node.file(), Some(&(rest("  server_tokens: minimal\n") + "tags: {zone: south}\n")));
    let answer = call(site, 0, "POST", "/reload", "Content-Length: 0\r\n");
    assert!(answer.starts_with("HTTP/1.1 202 ") && answer.contains("reload scheduled"), "{answer}");
    until("\"zone\": \"south\"");
    let answer = get(site, 0, "/patroni");
    assert!(answer.contains("server: Patroni/4.") && !answer.contains("x-rack"), "{answer}");

    give(&node.file(), Some(&rest("  server_tokens: loud\n")));
    send(agent, Signal::HUP);
    site.wait_until("the mistake", LIMIT, |site| {
        let log = read(&site.nodes[0].dir.join("log/patroni.log"));
        log.contains("the configuration is not taken over") && log.contains("server_tokens")
    });
    assert!(get(site, 0, "/patroni").contains("\"zone\": \"south\""));

    give(&node.file(), Some(&original));
    let (code, out, err) = site.ctl(&["reload", "many", &node.name, "--force"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("Reload request received for member node1"), "{out}");
    site.wait_until("the tag is gone", LIMIT, |site| !get(site, 0, "/patroni").contains("zone"));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn the_log_is_json(site: &Site) {
    let log = read(&site.nodes[0].dir.join("log/patroni.log"));
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let lines: Vec<_> = lines.collect();
    assert!(lines.iter().any(|line| {
        line["message"] == "changed"
            && line["key"].as_str().is_some_and(|key| key.starts_with("tags"))
    }));
    assert!(lines.iter().any(|line| line["situation"].is_string() && line["levelname"] == "INFO"));
}

/// Nobody reads the pipe that the leader's log goes to, and its queue is small: the node goes on.
fn a_log_that_hangs(site: &Site) {
    let leader = site.leader().expect("a leader");
    let node = site.node(&leader);
    let original = fs::read_to_string(node.file()).unwrap();
    let log = node.dir.join("log/patroni.log");
    fs::remove_file(&log).unwrap();
    assert!(Command::new("mkfifo").arg("-m").arg("666").arg(&log).status().unwrap().success());
    let small = original
        .replace("log: {type: json,", "log: {type: json, level: NOTSET, max_queue_size: 3,");
    give(&node.file(), Some(&small));
    send(site.agent(&leader), Signal::HUP);
    // Longer than the ttl.
    let until = Instant::now() + Duration::from_secs(25);
    let mut number = 0;
    while Instant::now() < until {
        number += 1;
        execute(&site.write_port(), &format!("INSERT INTO acks VALUES ({number})"), LIMIT);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(site.leader().as_deref(), Some(leader.as_str()), "{}", site.everything());
    // Somebody reads at last; the file of now is another.
    let pipe = fs::File::open(&log).unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut &pipe, &mut std::io::sink()));
    fs::remove_file(&log).unwrap();
    give(&node.file(), Some(&original));
    send(site.agent(&leader), Signal::HUP);
    site.wait_until("a log", LIMIT, |_| read(&log).contains('\n'));
    reader.join().unwrap().unwrap();
}

fn explained(site: &Site) -> String {
    let (code, out, err) = site.ctl(&["explain"]);
    assert_eq!(code, 0, "{out}{err}");
    out
}

fn who_asked(site: &Site) {
    let before = site.leader();
    let (code, out, err) = site.ctl(&["switchover", "--force"]);
    assert_eq!(code, 0, "{out}{err}\n{}", site.everything());
    site.wait_whole();
    assert_ne!(site.leader(), before);
    let said = explained(site);
    let wanted =
        format!("POST /switchover by 127.0.0.1 with pgherd/{} (", env!("CARGO_PKG_VERSION"));
    assert!(said.contains(&wanted), "{said}");
    call(site, 0, "POST", "/reload", "Content-Length: 0\r\nUser-Agent: curl/8\r\n");
    let said = explained(site);
    assert!(said.contains("POST /reload by 127.0.0.1 with curl/8"), "{said}");
}

fn watchdog(site: &Site, name: &str) -> String {
    read(&site.node(name).dir.join("watchdog"))
}

/// The leader's is fed, with each confirmed belief; who doesn't lead any more has given it back.
fn the_watchdog_goes_with_the_leader(site: &Site) {
    let leader = site.leader().expect("a leader");
    site.wait_until("the leader's watchdog is fed twice", LONG, |site| {
        let fed = watchdog(site, &leader);
        fed.rsplit("Ctimeout=10\n").next().is_some_and(|fed| fed.starts_with("11"))
    });
    for node in &site.nodes {
        let fed = watchdog(site, &node.name);
        let rests = fed.is_empty() || fed.ends_with('V');
        assert_eq!(rests, node.name != leader, "{}: {fed}", node.name);
    }
}

/// A crashed agent is started again by the container's first process, which also takes away what
/// nobody else does. Without Docker: the first process of a namespace.
pub(crate) fn the_first_process_of_a_container() {
    if !rustix::process::geteuid().is_root() {
        crate::say("SKIPPED: only root makes namespaces");
        return;
    }
    let Some(mut site) = Site::new(&Options::default()) else { return };
    site.first = true;
    site.start();
    let born = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";
    let before = numbers(&site.write_port(), born, LIMIT);
    let leader = site.leader().expect("a leader");
    let file = site.node(&leader).file().display().to_string();
    let agents = || -> Vec<(i32, i32)> {
        let agent = |pid: &i32| {
            let words = words(*pid);
            words.get(1).is_some_and(|word| word == "agent") && words.last() == Some(&file)
        };
        pids().into_iter().filter(agent).filter_map(|pid| Some((pid, parent(pid)?))).collect()
    };
    // The child is the one whose parent is one of them.
    let child = || {
        let agents = agents();
        agents.iter().copied().find(|(_, above)| agents.iter().any(|(pid, _)| pid == above))
    };
    let (agent, first) = child().expect("an agent below a first process");
    send(agent.cast_unsigned(), Signal::KILL);
    site.wait_until("another agent", LIMIT, |_| child().is_some_and(|(pid, _)| pid != agent));
    site.wait_whole();
    assert_eq!(numbers(&site.write_port(), born, LIMIT), before, "PostgreSQL lives on");
    assert_eq!(site.leader().as_deref(), Some(leader.as_str()));
    // An orphan of the namespace ends; nothing of it stays.
    let orphan = format!("nsenter -t {first} -p -m sh -c '(sleep 0.2; exec true) & '");
    assert!(Command::new("sh").args(["-c", &orphan]).status().unwrap().success());
    let zombies = || {
        let dead = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
        };
        pids().into_iter().filter(|pid| parent(*pid) == Some(first)).filter(dead).count()
    };
    std::thread::sleep(Duration::from_millis(500));
    site.wait_until("no zombies", LIMIT, |_| zombies() == 0);
    let stopped: PathBuf = site.node(&leader).dir.join("data/postmaster.pid");
    send(first.cast_unsigned(), Signal::TERM);
    site.wait_until("it stops in order", LONG, |_| !stopped.exists() && agents().is_empty());
}
