//! A new database cluster: initdb, then the roles, all beside the data directory's place until it
//! is whole. Leaves configuration to the first start.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgherd_core::postgres::PgFailureKind;
use postgres_protocol::password::scram_sha_256;

use crate::durable::{beside, rename_durable, write_durable};
use crate::facts::blocking;
use crate::server::Core;
use crate::settings::{Credentials, Settings};
use crate::sql::{identifier, literal};
use crate::tool::{Output, Tool};
use crate::{PgError, files};

/// What pg_rewind calls on its source (PostgreSQL docs, pg_rewind, Notes).
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

impl Core {
    pub(super) async fn init(self: &Arc<Self>) -> Result<(), PgError> {
        self.nothing_lives().await?;
        let settings = &self.settings;
        let new = beside(&settings.data_dir, ".new");
        let core = Arc::clone(self);
        let place = new.clone();
        blocking(move || make_room(&core.settings, &place)).await??;

        let password = Passfile::write(settings)?;
        let mut output = initdb(settings, &new, &password.0, "C.UTF-8").await?;
        if output.said("invalid locale name") {
            // Old or small systems have no C.UTF-8; C sorts the same way.
            output = initdb(settings, &new, &password.0, "C").await?;
        }
        drop(password);
        if !output.success {
            return Err(output.failure("initdb", PgFailureKind::ToolFailed));
        }
        self.make_roles(&new).await?;

        let core = Arc::clone(self);
        blocking(move || {
            files::renew_instance(&core.settings)?;
            // An empty directory stands in the way of nothing: rename replaces it.
            rename_durable(&new, &core.settings.data_dir)
        })
        .await?
    }

    /// Single-user mode: nobody else can be connected, and secrets go through standard input.
    async fn make_roles(&self, data_dir: &Path) -> Result<(), PgError> {
        let sql = roles(&self.settings);
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

/// Statements for single-user mode: one a line.
fn roles(settings: &Settings) -> String {
    let role = |user: &Credentials, what: &str| {
        // A verifier, so that the password itself never reaches the server's log or memory.
        let verifier = literal(&scram_sha_256(user.password.reveal().as_bytes()));
        let name = identifier(&user.username);
        format!("CREATE ROLE {name} LOGIN {what} PASSWORD {verifier};\n")
    };
    let mut sql = String::new();
    let (replication, rewind) = (&settings.replication, &settings.rewind);
    if replication.username != settings.superuser.username {
        sql += &role(replication, "REPLICATION");
    }
    let same = [&settings.superuser, replication].map(|user| user.username == rewind.username);
    if !same[0] && !same[1] {
        sql += &role(rewind, "");
    }
    if !same[0] {
        let name = identifier(&rewind.username);
        for function in REWIND_FUNCTIONS {
            sql += &format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name};\n");
        }
        if settings.bin.major >= 15 {
            // So that it needn't wait for the checkpoint after a promotion.
            sql += &format!("GRANT pg_checkpoint TO {name};\n");
        }
    }
    sql
}

async fn initdb(
    settings: &Settings,
    data_dir: &Path,
    password: &Path,
    locale: &str,
) -> Result<Output, PgError> {
    let tool = Tool::new(settings, "initdb").arg("-D").arg(data_dir);
    let tool = ["--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "--data-checksums"]
        .into_iter()
        .fold(tool, Tool::arg)
        .arg(format!("--locale={locale}"))
        .args(["-E", "UTF8", "-U"])
        .arg(&settings.superuser.username);
    tool.arg("--pwfile").arg(password).run(|_| ()).await
}

/// Refuses to touch a directory that holds anything, and clears what an interrupted run left.
fn make_room(settings: &Settings, new: &Path) -> Result<(), PgError> {
    let data = &settings.data_dir;
    if !files::is_empty(data)? {
        let words = format!("{} isn't empty: nothing is ever made over it", data.display());
        return Err(PgError::failed(PgFailureKind::ToolFailed, words));
    }
    if new.exists() {
        fs::remove_dir_all(new).map_err(PgError::io("removing", new))?;
    }
    Ok(())
}

/// The superuser's password in a file that only we can read, for as long as initdb runs.
struct Passfile(PathBuf);

impl Passfile {
    fn write(settings: &Settings) -> Result<Self, PgError> {
        let path = settings.run_dir.join("initdb.password");
        write_durable(&path, settings.superuser.password.reveal().as_bytes())?;
        Ok(Self(path))
    }
}

impl Drop for Passfile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
