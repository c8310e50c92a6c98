//! Writing the kernel's maps from several threads. The kernel keeps each write whole, so no lock of ours is held: what
//! two threads write to one entry is put in order by [`Turns`](super::turns::Turns).

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{
    Pod,
    maps::{IterableMap, MapData, MapError},
    sys::SyscallError,
};

use super::KernelError;
use crate::sync::system_call;

/// `bpf(2)`'s commands.
const UPDATE: libc::c_int = 2;
const DELETE: libc::c_int = 3;

/// What both commands read: an entry of `union bpf_attr`.
#[repr(C)]
struct Element {
    map: u32,
    // The kernel refuses a size that ends in anything but zeroes, so there is no padding that nobody has written.
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Entries of a map, written and removed by whoever has it.
pub trait Elements<K: Pod, V: Pod>: IterableMap<K, V> {
    /// Enters or replaces an entry of the map called `name`.
    ///
    /// # Errors
    /// The map is full, has no such place, or the kernel refuses.
    fn put(&self, name: &'static str, key: &K, value: &V) -> Result<(), KernelError> {
        system_call(name);
        // SAFETY: aya has compared the sizes of keys and values with the map's when it made this handle, and `Pod` says
        // that all their bytes may be read.
        unsafe { update(self.map(), (&raw const *key).cast(), (&raw const *value).cast()) }
            .map_err(|error| failed(name, "bpf_map_update_elem", error))
    }

    /// Removes an entry of the map called `name`; whether it was there.
    ///
    /// # Errors
    /// The kernel refuses.
    fn remove_if_present(&self, name: &'static str, key: &K) -> Result<bool, KernelError> {
        system_call(name);
        // SAFETY: as above.
        let removed = unsafe { command(DELETE, self.map(), (&raw const *key).cast(), std::ptr::null()) };
        match removed {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(failed(name, "bpf_map_delete_elem", error)),
        }
    }
}

impl<K: Pod, V: Pod, M: IterableMap<K, V>> Elements<K, V> for M {}

/// Fills an entry of a map per CPU with zeroes.
///
/// # Errors
/// The map has no such place, or the kernel refuses.
pub fn clear_per_cpu<V: Pod>(
    map: &impl IterableMap<u32, aya::maps::PerCpuValues<V>>,
    name: &'static str,
    place: u32,
    zeroes: &[u64],
) -> Result<(), KernelError> {
    system_call(name);
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| KernelError::Cpus(error))?;
    assert!(
        size_of_val(zeroes) >= cpus * size_of::<V>().next_multiple_of(8),
        "a value for each CPU, each at a multiple of eight bytes, is what the kernel reads"
    );
    // SAFETY: the key is a word, as that of every such array, and the kernel reads no more zeroes than there are.
    unsafe { update(map.map(), (&raw const place).cast(), zeroes.as_ptr().cast()) }
        .map_err(|error| failed(name, "bpf_map_update_elem", error))
}

/// # Safety
/// `key` and `value` can be read for as many bytes as the map's keys and values have.
unsafe fn update(map: &MapData, key: *const u8, value: *const u8) -> io::Result<()> {
    // SAFETY: as for this function.
    unsafe { command(UPDATE, map, key, value) }
}

/// # Safety
/// `key` can be read for as many bytes as the map's keys have, and so can `value` if the command reads one.
unsafe fn command(command: libc::c_int, map: &MapData, key: *const u8, value: *const u8) -> io::Result<()> {
    let element = Element {
        map: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        zero: 0,
        key: key as u64,
        value: value as u64,
        flags: 0,
    };
    // SAFETY: the attribute is as long as is said, and what it points to can be read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const element,
            size_of::<Element>() as libc::c_uint,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn failed(name: &'static str, call: &'static str, io_error: io::Error) -> KernelError {
    KernelError::map(name)(MapError::SyscallError(SyscallError { call, io_error }))
}
