//! Spilo's container variables, as people set them by hand, as a layer of keys below everything
//! else. They count only in a container that is told nothing else: no configuration file, and
//! `SCOPE` or `SPILO_CONFIGURATION` set; on an ordinary host `PGDATA` and the like mean other things.
//! Leaves out what Spilo's scripts do besides Patroni: archives, clones, clouds, cron.

use std::collections::BTreeMap;

use crate::environment::{Form, STORE, Tree, read};
use crate::origin::Origin;
use crate::problem::Problem;
use crate::yaml::{Node, Value};

/// The variable with YAML that is merged over all the others.
pub const WHOLE: &str = "SPILO_CONFIGURATION";

/// The places that Spilo's image has.
const PGROOT: &str = "/home/postgres/pgdata/pgroot";

/// Passwords of images and examples, which whoever looks for a way in tries first.
const KNOWN_PASSWORDS: &[&str] = &[
    "zalando",
    "standby",
    "admin",
    "cola",
    "rep-pass",
    "postgres",
    "password",
    "secret",
    "changeme",
    "change-me",
];

/// Variables that do something in Spilo which pgherd doesn't do, and what to use instead.
const UNUSED: &[(&str, &str)] = &[
    ("PGPASSWORD_ADMIN", "make the role with SQL ('pgherd init')"),
    ("PGUSER_ADMIN", "make the role with SQL ('pgherd init')"),
    ("CLONE_METHOD", "write bootstrap.method and its command into SPILO_CONFIGURATION"),
    ("CLONE_SCOPE", "write bootstrap.method and its command into SPILO_CONFIGURATION"),
    ("USE_WALG", "set archive_command and restore_command in SPILO_CONFIGURATION"),
    ("WAL_S3_BUCKET", "set archive_command and restore_command in SPILO_CONFIGURATION"),
    ("WALG_S3_PREFIX", "set archive_command and restore_command in SPILO_CONFIGURATION"),
    ("WALE_S3_PREFIX", "set archive_command and restore_command in SPILO_CONFIGURATION"),
    ("WAL_GS_BUCKET", "set archive_command and restore_command in SPILO_CONFIGURATION"),
    ("LOG_S3_BUCKET", "ship the logs of the container"),
    ("CRONTAB", "run cron in another container"),
    ("PAM_OAUTH2", "write postgresql.pg_hba into SPILO_CONFIGURATION"),
    ("ALLOW_NOSSL", "write postgresql.pg_hba into SPILO_CONFIGURATION"),
];

/// The machine, for what Spilo asks it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    /// Its host name.
    pub name: String,
    /// Its own address, as others reach it.
    pub address: String,
}

/// Whether Spilo's variables count.
#[must_use]
pub fn applies(environment: &BTreeMap<String, String>) -> bool {
    let set = |name: &str| environment.get(name).is_some_and(|text| !text.is_empty());
    set("SCOPE") || set(WHOLE)
}

/// The layers that the variables make, the weaker first.
#[must_use]
pub fn layers(
    environment: &BTreeMap<String, String>,
    machine: &Machine,
) -> (Vec<Node>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut layers = vec![variables(environment, machine, &mut problems)];
    if let Some(text) = environment.get(WHOLE).filter(|text| !text.is_empty()) {
        match Node::parse_file(WHOLE, text) {
            Ok(node) => layers.push(node),
            Err(problem) => problems.push(problem),
        }
    }
    for (name, instead) in UNUSED {
        if environment.get(*name).is_some_and(|text| !text.is_empty()) {
            let words = format!("pgherd has no use for this variable; {instead}");
            problems.push(Problem::warning(Some(Origin::Spilo((*name).into())), "", words));
        }
    }
    (layers, problems)
}

fn variables(
    environment: &BTreeMap<String, String>,
    machine: &Machine,
    problems: &mut Vec<Problem>,
) -> Node {
    let get = |name: &str| environment.get(name).filter(|text| !text.is_empty()).cloned();
    // A value of a variable, or the image's default, and whose it is.
    let or = |name: &str, default: String| match get(name) {
        Some(text) => (text, Origin::Spilo(name.into())),
        None => (default, Origin::Default),
    };
    let mut tree = Tree::default();
    let mut put = |path: &[&str], (text, origin): (String, Origin)| {
        tree.put(path, Node::of(&origin, Value::Text(text)));
    };
    let host = get("POD_IP").unwrap_or_else(|| machine.address.clone());
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    if let Some(scope) = get("SCOPE") {
        put(&["scope"], (scope, Origin::Spilo("SCOPE".into())));
    }
    put(&["name"], (machine.name.clone(), Origin::Default));
    if let Some(namespace) = get("NAMESPACE").filter(|name| name != "default") {
        put(&["namespace"], (namespace, Origin::Spilo("NAMESPACE".into())));
    }
    let (port, origin) = or("APIPORT", "8008".to_owned());
    put(&["restapi", "listen"], (format!("*:{port}"), origin.clone()));
    put(&["restapi", "connect_address"], (format!("{host}:{port}"), origin));
    let (port, origin) = or("PGPORT", "5432".to_owned());
    put(&["postgresql", "listen"], (format!("*:{port}"), origin.clone()));
    put(&["postgresql", "connect_address"], (format!("{host}:{port}"), origin));
    let (root, root_origin) = or("PGROOT", PGROOT.to_owned());
    let (data, origin) = match or("PGDATA", String::new()) {
        (_, Origin::Default) => (format!("{root}/data"), root_origin),
        given => given,
    };
    put(&["postgresql", "data_dir"], (data, origin));
    if let Some(version) = get("PGVERSION") {
        let bin = format!("/usr/lib/postgresql/{version}/bin");
        put(&["postgresql", "bin_dir"], (bin, Origin::Spilo("PGVERSION".into())));
    }
    accounts(environment, &mut tree, problems);
    files(environment, &mut tree);
    store(environment, &mut tree, problems);
    // Clients come from other containers.
    let all = Node::of(&Origin::Default, Value::Text("all".to_owned()));
    tree.put(&["pgherd", "networks"], Node::of(&Origin::Default, Value::List(vec![all])));
    tree.put(
        &["bootstrap", "dcs", "postgresql", "use_pg_rewind"],
        Node::of(&Origin::Default, Value::Bool(true)),
    );
    tree.root()
}

fn accounts(environment: &BTreeMap<String, String>, tree: &mut Tree, problems: &mut Vec<Problem>) {
    let get = |name: &str| environment.get(name).filter(|text| !text.is_empty()).cloned();
    let users = [("superuser", "SUPERUSER", "postgres"), ("replication", "STANDBY", "standby")];
    for (user, variable, default) in users {
        let mut put = |key: &str, text: String, origin: &Origin| {
            let path = ["postgresql", "authentication", user, key];
            tree.put(&path, Node::of(origin, Value::Text(text)));
        };
        let name = format!("PGUSER_{variable}");
        match get(&name) {
            Some(text) => put("username", text, &Origin::Spilo(name.as_str().into())),
            None => put("username", default.to_owned(), &Origin::Default),
        }
        let name = format!("PGPASSWORD_{variable}");
        // Spilo's default passwords are known to everybody: they are no default here.
        if let Some(text) = get(&name) {
            if KNOWN_PASSWORDS.contains(&text.as_str()) {
                let words = "this password is known to everybody; choose another, for example with \
                             'openssl rand -hex 24'";
                problems.push(Problem::error(Some(Origin::Spilo(name.as_str().into())), "", words));
            }
            put("password", text, &Origin::Spilo(name.as_str().into()));
        }
    }
}

/// Variables that are one key's value, or several keys'.
fn files(environment: &BTreeMap<String, String>, tree: &mut Tree) {
    const PARAMETERS: [&str; 2] = ["postgresql", "parameters"];
    const CALLBACKS: [&str; 2] = ["postgresql", "callbacks"];
    const STANDBY: [&str; 3] = ["bootstrap", "dcs", "standby_cluster"];
    let keys: [(&str, &[&str], &str); 9] = [
        ("CALLBACK_SCRIPT", &CALLBACKS, "on_start"),
        ("CALLBACK_SCRIPT", &CALLBACKS, "on_stop"),
        ("CALLBACK_SCRIPT", &CALLBACKS, "on_role_change"),
        ("SSL_CERTIFICATE_FILE", &PARAMETERS, "ssl_cert_file"),
        ("SSL_PRIVATE_KEY_FILE", &PARAMETERS, "ssl_key_file"),
        ("SSL_CA_FILE", &PARAMETERS, "ssl_ca_file"),
        ("SSL_CRL_FILE", &PARAMETERS, "ssl_crl_file"),
        ("STANDBY_HOST", &STANDBY, "host"),
        ("STANDBY_PORT", &STANDBY, "port"),
    ];
    for (variable, section, key) in keys {
        let Some(text) = environment.get(variable).filter(|text| !text.is_empty()) else {
            continue;
        };
        let origin = Origin::Spilo(variable.into());
        let path: Vec<&str> = section.iter().copied().chain([key]).collect();
        tree.put(&path, Node::of(&origin, Value::Text(text.clone())));
        if variable == "SSL_CERTIFICATE_FILE" {
            let on = Node::of(&origin, Value::Text("on".to_owned()));
            tree.put(&["postgresql", "parameters", "ssl"], on);
        }
    }
}

/// Spilo's own name for `srv`, for want of hosts.
const DISCOVERY: &str = "ETCD_DISCOVERY_DOMAIN";

/// `ETCD3_HOSTS` and the like. `ETCD_...` was etcd's second API; its servers speak the third too.
fn store(environment: &BTreeMap<String, String>, tree: &mut Tree, problems: &mut Vec<Problem>) {
    let prefix = ["ETCD3_", "ETCD_"].into_iter().find(|prefix| {
        let keys = STORE.iter().map(|key| format!("{prefix}{}", key.to_ascii_uppercase()));
        keys.into_iter().any(|name| environment.get(&name).is_some_and(|text| !text.is_empty()))
    });
    let Some(prefix) = prefix else {
        let domain = environment.get(DISCOVERY).filter(|text| !text.is_empty());
        if let Some(domain) = domain {
            let node = Node::of(&Origin::Spilo(DISCOVERY.into()), Value::Text(domain.clone()));
            tree.put(&["etcd3", "srv"], node);
        }
        return;
    };
    for key in STORE {
        let name = format!("{prefix}{}", key.to_ascii_uppercase());
        let Some(text) = environment.get(&name).filter(|text| !text.is_empty()) else { continue };
        let form = if *key == "hosts" { Form::List } else { Form::One };
        match read(&Origin::Spilo(name.as_str().into()), text, form) {
            Ok(node) => tree.put(&["etcd3", key], node),
            Err(problem) => problems.push(Problem { place: format!("etcd3.{key}"), ..problem }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine() -> Machine {
        Machine { name: "c0ffee".into(), address: "172.19.0.53".into() }
    }

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_container_with_a_scope_and_a_store_is_a_node() {
        let given = environment(&[
            ("SCOPE", "pg-ha"),
            ("ETCD3_HOSTS", "etcd-1:2379, etcd-2:2379"),
            ("PGVERSION", "17"),
            ("PGPASSWORD_SUPERUSER", "s"),
            ("PGPASSWORD_STANDBY", "r"),
            ("PGROOT", "/data"),
            ("APIPORT", "9000"),
        ]);
        assert!(applies(&given));
        let (layers, problems) = layers(&given, &machine());
        assert!(problems.is_empty(), "{problems:?}");
        let json = layers[0].to_json();
        assert_eq!(json["scope"], "pg-ha");
        assert_eq!(json["name"], "c0ffee");
        assert_eq!(json["restapi"]["connect_address"], "172.19.0.53:9000");
        let postgresql = &json["postgresql"];
        assert_eq!(postgresql["listen"], "*:5432");
        assert_eq!(postgresql["data_dir"], "/data/data");
        assert_eq!(postgresql["bin_dir"], "/usr/lib/postgresql/17/bin");
        let standby = &postgresql["authentication"]["replication"];
        assert_eq!(*standby, json!({"username": "standby", "password": "r"}));
        assert_eq!(json["etcd3"], json!({"hosts": ["etcd-1:2379", "etcd-2:2379"]}));
        let scope = layers[0].get("scope").unwrap();
        assert_eq!(scope.origin.to_string(), "container variable SCOPE");
    }

    #[test]
    fn old_stores_others_tasks_and_the_whole_variable() {
        let given = environment(&[
            ("ETCD_HOST", "e:2379"),
            ("PGPASSWORD_ADMIN", "x"),
            (WHOLE, "postgresql: {parameters: {work_mem: 8MB}}"),
        ]);
        let (layers, problems) = layers(&given, &machine());
        assert_eq!(layers[0].to_json()["etcd3"], json!({"host": "e:2379"}));
        assert_eq!(layers[1].get("postgresql").unwrap().origin.to_string(), format!("{WHOLE}:1"));
        assert_eq!(problems.len(), 1, "{problems:?}");
        let srv = |pairs: &[(&str, &str)]| {
            let (layers, problems) = super::layers(&environment(pairs), &machine());
            assert!(problems.is_empty(), "{problems:?}");
            layers[0].to_json()["etcd3"].clone()
        };
        let domain = ("ETCD_DISCOVERY_DOMAIN", "example.org");
        assert_eq!(srv(&[domain]), json!({"srv": "example.org"}));
        assert_eq!(srv(&[domain, ("ETCD_HOST", "e:1")]), json!({"host": "e:1"}));
        assert_eq!(srv(&[("ETCD3_SRV", "a"), ("ETCD3_SRV_SUFFIX", "b")])["srv_suffix"], "b");
        // An ordinary host has such variables too.
        assert!(!applies(&environment(&[("PGDATA", "/x"), ("PGPORT", "1"), ("SCOPE", "")])));
    }
}
