//! What goes wrong between the agent and the kernel.

use std::io;

use aya::{maps::MapError, programs::ProgramError};
use enforcer_common::limiter::ParamsError;

use super::pins::PinsError;
use enforcer_sys::interfaces::Interface;

/// Why the kernel half cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The programs or maps were refused.
    #[error(
        "the kernel refused {what}: {error}; Enforcer needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and Linux 5.15 or newer"
    )]
    Load {
        /// Which.
        what: &'static str,
        /// With all that it stems from.
        error: String,
    },
    /// The embedded object lacks something.
    #[error("the embedded kernel object has no `{0}`: this build is broken")]
    Missing(&'static str),
    /// A map operation failed.
    #[error("the kernel's map {map}: {error}")]
    Map {
        /// Which.
        map: &'static str,
        /// Why.
        #[source]
        error: Box<MapError>,
    },
    /// A program could not be attached to or detached from an interface.
    #[error("{hook} on interface {interface}: {error}{}", hint(error))]
    Attach {
        /// XDP or TC.
        hook: &'static str,
        /// Where.
        interface: String,
        /// Why.
        #[source]
        error: Box<ProgramError>,
    },
    /// XDP was attached by netlink, which leaves nothing to pin.
    #[error("XDP on interface {0}: this kernel makes no link to be pinned: set `kernel.pins` to `off`")]
    NoLink(String),
    /// Links or maps cannot be pinned.
    #[error("{0}")]
    Pins(#[from] PinsError),
    /// A map's bound is reached.
    #[error("too many {what}: the bound is {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A packet could not be handed to a program.
    #[error("test run: {0}")]
    TestRun(#[source] Box<ProgramError>),
    /// A program said what it never says.
    #[error("the program returned {0}, which is none of its verdicts")]
    UnknownVerdict(u32),
    /// A budget that no limiter can keep, which the policy loader rules out.
    #[error("impossible budget: {0}")]
    Params(#[source] ParamsError),
    /// The number of CPUs is not known.
    #[error("the kernel does not say how many CPUs there are: {0}")]
    Cpus(#[source] io::Error),
    /// Nobody knows which interfaces there are.
    #[error("the kernel does not list the interfaces: {0}; what is attached stays so")]
    Interfaces(#[source] io::Error),
    /// No secret for the sketch.
    #[error("the system gives no randomness for the sketch's secret")]
    Randomness,
}

impl KernelError {
    pub fn map(map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |error| Self::Map {
            map,
            error: Box::new(error),
        }
    }

    pub fn attach(interface: &Interface, hook: &'static str) -> impl Fn(ProgramError) -> Self + Copy {
        move |error| Self::Attach {
            hook,
            interface: interface.name.clone(),
            error: Box::new(error),
        }
    }
}

/// The system's number of an error.
pub fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// What to do about the errors that people meet.
fn hint(error: &ProgramError) -> &'static str {
    match os_error(error) {
        // EEXIST: it runs in the other mode.
        Some(libc::EBUSY | libc::EEXIST) => {
            "; another XDP program is attached there (`ip link show` names it): detach it first"
        }
        Some(libc::EMFILE) => "; no file descriptor is left: raise the limit (`LimitNOFILE=` of the unit)",
        Some(libc::EPERM) => "; CAP_NET_ADMIN is needed",
        Some(libc::EOPNOTSUPP) => "; the driver has no native XDP: set `kernel.xdp` to auto or generic",
        _ => "",
    }
}
