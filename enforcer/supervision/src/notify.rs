//! What is told to systemd: sd_notify(3).

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The environment variable that names its socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// What can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The start is complete.
    Ready,
    /// All parts make progress.
    Watchdog,
    /// A part does not: systemd acts as if the watchdog's time were over.
    WatchdogTrigger,
    Stopping,
}

impl Message {
    fn text(self) -> &'static str {
        match self {
            Self::Ready => "READY=1",
            Self::Watchdog => "WATCHDOG=1",
            Self::WatchdogTrigger => "WATCHDOG=trigger",
            Self::Stopping => "STOPPING=1",
        }
    }
}

/// systemd's socket, if it started this process and wants to know.
#[derive(Debug)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// As the environment says.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(name) = std::env::var_os(SOCKET) else {
            return Self(None);
        };
        match Self::to(&name) {
            Ok(notifier) => notifier,
            Err(error) => {
                tracing::warn!(%error, socket = ?name, "{SOCKET} cannot be used: systemd is told nothing");
                Self(None)
            }
        }
    }

    /// A path, or an abstract name behind `@`.
    fn to(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // Nothing waits for systemd.
        socket.set_nonblocking(true)?;
        Ok(Self(Some((socket, address))))
    }

    /// Tells it. What does not arrive is told again by the next look.
    pub fn tell(&self, message: Message) {
        if let Some((socket, address)) = &self.0
            && let Err(error) = socket.send_to_addr(message.text().as_bytes(), address)
        {
            tracing::debug!(%error, ?message, "systemd was not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_at_paths_and_abstract_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("enforcer-notify-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        for (socket, text) in [
            (by_path, path.display().to_string()),
            (by_name, format!("@{name}")),
        ] {
            let notifier = Notifier::to(OsStr::new(&text)).unwrap();
            for (message, expected) in [
                (Message::Ready, "READY=1"),
                (Message::Watchdog, "WATCHDOG=1"),
                (Message::WatchdogTrigger, "WATCHDOG=trigger"),
                (Message::Stopping, "STOPPING=1"),
            ] {
                notifier.tell(message);
                let mut buffer = [0; 64];
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], expected.as_bytes());
            }
        }
    }
}
