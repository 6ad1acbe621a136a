//! The server's certificate as it is now: whoever replaces the files restarts nobody.
//! Leaves what the files mean to `pgherd_api::tls`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgherd_api::tls::{self, TlsError};
use pgherd_config::rest::RestTls;
use rustls::ServerConfig;
use tokio::sync::watch;

/// Between two looks at the files. A certificate is replaced days before it ends.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What new connections are accepted with.
pub(crate) type Current = watch::Receiver<Arc<ServerConfig>>;

/// Keeps [`Current`] current.
pub(crate) struct Keeper {
    files: RestTls,
    seen: Vec<Option<Vec<u8>>>,
    sender: watch::Sender<Arc<ServerConfig>>,
}

impl Keeper {
    /// Reads the files for the first time; here a mistake is an error.
    pub(crate) fn new(files: RestTls) -> Result<(Self, Current), TlsError> {
        let seen = contents(&files);
        let (sender, current) = watch::channel(tls::server(&files)?);
        Ok((Self { files, seen, sender }, current))
    }

    /// Looks until nobody needs it any more. What can't be used changes nothing.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // A disk that hangs holds this, and no connection.
            let looked = tokio::task::spawn_blocking(move || {
                self.look();
                self
            });
            match looked.await {
                Ok(keeper) => self = keeper,
                Err(_) => return,
            }
        }
    }

    pub(super) fn look(&mut self) {
        let found = contents(&self.files);
        if found == self.seen {
            return;
        }
        self.seen = found;
        match tls::server(&self.files) {
            Ok(config) => {
                tracing::info!("the REST API's certificate was replaced");
                self.sender.send_replace(config);
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the REST API's new certificate can't be used; the former one stays"
            ),
        }
    }
}

fn contents(files: &RestTls) -> Vec<Option<Vec<u8>>> {
    let paths: [Option<&PathBuf>; 3] =
        [Some(&files.certfile), files.keyfile.as_ref(), files.cafile.as_ref()];
    paths.into_iter().map(|path| path.and_then(|path| std::fs::read(path).ok())).collect()
}
