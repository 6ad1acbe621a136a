//! `query`: SQL on a member's PostgreSQL (contract 5.2).
//! Leaves the connection's protocol to tokio-postgres; opens no router, so that a named member is
//! that member.

use std::fmt::Write as _;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use pgherd_api::{Cluster, MemberInfo, Secret};
use pgherd_connect::{Security, Words};
use serde_json::{Map, Value};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use super::choose::has_role;
use super::show::clear;
use super::{Ctl, failed, member};
use crate::args::{Format, QueryArgs, Role};
use crate::output::{Failure, Outcome};
use crate::table::{Align, Table};

const CONNECT: Duration = Duration::from_secs(5);

pub(super) async fn query(mut ctl: Ctl, args: &QueryArgs) -> Outcome {
    let pause = args.watch.pause()?;
    let sql = sql(args)?;
    let password = if args.password {
        let typed = rpassword::prompt_password("Password: ");
        Some(Secret::new(typed.context("the password can't be read from the terminal")?))
    } else {
        std::env::var("PGPASSWORD").ok().map(Secret::new)
    };
    let security = Words::default().or_environment(&|name| std::env::var(name).ok()).security();
    let security = security.map_err(|error| Failure::refused("TLS", error.to_string()))?;
    loop {
        let cluster = ctl.read().await?;
        let member = pick(&ctl, &cluster, args)?;
        let config = config(&ctl, member, args, password.as_ref())?;
        let rows = run(member, &config, &security, &sql).await?;
        clear(&mut ctl, pause)?;
        ctl.printer.raw(rows.print(args))?;
        let Some(pause) = pause else { return Ok(()) };
        tokio::time::sleep(pause).await;
    }
}

fn sql(args: &QueryArgs) -> Outcome<String> {
    let Some(file) = &args.file else { return Ok(args.command.clone().unwrap_or_default()) };
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(|error| {
        Failure::refused(file.display().to_string(), format!("can't be read: {error}"))
    })
}

/// The member that is meant: the leader when nobody says.
fn pick<'a>(ctl: &Ctl, cluster: &'a Cluster, args: &QueryArgs) -> Outcome<&'a MemberInfo> {
    let scope = ctl.keys.scope();
    if let Some(name) = &args.member {
        let words = format!("{name} is not a member of cluster {scope}");
        return member(cluster, name).ok_or_else(|| Failure::refused("--member", words));
    }
    let role = args.role.unwrap_or(Role::Leader);
    let fits = |m: &&MemberInfo| has_role(cluster, m, role) && m.state == "running";
    let found = cluster.members().values().find(fits);
    found.ok_or_else(|| {
        failed(format!("no running member of cluster {scope} has the role {role:?}"))
    })
}

fn config(
    ctl: &Ctl,
    member: &MemberInfo,
    args: &QueryArgs,
    password: Option<&Secret>,
) -> Outcome<Config> {
    let address = member.host.as_deref().zip(member.port);
    let (host, port) = address.ok_or_else(|| {
        failed(format!("member {} doesn't say where its PostgreSQL listens", member.name))
    })?;
    let user = args.username.clone().or_else(|| std::env::var("USER").ok());
    // In a cluster of `up`, the superuser is the one that there is.
    let ours = ctl.dir.as_ref().map(|_| "postgres".to_owned());
    let user = args.username.clone().or(ours).or(user).unwrap_or_else(|| "postgres".to_owned());
    let database = args.dbname.clone().unwrap_or_else(|| "postgres".to_owned());
    let mut config = Config::new();
    config.host(host).port(port).user(&user).dbname(&database);
    config.connect_timeout(CONNECT).application_name("pgherd ctl");
    let kept = || {
        let wanted = [host, &port.to_string(), &database, &user].map(str::to_owned);
        password_files(ctl).iter().find_map(|file| {
            std::fs::read_to_string(file).ok().and_then(|text| kept_password(&text, &wanted))
        })
    };
    if let Some(password) = password.cloned().or_else(kept) {
        config.password(password.reveal());
    }
    Ok(config)
}

/// Where passwords are kept: libpq's places, and that of `up`.
fn password_files(ctl: &Ctl) -> Vec<PathBuf> {
    let named = std::env::var_os("PGPASSFILE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
    let ours = ctl.dir.as_ref().map(|dir| dir.join("pgpass"));
    [named, ours, home].into_iter().flatten().collect()
}

/// The first line that fits `host:port:database:user`, as libpq reads its password file.
fn kept_password(text: &str, wanted: &[String; 4]) -> Option<Secret> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (password, names) = fields.split_last()?;
        let fits = names.len() == 4
            && names.iter().zip(wanted).all(|(given, wanted)| given == "*" || given == wanted);
        fits.then(|| Secret::new(password.clone()))
    })
}

/// Fields between colons; a backslash takes the next letter as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (letter, fields.last_mut()) {
            ('\\', Some(field)) => field.extend(letters.next()),
            (':', _) => fields.push(String::new()),
            (other, Some(field)) => field.push(other),
            (_, None) => {}
        }
    }
    fields
}

/// What came back.
#[derive(Default)]
struct Rows {
    columns: Vec<String>,
    /// Where PostgreSQL says them; of several statements at once it doesn't.
    types: Vec<Type>,
    rows: Vec<Vec<Option<String>>>,
}

async fn run(
    member: &MemberInfo,
    config: &Config,
    security: &Security,
    sql: &str,
) -> Outcome<Rows> {
    let name = &member.name;
    let connected = pgherd_connect::connect(config, security).await;
    let (client, connection) = connected.map_err(|error| {
        let words = error.of_server().map_or_else(|| error.to_string(), said);
        failed(format!("no connection to member {name}: {words}"))
    })?;
    let mut connection = std::pin::pin!(connection);
    let mut work = std::pin::pin!(ask(&client, sql));
    // The connection is driven here, beside the question, and ends with it.
    let rows = tokio::select! {
        rows = &mut work => rows,
        ended = &mut connection => match ended {
            Err(error) => Err(error),
            Ok(()) => work.await,
        },
    };
    rows.map_err(|error| failed(format!("{name}: {}", said(&error))))
}

async fn ask(client: &Client, sql: &str) -> Result<Rows, tokio_postgres::Error> {
    let mut rows = Rows::default();
    // One statement can be described beforehand; several can't, and say so again when they run.
    if let Ok(statement) = client.prepare(sql).await {
        rows.types = statement.columns().iter().map(|column| column.type_().clone()).collect();
    }
    for message in client.simple_query(sql).await? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                rows.columns = columns.iter().map(|column| column.name().to_owned()).collect();
                rows.rows.clear();
            }
            SimpleQueryMessage::Row(row) => {
                let cells = (0..row.len()).map(|i| row.get(i).map(str::to_owned));
                rows.rows.push(cells.collect());
            }
            SimpleQueryMessage::CommandComplete(_) | _ => {}
        }
    }
    Ok(rows)
}

/// PostgreSQL's own words, with the code that scripts look for.
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let mut words = format!("ERROR, SQLSTATE: {}: {}", db.code().code(), db.message());
            if let Some(detail) = db.detail() {
                let _ = write!(words, " ({detail})");
            }
            words
        }
        None => {
            let mut words = error.to_string();
            if let Some(cause) = std::error::Error::source(error) {
                let _ = write!(words, ": {cause}");
            }
            words
        }
    }
}

impl Rows {
    fn print(&self, args: &QueryArgs) -> String {
        match args.format {
            Format::Pretty => self.table(),
            Format::Tsv => self.tsv(args.delimiter.as_deref().unwrap_or("\t")),
            Format::Json => pgherd_api::json::spaced(&self.objects()).unwrap_or_default() + "\n",
            Format::Yaml => crate::yaml_text::block(&self.objects()),
        }
    }

    fn table(&self) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        let mut table = Table::new(None);
        for (index, name) in self.columns.iter().enumerate() {
            let number = self.types.get(index).is_some_and(is_number);
            table.column(name, if number { Align::Right } else { Align::Left });
        }
        for row in &self.rows {
            table.row(row.iter().map(|cell| cell.clone().unwrap_or_default()).collect());
        }
        table.draw()
    }

    fn tsv(&self, delimiter: &str) -> String {
        let mut text = String::new();
        if !self.columns.is_empty() {
            text = self.columns.join(delimiter) + "\n";
        }
        for row in &self.rows {
            let cells = row.iter().map(|cell| cell.as_deref().unwrap_or_default());
            text.push_str(&cells.collect::<Vec<_>>().join(delimiter));
            text.push('\n');
        }
        text
    }

    fn objects(&self) -> Value {
        let object = |row: &Vec<Option<String>>| {
            let cells = self.columns.iter().zip(row).enumerate();
            let cells = cells.map(|(i, (name, cell))| {
                let value = cell.as_deref().map_or(Value::Null, |text| self.value(i, text));
                (name.clone(), value)
            });
            Value::Object(cells.collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }

    /// A text by its column's type.
    fn value(&self, column: usize, text: &str) -> Value {
        let parsed = match self.types.get(column) {
            Some(kind) if *kind == Type::BOOL => Some(Value::Bool(text == "t")),
            Some(kind) if is_number(kind) => serde_json::from_str::<Value>(text).ok(),
            Some(kind) if *kind == Type::JSON || *kind == Type::JSONB => {
                serde_json::from_str(text).ok()
            }
            Some(_) | None => None,
        };
        parsed.unwrap_or_else(|| Value::from(text))
    }
}

fn is_number(kind: &Type) -> bool {
    [Type::INT2, Type::INT4, Type::INT8, Type::OID, Type::FLOAT4, Type::FLOAT8, Type::NUMERIC]
        .contains(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_as_libpq_reads_it() {
        let wanted = ["h", "5432", "db", "me"].map(str::to_owned);
        let find = |text: &str| kept_password(text, &wanted).map(|s| s.reveal().to_owned());
        assert_eq!(find("# x\no:*:*:*:no\nh:5432:db:me:yes\n"), Some("yes".to_owned()));
        assert_eq!(find("*:*:*:me:with\\:colon\n"), Some("with:colon".to_owned()));
        assert_eq!(find("*:*:*:other:no\n"), None);
    }

    #[test]
    fn rows_keep_their_types_in_data_and_nothing_is_null() {
        let rows = Rows {
            columns: ["n", "b", "t"].map(str::to_owned).to_vec(),
            types: vec![Type::INT8, Type::BOOL, Type::TEXT],
            rows: vec![
                vec![Some("42".into()), Some("t".into()), Some("7".into())],
                vec![None, Some("f".into()), Some(String::new())],
            ],
        };
        let expected = serde_json::json!([
            {"n": 42, "b": true, "t": "7"}, {"n": null, "b": false, "t": ""}
        ]);
        assert_eq!(rows.objects(), expected);
        assert_eq!(rows.tsv("|"), "n|b|t\n42|t|7\n|f|\n");
    }
}
