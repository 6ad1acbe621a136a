//! Keys that somebody removes from the store: the leader gives back what it knows, and nothing else
//! changes (contract 4.1, rows 4 and 5).

use std::time::Duration;

use pgherd_store::{Op, Range, Txn};

use crate::LIMIT;
use crate::many::{Options, Site};
use crate::round::verify;
use crate::writer::{Writer, execute, number_now, runtime};

const WITHIN: Duration = Duration::from_secs(5);
const DCS: &str = "    synchronous_mode_strict: true\n";

pub(crate) fn what_is_removed_from_the_store_comes_back() {
    let dcs = DCS.to_owned();
    let Some(mut site) = Site::new(&Options { dcs, ..Options::default() }) else { return };
    site.start();
    execute(&site.write_port(), "CREATE TABLE acks (n bigint PRIMARY KEY)", LIMIT);
    // What no node's own file says.
    let words = ["edit-config", "--force", "-s", "maximum_lag_on_failover=2097152"];
    let (code, out, err) = site.ctl(&[&words[..], &["-p", "work_mem=7MB"]].concat());
    assert_eq!(code, 0, "{out}{err}");
    let set = "SELECT setting::bigint FROM pg_settings WHERE name = 'work_mem'";
    site.wait_until("not set", LIMIT, |site| number_now(&site.write_port(), set) == Some(7168));

    let (config, initialize, leader) =
        (read(&site, "config"), read(&site, "initialize"), site.leader());
    let terms = terms(&site);
    let writer = Writer::start(site.write_port(), 1);
    remove(&site, &["config"]);
    comes_back(&site, "config", &config);
    remove(&site, &["initialize"]);
    comes_back(&site, "initialize", &initialize);
    remove(&site, &["initialize", "config"]);
    comes_back(&site, "config", &config);
    comes_back(&site, "initialize", &initialize);
    site.wait_whole();
    verify(&site.write_port(), &writer.finish(), || site.everything());
    assert_eq!((site.leader(), self::terms(&site)), (leader, terms), "nothing else changed");
    assert_eq!(number_now(&site.write_port(), set), Some(7168));

    // Nobody's memory: the file beside the data.
    let names: Vec<String> = site.nodes.iter().map(|node| node.name.clone()).collect();
    names.iter().for_each(|name| site.stop_agent(name));
    remove(&site, &["config"]);
    names.iter().for_each(|name| site.start_agent(name));
    site.wait_whole();
    comes_back(&site, "config", &config);
    assert_eq!(number_now(&site.write_port(), set), Some(7168));
}

fn path(key: &str) -> String {
    format!("/service/many/{key}")
}

fn read(site: &Site, key: &str) -> Option<serde_json::Value> {
    let client = site.store();
    let reply = runtime().block_on(client.range(Range::one(path(key)), WITHIN)).unwrap();
    reply.kvs.first().map(|kv| serde_json::from_slice(&kv.value).unwrap())
}

/// How many terms there were.
fn terms(site: &Site) -> u64 {
    let client = site.store();
    let reply = runtime().block_on(client.range(Range::one(path("term")), WITHIN)).unwrap();
    reply.kvs.first().expect("a term").version
}

fn remove(site: &Site, keys: &[&str]) {
    let then = keys.iter().map(|key| Op::delete(path(key))).collect();
    let txn = Txn { then, ..Txn::default() };
    assert!(runtime().block_on(site.store().txn(txn, WITHIN)).unwrap().succeeded);
}

fn comes_back(site: &Site, key: &str, before: &Option<serde_json::Value>) {
    assert!(before.is_some(), "{key} was there");
    site.wait_until(&format!("{key} is gone"), LIMIT, |site| read(site, key) == *before);
}
