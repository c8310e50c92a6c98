//! Attaching the programs to interfaces, in the best mode that the kernel and the driver offer.

use std::fmt;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
        tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions},
        xdp::XdpLinkId,
    },
};

use libc::{EBUSY, EEXIST, EMFILE};

use super::{
    KernelError,
    error::os_error,
    interfaces::Interface,
    object::{self, TC_EGRESS},
};

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

/// An interface with both programs on it.
pub struct Attachment {
    /// The XDP mode reached.
    pub xdp: XdpReached,
    /// How TC is attached.
    pub tc: TcReached,
    xdp_link: XdpLinkId,
    tc_link: SchedClassifierLinkId,
}

/// Attaches both programs, or neither.
///
/// # Errors
/// The kernel refuses; another XDP program is there; the driver cannot do what was asked.
pub fn attach(ebpf: &mut Ebpf, interface: &Interface, choice: XdpChoice) -> Result<Attachment, KernelError> {
    let (xdp_link, xdp) = attach_xdp(object::xdp(ebpf)?, interface, choice)?;
    match attach_tc(object::tc_egress(ebpf)?, interface) {
        Ok((tc_link, tc)) => Ok(Attachment {
            xdp,
            tc,
            xdp_link,
            tc_link,
        }),
        Err(error) => {
            object::xdp(ebpf)?
                .detach(xdp_link)
                .map_err(KernelError::attach(interface, "XDP"))?;
            Err(error)
        }
    }
}

/// Detaches both programs. An interface that is gone took them with it.
///
/// # Errors
/// The kernel refuses.
pub fn detach(ebpf: &mut Ebpf, interface: &Interface, attachment: Attachment) -> Result<(), KernelError> {
    let xdp = object::xdp(ebpf)?.detach(attachment.xdp_link);
    let tc = object::tc_egress(ebpf)?.detach(attachment.tc_link);
    let is_gone = super::interfaces::list()
        .is_ok_and(|present| present.iter().all(|listed| listed.index != interface.index));
    if !is_gone {
        xdp.map_err(KernelError::attach(interface, "XDP"))?;
        tc.map_err(KernelError::attach(interface, "TC"))?;
    }
    Ok(())
}

fn attach_xdp(
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

fn attach_tc(
    program: &mut SchedClassifier,
    interface: &Interface,
) -> Result<(SchedClassifierLinkId, TcReached), KernelError> {
    let wrap = KernelError::attach(interface, "TC");
    // First in line, so that what another program would redirect is seen too.
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::first());
    match program.attach_with_options(&interface.name, TcAttachType::Egress, tcx) {
        Ok(link) => return Ok((link, TcReached::Tcx)),
        Err(error) => tracing::info!(interface = interface.name, %error, "no TCX here; using clsact"),
    }
    // Fails where there is a clsact already, which serves as well.
    if let Err(error) = tc::qdisc_add_clsact(&interface.name) {
        tracing::debug!(interface = interface.name, %error, "clsact not added");
    }
    // A filter outlives an agent that was killed; its program is ours and no longer fed.
    if tc::qdisc_detach_program(&interface.name, TcAttachType::Egress, TC_EGRESS).is_ok() {
        tracing::info!(
            interface = interface.name,
            "removed the filter of an agent that was killed"
        );
    }
    program
        .attach_with_options(
            &interface.name,
            TcAttachType::Egress,
            TcAttachOptions::Netlink(NlOptions::default()),
        )
        .map(|link| (link, TcReached::Clsact))
        .map_err(wrap)
}
