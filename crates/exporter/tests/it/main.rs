//! The exporter beside real servers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use pgherd_api::Client;
use pgherd_exporter::{Bounds, Settings, Source};
use server::{PASSWORD, Server, installed};

/// An exporter in a task that ends with it.
struct Exporter {
    at: SocketAddr,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Exporter {
    fn of(url: &str, agent: Option<String>) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let words = |name: &str| (name == "DATA_SOURCE_NAME").then(|| url.to_owned());
        let settings = Settings {
            listen: free,
            path: "/metrics".to_owned(),
            source: Source::from_words(&words).unwrap(),
            bounds: Bounds {
                connect: Duration::from_secs(5),
                query: Duration::from_secs(5),
                scrape: Duration::from_secs(20),
            },
            without: BTreeSet::from(["statio_user_tables".to_owned()]),
            agent,
        };
        let task = tokio::spawn(pgherd_exporter::run(settings, std::future::pending()));
        Self { at: free, task }
    }

    /// One scrape: its samples by name with labels, checked as Prometheus would.
    async fn scrape(&self) -> BTreeMap<String, f64> {
        let client = Client::new(Duration::from_secs(30));
        let url = format!("http://{}/metrics", self.at);
        let until = tokio::time::Instant::now() + Duration::from_secs(30);
        let response = loop {
            match client.request(http::Method::GET, &url, None).await {
                Ok(response) => break response,
                Err(_) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(response.status, 200);
        let text = response.text();
        assert!(!text.contains(PASSWORD), "a password on the page");
        parse(&text)
    }
}

/// Reads the page, and refuses what Prometheus refuses.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut typed) = (BTreeMap::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(typed.insert(rest.split(' ').next().unwrap().to_owned()), "twice: {line}");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("'{line}'"));
            let value = value.parse().unwrap_or_else(|_| panic!("no number: '{line}'"));
            let family = name.split('{').next().unwrap();
            assert!(typed.contains(family), "no type: '{line}'");
            assert!(samples.insert(name.to_owned(), value).is_none(), "twice: '{line}'");
        }
    }
    samples
}

/// What dashboards 455 and 9628, the mixin and its alerts read, one of each.
const EXPECTED: &[&str] = &[
    "pg_up",
    "pg_exporter_last_scrape_error",
    "pg_exporter_scrapes_total",
    "pg_scrape_collector_success{collector=\"stat_database\"}",
    "pg_stat_database_xact_commit{datid=\"",
    "pg_stat_database_blks_hit{datid=\"",
    "pg_stat_database_conflicts{datid=\"",
    "pg_stat_database_stats_reset{datid=\"",
    "pg_stat_database_conflicts_confl_lock{datid=\"",
    "pg_stat_bgwriter_checkpoints_timed_total",
    "pg_stat_bgwriter_buffers_backend_total",
    "pg_stat_bgwriter_buffers_alloc_total",
    "pg_locks_count{datname=\"postgres\",mode=\"accesssharelock\"}",
    "pg_stat_activity_count{datname=\"postgres\",state=\"active\",usename=\"",
    "pg_stat_activity_max_tx_duration{datname=\"postgres\",state=\"idle\"",
    "pg_static{version=\"PostgreSQL ",
    "pg_settings_max_connections{server=\"127.0.0.1:",
    "pg_settings_shared_buffers_bytes{server=\"",
    "pg_settings_checkpoint_timeout_seconds{server=\"",
    "pg_database_size_bytes{datname=\"postgres\"}",
    "pg_replication_lag_seconds",
    "pg_replication_is_replica",
    "pg_replication_slots_pg_wal_lsn_diff{slot_name=\"kept\",database=\"\",server=\"",
    "pg_replication_slot_slot_is_active{slot_name=\"kept\",slot_type=\"physical\"}",
    "pg_replication_slot_wal_status{slot_name=\"kept\",slot_type=\"physical\",wal_status=\"",
    "pg_stat_archiver_archived_count",
    "pg_wal_segments",
    "pg_wal_size_bytes",
    "pg_stat_user_tables_n_dead_tup{datname=\"postgres\",schemaname=\"public\",relname=\"t\"}",
    "pg_roles_connection_limit{rolname=\"postgres\"}",
    "pg_postmaster_start_time_seconds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
];

#[tokio::test]
async fn every_version_has_the_names_that_dashboards_read() {
    for bin in installed() {
        let server = Server::start(&bin);
        let client = server.connect("postgres").await;
        let setup = "CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 10);
            SELECT pg_create_physical_replication_slot('kept', true);
            CREATE ROLE watcher LOGIN PASSWORD 'w'; GRANT pg_monitor TO watcher;";
        client.batch_execute(setup).await.unwrap();
        // As the role that people make for it, not as the superuser.
        let url = format!("postgresql://watcher:w@127.0.0.1:{}/postgres", server.port);
        let exporter = Exporter::of(&url, None);
        let samples = exporter.scrape().await;
        for name in EXPECTED {
            assert!(
                samples.keys().any(|found| found.starts_with(name)),
                "{}: no {name}",
                bin.display()
            );
        }
        let refused = |(name, value): &(&String, &f64)| {
            name.starts_with("pg_scrape_collector_success") && **value < 1.0
        };
        assert_eq!(samples.iter().find(refused), None, "{}", bin.display());
        assert_eq!(samples["pg_exporter_last_scrape_error"], 0.0);
        assert!(!samples.keys().any(|name| name.starts_with("pg_statio_")), "was to be left out");
        let backends = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'watcher'";
        for _ in 0..3 {
            exporter.scrape().await;
        }
        let rows = client.query_one(backends, &[]).await.unwrap();
        assert_eq!(rows.get::<_, i64>(0), 1, "one connection for all scrapes");
    }
}

#[tokio::test]
async fn a_server_that_goes_away_is_a_page_too() {
    let mut server = Server::start(&installed()[0]);
    let exporter = Exporter::of(&server.url("postgres"), Some("http://127.0.0.1:1/metrics".into()));
    let samples = exporter.scrape().await;
    assert_eq!((samples["pg_up"], samples["pgherd_agent_up"]), (1.0, 0.0));
    server.kill();
    let samples = exporter.scrape().await;
    assert_eq!((samples["pg_up"], samples["pg_exporter_last_scrape_error"]), (0.0, 1.0));
    assert!(samples.contains_key("process_resident_memory_bytes"));
    server.resume();
    assert_eq!(exporter.scrape().await["pg_up"], 1.0);
}

#[tokio::test]
async fn a_wrong_password_is_pg_up_0() {
    let server = Server::start(&installed()[0]);
    let url = format!("postgresql://postgres:wrong@127.0.0.1:{}/postgres", server.port);
    assert_eq!(Exporter::of(&url, None).scrape().await["pg_up"], 0.0);
}
