//! The files around a data directory: configuration, passfile, marks, identity, lock.
//! Leaves their text to `conf`, and calling from a thread that may block to the caller.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgherd_core::Instance;
use rustix::fs::FlockOperation;

use crate::PgError;
use crate::conf::{self, Shape};
use crate::durable::{beside, read_durable, remove_durable, rename_durable, write_durable};
use crate::settings::Settings;
use crate::vet::Effective;

impl Settings {
    /// Present while pg_rewind may have left the directory half done.
    pub(crate) fn rewinding_mark(&self) -> PathBuf {
        beside(&self.data_dir, ".rewinding")
    }

    /// Present while a command of the user's fills the data directory, or was interrupted.
    pub(crate) fn building_mark(&self) -> PathBuf {
        beside(&self.data_dir, ".building")
    }

    pub(crate) fn hba_file(&self) -> PathBuf {
        self.config_dir.join("pg_hba.conf")
    }

    fn instance_file(&self) -> PathBuf {
        beside(&self.data_dir, ".instance")
    }

    /// The slots that were made here by pgherd, one a line.
    pub(crate) fn slots_file(&self) -> PathBuf {
        beside(&self.data_dir, ".slots")
    }
}

/// Takes the lock that makes this agent the only one on its data directory.
pub(crate) fn lock(settings: &Settings) -> Result<fs::File, PgError> {
    let path = beside(&settings.data_dir, ".lock");
    if let Some(parent) = path.parent() {
        make_private(parent)?;
    }
    let options = fs::File::options().create(true).append(true).open(&path);
    let file = options.map_err(PgError::io("opening", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(PgError::Locked { path }),
    }
}

/// A directory that only we enter; one that exists is left as it is.
pub(crate) fn make_private(dir: &Path) -> Result<(), PgError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(PgError::io("creating", dir))
}

/// Writes the passfile: the same users and passwords on every node, so the host doesn't matter.
pub(crate) fn write_passfile(settings: &Settings) -> Result<(), PgError> {
    let line = |user: &crate::Credentials| passfile_line(&user.username, user.password.reveal());
    let text = line(&settings.replication) + &line(&settings.rewind);
    // One that is right needs no room: an agent starts on a full disk too.
    let private = |path: &Path| fs::metadata(path).is_ok_and(|it| it.mode() & 0o777 == 0o600);
    let same = fs::read(&settings.passfile).is_ok_and(|known| known == text.as_bytes());
    if same && private(&settings.passfile) {
        return Ok(());
    }
    write_durable(&settings.passfile, text.as_bytes())
}

/// A user's line in a passfile, for every host, port and database.
pub(crate) fn passfile_line(user: &str, password: &str) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:{}:{}\n", escaped(user), escaped(password))
}

/// What of the configuration was written because it said something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changed {
    pub(crate) conf: bool,
    pub(crate) hba: bool,
    pub(crate) ident: bool,
}

impl Changed {
    pub(crate) fn any(self) -> bool {
        self.conf || self.hba || self.ident
    }
}

/// Writes everything that PostgreSQL reads at start and reload, for the shape given.
pub(crate) fn write_conf(
    settings: &Settings,
    conf: &Effective,
    shape: &Shape,
) -> Result<Changed, PgError> {
    let changed = write_conf_in(settings, &settings.config_dir, conf, shape)?;
    strip_auto_conf(settings)?;
    Ok(changed)
}

/// The files of a directory, which may not be in its place yet.
pub(crate) fn write_conf_in(
    settings: &Settings,
    dir: &Path,
    conf: &Effective,
    shape: &Shape,
) -> Result<Changed, PgError> {
    let (main, base) = (dir.join("postgresql.conf"), dir.join("postgresql.base.conf"));
    if conf.custom_conf.is_none() && !base.exists() {
        let made = settings.data_dir.join("postgresql.base.conf");
        if main.exists() {
            rename_durable(&main, &base)?;
        } else {
            // What initdb wrote, where the configuration's directory is another.
            write_durable(&base, &read_durable(&made)?.unwrap_or_default())?;
        }
    }
    Ok(Changed {
        conf: replace(&main, &conf::postgresql_conf(settings, conf, shape))?,
        hba: write_hba(settings, &dir.join("pg_hba.conf"), conf)?,
        ident: match &conf.ident {
            Some(lines) => replace(&dir.join("pg_ident.conf"), &conf::ident(lines))?,
            None => false,
        },
    })
}

/// Whose `pg_hba.conf` a new cluster has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FirstHba {
    /// initdb's, which says nothing that anybody wanted.
    Initdbs,
    /// That of the cluster that was restored.
    Restored,
}

/// `pg_hba.conf` of a new cluster: the lines for the bootstrap, behind those that are there; without
/// any, what is there makes room for the generated ones when initdb wrote it.
pub(crate) fn first_hba(settings: &Settings, dir: &Path, there: FirstHba) -> Result<(), PgError> {
    let path = dir.join("pg_hba.conf");
    let lines = &settings.lifecycle.bootstrap.hba;
    if lines.is_empty() {
        return match there {
            FirstHba::Initdbs => write_durable(&path, conf::HEADER.as_bytes()),
            FirstHba::Restored => Ok(()),
        };
    }
    let mut text = read_durable(&path)?.unwrap_or_default();
    text.extend_from_slice(format!("\n{}\n", lines.join("\n")).as_bytes());
    write_durable(&path, &text)
}

/// One that somebody else wrote stays, behind the agent's own line, until lines are configured.
fn write_hba(settings: &Settings, path: &Path, conf: &Effective) -> Result<bool, PgError> {
    let now = read_durable(path)?.unwrap_or_default();
    let now = String::from_utf8_lossy(&now);
    let ours = now.is_empty() || now.starts_with(conf::HEADER);
    if ours || conf.hba.is_some() {
        return replace(path, &conf::hba(settings, conf));
    }
    if now.starts_with(conf::OWN_ACCESS) {
        return Ok(false);
    }
    replace(path, &conf::hba_of_others(settings, &now))
}

fn strip_auto_conf(settings: &Settings) -> Result<(), PgError> {
    let auto = settings.data_dir.join("postgresql.auto.conf");
    let text = read_durable(&auto)?.unwrap_or_default();
    if let Some(kept) = conf::without_controlled(&String::from_utf8_lossy(&text)) {
        tracing::warn!(
            "removing pgherd's parameters from {}: ALTER SYSTEM set them",
            auto.display()
        );
        write_durable(&auto, kept.as_bytes())?;
    }
    Ok(())
}

/// Our `postgresql.conf` as it stands; empty when there is none.
pub(crate) fn own_conf(settings: &Settings) -> Result<String, PgError> {
    let text = read_durable(&settings.config_dir.join("postgresql.conf"))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A file that only we read, and that needn't survive a crash.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), PgError> {
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).map_err(PgError::io("creating", path))?;
    file.write_all(text.as_bytes()).map_err(PgError::io("writing", path))
}

/// Writes a file of PostgreSQL's configuration unless it says that already. Where there is no room for another
/// one, over the one that is there: a voter on a full disk has to stop receiving before it may
/// pledge. Torn by a crash it is written again before anything reads it, for each start writes it.
pub(crate) fn replace(path: &Path, text: &str) -> Result<bool, PgError> {
    let now = read_durable(path)?;
    if now.as_deref() == Some(text.as_bytes()) {
        return Ok(false);
    }
    let written = write_durable(path, text.as_bytes());
    let full = |source: &io::Error| {
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    };
    let full = matches!(&written, Err(PgError::Io { source, .. }) if full(source));
    match now.filter(|_| full) {
        Some(now) => {
            // Whatever there was room for of the new one.
            remove_durable(&beside(path, ".tmp"))?;
            overwrite(path, text.as_bytes()).or_else(|error| {
                overwrite(path, &now)?;
                Err(error)
            })?;
        }
        None => written?,
    }
    Ok(true)
}

/// Over the blocks that a file has.
fn overwrite(path: &Path, bytes: &[u8]) -> Result<(), PgError> {
    let mut file =
        fs::File::options().write(true).open(path).map_err(PgError::io("opening", path))?;
    file.write_all(bytes).map_err(PgError::io("writing over", path))?;
    file.set_len(bytes.len() as u64).map_err(PgError::io("cutting", path))?;
    file.sync_all().map_err(PgError::io("syncing", path))
}

/// Makes the next start that of a standby, or of a primary.
pub(crate) fn write_signal(data_dir: &Path, standby: bool) -> Result<(), PgError> {
    remove_durable(&data_dir.join("recovery.signal"))?;
    let signal = data_dir.join("standby.signal");
    if standby { write_durable(&signal, b"") } else { remove_durable(&signal) }
}

/// The directory's identity. One that has none (made by somebody else) gets one.
pub(crate) fn instance(settings: &Settings) -> Result<Instance, PgError> {
    let text = read_durable(&settings.instance_file())?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    match u64::from_str_radix(text.trim(), 16) {
        Ok(number) => Ok(Instance(number)),
        Err(_) => renew_instance(settings),
    }
}

/// A new identity: the directory's content is another one from now on.
pub(crate) fn renew_instance(settings: &Settings) -> Result<Instance, PgError> {
    let path = settings.instance_file();
    let drawn = getrandom::u64();
    let number = drawn.map_err(|error| PgError::io("drawing a number for", &path)(error.into()))?;
    write_durable(&path, format!("{number:016x}\n").as_bytes())?;
    Ok(Instance(number))
}

/// Whether the data directory is absent or empty. `lost+found` means nothing: a mount point.
pub(crate) fn is_empty(data_dir: &Path) -> Result<bool, PgError> {
    match fs::read_dir(data_dir) {
        Ok(entries) => Ok(entries.flatten().all(|entry| entry.file_name() == "lost+found")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(PgError::io("listing", data_dir)(error)),
    }
}

/// Removes what a crash left and the next start would take for a living postmaster: PostgreSQL
/// believes any process of that number, even a zombie. The caller has made sure that no process of
/// ours lives in the directory; here the pid in the file is looked at once more.
pub(crate) fn remove_stale_pid_file(settings: &Settings) -> Result<(), PgError> {
    let data_dir = &settings.data_dir;
    let living = pgherd_guard::living_in(data_dir);
    let path = data_dir.join("postmaster.pid");
    let text = read_durable(&path)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let pid: Option<i32> = text.lines().next().and_then(|line| line.trim().parse().ok());
    if pid.is_some_and(|pid| living.contains(&pid)) {
        let words = format!("{} names a living postmaster", path.display());
        return Err(PgError::failed(pgherd_core::postgres::PgFailureKind::ToolFailed, words));
    }
    remove_durable(&path)?;
    if living.is_empty() { remove_stale_socket(settings, data_dir) } else { Ok(()) }
}

/// How long an empty lock file has to be empty before it is taken for a remnant. A postmaster that
/// lives fills it in its next instruction but one (PostgreSQL source, `CreateLockFile`).
pub(crate) const EMPTY_FOR: Duration = Duration::from_millis(100);

fn socket_of(settings: &Settings) -> (PathBuf, PathBuf) {
    let socket = settings.socket_dir.join(format!(".s.PGSQL.{}", settings.port));
    let lock = beside(&socket, ".lock");
    (socket, lock)
}

/// The age of the socket's lock file, when it is empty.
pub(crate) fn empty_lock_file(settings: &Settings) -> Option<Duration> {
    let seen = fs::metadata(socket_of(settings).1).ok().filter(|seen| seen.len() == 0)?;
    seen.modified().ok()?.elapsed().ok()
}

/// Removes the socket that a dead postmaster of this data directory left, and its lock file: line 2
/// names the directory. One that was killed between making the file and filling it left it empty,
/// and PostgreSQL refuses to start beside that for ever. The caller has made sure that nobody lives.
pub(crate) fn remove_stale_socket(settings: &Settings, data_dir: &Path) -> Result<(), PgError> {
    let (socket, lock) = socket_of(settings);
    let text = read_durable(&lock)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let ours = text.lines().nth(1).is_some_and(|dir| Path::new(dir) == data_dir);
    if ours || empty_lock_file(settings).is_some_and(|age| age >= EMPTY_FOR) {
        remove_durable(&socket)?;
        remove_durable(&lock)?;
    }
    Ok(())
}
