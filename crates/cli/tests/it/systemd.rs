//! What systemd sees of a process: the unit file, and the words to its socket.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{open_dir, ports, text};

#[test]
fn the_unit_file_is_accepted() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/systemd/pgherd.service");
    let unit = fs::read_to_string(unit).unwrap();
    let dir = open_dir();
    let file = dir.path().join("pgherd.service");
    // The program has to be where the unit says.
    let unit = unit.replace("/usr/bin/pgherd", env!("CARGO_BIN_EXE_pgherd"));
    fs::write(&file, unit).unwrap();
    let output = match Command::new("systemd-analyze").args(["verify", text(&file)]).output() {
        Ok(output) => output,
        Err(error) => {
            println!("SKIPPED: no systemd-analyze; install the package systemd: {error}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("pgherd.service")).collect();
    // A document that isn't installed here, and nothing else.
    let serious: Vec<_> = ours.iter().filter(|line| !line.contains("Documentation")).collect();
    assert!(serious.is_empty(), "{said}");
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_router_says_that_it_is_up_and_that_it_ends() {
    let dir = open_dir();
    let [write, http, nobody] = ports();
    let file = dir.path().join("router.yml");
    let settings = format!(
        "scope: demo\netcd3: {{hosts: '127.0.0.1:{nobody}'}}\nwrite: 127.0.0.1:{write}\n\
         http: 127.0.0.1:{http}\n"
    );
    fs::write(&file, settings).unwrap();
    let socket = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&socket, all).unwrap();
    let mut router = Command::new(env!("CARGO_BIN_EXE_pgherd"))
        .args(["router", text(&file)])
        .env("NOTIFY_SOCKET", &socket)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let heard = || {
        let mut buffer = [0; 100];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(heard(), "READY=1");
    kill_process(Pid::from_child(&router), Signal::TERM).unwrap();
    assert_eq!(heard(), "STOPPING=1");
    assert!(router.wait().unwrap().success());
}
