//! Where the embedded store listens: a Unix socket that only its user may open, a loopback port, or
//! both. Leaves what happens on a connection to `serve`.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener, UnixStream};

/// Why the store can't listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Without authentication and encryption, other machines must not reach it.
    #[error(
        "{address} is not a loopback address; use 127.0.0.1 or [::1], or run etcd for more than one machine"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// Somebody answers there.
    #[error("{} is in use: somebody answers there; stop them or choose another path", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("could not {doing} {place}")]
    Io {
        /// The path or address.
        place: String,
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        #[source]
        source: io::Error,
    },
}

/// Bound sockets. Dropping it removes the Unix socket's file.
#[derive(Debug, Default)]
pub struct Listen {
    pub(crate) unix: Option<UnixListener>,
    pub(crate) tcp: Option<TcpListener>,
    path: Option<PathBuf>,
}

impl Listen {
    /// Binds a Unix socket at `path` (mode 0600). A socket that nobody answers on is replaced.
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn unix(path: impl AsRef<Path>) -> Result<Self, ListenError> {
        Self::default().and_unix(path.as_ref()).await
    }

    /// Binds a loopback TCP address; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn tcp(address: SocketAddr) -> Result<Self, ListenError> {
        Self::default().and_tcp(address).await
    }

    /// Binds a Unix socket too.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn and_unix(mut self, path: &Path) -> Result<Self, ListenError> {
        let io = |doing| {
            let place = path.display().to_string();
            move |source| ListenError::Io { place, doing, source }
        };
        if UnixStream::connect(path).await.is_ok() {
            return Err(ListenError::InUse { path: path.to_owned() });
        }
        // Bound aside and renamed, so that the path never leads to a socket with other permissions.
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io("remove what is left beside")(error));
            }
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&aside).map_err(io("bind"))?;
        fs::set_permissions(&aside, Permissions::from_mode(0o600)).map_err(io("protect"))?;
        fs::rename(&aside, path).map_err(io("put into place"))?;
        self.unix = Some(listener);
        self.path = Some(path.to_owned());
        Ok(self)
    }

    /// Binds a loopback TCP address too.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn and_tcp(mut self, address: SocketAddr) -> Result<Self, ListenError> {
        if !address.ip().is_loopback() {
            return Err(ListenError::NotLoopback { address });
        }
        let listener = TcpListener::bind(address).await.map_err(|source| ListenError::Io {
            place: address.to_string(),
            doing: "bind",
            source,
        })?;
        self.tcp = Some(listener);
        Ok(self)
    }

    /// The TCP address that was bound.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

impl Drop for Listen {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody else may have removed it; then there is nothing to do.
            let _ = fs::remove_file(path);
        }
    }
}
