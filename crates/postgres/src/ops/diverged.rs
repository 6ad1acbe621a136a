//! What a rewind would destroy without a word: the WAL that only this node has, with commits that it
//! may have acknowledged. Counted, and kept beside the data directory, before pg_rewind begins.
//! Leaves whether to rewind to the core, and showing what is kept to whoever asks [`read_all`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgherd_core::{Lsn, Timeline};

use super::{QUICK, room};
use crate::PgError;
use crate::control::read_control;
use crate::durable::{beside, write_durable};
use crate::facts::{blocking, history_line, timeline_of};
use crate::server::Core;
use crate::sql::{Sql, literal};
use crate::tool::Tool;

/// So much WAL is kept of one rewind: sixteen segments of the usual size. What an asynchronous leader
/// has written in the seconds before it was deposed is far less.
const BYTES_MAX: u64 = 256 << 20;
/// And no more than this part of the free room.
const ROOM_PART: u64 = 4;
/// So many rewinds' WAL is kept; older ones go.
const KEPT_MAX: usize = 3;
/// How long counting may take: a gigabyte or so.
const COUNTING: Duration = Duration::from_secs(10);
/// What is known of the WAL, beside it.
const ABOUT: &str = "about.txt";

/// WAL that a rewind took out of the cluster's history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LostWal {
    /// Where its segments are.
    pub path: PathBuf,
    /// When it was found, in unix seconds.
    pub at: u64,
    /// Its timeline.
    pub timeline: Timeline,
    /// Where the cluster's history goes another way.
    pub from: Lsn,
    /// The last record that was found.
    pub to: Lsn,
    /// Transactions that were committed there, acknowledged or not; `None`: not counted to the end.
    pub commits: Option<u64>,
    /// Segments that are kept.
    pub segments: u64,
    /// Segments for which there was no room.
    pub left_out: u64,
}

/// What there is to keep.
struct Found {
    timeline: Timeline,
    from: Lsn,
    to: Lsn,
    commits: Option<u64>,
}

/// What pg_waldump tells.
#[derive(Default)]
struct Counted {
    last: Option<Lsn>,
    commits: u64,
}

impl Core {
    /// Best effort: a node that can't keep it rejoins all the same, and says so.
    pub(super) async fn keep_diverged(self: &Arc<Self>, source: &Sql) {
        match self.look_for_diverged(source).await {
            Ok(Some(lost)) => tracing::warn!(
                timeline = lost.timeline.0, from = %lost.from, to = %lost.to,
                commits = lost.commits, segments = lost.segments, left_out = lost.left_out,
                kept = %lost.path.display(),
                "commits of this node are not in the cluster's history; their WAL is kept aside"
            ),
            Ok(None) => tracing::info!("no commit is lost by the rewind"),
            Err(error) => tracing::warn!(
                %error, "the WAL that the rewind takes out of the history could not be kept"
            ),
        }
        *self.memory.lost.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn look_for_diverged(self: &Arc<Self>, source: &Sql) -> Result<Option<LostWal>, PgError> {
        let (current, lines) = source_history(source).await?;
        let core = Arc::clone(self);
        let fork = blocking(move || core.fork(current, &lines)).await??;
        let Some((timeline, from)) = fork else { return Ok(None) };
        let (counted, whole) = self.count(timeline, from).await?;
        let Some(to) = counted.last.filter(|_| counted.commits > 0 || !whole) else {
            return Ok(None);
        };
        let found = Found { timeline, from, to, commits: whole.then_some(counted.commits) };
        let core = Arc::clone(self);
        blocking(move || core.set_aside(&found)).await?.map(Some)
    }

    /// This data's timeline, and where the source's history leaves it.
    fn fork(
        &self,
        current: Timeline,
        source: &[(Timeline, Lsn)],
    ) -> Result<Option<(Timeline, Lsn)>, PgError> {
        let data = &self.settings.data_dir;
        let own = timeline_of(data, Lsn(u64::MAX))?;
        if own == current {
            return Ok(None);
        }
        let line = source.iter().find(|(timeline, _)| *timeline == own);
        if let Some((_, end)) = line {
            return Ok(Some((own, *end)));
        }
        // A timeline that the source never had: all of it, from where it began.
        let path = data.join(format!("pg_wal/{:08X}.history", own.0));
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let began = text.lines().filter_map(history_line).next_back();
        Ok(began.map(|line| (own, line.end)))
    }

    /// Counts commits from there on. False: not to the end.
    async fn count(&self, timeline: Timeline, from: Lsn) -> Result<(Counted, bool), PgError> {
        let mut counted = Counted::default();
        let tool = Tool::new(&self.settings, "pg_waldump")
            .arg("-p")
            .arg(self.settings.data_dir.join("pg_wal"))
            .args(["-t".to_owned(), timeline.0.to_string(), "-s".to_owned(), from.to_string()]);
        let reading = tool.read(|line| counted.take(line));
        let whole = match tokio::time::timeout(COUNTING, reading).await {
            Ok(ended) => ended.map(|()| true)?,
            Err(_) => false,
        };
        Ok((counted, whole))
    }

    /// Copies the segments, and writes what is known of them.
    fn set_aside(&self, found: &Found) -> Result<LostWal, PgError> {
        let data = &self.settings.data_dir;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let Found { timeline, from, to, commits } = *found;
        let at = now.as_secs();
        let path = beside(data, &format!(".diverged-{at}"));
        let (segments, left_out) = (0, 0);
        let mut lost = LostWal { path, at, timeline, from, to, commits, segments, left_out };
        let size = u64::from(read_control(data)?.wal_segment_size.max(1));
        let mut room = BYTES_MAX.min(room::free_beside(data)? / ROOM_PART);
        fs::create_dir_all(&lost.path).map_err(PgError::io("making", &lost.path))?;
        crate::files::make_private(&lost.path)?;
        for number in lost.from.0 / size..=lost.to.0 / size {
            let name = segment_name(lost.timeline, number, size);
            let from = data.join("pg_wal").join(&name);
            if room < size {
                lost.left_out += 1;
                continue;
            }
            let to = lost.path.join(&name);
            match fs::copy(&from, &to) {
                Ok(_) => (room, lost.segments) = (room - size, lost.segments + 1),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => lost.left_out += 1,
                Err(error) => return Err(PgError::io("copying", &from)(error)),
            }
        }
        write_durable(&lost.path.join(ABOUT), about(&lost).as_bytes())?;
        let mut all = directories(data);
        all.sort();
        for old in all.iter().rev().skip(KEPT_MAX) {
            tracing::warn!("removing {}: that of {KEPT_MAX} rewinds is kept", old.display());
            room::remove_tree(old)?;
        }
        Ok(lost)
    }
}

impl Counted {
    /// `rmgr: Transaction len ..., lsn: 0/0151C9A8, prev ..., desc: COMMIT 2026-...`
    fn take(&mut self, line: &str) {
        let lsn = line.split("lsn: ").nth(1).and_then(|rest| rest.split(',').next());
        let Some(lsn) = lsn.and_then(|text| text.trim().parse().ok()) else { return };
        self.last = Some(lsn);
        let ours = line.starts_with("rmgr: Transaction");
        self.commits += u64::from(ours && line.contains("desc: COMMIT"));
    }
}

/// The timeline that the source writes, and where those before it ended.
async fn source_history(source: &Sql) -> Result<(Timeline, Vec<(Timeline, Lsn)>), PgError> {
    let query = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
    let hex = source.cell("asking the source's timeline", query, QUICK).await?;
    let current = Timeline(u32::from_str_radix(&hex, 16).unwrap_or(1));
    if current <= Timeline(1) {
        return Ok((current, Vec::new()));
    }
    let path = literal(&format!("pg_wal/{hex}.history"));
    let query = format!("SELECT convert_from(pg_read_binary_file({path}), 'UTF8')");
    let text = source.cell("reading the source's history", &query, QUICK).await?;
    let lines = text.lines().filter_map(history_line).map(|line| (line.timeline, line.end));
    Ok((current, lines.collect()))
}

fn segment_name(timeline: Timeline, number: u64, size: u64) -> String {
    let per_file = 0x1_0000_0000 / size;
    format!("{:08X}{:08X}{:08X}", timeline.0, number / per_file, number % per_file)
}

fn about(lost: &LostWal) -> String {
    let commits = lost.commits.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    format!(
        "WAL that pg_rewind took out of this node's history. To read it:\n\
         pg_waldump -p . -t {} -s {} -r Transaction\n\n\
         at {}\ntimeline {}\nfrom {}\nto {}\ncommits {commits}\nsegments {}\nleft_out {}\n",
        lost.timeline.0,
        lost.from,
        lost.at,
        lost.timeline.0,
        lost.from,
        lost.to,
        lost.segments,
        lost.left_out
    )
}

/// What is kept beside a data directory, the oldest first. Blocks.
pub(crate) fn read_all(data: &Path) -> Vec<LostWal> {
    let mut all: Vec<_> = directories(data).iter().filter_map(|path| read(path)).collect();
    all.sort_by_key(|lost| lost.at);
    all
}

fn read(path: &Path) -> Option<LostWal> {
    let text = fs::read_to_string(path.join(ABOUT)).ok()?;
    let word = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    let number = |name: &str| word(name)?.parse().ok();
    Some(LostWal {
        path: path.to_owned(),
        at: number("at")?,
        timeline: Timeline(word("timeline")?.parse().ok()?),
        from: word("from")?.parse().ok()?,
        to: word("to")?.parse().ok()?,
        commits: number("commits"),
        segments: number("segments")?,
        left_out: number("left_out")?,
    })
}

fn directories(data: &Path) -> Vec<PathBuf> {
    let prefix = beside(data, ".diverged-").to_string_lossy().into_owned();
    let entries = data.parent().and_then(|parent| fs::read_dir(parent).ok());
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path.to_string_lossy().starts_with(&prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_as_postgresql_names_them() {
        let size = 16 << 20;
        let name = segment_name(Timeline(3), 0x1_2345_6789 / size, size);
        assert_eq!(name, "000000030000000100000023");
    }

    #[test]
    fn commits_are_counted_and_the_last_record_is_known() {
        let mut counted = Counted::default();
        counted.take("rmgr: Heap        len (rec/tot):     54/    54, tx:        735, lsn: 0/0151C970, prev 0/0151C938, desc: INSERT off: 1");
        counted.take("rmgr: Transaction len (rec/tot):     34/    34, tx:        735, lsn: 0/0151C9A8, prev 0/0151C970, desc: COMMIT 2026-11-27 02:00:00 UTC");
        counted.take("rmgr: Transaction len (rec/tot):     34/    34, tx:        736, lsn: 0/0151C9D0, prev 0/0151C9A8, desc: ABORT 2026-11-27 02:00:00 UTC");
        counted.take("pg_waldump: error: something");
        assert_eq!((counted.commits, counted.last), (1, Some(Lsn(0x151_C9D0))));
    }
}
