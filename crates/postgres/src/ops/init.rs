//! A new database cluster: initdb or a command of the user's, the roles, the user's script. What
//! fails is moved to `<data_dir>.failed`. Leaves configuration to the first start.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgherd_config::lifecycle::{Command, CustomBootstrap, FirstData};
use pgherd_core::postgres::PgFailureKind;

use super::QUICK;
use super::private::Recovery;
use super::roles;
use crate::conf::value;
use crate::durable::{beside, remove_durable, rename_durable, write_durable};
use crate::facts::blocking;
use crate::files::FirstHba;
use crate::script::run_command;
use crate::server::Core;
use crate::settings::Settings;
use crate::sql::Sql;
use crate::tool::{Output, Tool};
use crate::{PgError, files, read_control};

/// Role statements on a server that nobody else uses.
const ROLES: Duration = Duration::from_secs(60);

impl Core {
    pub(super) async fn init(self: &Arc<Self>) -> Result<(), PgError> {
        self.nothing_lives().await?;
        let core = Arc::clone(self);
        blocking(move || make_room(&core.settings)).await??;
        let made = match &self.settings.lifecycle.bootstrap.method {
            FirstData::Initdb(options) => self.init_by_initdb(options).await,
            FirstData::Custom(method) => self.init_by_command(method).await,
        };
        if let Err(error) = &made {
            tracing::error!("the first data directory could not be made: {error}");
            self.nothing_lives().await?;
            let core = Arc::clone(self);
            blocking(move || move_failed(&core.settings)).await??;
        }
        made
    }

    /// All beside the data directory's place until it is whole.
    async fn init_by_initdb(self: &Arc<Self>, options: &[String]) -> Result<(), PgError> {
        let settings = &self.settings;
        let new = beside(&settings.data_dir, ".new");
        let password =
            PasswordFile::write(settings, "initdb.password", |password| password.into())?;
        let mut output = initdb(settings, &new, &password.0, "C.UTF-8", options).await?;
        if output.said("invalid locale name") && !options.iter().any(|o| o.contains("loc")) {
            // Old or small systems have no C.UTF-8; C sorts the same way.
            output = initdb(settings, &new, &password.0, "C", options).await?;
        }
        drop(password);
        if !output.success {
            return Err(output.failure("initdb", PgFailureKind::ToolFailed));
        }
        let (core, place) = (Arc::clone(self), new.clone());
        blocking(move || files::first_hba(&core.settings, &place, FirstHba::Initdbs)).await??;
        if settings.lifecycle.bootstrap.post.is_some() {
            self.finish_privately(&new, Recovery::AsItStands).await?;
        } else {
            self.make_roles(&new).await?;
        }
        let core = Arc::clone(self);
        blocking(move || {
            files::renew_instance(&core.settings)?;
            // An empty directory stands in the way of nothing: rename replaces it.
            rename_durable(&new, &core.settings.data_dir)
        })
        .await?
    }

    /// In the data directory's own place, where tools expect it; a mark says that it isn't whole.
    async fn init_by_command(self: &Arc<Self>, method: &CustomBootstrap) -> Result<(), PgError> {
        let settings = &self.settings;
        let core = Arc::clone(self);
        blocking(move || {
            files::renew_instance(&core.settings)?;
            let mark = core.settings.building_mark();
            write_durable(&mark, b"a bootstrap method is at work, or was interrupted\n")
        })
        .await??;
        let what = format!("bootstrap method {}", method.name);
        let args = method.run.for_bootstrap(&settings.cluster_name, &settings.data_dir);
        run_command(&method.run.command, &what, args, &[], None).await?;
        read_control(&settings.data_dir).map_err(|error| {
            let words = format!("{what} ended well but left no data directory: {error}");
            PgError::failed(PgFailureKind::ToolFailed, words)
        })?;
        let recovery = if method.keep_existing_recovery_conf || method.recovery_conf.is_empty() {
            Recovery::AsItStands
        } else {
            Recovery::Archive(&method.recovery_conf)
        };
        self.finish_privately(&settings.data_dir, recovery).await?;
        let core = Arc::clone(self);
        blocking(move || {
            files::first_hba(&core.settings, &core.settings.data_dir, FirstHba::Restored)?;
            files::write_signal(&core.settings.data_dir, false)?;
            remove_durable(&core.settings.building_mark())
        })
        .await?
    }

    /// Recovery, the roles and the user's script, in the contract's order (4.2).
    async fn finish_privately(
        self: &Arc<Self>,
        data_dir: &Path,
        recovery: Recovery<'_>,
    ) -> Result<(), PgError> {
        let server = self.start_privately(data_dir, recovery).await?;
        let sql = Sql::local(&self.settings, QUICK).await.map_err(|error| {
            let user = &self.settings.superuser.username;
            let words = format!("connecting to the new cluster as superuser '{user}': {error}");
            PgError::failed(PgFailureKind::QueryFailed, words)
        })?;
        let settings = &self.settings;
        sql.rows("the superuser's password", &roles::superuser(settings), ROLES).await?;
        if let Some(script) = &settings.lifecycle.bootstrap.post {
            self.post_bootstrap(script).await?;
        }
        sql.rows("creating roles", &roles::others(settings), ROLES).await?;
        drop(sql);
        server.stop().await
    }

    async fn post_bootstrap(&self, script: &Command) -> Result<(), PgError> {
        let settings = &self.settings;
        let user = &settings.superuser.username;
        let passfile = PasswordFile::write(settings, "bootstrap.pgpass", |password| {
            files::passfile_line(user, password)
        })?;
        let dsn = format!(
            "host={} port={} user={} dbname=postgres",
            value(&settings.socket_dir.to_string_lossy()),
            settings.port,
            value(user)
        );
        let env = [
            ("PGPASSFILE", passfile.0.clone().into_os_string()),
            ("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0".into()),
        ];
        run_command(script, "post_bootstrap", [dsn], &env, None).await
    }

    /// Single-user mode: nobody else can be connected, and secrets go through standard input.
    async fn make_roles(&self, data_dir: &Path) -> Result<(), PgError> {
        let sql = roles::others(&self.settings);
        let tool = Tool::new(&self.settings, "postgres").arg("--single").arg("-D").arg(data_dir);
        let tool = tool.arg("-c").arg("log_min_error_statement=panic").arg("postgres");
        let output = tool.stdin(sql.as_bytes()).run(|_| ()).await?;
        let failed = ["ERROR:", "FATAL:", "PANIC:"].iter().any(|word| output.said(word));
        if failed || !output.success {
            return Err(output.failure("creating roles", PgFailureKind::ToolFailed));
        }
        Ok(())
    }
}

async fn initdb(
    settings: &Settings,
    data_dir: &Path,
    password: &Path,
    locale: &str,
    options: &[String],
) -> Result<Output, PgError> {
    let tool = Tool::new(settings, "initdb").arg("-D").arg(data_dir);
    tool.args(["--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "--data-checksums"])
        .arg(format!("--locale={locale}"))
        .args(["-E", "UTF8", "-U"])
        .arg(&settings.superuser.username)
        // Of two that contradict each other the later one counts.
        .args(options)
        .arg("--pwfile")
        .arg(password)
        .run(|_| ())
        .await
}

/// Refuses to touch a directory that holds anything but what an interrupted run left, and moves
/// that out of the way.
fn make_room(settings: &Settings) -> Result<(), PgError> {
    move_failed(settings)?;
    let data = &settings.data_dir;
    if !files::is_empty(data)? {
        let words = format!("{} isn't empty: nothing is ever made over it", data.display());
        return Err(PgError::failed(PgFailureKind::ToolFailed, words));
    }
    Ok(())
}

/// What a bootstrap that failed has left goes to `<data_dir>.failed`, for people to look at; one
/// place is kept for that, because nothing in it was ever part of a cluster.
fn move_failed(settings: &Settings) -> Result<(), PgError> {
    let (data, mark) = (&settings.data_dir, settings.building_mark());
    let new = beside(data, ".new");
    let marked = mark.exists() && !files::is_empty(data)?;
    for left in [marked.then_some(data), Some(&new).filter(|new| new.exists())] {
        let Some(left) = left else { continue };
        let failed = beside(data, ".failed");
        if failed.exists() {
            fs::remove_dir_all(&failed).map_err(PgError::io("removing", &failed))?;
        }
        rename_durable(left, &failed)?;
        tracing::warn!("what the failed bootstrap made is in {}", failed.display());
    }
    remove_durable(&mark)
}

/// The superuser's password in a file that only we can read, for as long as somebody reads it.
struct PasswordFile(PathBuf);

impl PasswordFile {
    fn write(
        settings: &Settings,
        name: &str,
        text: impl FnOnce(&str) -> String,
    ) -> Result<Self, PgError> {
        let path = settings.run_dir.join(name);
        write_durable(&path, text(settings.superuser.password.reveal()).as_bytes())?;
        Ok(Self(path))
    }
}

impl Drop for PasswordFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
