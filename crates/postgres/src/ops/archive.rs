//! Before pg_rewind throws WAL away that only this node has: what waits for the archive is archived
//! (contract 4.10), by the user's `archive_command`. Leaves everything later to PostgreSQL's archiver.

use std::fs;
use std::path::Path;

use pgherd_config::lifecycle::Command;

use crate::conf::value_in;
use crate::script::run_command;
use crate::server::Core;

/// Where a parameter may stand; the last one that says it wins.
const FILES: [&str; 3] = ["postgresql.base.conf", "postgresql.conf", "postgresql.auto.conf"];

impl Core {
    /// Archives each segment that is marked as ready. What fails stays marked, and is no reason not to
    /// rewind: a segment from before the branch is kept by pg_rewind, and archived afterwards.
    pub(super) async fn archive_pending(&self) {
        let data = &self.settings.data_dir;
        let Some(command) = command_of(&self.settings.config_dir, data) else { return };
        for name in ready(data) {
            let line = filled(&command, &name);
            // PostgreSQL runs it in the data directory, with a path that is relative to that.
            let place = data.to_string_lossy().into_owned();
            let args = [r#"cd "$0" && eval "$1""#.to_owned(), place, line];
            let Ok(shell) = Command::parse("/bin/sh -c") else { return };
            let bound = Some(self.settings.start_bound);
            match run_command(&shell, "archive_command", args, &[], bound).await {
                Ok(()) => {
                    let marks = data.join("pg_wal/archive_status");
                    let mark = |kind: &str| marks.join(format!("{name}.{kind}"));
                    // Archived twice at worst, which an archive has to bear anyway.
                    let _ = fs::rename(mark("ready"), mark("done"));
                    tracing::info!(segment = name, "archived before pg_rewind");
                }
                Err(error) => {
                    tracing::warn!("{name} waits for the archive, and can't go there: {error}");
                }
            }
        }
    }
}

/// `archive_command`, where archiving is on and a command does it.
fn command_of(config: &Path, data: &Path) -> Option<String> {
    let texts: Vec<String> = FILES
        .iter()
        .filter_map(|file| {
            fs::read_to_string(config.join(file))
                .or_else(|_| fs::read_to_string(data.join(file)))
                .ok()
        })
        .collect();
    let said = |name: &str| texts.iter().rev().find_map(|text| value_in(text, name));
    let on = said("archive_mode").is_some_and(|mode| mode == "on" || mode == "always");
    let library = said("archive_library").is_some_and(|library| !library.is_empty());
    said("archive_command").filter(|command| on && !library && !command.is_empty())
}

/// The segments, and history files, that are marked as ready; the oldest first.
fn ready(data: &Path) -> Vec<String> {
    let marks = fs::read_dir(data.join("pg_wal/archive_status")).into_iter().flatten().flatten();
    let names = marks.filter_map(|mark| mark.file_name().into_string().ok());
    let there = |name: &String| data.join("pg_wal").join(name).exists();
    let ready = names.filter_map(|name| Some(name.strip_suffix(".ready")?.to_owned()));
    let mut all: Vec<String> = ready.filter(there).collect();
    all.sort();
    all
}

/// `%p` and `%f` filled in, as PostgreSQL does.
fn filled(command: &str, name: &str) -> String {
    let mut line = String::new();
    let mut letters = command.chars();
    while let Some(letter) = letters.next() {
        match (letter, letters.clone().next()) {
            ('%', Some(known @ ('p' | 'f' | '%'))) => {
                letters.next();
                match known {
                    'p' => line.push_str(&format!("pg_wal/{name}")),
                    'f' => line.push_str(name),
                    _ => line.push('%'),
                }
            }
            (other, _) => line.push(other),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_command_is_filled_in_as_postgresql_does() {
        assert_eq!(super::filled("cp %p /a/%f", "7"), "cp pg_wal/7 /a/7");
        assert_eq!(super::filled("date +%%s%", "7"), "date +%s%");
    }
}
