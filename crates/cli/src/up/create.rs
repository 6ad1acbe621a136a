//! Writes a cluster's files: marker, passwords, one settings file per node and the router's.
//! Leaves data directories to the agents, and the journal to the store.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::Path;

use anyhow::Context;
use pgherd_agent::Settings;
use pgherd_api::Secret;
use pgherd_config::Sources;

use super::layout::{Layout, Marker, NodePorts};
use crate::privilege::Account;
use crate::secret;
use crate::settings::node::{Resolved, resolve};

/// The passwords of a cluster.
pub(super) struct Secrets {
    superuser: Secret,
    replication: Secret,
    rewind: Secret,
    api: Secret,
    peer: Secret,
}

/// Writes files and directories, and as root gives them to `owner`.
pub(super) struct Writer<'a> {
    pub(super) layout: &'a Layout,
    pub(super) owner: Option<&'a Account>,
}

impl Writer<'_> {
    /// Makes the cluster's directory itself. What lies above it is open to all, it is not.
    pub(super) fn base(&self) -> anyhow::Result<()> {
        if let Some(above) = self.layout.dir.parent() {
            fs::create_dir_all(above)
                .with_context(|| format!("{} can't be made", above.display()))?;
        }
        self.directory(&self.layout.dir)
    }

    /// Everything else. Files that are there and still right stay as they are, so that what
    /// somebody added to a node's file is kept.
    pub(super) fn all(&self, marker: &Marker, bin_dir: &Path) -> anyhow::Result<()> {
        let layout = self.layout;
        let json = serde_json::to_string_pretty(marker)? + "\n";
        self.file(&layout.marker(), &json)?;
        self.directory(&layout.log())?;
        self.directory(&layout.store())?;
        let secrets = self.secrets(marker)?;
        if !layout.pgpass().exists() {
            self.file(&layout.pgpass(), &pgpass(&secrets))?;
        }
        for (index, node) in marker.nodes.iter().enumerate() {
            self.directory(&layout.node(&node.name))?;
            self.directory(&layout.run(&node.name))?;
            if !self.is_current(node, bin_dir) {
                let text = node_file(layout, marker, node, index == 0, &secrets, bin_dir);
                self.file(&layout.node_file(&node.name), &text)?;
            }
        }
        self.file(&layout.router_file(), &router_file(layout, marker))
    }

    /// The passwords of an earlier run, or new ones when nothing can depend on old ones yet.
    fn secrets(&self, marker: &Marker) -> anyhow::Result<Secrets> {
        let files = marker.nodes.iter().map(|node| self.layout.node_file(&node.name));
        if let Some(settings) = files.into_iter().find_map(|file| read(&file)) {
            let api = settings.api_auth.map(|login| login.password);
            return Ok(Secrets {
                superuser: settings.superuser.password,
                replication: settings.replication.password,
                rewind: settings.rewind.password,
                api: api.map_or_else(secret::generate, Ok)?,
                peer: settings.peer_secret.map_or_else(secret::generate, Ok)?,
            });
        }
        let data = marker.nodes.iter().map(|node| self.layout.data(&node.name));
        if let Some(data) = data.into_iter().find(|data| data.exists()) {
            anyhow::bail!(
                "{} exists, but no node's node.yml with its passwords can be read; put one back",
                data.display()
            );
        }
        Ok(Secrets {
            superuser: secret::generate()?,
            replication: secret::generate()?,
            rewind: secret::generate()?,
            api: secret::generate()?,
            peer: secret::generate()?,
        })
    }

    /// The node's file says what the marker says.
    fn is_current(&self, node: &NodePorts, bin_dir: &Path) -> bool {
        read(&self.layout.node_file(&node.name)).is_some_and(|settings| {
            settings.pg_port == node.postgres
                && settings.rest_listen.port() == node.rest
                && settings.data_dir == self.layout.data(&node.name)
                && settings.bin_dir.as_deref() == Some(bin_dir)
        })
    }

    fn directory(&self, path: &Path) -> anyhow::Result<()> {
        if !path.exists() {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(path)
                .with_context(|| format!("{} can't be made", path.display()))?;
        }
        self.give(path)
    }

    /// Replaces a file as a whole, readable for its owner only.
    fn file(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        let temporary = path.with_extension("new");
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            Ok::<(), std::io::Error>(())
        };
        write().with_context(|| format!("{} can't be written", temporary.display()))?;
        self.give(&temporary)?;
        fs::rename(&temporary, path).with_context(|| format!("{} can't be written", path.display()))
    }

    fn give(&self, path: &Path) -> anyhow::Result<()> {
        let Some(owner) = self.owner else { return Ok(()) };
        chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))
            .with_context(|| format!("{} can't be given to '{}'", path.display(), owner.name))
    }
}

fn read(file: &Path) -> Option<Settings> {
    let text = fs::read_to_string(file).ok()?;
    resolve(&Sources::file("", &text)).ok().map(|Resolved { value, .. }| value)
}

/// libpq's format; the superuser comes first and fits every host, so that one file does for all
/// ports.
fn pgpass(secrets: &Secrets) -> String {
    let line = |user: &str, secret: &Secret| format!("*:*:*:{user}:{}\n", secret.reveal());
    line("postgres", &secrets.superuser)
        + &line("replicator", &secrets.replication)
        + &line("rewind", &secrets.rewind)
}

fn node_file(
    layout: &Layout,
    marker: &Marker,
    node: &NodePorts,
    founds: bool,
    secrets: &Secrets,
    bin_dir: &Path,
) -> String {
    let Marker { scope, mode, .. } = marker;
    let NodePorts { name, postgres, rest } = node;
    let (store, data, run) =
        (quoted(&layout.store_socket()), quoted(&layout.data(name)), quoted(&layout.run(name)));
    let store = store.replacen('"', "\"unix://", 1);
    // One founder: the first data directory is always the first node's.
    let bootstrap = if founds {
        format!(
            "bootstrap:\n  dcs:\n    ttl: 5\n    synchronous_mode: {}\n    failsafe_mode: true\n",
            mode.setting()
        )
    } else {
        String::new()
    };
    format!(
        "# Written by 'pgherd up', which writes it anew when a port has to change.\n\
         scope: {scope}\n\
         name: {name}\n\
         restapi:\n  listen: 127.0.0.1:{rest}\n  connect_address: 127.0.0.1:{rest}\n  \
           authentication: {{username: pgherd, password: {api}}}\n\
         etcd3:\n  hosts: [{store}]\n\
         {bootstrap}\
         postgresql:\n  listen: 127.0.0.1:{postgres}\n  connect_address: 127.0.0.1:{postgres}\n  \
           data_dir: {data}\n  bin_dir: {bin}\n  authentication:\n    \
             superuser: {{username: postgres, password: {superuser}}}\n    \
             replication: {{username: replicator, password: {replication}}}\n    \
             rewind: {{username: rewind, password: {rewind}}}\n\
         pgherd:\n  run_dir: {run}\n  networks: [127.0.0.1/32]\n  peer_secret: {peer}\n",
        api = secrets.api.reveal(),
        bin = quoted(bin_dir),
        superuser = secrets.superuser.reveal(),
        replication = secrets.replication.reveal(),
        rewind = secrets.rewind.reveal(),
        peer = secrets.peer.reveal(),
    )
}

fn router_file(layout: &Layout, marker: &Marker) -> String {
    let store = quoted(&layout.store_socket()).replacen('"', "\"unix://", 1);
    format!(
        "# Written by 'pgherd up' at each start.\n\
         scope: {}\netcd3:\n  hosts: [{store}]\n\
         write: 127.0.0.1:{}\nread: 127.0.0.1:{}\nhttp: 127.0.0.1:{}\nhold: 30s\n",
        marker.scope, marker.write_port, marker.read_port, marker.http_port
    )
}

/// A path as a YAML text, which JSON's quoting is.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::args::Mode;
    use crate::settings::problem::Problem;

    fn marker() -> Marker {
        let node =
            |n: u16| NodePorts { name: format!("node{n}"), postgres: 5441 + n, rest: 8007 + n };
        Marker {
            version: 1,
            scope: "demo".into(),
            mode: Mode::Quorum,
            write_port: 5432,
            read_port: 5433,
            http_port: 7000,
            nodes: vec![node(1), node(2)],
            created: "now".into(),
        }
    }

    #[test]
    fn what_is_written_can_be_read_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("a b"));
        let writer = Writer { layout: &layout, owner: None };
        writer.base().unwrap();
        writer.all(&marker(), Path::new("/usr/bin")).unwrap();
        let first = fs::read_to_string(layout.node_file("node1")).unwrap();
        let warnings: Vec<Problem> = resolve(&Sources::file("", &first)).ok().unwrap().warnings;
        assert!(warnings.is_empty(), "{warnings:?}");
        let one = read(&layout.node_file("node1")).unwrap();
        let two = read(&layout.node_file("node2")).unwrap();
        assert!(one.may_found && !two.may_found);
        assert_eq!(one.superuser, two.superuser);
        assert!(one.store.endpoints[0].starts_with("unix:///"));
        let pass = fs::read_to_string(layout.pgpass()).unwrap();
        assert!(pass.starts_with("*:*:*:postgres:"), "{pass}");
        assert_eq!(fs::metadata(layout.pgpass()).unwrap().mode() & 0o777, 0o600);
        assert!(
            crate::settings::router::resolve(&Sources::file(
                "router",
                &fs::read_to_string(layout.router_file()).unwrap()
            ))
            .is_ok()
        );
        // Again, with another port for one node: its passwords and the other's file stay.
        let mut moved = marker();
        moved.nodes[1].postgres = 6000;
        writer.all(&moved, Path::new("/usr/bin")).unwrap();
        assert_eq!(fs::read_to_string(layout.node_file("node1")).unwrap(), first);
        let again = read(&layout.node_file("node2")).unwrap();
        assert_eq!((again.pg_port, &again.superuser), (6000, &one.superuser));
    }
}
