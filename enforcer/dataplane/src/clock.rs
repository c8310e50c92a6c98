//! The kernel's monotonic clock, by which packets and denials are timed.

use enforcer_sys::clock::tick_ns;
use std::{thread, time::Duration};

use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunOptions},
};

use super::{
    KernelError,
    object::{self, Array},
};

/// How often it is measured when ticks began. The kernel's account of a tick is late by as long as that one was
/// handled late, so the middle one counts.
const MEASUREMENTS: usize = 5;

/// Lets the programs know when ticks began: see `enforcer-ebpf/src/clock.rs`. Takes as long as some ticks.
///
/// # Errors
/// The kernel refuses.
pub fn measure_origin(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let mut clock: Array<u64> = object::take(ebpf, "CLOCK")?;
    let program = object::xdp(ebpf, object::ORIGIN)?;
    let mut origins = [0; MEASUREMENTS];
    for origin in &mut origins {
        program
            .test_run(TestRunOptions {
                // The least that the kernel takes for a frame.
                data_in: Some(&[0; 14]),
                ..TestRunOptions::default()
            })
            .map_err(|error| KernelError::TestRun(Box::new(error)))?;
        *origin = clock.get(&0, 0).map_err(KernelError::map("CLOCK"))?;
        thread::sleep(Duration::from_nanos(tick_ns()));
    }
    // Some lie before zero.
    origins.sort_unstable_by_key(|&origin| origin.cast_signed());
    let [_, _, middle, ..] = origins;
    clock.set(0, middle, 0).map_err(KernelError::map("CLOCK"))
}
