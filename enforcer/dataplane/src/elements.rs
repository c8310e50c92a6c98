//! Writing the kernel's maps from several threads. The kernel keeps each write whole, so no lock of ours is held: what
//! two threads write to one entry is put in order by [`Turns`](super::turns::Turns).

use std::io;

use aya::{
    Pod,
    maps::{IterableMap, MapError, PerCpuValues},
    sys::SyscallError,
};
use enforcer_supervision::sync::system_call;
use enforcer_sys::bpf;

use super::KernelError;

/// Entries of a map, written and removed by whoever has it.
pub trait Elements<K: Pod, V: Pod>: IterableMap<K, V> + Sized {
    /// Enters or replaces an entry of the map called `name`.
    ///
    /// # Errors
    /// The map is full, has no such place, or the kernel refuses.
    fn put(&self, name: &'static str, key: &K, value: &V) -> Result<(), KernelError> {
        system_call(name);
        bpf::update(self, key, value).map_err(|error| failed(name, "bpf_map_update_elem", error))
    }

    /// Removes an entry of the map called `name`; whether it was there.
    ///
    /// # Errors
    /// The kernel refuses.
    fn remove_if_present(&self, name: &'static str, key: &K) -> Result<bool, KernelError> {
        system_call(name);
        bpf::remove(self, key).map_err(|error| failed(name, "bpf_map_delete_elem", error))
    }
}

impl<K: Pod, V: Pod, M: IterableMap<K, V>> Elements<K, V> for M {}

/// Fills an entry of a map per CPU with zeroes.
///
/// # Errors
/// The map has no such place, or the kernel refuses.
pub fn clear_per_cpu<V: Pod>(
    map: &impl IterableMap<u32, PerCpuValues<V>>,
    name: &'static str,
    place: u32,
    zeroes: &[u64],
) -> Result<(), KernelError> {
    system_call(name);
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| KernelError::Cpus(error))?;
    bpf::clear_per_cpu(map, place, zeroes, cpus).map_err(|error| failed(name, "bpf_map_update_elem", error))
}

fn failed(name: &'static str, call: &'static str, io_error: io::Error) -> KernelError {
    KernelError::map(name)(MapError::SyscallError(SyscallError { call, io_error }))
}
