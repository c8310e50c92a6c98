//! The socket of a client, as it is closed when the connection is revoked.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{live::Mark, wire::Wire};

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

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
