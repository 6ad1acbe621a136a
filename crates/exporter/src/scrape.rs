//! One scrape: one connection, kept between scrapes, and one query after the other, each with a
//! deadline. A server that is away or too slow is `pg_up 0`, and the page is whole all the same.
//! Leaves what is asked to `collectors` and how it is served to `serve`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::collectors::{self, Collector, Server};
use crate::page::{Family, Kind, Page};
use crate::setting;
use crate::source::Source;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connecting, the login included.
    pub connect: Duration,
    /// One query.
    pub query: Duration,
    /// All of a scrape; Prometheus gives up after 10 s.
    pub scrape: Duration,
}

/// Asks one server.
pub(crate) struct Scraper {
    source: Source,
    bounds: Bounds,
    without: BTreeSet<String>,
    connection: Option<Connection>,
    scrapes: u64,
}

struct Connection {
    client: Client,
    major: u32,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What a question came to.
enum Answer {
    Rows(Vec<SimpleQueryRow>),
    /// The server refused this one, and can be asked others.
    Refused(String),
    /// Nothing more will come over this connection.
    Lost(String),
}

impl Scraper {
    pub(crate) fn new(source: Source, bounds: Bounds, without: BTreeSet<String>) -> Self {
        Self { source, bounds, without, connection: None, scrapes: 0 }
    }

    /// Adds everything that the server says.
    pub(crate) async fn put(&mut self, page: &mut Page) {
        let started = Instant::now();
        self.scrapes += 1;
        let (mut tally, mut errors) = (Tally::new(), false);
        let up = self.connect(started).await;
        if up {
            errors = !self.ask_all(page, &mut tally, started).await;
        }
        let up = self.connection.is_some();
        let help = "Whether the last scrape of metrics from PostgreSQL was able to connect to the \
                    server (1 for yes, 0 for no).";
        page.one("pg_up", Kind::Gauge, help, u8::from(up));
        page.family(&tally.took);
        page.family(&tally.succeeded);
        let help = "Duration of the last scrape of metrics from PostgreSQL.";
        let took = started.elapsed().as_secs_f64();
        page.one("pg_exporter_last_scrape_duration_seconds", Kind::Gauge, help, took);
        let help = "Whether the last scrape of metrics from PostgreSQL resulted in an error (1 for \
                    error, 0 for success).";
        let failed = u8::from(errors || !up);
        page.one("pg_exporter_last_scrape_error", Kind::Gauge, help, failed);
        let help = "Total number of times PostgreSQL was scraped for metrics.";
        page.one("pg_exporter_scrapes_total", Kind::Counter, help, self.scrapes);
    }

    /// Whether there is a connection that answers; a fresh one where the kept one has broken.
    async fn connect(&mut self, started: Instant) -> bool {
        if let Some(kept) = self.connection.take() {
            let alive = !kept.client.is_closed()
                && matches!(query(&kept.client, "", self.left(started)).await, Answer::Rows(_));
            if alive {
                self.connection = Some(kept);
                return true;
            }
        }
        let bound = self.bounds.connect.min(self.left(started));
        match tokio::time::timeout(bound, open(&self.source, self.bounds)).await {
            Ok(Ok(connection)) => {
                self.connection = Some(connection);
                true
            }
            Ok(Err(words)) => {
                tracing::warn!(server = self.source.server(), "no connection: {words}");
                false
            }
            Err(_) => {
                let server = self.source.server();
                tracing::warn!(server, "no connection within {} ms", bound.as_millis());
                false
            }
        }
    }

    /// Asks everything; whether all of it was answered.
    async fn ask_all(&mut self, page: &mut Page, tally: &mut Tally, started: Instant) -> bool {
        let Some(connection) = self.connection.take() else { return false };
        let mut whole = true;
        let wanted = collectors::all().filter(|it| it.versions.contains(&connection.major));
        let questions = wanted.map(Some).chain([None]);
        for question in questions {
            let name = question.map_or("settings", |collector| collector.name);
            if self.without.contains(name) {
                continue;
            }
            let began = Instant::now();
            let text = question.map_or(SETTINGS, |collector| collector.query);
            let answer = query(&connection.client, text, self.left(started)).await;
            tally.note(name, began.elapsed(), matches!(answer, Answer::Rows(_)));
            match answer {
                Answer::Rows(rows) => match question {
                    Some(collector) => samples(page, collector, &rows, self.source.server()),
                    None => settings(page, &rows, self.source.server()),
                },
                Answer::Refused(words) => {
                    tracing::warn!(collector = name, "no answer: {words}");
                    whole = false;
                }
                Answer::Lost(words) => {
                    tracing::warn!(collector = name, "the connection is given up: {words}");
                    return false;
                }
            }
        }
        self.connection = Some(connection);
        whole
    }

    /// What is left for the next question.
    fn left(&self, started: Instant) -> Duration {
        self.bounds.scrape.saturating_sub(started.elapsed()).min(self.bounds.query)
    }
}

const SETTINGS: &str = "SELECT name, setting, coalesce(unit, ''), short_desc FROM pg_settings \
                        WHERE vartype IN ('bool', 'integer', 'real')";

async fn open(source: &Source, bounds: Bounds) -> Result<Connection, String> {
    let mut config = source.config();
    let timeout = bounds.query.as_millis();
    let kept = config.get_options().unwrap_or_default().to_owned();
    // A statement that the exporter no longer waits for ends by itself.
    config.options(format!(
        "-c search_path=pg_catalog -c statement_timeout={timeout} -c lock_timeout={timeout} \
         -c default_transaction_read_only=on {kept}"
    ));
    config.application_name("pgherd exporter").connect_timeout(bounds.connect);
    let connected = pgherd_connect::connect(&config, source.security()).await;
    let (client, driver) =
        connected.map_err(|error| error.of_server().map_or_else(|| error.to_string(), sentence))?;
    // Its error is the one that the client's next query sees.
    let driver = tokio::spawn(async {
        let _ = driver.await;
    });
    let mut connection = Connection { client, major: 0, driver };
    let answer = connection.client.simple_query("SHOW server_version_num").await;
    let messages = answer.map_err(|error| sentence(&error))?;
    let number = rows(messages).first().and_then(|row| row.get(0)?.parse::<u32>().ok());
    connection.major = number.ok_or("the server doesn't tell its version")? / 10_000;
    Ok(connection)
}

async fn query(client: &Client, text: &str, within: Duration) -> Answer {
    match tokio::time::timeout(within, client.simple_query(text)).await {
        Ok(Ok(messages)) => Answer::Rows(rows(messages)),
        Ok(Err(error)) if error.as_db_error().is_some() && !client.is_closed() => {
            Answer::Refused(sentence(&error))
        }
        Ok(Err(error)) => Answer::Lost(sentence(&error)),
        Err(_) => Answer::Lost(format!("no answer within {} ms", within.as_millis())),
    }
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let rows = messages.into_iter().filter_map(|message| {
        if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None }
    });
    rows.collect()
}

fn sentence(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    let inner = error.source().map(ToString::to_string);
    inner.map_or_else(|| error.to_string(), |inner| format!("{error}: {inner}"))
}

/// One collector's rows as samples.
fn samples(page: &mut Page, collector: &Collector, rows: &[SimpleQueryRow], server: &str) {
    for (index, metric) in collector.metrics.iter().enumerate() {
        let name = format!("{}_{}", collector.prefix, metric.suffix);
        let mut family = Family::new(name, metric.kind, metric.help);
        for row in rows {
            let Some(value) = row.get(collector.labels.len() + index) else { continue };
            let own = collector.labels.iter().enumerate();
            let own = own.map(|(at, label)| (*label, row.get(at).unwrap_or_default()));
            let server = match collector.server {
                Server::Labelled => Some(("server", server)),
                Server::Plain => None,
            };
            family.put(own.chain(server), value);
        }
        page.family(&family);
    }
}

fn settings(page: &mut Page, rows: &[SimpleQueryRow], server: &str) {
    for row in rows {
        let column = |at| row.get(at).unwrap_or_default();
        let found = setting::metric(column(0), column(1), column(2), column(3));
        let Some((name, help, value)) = found else { continue };
        let mut family = Family::new(format!("pg_settings_{name}"), Kind::Gauge, help);
        family.put([("server", server)], value);
        page.family(&family);
    }
}

/// How each collector did.
struct Tally {
    took: Family,
    succeeded: Family,
}

impl Tally {
    fn new() -> Self {
        let took = Family::new(
            "pg_scrape_collector_duration_seconds",
            Kind::Gauge,
            "postgres_exporter: Duration of a collector scrape.",
        );
        let succeeded = Family::new(
            "pg_scrape_collector_success",
            Kind::Gauge,
            "postgres_exporter: Whether a collector succeeded.",
        );
        Self { took, succeeded }
    }

    fn note(&mut self, collector: &str, took: Duration, succeeded: bool) {
        self.took.put([("collector", collector)], took.as_secs_f64());
        self.succeeded.put([("collector", collector)], u8::from(succeeded));
    }
}
