//! Echo requests (RFC 792, RFC 4443).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{netns::Namespace, sys};

const REQUEST_V4: u8 = 8;
const REQUEST_V6: u8 = 128;

/// Lets processes in a namespace send echo requests.
///
/// # Errors
/// The kernel refuses.
pub fn permit(namespace: &Namespace) -> Result<()> {
    namespace.sysctl("ipv4/ping_group_range", "0 0")
}

/// Whether `to` replies to an echo request from `namespace` within `patience`.
///
/// # Errors
/// The request cannot be sent, for another reason than that it is dropped.
pub fn is_answered(namespace: &Namespace, to: IpAddr, patience: Duration) -> Result<bool> {
    namespace.run(|| {
        let socket = sys::ping_socket(to.is_ipv4()).context("no socket for echo requests")?;
        socket.set_read_timeout(Some(patience))?;
        let kind = if to.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
        // The kernel fills in checksum and identifier, and hands over replies to this request alone.
        match socket.send_to(&[kind, 0, 0, 0, 0, 0, 0, 1], SocketAddr::new(to, 0)) {
            Ok(_) => {}
            // What a program drops on its way out, the kernel has no room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(false),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot send an echo request to {to}"));
            }
        }
        match socket.recv_from(&mut [0; 64]) {
            Ok((_, from)) => Ok(from.ip() == to),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    })
}
