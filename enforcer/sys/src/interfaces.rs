//! The network interfaces of this network namespace.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// An interface as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index: never reused for another while it exists.
    pub index: u32,
    /// Its packets begin with the IP header: there is no Ethernet header.
    pub is_bare: bool,
}

/// Types of devices (`ARPHRD_*`, linux/if_arp.h) whose packets begin with the IP header: PPP, IP tunnels of both
/// families, SIT, GRE over both, raw IP, and those that have no type at all (tun, WireGuard).
const BARE: [u16; 8] = [512, 768, 769, 776, 778, 823, 519, 0xfffe];

/// All interfaces, in order of name.
///
/// # Errors
/// The kernel does not say: no file descriptor is left, for example. That is not the same as no interfaces.
pub fn list() -> io::Result<Vec<Interface>> {
    enforcer_supervision::sync::system_call("if_nameindex");
    // SAFETY: the result is null or an array that a zero index closes, freed below.
    let head = unsafe { libc::if_nameindex() };
    if head.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    // Without it a tun device would be taken for one with Ethernet headers, and nothing of it be judged.
    let types = match Types::open() {
        Ok(types) => types,
        Err(error) => {
            // SAFETY: `head` came from `if_nameindex` and is freed once.
            unsafe { libc::if_freenameindex(head) };
            return Err(error);
        }
    };
    let mut entry = head;
    loop {
        // SAFETY: `entry` stays within the array, for the closing entry ends the loop.
        let current = unsafe { &*entry };
        if current.if_index == 0 || current.if_name.is_null() {
            break;
        }
        // SAFETY: names are NUL-terminated strings that live until the array is freed.
        let name = unsafe { CStr::from_ptr(current.if_name) };
        found.push(Interface {
            name: name.to_string_lossy().into_owned(),
            index: current.if_index,
            is_bare: types.of(name).is_some_and(|kind| BARE.contains(&kind)),
        });
        // SAFETY: this was not the closing entry.
        entry = unsafe { entry.add(1) };
    }
    // SAFETY: `head` came from `if_nameindex` and is freed once.
    unsafe { libc::if_freenameindex(head) };
    found.sort();
    Ok(found)
}

/// Asks the kernel what devices are.
struct Types(OwnedFd);

impl Types {
    fn open() -> io::Result<Self> {
        // SAFETY: takes and returns numbers.
        let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(socket) }))
    }

    /// `ARPHRD_*` of a device. `None`: it has gone, or the kernel does not say.
    fn of(&self, name: &CStr) -> Option<u16> {
        // SAFETY: all of `ifreq` is integers, for which zeros are values.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let room = request.ifr_name.len() - 1;
        for (place, byte) in request.ifr_name.iter_mut().zip(name.to_bytes().iter().take(room)) {
            *place = byte.cast_signed();
        }
        // SAFETY: a whole request, which the kernel reads and writes.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) } != 0 {
            return None;
        }
        // SAFETY: the kernel has written this field of the union.
        Some(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
    }
}

/// The names of all interfaces, by index, for showing them: empty if the kernel does not say.
#[must_use]
pub fn names() -> BTreeMap<u32, String> {
    let listed = list().unwrap_or_default();
    listed.into_iter().map(|each| (each.index, each.name)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn loopback_is_listed() {
        assert!(
            super::list()
                .unwrap()
                .iter()
                .any(|interface| interface.name == "lo" && interface.index > 0 && !interface.is_bare)
        );
    }
}
