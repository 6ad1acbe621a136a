//! Finds what the tests use, where the tests look for it: `PGHERD_ETCD` or PATH for etcd,
//! Debian's directories or PATH for PostgreSQL. Installs nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::count::Counts;

/// The tools of this machine.
pub(crate) struct Tools {
    /// PATH for what CI runs: the project's own tools first.
    pub(crate) path: OsString,
    pub(crate) nextest: bool,
    pub(crate) deny: bool,
    pub(crate) advisory_database: bool,
    postgres: Option<PathBuf>,
    etcd: Option<PathBuf>,
    etcdctl: Option<PathBuf>,
    patroni: bool,
    browser: bool,
}

impl Tools {
    /// Looks for everything.
    pub(crate) fn find(root: &Path) -> Self {
        let mut directories = vec![root.join("target/tools/bin")];
        directories.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let find = |name: &str| directories.iter().map(|d| d.join(name)).find(|p| p.is_file());
        let etcd = std::env::var_os("PGHERD_ETCD").map(PathBuf::from);
        Self {
            nextest: find("cargo-nextest").is_some(),
            deny: find("cargo-deny").is_some(),
            advisory_database: has_advisory_database(),
            postgres: newest_packaged_postgres().or_else(|| find("postgres")),
            etcd: etcd.or_else(|| find("etcd")),
            etcdctl: find("etcdctl"),
            patroni: has_patroni(root),
            browser: ["chromium", "chromium-browser", "google-chrome"]
                .iter()
                .any(|b| find(b).is_some()),
            path: std::env::join_paths(&directories).unwrap_or_default(),
        }
    }

    /// Prints the tools; counts what can't be tested without one.
    pub(crate) fn report(&self) -> Counts {
        let version = |path: &Path, argument: &str| println!("{}", first_line_of(path, argument));
        version(Path::new("rustc"), "--version");
        let runner = if self.nextest { "cargo-nextest" } else { "cargo test (no cargo-nextest)" };
        println!("tests run with {runner}");
        let mut counts = Counts::check(self.postgres.is_some());
        match &self.postgres {
            Some(path) => version(path, "--version"),
            None => println!("FAILED: no PostgreSQL server; scripts/setup installs one"),
        }
        match &self.etcd {
            Some(path) => version(path, "--version"),
            None => counts += super::skip("no etcd: the store is tested without a real one"),
        }
        match &self.etcdctl {
            Some(path) => version(path, "version"),
            None => counts += super::skip("no etcdctl: the embedded store is tested without it"),
        }
        if !self.patroni {
            counts += super::skip("no Patroni: no cluster is tested with it (scripts/setup test)");
        }
        if !self.browser {
            counts +=
                super::skip("no chromium: nobody looks at the dashboard (scripts/setup test)");
        }
        counts
    }
}

/// `path --version`, its first line.
fn first_line_of(path: &Path, argument: &str) -> String {
    let output = Command::new(path).arg(argument).env("ETCDCTL_API", "3").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text.as_deref().unwrap_or_default().lines().next().unwrap_or("does not start");
    format!("{}: {line}", path.display())
}

/// Where the end-to-end tests look for it.
fn has_patroni(root: &Path) -> bool {
    let named = std::env::var_os("PGHERD_PATRONI").map(PathBuf::from);
    let dir = named.unwrap_or_else(|| root.join("target/tools/patroni"));
    dir.join("patroni/dcs/etcd3.py").is_file()
}

/// The server of the highest major version among Debian's packages.
fn newest_packaged_postgres() -> Option<PathBuf> {
    let majors = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let numbered = majors.filter_map(|entry| {
        let entry = entry.ok()?;
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((major, entry.path().join("bin/postgres")))
    });
    numbered.filter(|(_, path)| path.is_file()).max().map(|(_, path)| path)
}

/// Whether cargo-deny has fetched its advisories before.
fn has_advisory_database() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let Some(home) = home else { return false };
    let databases = std::fs::read_dir(home.join("advisory-dbs"));
    databases.is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|e| e.path().is_dir())))
}
