//! Looks at the machine before anything is changed: directory, ports, programs, another `up`.
//! Changes nothing, and finds everything that is wrong at once.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::layout::{Layout, Marker};
use super::plan::Ports;
use crate::privilege::Account;
use crate::settings::problem::Problem;

/// The ports of this machine, asked one by one.
pub(super) struct Machine<'a> {
    pub(super) layout: &'a Layout,
}

impl Ports for Machine<'_> {
    fn taken(&self, port: u16) -> bool {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()
    }

    fn own_postgres(&self, node: &str) -> bool {
        let file = self.layout.data(node).join("postmaster.pid");
        let pid = fs::read_to_string(file).ok();
        let pid = pid.as_deref().and_then(|text| text.lines().next()?.trim().parse().ok());
        pid.is_some_and(|pid: i32| pgherd_guard::stat(pid).is_some())
    }
}

/// What is in the directory.
pub(super) enum Contents {
    /// Nothing, or it doesn't exist.
    Nothing,
    /// A cluster of ours.
    Cluster(Marker),
}

/// Looks into the directory.
pub(super) fn contents(layout: &Layout) -> Result<Contents, Problem> {
    let place = layout.dir.display().to_string();
    let wrong = |words: String| Problem::error(None, place.clone(), words);
    match fs::symlink_metadata(&layout.dir).and_then(|_| fs::metadata(&layout.dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::Nothing),
        Err(error) => return Err(wrong(format!("the directory can't be looked at: {error}"))),
        Ok(meta) if !meta.is_dir() => {
            return Err(wrong("expected a directory, found a file; choose another --dir".into()));
        }
        Ok(_) => {}
    }
    match Marker::read(&layout.marker()) {
        Ok(Some(marker)) => return Ok(Contents::Cluster(marker)),
        Ok(None) => {}
        Err(error) => {
            return Err(wrong(format!(
                "its cluster.json can't be used: {error:#}; move the directory away, or choose \
                 another --dir"
            )));
        }
    }
    let entries = fs::read_dir(&layout.dir)
        .map_err(|error| wrong(format!("the directory can't be read: {error}")))?;
    let mut found = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    // A lock and nothing else is what a first start leaves that was cut short.
    match found.find(|name| name != "up.lock") {
        None => Ok(Contents::Nothing),
        Some(name) => Err(wrong(format!(
            "the directory doesn't belong to pgherd (it has no cluster.json, and '{name}' is in \
             it); choose an empty or new one with --dir"
        ))),
    }
}

/// Whether this process can make and write what it has to, and `account` can get there.
pub(super) fn access(layout: &Layout, account: Option<&Account>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let place = layout.dir.display().to_string();
    if let Some(words) = layout.too_long() {
        problems.push(Problem::error(None, place.clone(), words));
    }
    let exists = layout.dir.exists();
    let nearest = nearest_existing(&layout.dir);
    let needed = Access::WRITE_OK | Access::EXEC_OK;
    if let Err(errno) = rustix::fs::access(&nearest, needed) {
        let what = if exists { "written to" } else { "made" };
        let below = if exists { String::new() } else { format!(" below {}", nearest.display()) };
        let words = format!(
            "the directory can't be {what}{below} ({}); choose another with --dir",
            io::Error::from(errno)
        );
        problems.push(Problem::error(None, place, words));
    } else if exists && layout.marker().exists() {
        problems.extend(ownership(layout, account));
    }
    if let Some(account) = account {
        problems.extend(unreachable(&layout.dir, account));
    }
    problems
}

/// As root, an existing cluster must belong to whom PostgreSQL is to run as.
fn ownership(layout: &Layout, account: Option<&Account>) -> Option<Problem> {
    let account = account?;
    let owner = fs::metadata(layout.marker()).ok()?.uid();
    if owner == account.uid.as_raw() {
        return None;
    }
    let name = nix::unistd::User::from_uid(owner.into()).ok().flatten();
    let name = name.map_or_else(|| owner.to_string(), |user| user.name);
    let words = format!(
        "the cluster belongs to the user '{name}', and PostgreSQL is to run as '{}'; say \
         --user {name}",
        account.name
    );
    Some(Problem::error(None, layout.dir.display().to_string(), words))
}

/// All data directories must be of one database cluster. A running PostgreSQL is no hindrance.
pub(super) fn one_cluster(layout: &Layout, marker: &Marker) -> Option<Problem> {
    let known = marker.nodes.iter().filter_map(|node| {
        let control = pgherd_postgres::read_control(&layout.data(&node.name)).ok()?;
        Some((node.name.as_str(), control.system_id))
    });
    let known: Vec<_> = known.collect();
    let ((first, id), rest) = known.split_first()?;
    let (odd, other) = rest.iter().find(|(_, other)| other != id)?;
    let words = format!(
        "the data directories belong to different database clusters ({first} has system \
         identifier {id}, {odd} has {other}); move the one that doesn't belong here away, and its \
         node gets a new copy"
    );
    Some(Problem::error(None, layout.dir.display().to_string(), words))
}

fn nearest_existing(path: &Path) -> PathBuf {
    let existing = path.ancestors().find(|p| p.exists());
    existing.unwrap_or(Path::new("/")).to_owned()
}

/// The part of the path that keeps `account` from getting to it.
fn unreachable(path: &Path, account: &Account) -> Option<Problem> {
    let groups = groups(account);
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let barred = above.into_iter().find(|part| {
        fs::metadata(part).is_ok_and(|meta| !may_enter(&meta, account.uid.as_raw(), &groups))
    })?;
    let words = format!(
        "'{}' can't be entered by the user '{}', who PostgreSQL runs as; choose a directory that \
         user can reach with --dir, or give it the right (chmod o+x)",
        barred.display(),
        account.name
    );
    Some(Problem::error(None, path.display().to_string(), words))
}

fn may_enter(meta: &fs::Metadata, uid: u32, groups: &[u32]) -> bool {
    let bit = if meta.uid() == uid {
        0o100
    } else if groups.contains(&meta.gid()) {
        0o010
    } else {
        0o001
    };
    meta.mode() & bit != 0
}

fn groups(account: &Account) -> Vec<u32> {
    let name = std::ffi::CString::new(account.name.as_str()).ok();
    let all = name.and_then(|name| nix::unistd::getgrouplist(&name, account.gid).ok());
    let all = all.unwrap_or_else(|| vec![account.gid]);
    all.into_iter().map(nix::unistd::Gid::as_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_directory_is_refused_and_an_empty_one_taken() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        assert!(matches!(contents(&layout), Ok(Contents::Nothing)));
        fs::write(layout.lock(), "1").unwrap();
        assert!(matches!(contents(&layout), Ok(Contents::Nothing)));
        fs::write(dir.path().join("PG_VERSION"), "15").unwrap();
        let problem = contents(&layout).err().unwrap();
        assert!(problem.words.contains("'PG_VERSION' is in it"), "{problem}");
        fs::write(layout.marker(), "{}").unwrap();
        let problem = contents(&layout).err().unwrap();
        assert!(problem.words.contains("can't be used"), "{problem}");
    }

    #[test]
    fn a_long_path_is_refused_before_postgresql_does() {
        let layout = Layout::new(PathBuf::from(format!("/tmp/{}", "x".repeat(100))));
        assert!(layout.too_long().unwrap().contains("shorter one"));
        assert!(Layout::new(PathBuf::from("/var/lib/pgherd")).too_long().is_none());
    }
}
