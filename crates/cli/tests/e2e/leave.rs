//! A replica that commits wait for is restarted, copied anew and stopped in order. What it stops under
//! is looked at by its own `before_stop` script: the primary's list, at that moment.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::herd::Herd;
use crate::many::give;
use crate::processes::send;
use crate::round::{verify, write_port};
use crate::writer::{Writer, longest_gap};
use crate::{say, started};

/// Patience with a restart, and with the list that follows it.
const LIMIT: Duration = Duration::from_secs(60);

/// `restart`, `reinit` and the end of its agent each hand its part to the other replica first.
pub(crate) fn no_commit_waits_for_who_leaves() {
    let mut herd = started();
    let seen = watch_stops(&herd);
    edit(
        &herd,
        &[
            "-s",
            "synchronous_mode=on",
            "-s",
            &format!("postgresql.before_stop={}", seen.1.display()),
        ],
    );
    let mut listed = next_listed(&herd, None);
    let writer = Writer::start(write_port(&herd), 1);
    for how in ["restart", "reinit", "stop"] {
        let _ = fs::remove_file(&seen.0);
        match how {
            "stop" => send(herd.agent(&listed).expect("its agent").cast_unsigned(), Signal::TERM),
            verb => {
                let (code, out, err) = herd.ctl(&[verb, "pgherd", &listed, "--force"]);
                assert_eq!(code, 0, "{out}{err}\n{}", herd.everything());
            }
        }
        let names = until(&herd, "stop", || {
            fs::read_to_string(&seen.0).ok().filter(|s| s.ends_with(".\n"))
        });
        assert!(!names.contains(&listed), "{how}: {listed} stopped under {names}");
        assert!(names.contains("node"), "{how}: nobody took its part: {names:?}");
        listed = next_listed(&herd, Some(&listed));
        herd.wait_whole();
    }
    let acknowledged = writer.finish();
    verify(&write_port(&herd), &acknowledged, || herd.everything());
    say(&format!("longest gap {} ms", longest_gap(&acknowledged).as_millis()));
    let log = fs::read_to_string(herd.up_log()).unwrap_or_default();
    assert!(!log.contains("commits may wait for this node"), "{log}");
}

/// A script that writes down the primary's list, and the file that it writes.
fn watch_stops(herd: &Herd) -> (PathBuf, PathBuf) {
    let (seen, script) = (herd.dir.join("seen"), herd.dir.join("seen.sh"));
    let text = format!(
        "#!/bin/sh\npsql \"host=127.0.0.1 port={} user=postgres dbname=postgres passfile={}\" \
         -XAtc \"SELECT current_setting('synchronous_standby_names') || ' .'\" > {seen}.new && mv {seen}.new {seen}\n",
        herd.ports[0],
        herd.dir.join("pgpass").display(),
        seen = seen.display(),
    );
    give(&script, Some(&text));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (seen, script)
}

fn edit(herd: &Herd, words: &[&str]) {
    let (code, out, err) = herd.ctl(&[&["edit-config", "--force"], words].concat());
    assert_eq!(code, 0, "{out}{err}");
}

/// The one replica that commits wait for, once it is another one.
fn next_listed(herd: &Herd, before: Option<&str>) -> String {
    until(herd, "one synchronous replica", || {
        let sync = herd.members().into_iter().filter(|member| member.role == "Sync Standby");
        let names: Vec<String> = sync.map(|member| member.name).collect();
        let [name] = names.as_slice() else { return None };
        (Some(name.as_str()) != before).then(|| name.clone())
    })
}

fn until<T>(herd: &Herd, what: &str, look: impl Fn() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < LIMIT, "no {what} in {LIMIT:?}\n{}", herd.everything());
        std::thread::sleep(Duration::from_millis(20));
    }
}
