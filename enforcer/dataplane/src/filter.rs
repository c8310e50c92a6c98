//! A TC program as a filter of a clsact qdisc: what kernels without TCX have. A filter needs no pin, for
//! it stays until it is removed.

use aya::programs::{
    SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle},
};

use super::{
    KernelError,
    object::{TC_EGRESS, TC_INGRESS},
};
use enforcer_sys::interfaces::Interface;

/// Where our filter is among those of clsact: the priority that the kernel gives to the first, and a handle
/// that nobody else is likely to have. So the next agent replaces it, rather than adding another.
const FILTER: NlOptions = NlOptions {
    priority: 49_152,
    handle: TcHandle::new(0, 0xe4f0),
    classid: None,
};

/// Puts our filter into the interface's clsact, or replaces the one of an earlier agent.
///
/// # Errors
/// The kernel refuses.
pub fn attach(
    program: &mut SchedClassifier,
    interface: &Interface,
    way: TcAttachType,
) -> Result<SchedClassifierLinkId, KernelError> {
    // Fails where there is a clsact already, which serves as well.
    if let Err(error) = tc::qdisc_add_clsact(&interface.name) {
        tracing::debug!(interface = interface.name, %error, "clsact not added");
    }
    let NlOptions {
        priority,
        handle,
        classid,
    } = FILTER;
    let earlier = SchedClassifierLink::attached(&interface.name, way, priority, handle, classid);
    if let Ok(link) = earlier.map(|earlier| program.attach_to_link(earlier))
        && let Ok(link) = link
    {
        return Ok(link);
    }
    program
        .attach_with_options(&interface.name, way, TcAttachOptions::Netlink(FILTER))
        .map_err(KernelError::attach(interface, "TC"))
}

/// Removes our filter for one way from an interface's clsact, whoever has put it there; whether there was one.
pub fn remove(interface: &Interface, way: TcAttachType) -> bool {
    let program = match way {
        TcAttachType::Ingress => TC_INGRESS,
        _ => TC_EGRESS,
    };
    tc::qdisc_detach_program(&interface.name, way, program).is_ok()
}

/// Removes our filters for both ways; whether there were any.
pub fn remove_all(interface: &Interface) -> bool {
    let egress = remove(interface, TcAttachType::Egress);
    remove(interface, TcAttachType::Ingress) || egress
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use aya::programs::links::FdLink;

    use super::*;
    use crate::{
        EventRate,
        object::{self, Sizes},
    };

    /// The kernel before 6.6 has no TCX; the filter is tried here by itself.
    #[test]
    fn the_next_agent_replaces_the_filter_of_the_one_before() {
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("ENFORCER_NO_SKIP").is_none_or(|value| value != "1"),
                "needs root, and ENFORCER_NO_SKIP=1 forbids to skip"
            );
            eprintln!("skipped: needs root");
            return;
        }
        std::thread::spawn(|| {
            enforcer_sys::process::enter_new_network().unwrap();
            let loopback = Interface {
                name: "lo".to_owned(),
                index: 1,
                is_bare: false,
            };
            let sizes = Sizes {
                sketch_lines: 1_024,
                max_flows: 16,
                injected_time: false,
                tick_ns: 0,
                events: EventRate::None,
                debug_log: false,
            };
            for _ in 0..2 {
                let mut ebpf = object::load(sizes).unwrap();
                let program = object::tc(&mut ebpf, TC_EGRESS).unwrap();
                let link = attach(program, &loopback, TcAttachType::Egress).unwrap();
                let link = program.take_link(link).unwrap();
                assert!(FdLink::try_from(link).is_err(), "a filter is no link, and stays");
                let id = program.info().unwrap().id();
                assert_eq!(filters(), [u64::from(id)]);
            }
            assert_eq!(filters().len(), 1, "it stays without the agent");
            assert!(remove_all(&loopback));
            assert_eq!(filters(), [0; 0]);
        })
        .join()
        .unwrap();
    }

    /// The programs of the loopback's egress filters.
    fn filters() -> Vec<u64> {
        let output = Command::new("tc")
            .args(["-json", "filter", "show", "dev", "lo", "egress"])
            .output()
            .unwrap();
        let filters: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let programs = filters.iter().map(|filter| &filter["options"]["prog"]["id"]);
        programs.filter_map(serde_json::Value::as_u64).collect()
    }
}
