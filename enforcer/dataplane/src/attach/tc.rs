//! Attaching the TC programs: as links (TCX) where the kernel has them, else as filters of clsact.

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::FdLink,
        tc::{SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions},
    },
};

use super::{
    super::{KernelError, filter, object, pins::Pins},
    Held, TcReached, forget, place,
};
use enforcer_sys::interfaces::Interface;

/// Which way what a TC program sees goes.
#[derive(Clone, Copy)]
pub enum Way {
    Out,
    In,
}

impl Way {
    const fn program(self) -> &'static str {
        match self {
            Self::Out => object::TC_EGRESS,
            Self::In => object::TC_INGRESS,
        }
    }

    const fn hook(self) -> TcAttachType {
        match self {
            Self::Out => TcAttachType::Egress,
            Self::In => TcAttachType::Ingress,
        }
    }

    const fn pin(self) -> &'static str {
        match self {
            Self::Out => "tcx",
            Self::In => "tcx-in",
        }
    }
}

/// Detaches the program for one way.
///
/// # Errors
/// The kernel refuses.
pub fn detach_tc(
    ebpf: &mut Ebpf,
    way: Way,
    interface: &Interface,
    link: Held<SchedClassifierLinkId>,
    pins: Option<&Pins>,
) -> Result<(), KernelError> {
    match link {
        Held::Own(link) => object::tc(ebpf, way.program())?
            .detach(link)
            .map_err(KernelError::attach(interface, "TC"))?,
        Held::Pinned(name) => forget(pins, &name)?,
        Held::Filter => drop(filter::remove(interface, way.hook())),
    }
    Ok(())
}

/// Attaches the program for one way, or replaces it where an earlier agent has pinned it.
///
/// # Errors
/// The kernel refuses.
pub fn attach_tc(
    ebpf: &mut Ebpf,
    way: Way,
    interface: &Interface,
    pins: Option<&Pins>,
) -> Result<(Held<SchedClassifierLinkId>, TcReached), KernelError> {
    let program = object::tc(ebpf, way.program())?;
    let name = format!("{}-{}", way.pin(), place(interface));
    let taken_over = pins.map(|pins| take_over_tcx(program, pins, &name)).transpose()?;
    let (link, reached) = match taken_over.flatten() {
        Some(link) => (link, TcReached::Tcx),
        None => attach_new_tc(program, way, interface)?,
    };
    let Some(pins) = pins else {
        return Ok((Held::Own(link), reached));
    };
    let link = program
        .take_link(link)
        .map_err(KernelError::attach(interface, "TC"))?;
    match FdLink::try_from(link) {
        Ok(link) => {
            pins.keep(&name, link)?;
            Ok((Held::Pinned(name), reached))
        }
        // A filter stays by itself.
        Err(_) => Ok((Held::Filter, reached)),
    }
}

/// Replaces the program of a pinned link. `None`: there is none that serves.
fn take_over_tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    name: &str,
) -> Result<Option<SchedClassifierLinkId>, KernelError> {
    let Some(pinned) = pins.link(name).map(FdLink::from) else {
        return Ok(None);
    };
    let link = SchedClassifierLink::try_from(pinned).map_err(|error| error.to_string());
    match link.and_then(|link| program.attach_to_link(link).map_err(|error| error.to_string())) {
        Ok(link) => Ok(Some(link)),
        Err(error) => {
            tracing::info!(pin = name, error, "the pinned link is of no more use");
            pins.forget(name)?;
            Ok(None)
        }
    }
}

fn attach_new_tc(
    program: &mut SchedClassifier,
    way: Way,
    interface: &Interface,
) -> Result<(SchedClassifierLinkId, TcReached), KernelError> {
    // First in line, so that what another program would redirect is seen too.
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::first());
    match program.attach_with_options(&interface.name, way.hook(), tcx) {
        Ok(link) => return Ok((link, TcReached::Tcx)),
        Err(error) => tracing::info!(interface = interface.name, %error, "no TCX here; using clsact"),
    }
    filter::attach(program, interface, way.hook()).map(|link| (link, TcReached::Clsact))
}
