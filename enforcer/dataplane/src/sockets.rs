//! Other processes' sockets, destroyed by their peer: `SOCK_DESTROY` over `NETLINK_SOCK_DIAG` (Linux 4.5,
//! `CONFIG_INET_DIAG_DESTROY`, `CAP_NET_ADMIN`). Their owners get `ECONNABORTED`, TCP peers a reset. Only in
//! the network namespace that the agent is in.

mod message;

use std::{
    collections::HashSet,
    io::{self, Read as _},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use self::message::{Answers, Diagnosed, Found};
use enforcer_model::flow::{Flow, Whom};

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes read at once. The kernel's own answers to a dump are 32 KiB at most (`netlink_dump`).
const BUFFER: usize = 1 << 16;

/// Sockets destroyed by one call, at most.
const MAX_DESTROYED: usize = 65_536;

/// What has been destroyed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// TCP sockets.
    pub tcp: usize,
    /// Connected UDP sockets.
    pub udp: usize,
    /// Sockets that the kernel would not destroy.
    pub refused: usize,
    /// What they were connected to.
    pub flows: Vec<Flow>,
}

/// Whether this kernel destroys sockets for this agent: it is asked for none, and to destroy one that is not
/// there.
///
/// # Errors
/// Why not, in words.
pub fn probe() -> Result<(), String> {
    let said = diagnosis().and_then(|socket| {
        socket.list(message::KINDS[0], message::NO_STATE)?;
        socket.destroy(&Found::NONE)
    });
    match said {
        Ok(_) => Ok(()),
        Err(error) => Err(shortfall(&error)),
    }
}

/// Destroys the sockets that are connected to `whom`, but for those in `except`.
///
/// # Errors
/// The kernel does not do it, or does not say which there are.
pub fn destroy(whom: &Whom, except: &HashSet<Flow>) -> io::Result<Destroyed> {
    destroy_where(|flow| whom.is(flow, None), except)
}

/// Destroys the sockets of the flows that `is_meant` says, but for those in `except`, by one look through all of them.
///
/// # Errors
/// The kernel does not do it, or does not say which there are.
pub fn destroy_where(is_meant: impl Fn(&Flow) -> bool, except: &HashSet<Flow>) -> io::Result<Destroyed> {
    let socket = diagnosis()?;
    let mut destroyed = Destroyed::default();
    for kind in message::KINDS {
        let (_, protocol) = kind;
        for found in socket.list(kind, message::CONNECTED)? {
            let Some(flow) = found.flow().filter(&is_meant) else {
                continue;
            };
            if except.contains(&flow) {
                continue;
            }
            if destroyed.flows.len() >= MAX_DESTROYED {
                return Ok(destroyed);
            }
            match socket.destroy(&found) {
                Ok(true) if protocol == message::TCP => destroyed.tcp += 1,
                Ok(true) => destroyed.udp += 1,
                // It has gone by itself.
                Ok(false) => continue,
                Err(error) if is_shortfall(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(peer = %flow.peer, %error, "a socket is not destroyed");
                    destroyed.refused += 1;
                    continue;
                }
            }
            destroyed.flows.push(flow);
        }
    }
    Ok(destroyed)
}

/// What an error means to an operator.
#[must_use]
pub fn shortfall(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            "other processes' sockets stay: this kernel has no CONFIG_INET_DIAG_DESTROY".to_owned()
        }
        Some(libc::ENOENT) => "other processes' sockets stay: this kernel has no CONFIG_INET_DIAG".to_owned(),
        Some(libc::EPERM) => "other processes' sockets stay: the agent lacks CAP_NET_ADMIN".to_owned(),
        _ => format!("other processes' sockets stay: {error}"),
    }
}

fn is_shortfall(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM))
}

fn diagnosis() -> io::Result<Diagnosis> {
    enforcer_supervision::sync::system_call("sock_diag");
    let protocol = Protocol::from(libc::NETLINK_SOCK_DIAG);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(Diagnosis(socket))
}

/// The kernel's socket diagnosis.
struct Diagnosis(Socket);

impl Diagnosis {
    /// The sockets of a family and a protocol that are in one of `states`.
    fn list(&self, (family, protocol): (u8, u8), states: u32) -> io::Result<Vec<Found>> {
        self.0.send(&message::list(family, protocol, states))?;
        let mut found = Vec::new();
        loop {
            let answers = self.read()?;
            for answer in Answers::new(&answers) {
                match answer? {
                    Diagnosed::Socket(socket) => found.push(socket.of(protocol)),
                    Diagnosed::Done => return Ok(found),
                    Diagnosed::Code(0) => {}
                    Diagnosed::Code(code) => return Err(io::Error::from_raw_os_error(code)),
                }
            }
        }
    }

    /// Destroys one; whether it was still there.
    fn destroy(&self, found: &Found) -> io::Result<bool> {
        self.0.send(&message::destroy(found))?;
        let answers = self.read()?;
        let answer = Answers::new(&answers).next();
        match answer {
            Some(Ok(Diagnosed::Code(0))) => Ok(true),
            Some(Ok(Diagnosed::Code(libc::ENOENT))) => Ok(false),
            Some(Ok(Diagnosed::Code(code))) => Err(io::Error::from_raw_os_error(code)),
            Some(Err(error)) => Err(error),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut answers = vec![0; BUFFER];
        let length = (&self.0).read(&mut answers)?;
        answers.truncate(length);
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_is_missing() {
        let said = |code| shortfall(&io::Error::from_raw_os_error(code));
        assert!(said(libc::EOPNOTSUPP).contains("CONFIG_INET_DIAG_DESTROY"));
        assert!(said(libc::EPERM).contains("CAP_NET_ADMIN"));
        assert!(said(libc::EINVAL).starts_with("other processes' sockets stay: "));
    }
}
