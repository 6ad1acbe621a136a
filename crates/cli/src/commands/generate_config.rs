//! `pgherd agent --generate-config [FILE] [--dsn DSN]`: a node's settings out of a PostgreSQL that
//! runs, as `patroni --generate-config` makes them. Asks and reads; changes nothing.
//! Leaves checking what came out to `check-config`, and taking the server over to the agent.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use pgherd_config::guc::{CONTROLLED, DERIVED};
use serde_json::{Map, Value, json};
use tokio_postgres::{Client, Config, NoTls};

use super::block_on;
use crate::output::{Failure, Outcome, Printer};
use crate::{secret, sources, yaml_text};

const CONNECT: Duration = Duration::from_secs(5);
/// What somebody has to write himself.
const FILL_IN: &str = "change-me";
/// Where files are; the node's own keys say that.
const PLACES: [&str; 4] = ["config_file", "hba_file", "ident_file", "external_pid_file"];

const HEAD: &str = "\
# A node's settings, made of a PostgreSQL that ran. Before they are used: correct what says
# change-me, etcd3.hosts and the addresses; take bootstrap out on every node but the first; give all
# nodes the same scope and peer_secret. Then: pgherd check-config FILE.
";

/// What the server says of itself.
struct Seen {
    data_dir: PathBuf,
    config_dir: PathBuf,
    hba_file: PathBuf,
    ident_file: PathBuf,
    listen: String,
    port: String,
    cluster: String,
    replication: Option<String>,
    /// What is neither PostgreSQL's default nor a session's.
    parameters: Vec<(String, String)>,
}

/// Makes the settings, into the file or onto standard output.
pub(crate) fn run(file: Option<&Path>, dsn: Option<&str>) -> Outcome {
    if let Some(file) = file.filter(|file| file.exists()) {
        let words = "it exists, and nothing is overwritten; name another file";
        return Err(Failure::refused(file.display().to_string(), words));
    }
    let config = config(dsn)?;
    let seen = block_on(look(&config))?;
    let text = format!("{HEAD}{}", yaml_text::block(&settings(&seen, &config)?));
    let Some(file) = file else { return Ok(Printer::new().raw(text)?) };
    // It has passwords.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let written = made.and_then(|mut made| made.write_all(text.as_bytes()));
    written.with_context(|| format!("{} can't be written", file.display()))?;
    let words = format!("{}: correct what its first lines name", file.display());
    Ok(Printer::new().line(words)?)
}

/// The DSN, and libpq's variables where it says nothing.
fn config(dsn: Option<&str>) -> Outcome<Config> {
    let mut config: Config = dsn.unwrap_or_default().parse().map_err(|error| {
        let words = format!("expected 'host=... port=... user=...' or postgres://...: {error}");
        Failure::refused("--dsn", words)
    })?;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host(variable("PGHOST").unwrap_or_else(|| "/var/run/postgresql".to_owned()));
    }
    if config.get_ports().is_empty()
        && let Some(port) = variable("PGPORT").and_then(|port| port.parse().ok())
    {
        config.port(port);
    }
    if config.get_user().is_none() {
        config.user(variable("PGUSER").unwrap_or_else(|| "postgres".to_owned()));
    }
    if config.get_password().is_none()
        && let Some(password) = variable("PGPASSWORD")
    {
        config.password(password);
    }
    if config.get_dbname().is_none() {
        config.dbname(variable("PGDATABASE").unwrap_or_else(|| "postgres".to_owned()));
    }
    config.connect_timeout(CONNECT);
    Ok(config)
}

async fn look(config: &Config) -> Outcome<Seen> {
    let connected = config.connect(NoTls).await;
    let (client, connection) = connected.context("PostgreSQL can't be asked (--dsn)")?;
    let connection = tokio::spawn(connection);
    let seen = ask(&client).await.context("PostgreSQL does not answer as expected")?;
    drop(client);
    // It ends with its client.
    let _ = connection.await;
    match seen {
        Some(seen) => Ok(seen),
        None => {
            let words = "this user is no superuser, and sees neither files nor all parameters";
            Err(Failure::refused("--dsn", words))
        }
    }
}

async fn ask(client: &Client) -> Result<Option<Seen>, tokio_postgres::Error> {
    if setting(client, "is_superuser").await? != "on" {
        return Ok(None);
    }
    let rows = client
        .query(
            "SELECT name, current_setting(name) FROM pg_settings \
             WHERE source IN ('configuration file', 'command line') AND context <> 'internal' \
             ORDER BY name",
            &[],
        )
        .await?;
    let parameters = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let parameters =
        parameters.collect::<Result<Vec<(String, String)>, tokio_postgres::Error>>()?;
    let replication = client
        .query_opt(
            "SELECT rolname::text FROM pg_roles \
             WHERE rolreplication AND rolcanlogin AND NOT rolsuper ORDER BY rolname LIMIT 1",
            &[],
        )
        .await?;
    let path = |text: String| PathBuf::from(text);
    let config_file = path(setting(client, "config_file").await?);
    Ok(Some(Seen {
        data_dir: path(setting(client, "data_directory").await?),
        config_dir: config_file.parent().map(Path::to_owned).unwrap_or_default(),
        hba_file: path(setting(client, "hba_file").await?),
        ident_file: path(setting(client, "ident_file").await?),
        listen: setting(client, "listen_addresses").await?,
        port: setting(client, "port").await?,
        cluster: setting(client, "cluster_name").await?,
        replication: replication.map(|row| row.try_get(0)).transpose()?,
        parameters,
    }))
}

async fn setting(client: &Client, name: &str) -> Result<String, tokio_postgres::Error> {
    client.query_one("SELECT current_setting($1)", &[&name]).await?.try_get(0)
}

/// The settings, with what only people know left to be filled in.
fn settings(seen: &Seen, config: &Config) -> Outcome<Value> {
    let machine = sources::machine();
    let own: Vec<&str> = seen.listen.split(',').map(str::trim).filter(|a| !a.is_empty()).collect();
    let address = own.iter().find(|a| a.parse::<IpAddr>().is_ok_and(|a| !a.is_unspecified()));
    let everywhere = own.iter().any(|a| ["*", "0.0.0.0", "::"].contains(a));
    let address = match address {
        Some(address) => (*address).to_owned(),
        None if everywhere => machine.address.clone(),
        None => "127.0.0.1".to_owned(),
    };
    let listen = if own.is_empty() { "127.0.0.1".to_owned() } else { own.join(",") };
    let host = if address.contains(':') { format!("[{address}]") } else { address };
    let (agreed, local) = parameters(seen);
    let scope = if seen.cluster.is_empty() { "pgherd" } else { &seen.cluster };
    let password = config.get_password().map(|p| String::from_utf8_lossy(p).into_owned());
    let mut postgresql = json!({
        "listen": format!("{listen}:{}", seen.port),
        "connect_address": format!("{host}:{}", seen.port),
        "data_dir": seen.data_dir,
        "authentication": {
            "superuser": {
                "username": config.get_user().unwrap_or("postgres"),
                "password": password.unwrap_or_else(|| FILL_IN.to_owned()),
            },
            "replication": {
                "username": seen.replication.as_deref().unwrap_or("replicator"),
                "password": FILL_IN,
            },
        },
        "parameters": local,
    });
    if seen.config_dir != seen.data_dir {
        postgresql["config_dir"] = json!(seen.config_dir);
    }
    if let Some(bin_dir) = bin_dir(&seen.data_dir) {
        postgresql["bin_dir"] = json!(bin_dir);
    }
    for (key, file) in [("pg_hba", &seen.hba_file), ("pg_ident", &seen.ident_file)] {
        let lines = lines(file)?;
        if !lines.is_empty() {
            postgresql[key] = json!(lines);
        }
    }
    Ok(json!({
        "scope": scope,
        "name": name(&machine.name),
        "etcd3": {"hosts": ["127.0.0.1:2379"]},
        "restapi": {
            "listen": format!("{host}:8008"),
            "connect_address": format!("{host}:8008"),
            "authentication": {"username": "admin", "password": secret::generate().map_err(anyhow::Error::from)?.reveal()},
        },
        "bootstrap": {"dcs": {"postgresql": {"parameters": agreed}}},
        "postgresql": postgresql,
        "pgherd": {"peer_secret": secret::generate().map_err(anyhow::Error::from)?.reveal()},
    }))
}

/// What all members must agree on, and what is this node's; without what pgherd says itself.
fn parameters(seen: &Seen) -> (Map<String, Value>, Map<String, Value>) {
    let said =
        |name: &str| DERIVED.iter().any(|(known, _)| *known == name) || PLACES.contains(&name);
    let wanted = seen.parameters.iter().filter(|(name, _)| !said(name));
    let of = |(name, value): &(String, String)| (name.clone(), Value::from(value.as_str()));
    let (agreed, local): (Vec<_>, Vec<_>) =
        wanted.map(of).partition(|(name, _)| CONTROLLED.iter().any(|guc| guc.name == name));
    (agreed.into_iter().collect(), local.into_iter().collect())
}

/// What is said in a file of PostgreSQL's, line by line.
fn lines(file: &Path) -> Outcome<Vec<String>> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("{} can't be read; ask as PostgreSQL's user", file.display()))?;
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Where the running postmaster's program is.
fn bin_dir(data_dir: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let program = fs::read_link(format!("/proc/{}/exe", text.lines().next()?.trim())).ok()?;
    program.parent().map(Path::to_owned)
}

/// A machine's name as a member's.
fn name(machine: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = machine.chars().map(legal).collect();
    if name.is_empty() { "node1".to_owned() } else { name }
}
