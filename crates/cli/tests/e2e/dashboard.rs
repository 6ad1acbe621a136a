//! The dashboard in a real browser: what its script makes of a living cluster, before and after a
//! failover. What the numbers mean is tested in crates/router.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::herd::{Fault, Herd};

const LIMIT: Duration = Duration::from_secs(60);
/// Time inside the page, which passes as fast as its script and its requests let it.
const PAGE_MS: u32 = 2_500;

/// The members' table, the ports and the title say who is primary, and a failover changes them.
pub(crate) fn follows_a_failover() {
    let Some(browser) = browser() else {
        crate::say("SKIPPED: no chromium; install it (scripts/setup test)");
        return;
    };
    let mut herd = crate::started();
    let leader = herd.leader().expect("a leader");
    let page = until(browser, &herd, |page| page.says_primary(&leader));
    for node in ["node1", "node2", "node3"] {
        assert_eq!(page.matches(&format!(r#"data-key="{node}""#)), 1, "{page:?}");
    }
    assert_eq!(page.matches(r#"class="badge replica""#), 2, "{page:?}");
    assert!(page.has(r#"id="unreachable" class="banner bad" role="alert" hidden"#), "{page:?}");
    let (former, _) = herd.hurt(Fault::KillPostmaster);
    herd.wait_whole();
    let next = herd.leader().expect("a leader again");
    let page = until(browser, &herd, |page| page.says_primary(&next));
    if next != former {
        assert!(page.has(&format!("{former} → {next}")), "{page:?}");
    }
}

/// One load of the page, as the browser shows it at its end.
#[derive(Debug)]
struct Page(String);

impl Page {
    fn has(&self, text: &str) -> bool {
        self.0.contains(text)
    }

    fn matches(&self, text: &str) -> usize {
        self.0.matches(text).count()
    }

    fn says_primary(&self, node: &str) -> bool {
        let row = format!(
            r#"<tr data-key="{node}" class="primary"><th scope="row"><span>{node}</span></th><td class="role"><span class="badge primary">PRIMARY</span>"#
        );
        self.has(&row)
            && self.has(&format!("<title>pgherd: {node}</title>"))
            && self.has(&format!(r#"<p id="write-target" class="big">→ {node}</p>"#))
    }
}

fn browser() -> Option<&'static str> {
    let answers = |name: &&str| {
        let tried = Command::new(name).arg("--version").stdout(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(answers)
}

fn until(browser: &str, herd: &Herd, done: impl Fn(&Page) -> bool) -> Page {
    let begin = Instant::now();
    loop {
        let page = load(browser, herd.ports[2]);
        if done(&page) {
            return page;
        }
        assert!(
            begin.elapsed() < LIMIT,
            "the page never showed it: {page:?}\n{}",
            herd.everything()
        );
    }
}

fn load(browser: &str, port: u16) -> Page {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args(["60", browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--disable-sync", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--virtual-time-budget={PAGE_MS}"))
        .args(["--dump-dom", &format!("http://127.0.0.1:{port}/")])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    Page(String::from_utf8_lossy(&output.stdout).into_owned())
}
