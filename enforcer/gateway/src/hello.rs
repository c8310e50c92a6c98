//! The first message of a TLS connection, which says by whose name it is meant for (SNI, RFC 6066 section 3).
//!
//! Where a route passes TLS through, what has been read is remembered until it is known who ends the connection: the
//! service gets every byte as the client sent it. Of an encrypted `ClientHello` the outer name is what is seen.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::{socket::Socket, wire::writes_by};
use enforcer_model::Name;
use enforcer_routing::router::{Router, RuleIndex};

/// What a client may send up to the end of its `ClientHello`, in bytes, where TLS is passed through. With
/// post-quantum shares and an encrypted inner one it has about 3 KiB.
const LONGEST: usize = 16 * 1024;

/// A client's socket, of which the beginning may be remembered.
#[derive(Debug)]
pub(super) struct Heard {
    socket: Socket,
    /// What has been read. `None`: it is not needed any more.
    beginning: Option<Vec<u8>>,
}

/// Who ends the connection.
pub(super) enum Hello {
    Ours(Box<StartHandshake<Heard>>),
    Services(Box<Passing>),
}

/// A connection that a service ends.
pub(super) struct Passing {
    pub(super) socket: Socket,
    /// What has been read of it.
    pub(super) beginning: Vec<u8>,
    pub(super) rule: RuleIndex,
    /// Whom the client asked for.
    pub(super) name: String,
}

/// Reads the `ClientHello` of a connection at `listener`.
///
/// # Errors
/// When it does not come, is none, or is too long.
pub(super) async fn hear(socket: Socket, listener: &Name, router: &Router) -> io::Result<Hello> {
    let heard = Heard {
        socket,
        beginning: router.passes().then(Vec::new),
    };
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), heard).await?;
    let Some(beginning) = start.io.beginning.take() else {
        return Ok(Hello::Ours(Box::new(start)));
    };
    let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let found = name.and_then(|name| Some((router.passthrough(&name, listener)?, name)));
    Ok(match found {
        None => Hello::Ours(Box::new(start)),
        Some((rule, name)) => Hello::Services(Box::new(Passing {
            socket: start.io.socket,
            beginning,
            rule,
            name,
        })),
    })
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, beginning } = &mut *self;
        let before = buffer.filled().len();
        let result = Pin::new(socket).poll_read(context, buffer);
        if let Some(beginning) = beginning {
            beginning.extend_from_slice(&buffer.filled()[before..]);
            if beginning.len() > LONGEST {
                return Poll::Ready(Err(io::Error::other("the ClientHello is too long")));
            }
        }
        result
    }
}

writes_by!(Heard, socket);
