//! Finding PostgreSQL's programs, 13 to 18.
//! Leaves running them to `tool` and the guard.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs that must be there.
const NEEDED: [&str; 6] =
    ["initdb", "postgres", "pg_ctl", "pg_basebackup", "pg_rewind", "pg_controldata"];
/// Other names of programs, by the usual one.
pub type Names = BTreeMap<&'static str, String>;
/// The major versions that are supported.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// A directory with PostgreSQL's programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binaries {
    /// The directory.
    pub dir: PathBuf,
    /// The major version, 13 to 18.
    pub major: u32,
    /// The version as `postgres --version` says it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// `psql` is there too; only people need it.
    pub psql: bool,
    /// Programs that have another name (`bin_name`).
    pub names: BTreeMap<&'static str, String>,
}

impl Binaries {
    /// The path of one program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(self.names.get(name).map_or(name, String::as_str))
    }
}

/// Why no PostgreSQL can be used.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// Nothing anywhere.
    #[error(
        "no PostgreSQL found: looked for its programs in {}; install PostgreSQL 13 to 18 (Debian: \
         apt-get install postgresql-17) or name the directory with --pg-bin",
        .looked.join(", ")
    )]
    Nothing {
        /// Where it was looked for.
        looked: Vec<String>,
    },
    /// A directory that lacks programs.
    #[error(
        "{} lacks {}; install the server and client packages of one version (Debian: postgresql-N \
         and postgresql-client-N), or name another directory with --pg-bin",
        .dir.display(), .missing.join(", ")
    )]
    Incomplete {
        /// The directory.
        dir: PathBuf,
        /// The programs.
        missing: Vec<&'static str>,
    },
    /// A version that isn't supported, or words that are no version.
    #[error(
        "{} says '{found}', expected PostgreSQL 13 to 18; name another directory with --pg-bin",
        .program.display()
    )]
    Version {
        /// The program asked.
        program: PathBuf,
        /// Its answer.
        found: String,
    },
}

/// Finds PostgreSQL: in `pg_bin` when given, and nowhere else then; otherwise the newest of Debian's
/// and the PGDG RPMs' directories, otherwise `PATH`. Runs `postgres --version`; blocks for that.
///
/// # Errors
/// [`DiscoverError`], which says what to install.
pub fn discover(pg_bin: Option<&Path>) -> Result<Binaries, DiscoverError> {
    discover_named(pg_bin, &Names::new())
}

/// The same, where some programs have other names.
///
/// # Errors
/// [`DiscoverError`] as well.
pub fn discover_named(pg_bin: Option<&Path>, names: &Names) -> Result<Binaries, DiscoverError> {
    let name = |program| names.get(program).map_or(program, String::as_str);
    let check = |dir: &Path| check(dir, names);
    if let Some(dir) = pg_bin {
        return check(dir);
    }
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for major in MAJORS {
        for dir in [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")] {
            if Path::new(&dir).join(name("postgres")).exists() {
                found.push((major, dir.into()));
            }
        }
    }
    // The newest complete one; when none is complete, what the newest lacks.
    let mut first_error = None;
    for (_, dir) in found.iter().rev() {
        match check(dir) {
            Ok(binaries) => return Ok(binaries),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(|dir| dir.join(name("postgres")).exists());
    match (on_path, first_error) {
        // Debian's wrappers in /usr/bin are links into the real directory.
        (Some(dir), _) => check(&resolved(&dir, name("postgres"))),
        (None, Some(error)) => Err(error),
        (None, None) => {
            let looked = ["/usr/lib/postgresql/13..18/bin", "/usr/pgsql-13..18/bin", "PATH"];
            Err(DiscoverError::Nothing { looked: looked.map(str::to_owned).to_vec() })
        }
    }
}

fn resolved(dir: &Path, postgres: &str) -> PathBuf {
    let real = std::fs::canonicalize(dir.join(postgres)).ok();
    real.and_then(|real| real.parent().map(Path::to_owned)).unwrap_or_else(|| dir.to_owned())
}

fn check(dir: &Path, names: &Names) -> Result<Binaries, DiscoverError> {
    let name = |program| names.get(program).map_or(program, String::as_str);
    let missing: Vec<_> = NEEDED.into_iter().filter(|it| !dir.join(name(it)).exists()).collect();
    if !missing.is_empty() {
        return Err(DiscoverError::Incomplete { dir: dir.to_owned(), missing });
    }
    let program = dir.join(name("postgres"));
    let said = match Command::new(&program).arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let version = said.strip_prefix("postgres (PostgreSQL) ").unwrap_or_default().to_owned();
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    match version[..digits].parse() {
        Ok(major) if MAJORS.contains(&major) => {
            let psql = dir.join("psql").exists();
            Ok(Binaries { dir: dir.to_owned(), major, version, psql, names: names.clone() })
        }
        _ => Err(DiscoverError::Version { program, found: said }),
    }
}
