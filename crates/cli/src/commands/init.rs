//! `pgherd init`: the SQL files of a directory, once, through the router.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use pgherd_connect::Words;
use pgherd_init::{Fault, Settings, Variables};
use tokio_postgres::Config;

use super::asked_to_stop;
use crate::output::{Failure, Outcome, Printer};
use crate::privilege;
use crate::settings::parse;

/// The server is named by `--url`, or by libpq's variables: PGHOST, PGPORT, PGUSER, PGDATABASE and
/// PGPASSWORD, or `PGPASSWORD_FILE`. The files can ask for variables of the environment and for
/// secrets: `:'NAME'` becomes a literal, `:"NAME"` an identifier, `${NAME}` the text where it stands.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Where the SQL files are; *.sql run in the order of their names
    #[arg(env = "PGHERD_INIT_DIR", value_name = "DIR", default_value = "/init-scripts")]
    directory: PathBuf,
    /// The router's write port, like postgresql://postgres@pg-router:5432/postgres
    #[arg(long, env = "PGHERD_INIT_URL", value_name = "URL", hide_env_values = true)]
    url: Option<String>,
    /// How long to wait for a server that takes writes
    #[arg(long, env = "PGHERD_INIT_TIMEOUT", value_name = "SECONDS", default_value = "300")]
    timeout: String,
    /// Files whose names are variables and whose first lines are their values
    #[arg(long, value_name = "DIR", default_value = "/run/secrets")]
    secrets: PathBuf,
    /// Fail when a file was changed after it had run, instead of saying so
    #[arg(long)]
    changes_fail: bool,
    /// As root: whom to become
    #[arg(long, value_name = "USER", default_value = "postgres")]
    user: String,
}

/// Runs what hasn't run yet.
pub(crate) fn run(args: &InitArgs) -> Outcome {
    privilege::drop_root(&args.user)?;
    let settings = settings(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let report = runtime.context("the runtime can't be started")?.block_on(async {
        let stop = asked_to_stop()?;
        let mut say = |words: &str| {
            // A broken standard output is no reason to leave the work half done.
            let _ = Printer::new().line(words);
        };
        tokio::select! {
            outcome = pgherd_init::run(&settings, &mut say) => outcome.map_err(failure),
            () = stop => Err(Failure::Failed(anyhow::anyhow!(
                "stopped; what ran is recorded, and the next 'pgherd init' goes on"
            ))),
        }
    })?;
    let (ran, skipped) = (report.ran.len(), report.skipped.len());
    Ok(Printer::new().line(format_args!("init: {ran} files ran now, {skipped} before"))?)
}

fn failure(fault: Fault) -> Failure {
    if fault.is_input() {
        Failure::refused("", fault.to_string())
    } else {
        Failure::Failed(fault.into())
    }
}

fn settings(args: &InitArgs) -> Outcome<Settings> {
    let patience = parse::span(&args.timeout).map_err(|wanted| {
        Failure::refused("--timeout", format!("expected {wanted}, found '{}'", args.timeout))
    })?;
    let (rest, words) = args.url.as_deref().map(Words::split).unwrap_or_default();
    let config = match &args.url {
        Some(_) => rest.parse().map_err(|error| {
            // The text itself may hold a password.
            Failure::refused("--url", format!("not a connection string: {error}"))
        })?,
        None => Config::new(),
    };
    let security = words.or_environment(&|name| std::env::var(name).ok()).security();
    let security = security.map_err(|error| Failure::refused("TLS", error.to_string()))?;
    let (config, server) = completed(config)?;
    Ok(Settings {
        database: config.get_dbname().unwrap_or("postgres").to_owned(),
        server,
        config,
        security,
        directory: args.directory.clone(),
        variables: Variables::of_process(args.secrets.clone()),
        patience: patience.to_std(),
        changes_fail: args.changes_fail,
    })
}

/// What the string leaves open, libpq's variables say.
fn completed(mut config: Config) -> Outcome<(Config, String)> {
    let word = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if config.get_hosts().is_empty() {
        let host = word("PGHOST").ok_or_else(|| {
            let words = "which server? Set PGHOST to the router, or --url postgresql://...";
            Failure::refused("PGHOST", words)
        })?;
        config.host(&host);
    }
    if config.get_ports().is_empty() {
        let port = word("PGPORT").unwrap_or_else(|| "5432".to_owned());
        let port = port
            .parse()
            .map_err(|_| Failure::refused("PGPORT", format!("expected a port, found '{port}'")))?;
        config.port(port);
    }
    if config.get_user().is_none() {
        config.user(word("PGUSER").unwrap_or_else(|| "postgres".to_owned()));
    }
    if config.get_dbname().is_none() {
        config.dbname(word("PGDATABASE").unwrap_or_else(|| "postgres".to_owned()));
    }
    if config.get_password().is_none()
        && let Some(password) = password()?
    {
        config.password(password);
    }
    let host = config.get_hosts().first().map(|host| match host {
        tokio_postgres::config::Host::Tcp(name) => name.clone(),
        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
    });
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let server = format!("{}:{port}", host.unwrap_or_default());
    Ok((config, server))
}

fn password() -> Outcome<Option<String>> {
    let Ok(path) = std::env::var("PGPASSWORD_FILE") else {
        return Ok(std::env::var("PGPASSWORD").ok());
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::refused("PGPASSWORD_FILE", format!("{path} can't be read: {error}"))
    })?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}
