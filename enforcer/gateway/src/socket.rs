//! The socket of a client, as it is closed when the connection is revoked.

use std::{rc::Rc, time::Duration};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::{
    live::Mark,
    wire::{Wire, reads_by, writes_by},
};

/// A client's socket. Where the connection has been revoked it is closed by a reset, and what waits to be sent
/// is thrown away (`SO_LINGER` with no time, socket(7)).
#[derive(Debug)]
pub(super) struct Socket {
    stream: Wire,
    mark: Rc<Mark>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, mark: Rc<Mark>) -> Self {
        Self {
            stream: Wire::new(stream),
            mark,
        }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        self.stream.tcp()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.mark.is_revoked()
            && let Err(error) = SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO))
        {
            tracing::debug!(peer = %self.mark.peer(), %error, "a revoked connection is closed without a reset");
        }
    }
}

reads_by!(Socket, stream);
writes_by!(Socket, stream);
