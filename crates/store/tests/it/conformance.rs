//! The conformance suite on the embedded server and on real etcd.

use pgherd_store::conformance::{OverClient, run};

use crate::support::{Embedded, Etcd};

#[tokio::test]
async fn the_embedded_server_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let report = run(&mut OverClient(server.client())).await;
    assert!(report.passed.len() > 30, "{report}");
    report.verdict().unwrap_or_else(|report| panic!("{report}"));
    // Once more over the other kind of endpoint, and with the first run's keys in it.
    let report = run(&mut OverClient(server.unix_client())).await;
    report.verdict().unwrap_or_else(|report| panic!("{report}"));
    server.stop().await;
}

#[tokio::test]
async fn etcd_conforms() {
    let Some(etcd) = Etcd::start().await else { return };
    let report = run(&mut OverClient(etcd.client())).await;
    report.verdict().unwrap_or_else(|report| panic!("{report}"));
}
