//! The network interfaces of this network namespace.

use std::{collections::BTreeMap, ffi::CStr, io};

/// An interface as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index: never reused for another while it exists.
    pub index: u32,
}

/// All interfaces, in order of name.
///
/// # Errors
/// The kernel does not say: no file descriptor is left, for example. That is not the same as no interfaces.
pub fn list() -> io::Result<Vec<Interface>> {
    crate::sync::system_call("if_nameindex");
    // SAFETY: the result is null or an array that a zero index closes, freed below.
    let head = unsafe { libc::if_nameindex() };
    if head.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
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
        });
        // SAFETY: this was not the closing entry.
        entry = unsafe { entry.add(1) };
    }
    // SAFETY: `head` came from `if_nameindex` and is freed once.
    unsafe { libc::if_freenameindex(head) };
    found.sort();
    Ok(found)
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
                .any(|interface| interface.name == "lo" && interface.index > 0)
        );
    }
}
