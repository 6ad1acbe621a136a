//! What `pgherd ctl` needs to find a cluster: a node file, or any file with the same keys.
//! A pure function of text and address; leaves opening connections to `ctl`.

use std::cell::RefCell;

use pgherd_agent::{Login, StoreSettings};
use pgherd_api::Secret;
use pgherd_config::Sources;
use pgherd_config::rest::{self, RestClient};

use super::node::{ClusterId, Resolved, sort_out};
use super::parse;
use super::problem::{Problem, Severity};
use super::section::Section;
use super::store::{endpoint, store_address};

/// Where a cluster is, and how to be allowed to change it.
#[derive(Clone, Debug)]
pub(crate) struct ControlSettings {
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreSettings,
    pub(crate) access: Access,
}

/// How agents are spoken to (contract 2.5).
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    pub(crate) login: Option<Login>,
    pub(crate) tls: RestClient,
    /// The REST API that the file itself is about: whom to ask when the store doesn't answer.
    pub(crate) agent: Option<String>,
}

/// What the command line says, and so needs not be in the file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given<'a> {
    pub(crate) dcs_url: Option<&'a str>,
    pub(crate) cluster: Option<&'a str>,
    /// The cluster's name when nobody says it.
    pub(crate) otherwise: Option<&'a str>,
}

/// Reads a node's or a control file, and the environment; other keys than these are none of our
/// business.
pub(crate) fn resolve(
    sources: &Sources,
    given: Given<'_>,
) -> Result<Resolved<ControlSettings>, Vec<Problem>> {
    read_with(sources, |root| read(root, given))
}

/// Reads only how agents are spoken to, and the cluster's name.
pub(crate) fn access_only(
    sources: &Sources,
) -> Result<Resolved<(Access, Option<String>)>, Vec<Problem>> {
    read_with(sources, |root| Some((access(root), root.optional("scope", parse::key_part))))
}

fn read_with<T>(
    sources: &Sources,
    read: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<Resolved<T>, Vec<Problem>> {
    let (local, mut said) = sources.read();
    // What is merely odd about the rest of a node's configuration is for its agent to say.
    said.retain(|problem| problem.severity == Severity::Error);
    if !said.is_empty() {
        return Err(said);
    }
    let document = local.merged();
    let problems = RefCell::default();
    let root = Section::root(&document, &problems);
    let value = read(&root);
    drop(root);
    sort_out(value, problems.into_inner())
}

fn read(root: &Section<'_>, given: Given<'_>) -> Option<ControlSettings> {
    let scope = match (given.cluster, given.otherwise) {
        (Some(name), _) => Some(name.to_owned()),
        (None, Some(name)) => {
            root.optional("scope", parse::key_part).or_else(|| Some(name.to_owned()))
        }
        (None, None) => root.required("scope", "pgherd", parse::key_part),
    };
    let namespace = root.optional("namespace", |text| Ok(text.trim_matches('/').to_owned()));
    let url = given.dcs_url.map(|url| {
        dcs(url).map_err(|words| root.note(Problem::error(None, "--dcs-url", words))).ok()
    });
    let (store, said) = match url {
        Some(url) => url.unzip(),
        None => (store_address(root), None),
    };
    let access = access(root);
    let namespace = said.flatten().or(namespace).unwrap_or_else(|| "service".to_owned());
    Some(ControlSettings { cluster: ClusterId { namespace, scope: scope? }, store: store?, access })
}

fn access(root: &Section<'_>) -> Access {
    let (ctl, rest) = (root.section("ctl"), root.section("restapi"));
    let protocol = if rest.has("certfile") { "https" } else { "http" };
    let agent = rest.optional("connect_address", parse::host_port);
    Access {
        login: login(&ctl).or_else(|| login(&rest)),
        tls: rest::client(root),
        agent: agent.map(|address| format!("{protocol}://{address}")),
    }
}

fn login(section: &Section<'_>) -> Option<Login> {
    if !section.has("authentication") {
        return None;
    }
    let authentication = section.section("authentication");
    let username = authentication.optional("username", parse::text)?;
    let password = Secret::new(authentication.optional("password", parse::text)?);
    Some(Login { username, password })
}

/// `etcd3://host:port/namespace` (contract 5.1); the namespace is optional. Without a scheme the
/// port could tell the store's kind; ours is always the same.
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

    fn file(text: &str) -> Sources {
        Sources::file("node.yml", text)
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        let mut sources = file("scope: demo\netcd3: {hosts: 'h:2379'}\n");
        let variables = [
            ("PATRONI_SCOPE", "other"),
            ("PATRONI_ETCD3_HOSTS", "'a:1','b:2'"),
            ("PATRONI_RESTAPI_USERNAME", "u"),
            ("PATRONI_RESTAPI_PASSWORD", "p"),
        ];
        sources.environment = variables.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let found = resolve(&sources, Given::default()).ok().unwrap().value;
        assert_eq!(found.cluster.scope, "other");
        assert_eq!(found.store.endpoints, ["http://a:1", "http://b:2"]);
        assert_eq!(found.access.login.unwrap().username, "u");
    }

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
        let text = "scope: demo\nname: n1\nrestapi: {connect_address: 'h:8008', authentication: \
                    {username: a, password: b}}\netcd3: {hosts: 'h:2379'}\n";
        let found = resolve(&file(text), Given::default()).ok().unwrap().value;
        assert_eq!(found.cluster, ClusterId { namespace: "service".into(), scope: "demo".into() });
        assert_eq!(found.access.login.unwrap().username, "a");
        assert_eq!(found.access.agent.as_deref(), Some("http://h:8008"));
    }

    #[test]
    fn the_ctl_section_goes_before_the_agents_own() {
        let text = "restapi: {cafile: /r, certfile: /s, connect_address: 'h:1', authentication: \
                    {username: r, password: r}}\nctl: {cacert: /c, keyfile: /k, insecure: on, \
                    authentication: {username: c, password: c}}\netcd3: {hosts: 'h:2379'}\n";
        let given = Given { cluster: Some("x"), ..Given::default() };
        let access = resolve(&file(text), given).ok().unwrap().value.access;
        assert_eq!(access.login.unwrap().username, "c");
        assert_eq!(access.tls.cacert, Some("/c".into()));
        assert_eq!((access.tls.keyfile, access.tls.insecure), (Some("/k".into()), true));
        assert_eq!(access.agent.as_deref(), Some("https://h:1"));
    }

    #[test]
    fn patronictls_own_file_has_no_scope() {
        let text = "etcd3: {hosts: 'h:2379'}\n";
        assert!(resolve(&file(text), Given::default()).is_err());
        let given = Given { cluster: Some("demo"), ..Given::default() };
        assert_eq!(resolve(&file(text), given).ok().unwrap().value.cluster.scope, "demo");
    }
}
