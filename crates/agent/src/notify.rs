//! What systemd is told (sd_notify(3)): that the node is up, what it does, and that its loop turns.
//! A datagram that finds no room is lost; nothing waits for systemd.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use pgherd_core::{Duration as Micros, Time};

use crate::clock;

/// The way to systemd, if it started this process and wants to know.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear that the loop turns.
    every: Option<Micros>,
    told: Option<Time>,
    /// The last status; the same one isn't told twice.
    status: String,
}

impl Notify {
    /// By what systemd puts into the environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    #[must_use]
    pub fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let socket = variable("NOTIFY_SOCKET").and_then(|name| connect(&name).ok());
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let mine = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let usec = text("WATCHDOG_USEC").and_then(|usec| usec.parse::<u64>().ok());
        let usec = usec.filter(|usec| mine && *usec > 0);
        // Three times within the limit: one may be lost, and a turn may be late.
        Self { socket, every: usec.map(|usec| Micros(usec / 3)), ..Self::default() }
    }

    /// The node is up, or has read its configuration again.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The configuration is read again; [`Self::ready`] follows.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// It ends in order.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// What `systemctl status` shows.
    pub fn status(&mut self, words: &str) {
        if self.socket.is_some() && self.status != words {
            words.clone_into(&mut self.status);
            self.tell(&format!("STATUS={}", words.replace('\n', " ")));
        }
    }

    /// A turn of the loop: told when it is time.
    pub fn turned(&mut self) {
        let Some(every) = self.every else { return };
        let now = clock::now();
        if self.told.is_none_or(|told| now.since(told) >= every) {
            self.told = Some(now);
            self.tell("WATCHDOG=1");
        }
    }

    /// Until the loop has to turn at the latest, for [`Self::turned`]'s sake.
    pub async fn due(&self) {
        match (self.every, self.told) {
            (Some(every), Some(told)) => {
                let left = (told + every).since(clock::now());
                tokio::time::sleep(left.to_std().max(Duration::from_millis(1))).await;
            }
            (Some(_), None) => {}
            (None, _) => std::future::pending().await,
        }
    }

    fn tell(&self, words: &str) {
        if let Some(socket) = &self.socket {
            // Nobody reads, or too slowly: systemd's business.
            let _ = socket.send(words.as_bytes());
        }
    }
}

/// A path, or `@` and an abstract name.
fn connect(name: &OsStr) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use super::*;

    #[test]
    fn it_is_told_in_systemds_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let heard = || {
            let mut buffer = [0; 200];
            let length = systemd.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let variable = |name: &str| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into_os_string()),
            "WATCHDOG_USEC" => Some("3000000".into()),
            _ => None,
        };
        let mut notify = Notify::of(variable);
        notify.ready();
        assert_eq!(heard(), "READY=1");
        notify.status("a\nb");
        notify.status("a\nb");
        notify.turned();
        notify.turned();
        notify.reloading();
        assert_eq!(heard(), "STATUS=a b");
        assert_eq!(heard(), "WATCHDOG=1");
        assert!(heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notify.stopping();
        assert_eq!(heard(), "STOPPING=1");

        // Another process's watchdog, and nobody at the socket.
        let other = |name: &str| match name {
            "WATCHDOG_PID" => Some("1".into()),
            "NOTIFY_SOCKET" => Some("/nonexistent".into()),
            _ => variable(name),
        };
        let other = Notify::of(other);
        assert!(other.socket.is_none() && other.every.is_none());
    }
}
