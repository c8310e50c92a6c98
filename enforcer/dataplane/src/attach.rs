//! Attaching the programs to interfaces, in the best mode that the kernel and the driver offer.

mod tc;

use std::fmt;

use aya::{
    Ebpf,
    programs::{
        Xdp, XdpMode,
        links::FdLink,
        tc::SchedClassifierLinkId,
        xdp::{XdpLink, XdpLinkId},
    },
};

use libc::{EBUSY, EEXIST, EMFILE};

use self::tc::{Way, attach_tc, detach_tc};
use super::{
    KernelError,
    error::os_error,
    object,
    pins::{Pins, network_namespace},
};
use enforcer_sys::interfaces::Interface;

/// Which XDP mode the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpChoice {
    /// Native, else generic.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the network stack: slower, and every driver does.
    Generic,
}

/// The mode that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpReached {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

/// How the TC program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcReached {
    /// As a link (Linux 6.6).
    Tcx,
    /// As a filter of a clsact qdisc.
    Clsact,
}

impl XdpChoice {
    fn admits(self, reached: XdpReached) -> bool {
        match self {
            Self::Auto => true,
            Self::Native => reached == XdpReached::Native,
            Self::Generic => reached == XdpReached::Generic,
        }
    }
}

impl fmt::Display for XdpReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl fmt::Display for TcReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// An interface with the programs on it.
pub struct Attachment {
    /// The XDP mode reached.
    pub xdp: XdpReached,
    /// How TC is attached.
    pub tc: TcReached,
    xdp_link: Held<XdpLinkId>,
    tc_link: Held<SchedClassifierLinkId>,
    /// The program for what the other end sends, where policies are about that.
    pod_link: Option<Held<SchedClassifierLinkId>>,
}

impl Attachment {
    /// Under which names its links are pinned.
    pub fn pinned(&self) -> impl Iterator<Item = &str> {
        let pod = self.pod_link.as_ref().and_then(Held::pin);
        [self.xdp_link.pin(), self.tc_link.pin(), pod]
            .into_iter()
            .flatten()
    }

    /// Whether what the other end sends is judged.
    pub fn has_pod(&self) -> bool {
        self.pod_link.is_some()
    }
}

/// What keeps a program attached.
enum Held<Id> {
    /// This process.
    Own(Id),
    /// A pin, by this name.
    Pinned(String),
    /// The qdisc.
    Filter,
}

impl<Id> Held<Id> {
    fn pin(&self) -> Option<&str> {
        match self {
            Self::Pinned(name) => Some(name),
            Self::Own(_) | Self::Filter => None,
        }
    }
}

/// Attaches both programs, or neither. Where an earlier agent's are, they are replaced in one step: no packet
/// passes in between.
///
/// # Errors
/// The kernel refuses; another XDP program is there; the driver cannot do what was asked.
pub fn attach(
    ebpf: &mut Ebpf,
    interface: &Interface,
    choice: XdpChoice,
    pins: Option<&Pins>,
) -> Result<Attachment, KernelError> {
    let (xdp_link, xdp) = attach_xdp(object::xdp(ebpf, object::XDP)?, interface, choice, pins)?;
    match attach_tc(ebpf, Way::Out, interface, pins) {
        Ok((tc_link, tc)) => Ok(Attachment {
            xdp,
            tc,
            xdp_link,
            tc_link,
            pod_link: None,
        }),
        Err(error) => {
            detach_xdp(object::xdp(ebpf, object::XDP)?, interface, xdp_link, pins)?;
            Err(error)
        }
    }
}

/// Attaches the program for what the other end sends, or detaches it.
///
/// # Errors
/// The kernel refuses.
pub fn attach_pod(
    ebpf: &mut Ebpf,
    interface: &Interface,
    attachment: &mut Attachment,
    wanted: bool,
    pins: Option<&Pins>,
) -> Result<(), KernelError> {
    if wanted && attachment.pod_link.is_none() {
        attachment.pod_link = Some(attach_tc(ebpf, Way::In, interface, pins)?.0);
    } else if !wanted && let Some(link) = attachment.pod_link.take() {
        detach_tc(ebpf, Way::In, interface, link, pins)?;
    }
    Ok(())
}

/// Detaches all programs. An interface that is gone took them with it.
///
/// # Errors
/// The kernel refuses.
pub fn detach(
    ebpf: &mut Ebpf,
    interface: &Interface,
    attachment: Attachment,
    pins: Option<&Pins>,
) -> Result<(), KernelError> {
    let xdp = detach_xdp(
        object::xdp(ebpf, object::XDP)?,
        interface,
        attachment.xdp_link,
        pins,
    );
    let tc = detach_tc(ebpf, Way::Out, interface, attachment.tc_link, pins);
    let pod = attachment
        .pod_link
        .map_or(Ok(()), |link| detach_tc(ebpf, Way::In, interface, link, pins));
    let is_gone = enforcer_sys::interfaces::list()
        .is_ok_and(|present| present.iter().all(|listed| listed.index != interface.index));
    if !is_gone {
        xdp?;
        tc?;
        pod?;
    }
    Ok(())
}

/// An interface's part of the names of its links: indices are given anew in each network namespace.
fn place(interface: &Interface) -> String {
    format!("{}-{}", network_namespace(), interface.index)
}

fn detach_xdp(
    program: &mut Xdp,
    interface: &Interface,
    link: Held<XdpLinkId>,
    pins: Option<&Pins>,
) -> Result<(), KernelError> {
    match link {
        Held::Own(link) => program
            .detach(link)
            .map_err(KernelError::attach(interface, "XDP"))?,
        Held::Pinned(name) => forget(pins, &name)?,
        Held::Filter => {}
    }
    Ok(())
}

fn forget(pins: Option<&Pins>, name: &str) -> Result<(), KernelError> {
    pins.map_or(Ok(()), |pins| pins.forget(name).map_err(KernelError::Pins))
}

fn attach_xdp(
    program: &mut Xdp,
    interface: &Interface,
    choice: XdpChoice,
    pins: Option<&Pins>,
) -> Result<(Held<XdpLinkId>, XdpReached), KernelError> {
    let place = place(interface);
    let name = |reached| format!("xdp-{reached}-{place}");
    let taken_over = pins
        .map(|pins| take_over_xdp(program, choice, pins, name))
        .transpose()?;
    let (link, reached) = match taken_over.flatten() {
        Some(taken_over) => taken_over,
        None => attach_new_xdp(program, interface, choice)?,
    };
    let Some(pins) = pins else {
        return Ok((Held::Own(link), reached));
    };
    let link = program
        .take_link(link)
        .map_err(KernelError::attach(interface, "XDP"))?;
    let name = name(reached);
    // Every kernel that is supported makes XDP links.
    let link = FdLink::try_from(link).map_err(|_| KernelError::NoLink(interface.name.clone()))?;
    pins.keep(&name, link)?;
    Ok((Held::Pinned(name), reached))
}

/// Replaces the program of a pinned link. `None`: there is none that serves.
fn take_over_xdp(
    program: &mut Xdp,
    choice: XdpChoice,
    pins: &Pins,
    name: impl Fn(XdpReached) -> String,
) -> Result<Option<(XdpLinkId, XdpReached)>, KernelError> {
    for reached in [XdpReached::Native, XdpReached::Generic] {
        let name = name(reached);
        let Some(pinned) = pins.link(&name).map(FdLink::from) else {
            continue;
        };
        if choice.admits(reached) {
            let link = XdpLink::try_from(pinned).map_err(|error| error.to_string());
            match link.and_then(|link| program.attach_to_link(link).map_err(|error| error.to_string())) {
                Ok(link) => return Ok(Some((link, reached))),
                // The interface is another one by the same number.
                Err(error) => tracing::info!(pin = name, error, "the pinned link is of no more use"),
            }
        } else {
            tracing::info!(pin = name, "XDP is to run in another mode: detaching first");
        }
        pins.forget(&name)?;
    }
    Ok(None)
}

fn attach_new_xdp(
    program: &mut Xdp,
    interface: &Interface,
    choice: XdpChoice,
) -> Result<(XdpLinkId, XdpReached), KernelError> {
    let native = |program: &mut Xdp| program.attach_to_if_index(interface.index, XdpMode::Driver);
    let generic = |program: &mut Xdp| program.attach_to_if_index(interface.index, XdpMode::Skb);
    let wrap = KernelError::attach(interface, "XDP");
    match choice {
        XdpChoice::Native => native(program)
            .map(|link| (link, XdpReached::Native))
            .map_err(wrap),
        XdpChoice::Generic => generic(program)
            .map(|link| (link, XdpReached::Generic))
            .map_err(wrap),
        XdpChoice::Auto => match native(program) {
            Ok(link) => Ok((link, XdpReached::Native)),
            // Something stands in the way that generic XDP would meet too, or a passing want.
            Err(error) if matches!(os_error(&error), Some(EBUSY | EEXIST | EMFILE)) => Err(wrap(error)),
            Err(error) => {
                tracing::info!(interface = interface.name, %error, "no native XDP here; trying generic");
                generic(program)
                    .map(|link| (link, XdpReached::Generic))
                    .map_err(wrap)
            }
        },
    }
}
