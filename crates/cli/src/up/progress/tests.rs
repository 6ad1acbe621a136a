//! The lines of a cluster's life.

use pgherd_api::{Keys, Record};

use super::*;

const PRIMARY: &str = r#"{"conn_url":"postgres://h1:5442/postgres","api_url":"http://h1:8008/patroni","state":"running","role":"primary","version":"4.1.5"}"#;
const REPLICA: &str = r#"{"conn_url":"postgres://h2:5443/postgres","api_url":"http://h2:8008/patroni","state":"running","role":"replica","version":"4.1.5","replication_state":"streaming"}"#;

fn cluster(keys: &[(&str, String, u64)]) -> Cluster {
    let record = |(key, value, modified): &(&str, String, u64)| Record {
        key: format!("/service/demo/{key}").into_bytes(),
        value: value.clone().into_bytes(),
        created: 1,
        modified: *modified,
        lease: 7,
    };
    Cluster::read(Keys::new("service", "demo"), 99, keys.iter().map(record))
}

fn beat(serving: bool, ended: &str) -> String {
    format!(
        r#"{{"incarnation":1,"seq":1,"ttl":5000000,"lsn":5,"timeline":1,"start":1,"serving":{serving},"ended":{ended}}}"#
    )
}

fn reign(leader: &str, by: &str, at: u64) -> [(&'static str, String, u64); 3] {
    [
        ("leader", leader.to_owned(), at),
        ("term", format!(r#"{{"leader":"{leader}","by":"{by}"}}"#), at),
        ("beat", beat(true, "null"), at),
    ]
}

#[test]
fn a_reign_is_told_once_with_how_it_came_and_how_it_ended() {
    let mut progress = Progress::default();
    let mut keys = reign("n1", "founding", 10).to_vec();
    assert_eq!(
        progress.take(&cluster(&keys)),
        ["n1 leads, as the first (term 10)", "n1 takes writes"]
    );
    assert!(progress.take(&cluster(&keys)).is_empty());
    keys.remove(0);
    keys[1] = ("beat", beat(false, r#""died""#), 11);
    assert_eq!(progress.take(&cluster(&keys)), ["n1 leads no longer: PostgreSQL died on n1"]);
    assert!(!progress.serving());
    let keys = reign("n2", "pledges", 12);
    assert_eq!(
        progress.take(&cluster(&keys)),
        ["n2 leads, elected by the voters (term 12)", "n2 takes writes"]
    );
}

#[test]
fn what_an_earlier_life_wrote_says_nothing_of_now() {
    let mut progress = Progress::since(Revision(20));
    let mut keys = reign("n1", "founding", 10).to_vec();
    keys.push(("members/n1", PRIMARY.to_owned(), 11));
    keys.push(("members/n2", REPLICA.to_owned(), 21));
    let cluster_now = cluster(&keys);
    assert_eq!(progress.take(&cluster_now), ["n2: replica, streaming"]);
    assert!(!progress.serving());
    assert_eq!(progress.in_place(&cluster_now), 1);
    keys.splice(0..3, reign("n1", "return", 22));
    keys[3].2 = 23;
    let lines = progress.take(&cluster(&keys));
    assert_eq!(
        lines,
        ["n1: primary", "n1 leads, again, with everything it had (term 22)", "n1 takes writes"]
    );
    assert_eq!(progress.in_place(&cluster(&keys)), 2);
}
