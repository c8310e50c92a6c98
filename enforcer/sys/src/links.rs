//! News of network interfaces, as they come, change and go: rtnetlink's link group (rtnetlink(7)).

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// More than the messages of one read take, each some hundred bytes to a few thousand.
const BUFFER: usize = 64 * 1024;
/// Bytes that the kernel may hold for this socket: some hundred interfaces at once.
const RECEIVE_BUFFER: libc::c_int = 1 << 20;

/// `struct nlmsghdr`, and behind it `struct ifinfomsg`.
const HEADER: usize = 16;
const ABOUT: usize = 16;

/// What has happened to interfaces since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Indices of interfaces that have left this network namespace. There may be others by the same index
    /// since.
    pub gone: BTreeSet<u32>,
}

/// A socket on which the kernel tells of interfaces.
pub struct Links(AsyncFd<OwnedFd>);

impl Links {
    /// Begins to listen. To be called within the runtime.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn listen() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes and returns numbers.
        let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        if let Err(error) = enlarge(socket.as_raw_fd()) {
            tracing::debug!(%error, "the socket for news of interfaces stays small");
        }
        // SAFETY: all of `sockaddr_nl` is integers, for which zeros are values.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = libc::RTMGRP_LINK as u32;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: a whole address, which is only read, and its length.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: an `OwnedFd` keeps its descriptor, and nothing takes it out of the `AsyncFd`.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        registered.map(Self).map_err(io::Error::from)
    }

    /// Waits until something has happened, and says what.
    ///
    /// Where the kernel has lost messages (`ENOBUFS`) this returns too: what has changed is then seen by
    /// listing the interfaces, but for one that went and came back under its index in between.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub async fn changes(&self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let mut buffer = vec![0; BUFFER];
        let mut seen = false;
        loop {
            let mut ready = self.0.readable().await?;
            loop {
                match receive(self.0.as_raw_fd(), &mut buffer) {
                    Ok(length) => changes.read(buffer.get(..length).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        tracing::warn!(
                            "the kernel told of more interfaces than could be read: all are looked at"
                        );
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
                seen = true;
            }
            ready.clear_ready();
            if seen {
                return Ok(changes);
            }
        }
    }
}

fn enlarge(socket: RawFd) -> io::Result<()> {
    let bytes = RECEIVE_BUFFER;
    let length = size_of_val(&bytes) as libc::socklen_t;
    // SAFETY: a whole number, which is only read, and its length.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: a place to write to, and its length.
    let length = unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(length).map_err(|_negative| io::Error::last_os_error())
}

impl Changes {
    /// Reads messages, each aligned to four bytes.
    fn read(&mut self, mut messages: &[u8]) {
        while let Some(header) = messages.get(..HEADER) {
            let word =
                |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let length = word(0) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let Some(message) = messages.get(..length.max(HEADER)) else {
                return;
            };
            if let Some(about) = message.get(HEADER..HEADER + ABOUT) {
                // A port that leaves a bridge is a link that is deleted too, of the bridge's family.
                let is_interface = i32::from(about[0]) == libc::AF_UNSPEC;
                if kind == libc::RTM_DELLINK && is_interface {
                    self.gone
                        .insert(u32::from_ne_bytes([about[4], about[5], about[6], about[7]]));
                }
            }
            messages = messages
                .get(message.len().next_multiple_of(4)..)
                .unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: i32, index: u32, attributes: usize) -> Vec<u8> {
        let length = (HEADER + ABOUT + attributes) as u32;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(HEADER, 0);
        message.extend([family as u8, 0, 0, 0]);
        message.extend(index.to_ne_bytes());
        message.resize((length as usize).next_multiple_of(4), 0);
        message
    }

    #[test]
    fn links_that_are_deleted_are_gone() {
        let messages = [
            message(libc::RTM_NEWLINK, libc::AF_UNSPEC, 3, 7),
            message(libc::RTM_DELLINK, libc::AF_UNSPEC, 4, 9),
            message(libc::RTM_DELLINK, libc::AF_BRIDGE, 5, 0),
            message(libc::RTM_DELLINK, libc::AF_UNSPEC, 6, 0),
        ];
        let mut changes = Changes::default();
        changes.read(&messages.concat());
        assert_eq!(changes.gone, [4, 6].into());
    }

    #[test]
    fn messages_that_are_cut_off_are_not_read() {
        let whole = message(libc::RTM_DELLINK, libc::AF_UNSPEC, 4, 0);
        for length in 0..whole.len() {
            let mut changes = Changes::default();
            changes.read(&whole[..length]);
            assert_eq!(changes, Changes::default());
        }
        let mut changes = Changes::default();
        changes.read(&[0; 64]);
        assert_eq!(changes, Changes::default());
    }
}
