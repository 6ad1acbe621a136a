//! What `pgherd ctl` needs to find a cluster: a node file, or any file with the same keys.
//! A pure function of text and address; leaves opening connections to `ctl`.

use std::cell::RefCell;

use pgherd_agent::{Login, StoreSettings};

use super::node::{ClusterId, Resolved, cluster_id, sort_out};
use super::parse;
use super::problem::Problem;
use super::section::Section;
use super::store::{endpoint, store_address};
use super::yaml::Node;
use pgherd_api::Secret;

/// Where a cluster is, and how to be allowed to change it.
#[derive(Clone, Debug)]
pub(crate) struct ControlSettings {
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreSettings,
    pub(crate) rest_auth: Option<Login>,
}

/// Reads a node's or a control file; other keys than these are none of our business.
pub(crate) fn resolve(
    text: &str,
    dcs_url: Option<&str>,
) -> Result<Resolved<ControlSettings>, Vec<Problem>> {
    let document = Node::parse(text).map_err(|problem| vec![problem])?;
    let problems = RefCell::new(Vec::new());
    let root = Section::root(&document, &problems);
    let settings = read(&root, dcs_url);
    drop(root);
    sort_out(settings, problems.into_inner())
}

fn read(root: &Section<'_>, dcs_url: Option<&str>) -> Option<ControlSettings> {
    let cluster = cluster_id(root);
    let given = dcs_url.map(|url| {
        dcs(url).map_err(|words| root.note(Problem::error(None, "--dcs-url", words))).ok()
    });
    let (store, namespace) = match given {
        Some(given) => given.unzip(),
        None => (store_address(root), None),
    };
    let rest_auth = ["ctl", "restapi"].into_iter().find_map(|section| login(root, section));
    let mut cluster = cluster?;
    if let Some(namespace) = namespace.flatten() {
        cluster.namespace = namespace;
    }
    Some(ControlSettings { cluster, store: store?, rest_auth })
}

fn login(root: &Section<'_>, section: &'static str) -> Option<Login> {
    if !root.has(section) {
        return None;
    }
    let section = root.section(section);
    if !section.has("authentication") {
        return None;
    }
    let authentication = section.section("authentication");
    let username = authentication.optional("username", parse::text)?;
    let password = Secret::new(authentication.optional("password", parse::text)?);
    Some(Login { username, password })
}

/// `etcd3://host:port/namespace` (contract 5.1); the namespace is optional.
pub(crate) fn dcs(url: &str) -> Result<(StoreSettings, Option<String>), String> {
    if url.starts_with("unix://") {
        let endpoints = vec![endpoint(url, "http")?];
        return Ok((StoreSettings { endpoints, ..StoreSettings::default() }, None));
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("etcd3", url));
    let protocol = match scheme {
        "etcd3" | "etcd" | "http" => "http",
        "https" => "https",
        other => return Err(format!("expected etcd3://HOST:PORT, found the scheme '{other}'")),
    };
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let endpoints: Result<_, _> = hosts.split(',').map(|host| endpoint(host, protocol)).collect();
    let namespace = Some(path.trim_matches('/').to_owned()).filter(|n| !n.is_empty());
    Ok((StoreSettings { endpoints: endpoints?, ..StoreSettings::default() }, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patronictls_url_gives_address_and_namespace() {
        let (store, namespace) = dcs("etcd3://10.0.0.1:2379/db").unwrap();
        assert_eq!(store.endpoints, ["http://10.0.0.1:2379"]);
        assert_eq!(namespace.as_deref(), Some("db"));
        assert!(dcs("consul://x:1").is_err());
        let (store, _) = dcs("etcd3://somewhere").unwrap();
        assert_eq!(store.endpoints, ["http://somewhere:2379"]);
        assert!(dcs("etcd3://").is_err());
    }

    #[test]
    fn a_node_file_is_enough() {
        let text = "scope: demo\nname: n1\nrestapi: {authentication: {username: a, password: b}}\n\
                    etcd3: {hosts: 'h:2379'}\n";
        let found = resolve(text, None).ok().unwrap().value;
        assert_eq!(found.cluster, ClusterId { namespace: "service".into(), scope: "demo".into() });
        assert_eq!(found.rest_auth.unwrap().username, "a");
    }
}
