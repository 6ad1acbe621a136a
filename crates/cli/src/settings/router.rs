//! The router's file and environment. A pure function of their texts.
//! Leaves what a router does with it to `pgherd-router`.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use pgherd_agent::StoreSettings;
use pgherd_config::rest::{self, RestClient};
use pgherd_config::{LogSettings, Sources};

use super::node::{ClusterId, Resolved, cluster_id, sort_out};
use super::parse;
use super::problem::Problem;
use super::section::Section;
use super::store::store_address;

/// A second is four questions (docs/protocol.md, Routers): a starved process on a saturated machine
/// loses one, not four.
const CONFIRM_WITHIN: Duration = Duration::from_secs(1);

/// Everything that a router's file says.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RouterSettings {
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreSettings,
    pub(crate) write: Vec<SocketAddr>,
    pub(crate) read: Vec<SocketAddr>,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) hold: Option<Duration>,
    /// Serve reads from the primary when no replica is fit.
    pub(crate) reads_fall_back: bool,
    pub(crate) path_prefix: String,
    pub(crate) log: LogSettings,
    /// For how long somebody's word for the leader's term counts; zero: nobody is asked.
    pub(crate) confirm_within: Duration,
    /// Cancel requests don't end waits for replicas.
    pub(crate) keeps_sync_waits: bool,
    /// How agents are spoken to.
    pub(crate) tls: RestClient,
}

/// Reads a router's file, with `PATRONI_SCOPE`, `PATRONI_ETCD3_HOSTS` and the like over it. All
/// mistakes are returned together.
pub(crate) fn resolve(sources: &Sources) -> Result<Resolved<RouterSettings>, Vec<Problem>> {
    let (local, problems) = sources.read();
    let document = local.merged();
    let problems = RefCell::new(problems);
    let settings = read(&Section::root(&document, &problems));
    sort_out(settings, problems.into_inner())
}

fn read(root: &Section<'_>) -> Option<RouterSettings> {
    let cluster = cluster_id(root);
    let store = store_address(root);
    let write = addresses(root, "write");
    let read = addresses(root, "read");
    let http = addresses(root, "http");
    if write.is_empty() && read.is_empty() {
        let words = "nothing to listen on; write for example 'write: 127.0.0.1:5432'";
        root.note(Problem::error(None, "write", words));
    }
    let hold = root.optional("hold", parse::span).map(pgherd_core::Duration::to_std);
    let reads_fall_back = root.optional("reads_fall_back", parse::boolean).unwrap_or(true);
    let path_prefix = root.optional("path_prefix", parse::text).unwrap_or_default();
    let log = log(&root.section("log"));
    let within = root.optional("confirm_within", parse::span).map(pgherd_core::Duration::to_std);
    let keeps = root.optional("keep_sync_waits", parse::boolean);
    let tls = rest::client(root);
    root.finish(&["ctl"]);
    Some(RouterSettings {
        cluster: cluster?,
        store: store?,
        write,
        read,
        http,
        hold,
        reads_fall_back,
        path_prefix,
        log,
        confirm_within: within.unwrap_or(CONFIRM_WITHIN),
        keeps_sync_waits: keeps.unwrap_or(true),
        tls,
    })
}

/// As an agent's.
fn log(section: &Section<'_>) -> LogSettings {
    let log = pgherd_config::log::log(section);
    section.finish(&["traceback_level", "deduplicate_heartbeat_logs"]);
    log
}

fn addresses(root: &Section<'_>, key: &'static str) -> Vec<SocketAddr> {
    let texts = root.list(key).unwrap_or_default();
    let parsed = texts.iter().filter_map(|text| match parse::listen(text) {
        Ok(address) => Some(address),
        Err(wanted) => {
            let words = format!("expected {wanted}, found '{text}'");
            root.note(Problem::error(None, key, words));
            None
        }
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EXAMPLE: &str = include_str!("../../../../config/router.yml.example");

    /// What is said of a file that can be used.
    fn warnings(text: &str) -> Vec<String> {
        let read = resolve(&Sources::file("router.yml", text));
        let found = read.unwrap_or_else(|problems| panic!("{problems:?}"));
        found.warnings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn documentation_example_and_reader_have_the_same_keys() {
        // A line that is only commented out shows a key, too.
        let lines = EXAMPLE.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
        let key = |line: &str| line.split_once(':').map(|(key, _)| key.to_owned());
        let word = |key: &String| {
            key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let shown: BTreeSet<String> = lines.filter_map(key).filter(word).collect();
        let documented = pgherd_config::schema::of_router().iter().map(|key| key.path);
        let expected: BTreeSet<String> = documented.chain(["etcd3"]).map(str::to_owned).collect();
        assert_eq!(shown, expected);
        let whole = EXAMPLE.replace("# path_prefix:", "path_prefix:");
        assert_eq!(warnings(&whole), [""; 0]);
        // An unknown key would be one.
        assert_eq!(warnings(&format!("{EXAMPLE}\nhobby: 1\n")).len(), 1);
    }
}
