//! Where everything of a cluster lies below its directory, and the marker that says whose it is.
//! Leaves making and checking any of it to `check` and `create`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::args::Mode;

/// The longest socket path that Linux takes (sun_path without its terminating zero).
const SOCKET_PATH_MAX: usize = 107;

/// The cluster's directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn marker(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }
    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("up.lock")
    }
    pub(crate) fn pgpass(&self) -> PathBuf {
        self.dir.join("pgpass")
    }
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }
    pub(crate) fn store_socket(&self) -> PathBuf {
        self.dir.join("store/store.sock")
    }
    pub(crate) fn store_lock(&self) -> PathBuf {
        self.dir.join("store/process.lock")
    }
    pub(crate) fn router_file(&self) -> PathBuf {
        self.dir.join("router.yml")
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
    pub(crate) fn node_file(&self, name: &str) -> PathBuf {
        self.node(name).join("node.yml")
    }
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.node(name).join("data")
    }
    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.node(name).join("run")
    }

    /// Why the directory's name is too long, if it is: PostgreSQL's sockets lie below it.
    pub(crate) fn too_long(&self) -> Option<String> {
        let longest = self.run("node9").join(".s.PGSQL.65535");
        let length = longest.as_os_str().len();
        (length > SOCKET_PATH_MAX).then(|| {
            format!(
                "expected a path of at most {} bytes (PostgreSQL's sockets lie below it, and \
                 Linux takes {SOCKET_PATH_MAX}), found {}; choose a shorter one with --dir",
                SOCKET_PATH_MAX - (length - self.dir.as_os_str().len()),
                self.dir.as_os_str().len(),
            )
        })
    }
}

/// `cluster.json`: the directory belongs to pgherd, and this is the cluster in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// The form of this file and of the directory.
    pub(crate) version: u32,
    pub(crate) scope: String,
    pub(crate) mode: Mode,
    pub(crate) write_port: u16,
    pub(crate) read_port: u16,
    pub(crate) http_port: u16,
    pub(crate) nodes: Vec<NodePorts>,
    /// When it was made.
    pub(crate) created: String,
}

/// One node's name and ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct NodePorts {
    pub(crate) name: String,
    pub(crate) postgres: u16,
    pub(crate) rest: u16,
}

impl Marker {
    pub(crate) const VERSION: u32 = 1;

    /// Reads the marker; `None` when there is none.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let marker: Self = serde_json::from_str(&text)?;
        anyhow::ensure!(
            marker.version == Self::VERSION,
            "it has version {}, and this pgherd knows {} only",
            marker.version,
            Self::VERSION
        );
        Ok(Some(marker))
    }
}

impl Mode {
    /// The flag's value.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Sync => "sync",
            Self::Quorum => "quorum",
        }
    }

    /// The value of `synchronous_mode`.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Self::Async => "off",
            Self::Sync => "on",
            Self::Quorum => "quorum",
        }
    }
}
