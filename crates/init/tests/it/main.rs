//! The init job on real servers, with its interruptions.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]

#[path = "../../../exporter/tests/it/server.rs"]
mod server;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgherd_init::{Fault, Report, Settings, Variables, run};
use server::{PASSWORD, Server, installed};

const SECRET: &str = "pa'ss\\word";

/// A directory of files, and what the job said.
struct Bench {
    files: tempfile::TempDir,
    said: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new() -> Self {
        Self { files: tempfile::tempdir().unwrap(), said: Arc::default() }
    }

    fn file(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.files.path().join(name), text).unwrap();
        self
    }

    fn settings(&self, server: &Server) -> Settings {
        let mut variables = Variables::default();
        variables.set("APP_PASSWORD", SECRET);
        Settings {
            security: pgherd_connect::Security::none(),
            config: server.url("postgres").parse().unwrap(),
            server: format!("127.0.0.1:{}", server.port),
            database: "postgres".to_owned(),
            directory: self.files.path().to_owned(),
            variables,
            patience: Duration::from_secs(60),
            changes_fail: false,
        }
    }

    async fn run(&self, server: &Server) -> Result<Report, Fault> {
        let outcome = self.run_with(self.settings(server)).await;
        let words = format!("{:?} {outcome:?}", self.said.lock().unwrap());
        assert!(!words.contains("ss\\\\word") && !words.contains(PASSWORD), "a secret in {words}");
        outcome
    }

    async fn run_with(&self, settings: Settings) -> Result<Report, Fault> {
        let said = Arc::clone(&self.said);
        let mut say = move |words: &str| said.lock().unwrap().push(words.to_owned());
        run(&settings, &mut say).await
    }

    fn heard(&self, words: &str) -> bool {
        self.said.lock().unwrap().iter().any(|said| said.contains(words))
    }
}

async fn number(server: &Server, database: &str, query: &str) -> i64 {
    server.connect(database).await.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn files_run_once_in_order_and_with_their_variables() {
    for bin in installed() {
        let server = Server::start(&bin);
        let bench = Bench::new();
        bench
            .file("20_tables.sql", "\\connect app\nCREATE TABLE t (id int);\nINSERT INTO t VALUES (1);")
            .file(
                "10_users.sql",
                "-- who\nCREATE ROLE app LOGIN PASSWORD :'APP_PASSWORD';\n\
                 CREATE DATABASE app OWNER app;\n\
                 SELECT format('CREATE DATABASE %I', name) FROM (VALUES ('more'), ('postgres')) d(name)\n\
                 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)\\gexec\n",
            )
            .file("30_role.sql", "SET ROLE app; CREATE TABLE app_t (); VACUUM app_t; DROP TABLE app_t;")
            .file("init.sql.example", "SELECT 1/0;")
            .file("run.sh", "exit 1");
        let client = server.connect("postgres").await;
        client.batch_execute("GRANT ALL ON SCHEMA public TO public").await.unwrap();
        let report = bench.run(&server).await.unwrap();
        assert_eq!(report.ran, ["10_users.sql", "20_tables.sql", "30_role.sql"]);
        assert!(bench.heard("run.sh: not run"));
        let report = bench.run(&server).await.unwrap();
        assert_eq!((report.ran.len(), report.skipped.len()), (0, 3));
        assert_eq!(number(&server, "app", "SELECT count(*) FROM t").await, 1);
        let login = format!(
            "host=127.0.0.1 port={} user=app dbname=more password='pa\\'ss\\\\word'",
            server.port
        );
        drop(tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap());
        bench.file("20_tables.sql", "SELECT 2;");
        let report = bench.run(&server).await.unwrap();
        assert_eq!(report.changed, ["20_tables.sql"]);
        let settings = Settings { changes_fail: true, ..bench.settings(&server) };
        assert!(matches!(bench.run_with(settings).await, Err(Fault::Changed(_))));
        no_secret_in_the_log(&server);
    }
}

fn no_secret_in_the_log(server: &Server) {
    let log = server.log();
    assert!(log.contains("statement: "), "log_statement=all is on");
    assert!(!log.contains("ss\\\\word"), "a secret in the server's log");
}

#[tokio::test]
async fn a_failing_statement_is_named_and_leaves_nothing_behind() {
    let server = Server::start(&installed()[0]);
    let bench = Bench::new();
    let text = "CREATE TABLE a ();\nCREATE DATABASE b;\nCREATE TABLE c ();\n\
                INSERT INTO c\n  SELECT 1,\n  :'APP_PASSWORD'::int;\n";
    bench.file("1.sql", text);
    let words = bench.run(&server).await.unwrap_err().to_string();
    assert!(words.starts_with("1.sql, line 6: invalid input syntax"), "{words}");
    assert!(words.contains("\"***\"") && words.contains(":'APP_PASSWORD'::int"), "{words}");
    assert!(words.contains("what is before line 3 of this file ran and is recorded"), "{words}");
    let tables = "SELECT count(*) FROM pg_class WHERE relname IN ('a', 'c')";
    assert_eq!(number(&server, "postgres", tables).await, 1);
    let parts = "SELECT count(*) FROM pgherd.init_parts WHERE done";
    assert_eq!(number(&server, "postgres", parts).await, 2);
    no_secret_in_the_log(&server);
    // What ran can't be changed any more, what failed can.
    bench.file("1.sql", &text.replace("TABLE a", "TABLE aa"));
    assert!(matches!(bench.run(&server).await, Err(Fault::ChangedHalfway { line: 1, .. })));
    bench.file("1.sql", "CREATE TABLE a ();\nCREATE DATABASE b;\nCREATE TABLE c ();");
    assert_eq!(bench.run(&server).await.unwrap().ran, ["1.sql"]);
    assert_eq!(number(&server, "postgres", tables).await, 2);
    // A statement outside of transactions leaves no note when it fails.
    bench.file("2.sql", "CREATE DATABASE b;");
    assert!(bench.run(&server).await.unwrap_err().to_string().contains("already exists"));
    let notes = "SELECT count(*) FROM pgherd.init_parts WHERE file = '2.sql'";
    assert_eq!(number(&server, "postgres", notes).await, 0);
}

#[tokio::test]
async fn nothing_runs_while_any_file_has_a_mistake() {
    let server = Server::start(&installed()[0]);
    let bench = Bench::new();
    bench.file("1.sql", "CREATE TABLE a ();").file("2.sql", "SELECT :'GONE';\nSELECT 'x");
    bench.file("3.sql", "\nSELECT ${GONE};");
    let fault = bench.run(&server).await.unwrap_err();
    assert!(fault.is_input());
    let words = fault.to_string();
    assert!(words.contains("2.sql, line 2: a quoted text begins here"), "{words}");
    assert!(words.contains("3.sql, line 2: the variable GONE is not set"), "{words}");
    let tables = "SELECT count(*) FROM pg_class WHERE relname = 'a'";
    assert_eq!(number(&server, "postgres", tables).await, 0);
}

#[tokio::test]
async fn a_statement_of_unknown_outcome_is_not_a_failure() {
    let server = Server::start(&installed()[0]);
    let bench = Bench::new();
    bench.file("1.sql", "CREATE DATABASE b;");
    bench.run(&server).await.unwrap();
    let client = server.connect("postgres").await;
    // As if the connection had been lost before the answer.
    let lost = "DELETE FROM pgherd.init_files; UPDATE pgherd.init_parts SET done = false";
    client.batch_execute(lost).await.unwrap();
    assert_eq!(bench.run(&server).await.unwrap().ran, ["1.sql"]);
    assert!(bench.heard("had happened before the connection was lost"));
}

#[tokio::test]
async fn servers_that_die_on_the_way_change_nothing() {
    let mut server = Server::start(&installed()[0]);
    let bench = Bench::new();
    bench.file("00.sql", "CREATE TABLE t (n int); SET search_path = pg_catalog;");
    for n in 1..=12 {
        let text = format!(
            "SET search_path = public;\nINSERT INTO t SELECT {n};\nSELECT pg_sleep(0.05);\n\
             CREATE DATABASE d{n};\nINSERT INTO t SELECT {n};\nSELECT pg_sleep(0.05);\nVACUUM t;\n"
        );
        bench.file(&format!("{n:02}.sql"), &text);
    }
    let settings = bench.settings(&server);
    let said = Arc::clone(&bench.said);
    let job = tokio::spawn(async move {
        let mut say = move |words: &str| said.lock().unwrap().push(words.to_owned());
        run(&settings, &mut say).await
    });
    // Whatever moment these hit, the outcome is the same.
    for pause in [400, 130, 210, 170, 90] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        server.kill();
        server.resume();
    }
    assert_eq!(job.await.unwrap().unwrap().ran.len(), 13);
    assert_eq!(number(&server, "postgres", "SELECT count(*) FROM t").await, 24);
    let databases = "SELECT count(*) FROM pg_database WHERE datname ~ '^d[0-9]+$'";
    assert_eq!(number(&server, "postgres", databases).await, 12);
    assert!(bench.heard("going on where the record says"), "no kill hit the job");
}

#[tokio::test]
async fn waiting_ends_with_a_sentence() {
    let mut server = Server::start(&installed()[0]);
    server.kill();
    let bench = Bench::new();
    let settings = Settings { patience: Duration::from_secs(2), ..bench.settings(&server) };
    bench.file("1.sql", "SELECT 1");
    let words = bench.run_with(settings).await.unwrap_err().to_string();
    assert!(words.starts_with("no server accepted writes within "), "{words}");
    assert!(bench.heard("waiting for a primary behind 127.0.0.1:"));
    server.resume();
    let mut settings = bench.settings(&server);
    settings.config.password("wrong");
    let words = bench.run_with(settings).await.unwrap_err().to_string();
    assert!(words.contains("refuses the connection to database postgres: password"), "{words}");
}
