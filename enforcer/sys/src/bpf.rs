//! eBPF maps and rings, as far as aya leaves them to system calls and unsafe code of ours.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    ptr,
};

use aya::{
    Pod,
    maps::{IterableMap, MapData, PerCpuValues, RingBuf},
};
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// `f_type` of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Commands of `bpf(2)`.
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

/// Enters or replaces an entry of a map.
///
/// # Errors
/// `bpf_map_update_elem` fails: the map is full, or has no such place.
pub fn update<K: Pod, V: Pod>(map: &impl IterableMap<K, V>, key: &K, value: &V) -> io::Result<()> {
    // SAFETY: aya has compared the sizes of keys and values with the map's when it made this handle, and `Pod` says that
    // all their bytes may be read.
    unsafe {
        command(
            UPDATE,
            map.map(),
            (&raw const *key).cast(),
            (&raw const *value).cast(),
        )
    }
}

/// Removes an entry of a map. Returns whether it was there.
///
/// # Errors
/// `bpf_map_delete_elem` fails.
pub fn remove<K: Pod, V: Pod>(map: &impl IterableMap<K, V>, key: &K) -> io::Result<bool> {
    // SAFETY: as above.
    match unsafe { command(DELETE, map.map(), (&raw const *key).cast(), ptr::null()) } {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Fills an entry of a map per CPU with zeroes. `zeroes` has a value for each of the `cpus`, each at a multiple of eight
/// bytes, as the kernel reads them.
///
/// # Errors
/// `bpf_map_update_elem` fails: the map has no such place.
pub fn clear_per_cpu<V: Pod>(
    map: &impl IterableMap<u32, PerCpuValues<V>>,
    place: u32,
    zeroes: &[u64],
    cpus: usize,
) -> io::Result<()> {
    assert!(size_of_val(zeroes) >= cpus * size_of::<V>().next_multiple_of(8));
    // SAFETY: the key is a word, as that of every such array, and the kernel reads no more zeroes than there are.
    unsafe {
        command(
            UPDATE,
            map.map(),
            (&raw const place).cast(),
            zeroes.as_ptr().cast(),
        )
    }
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

/// Reads a value from the bytes of a ring's entry. `None`: there are more or fewer bytes than it has.
#[must_use]
pub fn value<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: as many bytes as the value has, and `Pod` says that any bytes are one.
    (bytes.len() == size_of::<T>()).then(|| unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// Waits for entries of a ring, within a tokio runtime.
///
/// # Errors
/// `epoll_ctl(2)` fails.
pub fn readable_ring(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the map's descriptor is owned by the ring and closed with it; `as_raw_fd` returns no other.
    let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    registered.map_err(Into::into)
}

/// Waits for lines that kernel programs log, within a tokio runtime.
///
/// # Errors
/// `epoll_ctl(2)` fails.
pub fn readable_log<L: log::Log>(logger: EbpfLogger<L>) -> io::Result<AsyncFd<EbpfLogger<L>>> {
    // SAFETY: the map's descriptor is owned by the logger and closed with it; `as_raw_fd` returns no other.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    registered.map_err(Into::into)
}

/// Whether a path is on a BPF file system.
#[must_use]
pub fn is_bpffs(path: &Path) -> bool {
    // The field's type differs between architectures; the magic number has 32 bits.
    rustix::fs::statfs(path).is_ok_and(|about| about.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}
