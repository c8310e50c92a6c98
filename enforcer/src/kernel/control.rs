//! The control map: what all packets need and no generation owns.

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use aya::maps::{IterableMap as _, Map, MapData, MapError};
use enforcer_common::{
    hash::Key,
    layout::{Control, control_flag, syn_option},
};

use super::{KernelError, object::Array};

/// The control map and what is to be in it; clones stand for the same.
#[derive(Clone)]
pub struct ControlBlock(Arc<Inner>);

struct Inner {
    /// Held while a value is written, by all writers but the [`Beacon`].
    map: Mutex<Array<Control>>,
    values: Values,
}

/// What is to be in the map. Words of their own, so that the [`Beacon`] waits for no lock.
struct Values {
    /// The fields that never change.
    base: Control,
    flags: AtomicU64,
    alive_until_ns: AtomicU64,
    syn_options: AtomicU64,
    /// Counts changes of flags and options.
    changes: AtomicU64,
    /// Beacons that are writing.
    beating: AtomicUsize,
}

/// Writes until when limits hold, by a descriptor of its own. It takes no lock, so that no other thread of the process
/// can keep it from writing, whatever that one waits for.
pub struct Beacon {
    map: Array<Control>,
    control: ControlBlock,
}

impl Values {
    fn new(control: Control) -> Self {
        Self {
            base: control,
            flags: control.flags.into(),
            alive_until_ns: control.alive_until_ns.into(),
            syn_options: control.syn_options.into(),
            changes: AtomicU64::new(0),
            beating: AtomicUsize::new(0),
        }
    }

    fn control(&self) -> Control {
        Control {
            flags: self.flags.load(Ordering::SeqCst),
            alive_until_ns: self.alive_until_ns.load(Ordering::SeqCst),
            syn_options: self.syn_options.load(Ordering::SeqCst),
            ..self.base
        }
    }
}

impl ControlBlock {
    /// Writes the sketch's secret, drawn now, and its mask. The agent counts as alive for ever, until
    /// [`Self::alive_until`] says otherwise.
    ///
    /// # Errors
    /// The map refuses.
    pub fn new(map: Array<Control>, sketch_lines: u32) -> Result<Self, KernelError> {
        let mut secret = [0; 16];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| KernelError::Randomness)?;
        let [a, b] = [0, 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&secret[at..at + 8]);
            u64::from_ne_bytes(word)
        });
        let control = Control {
            key: Key { k0: a, k1: b },
            flags: 0,
            sketch_mask: u64::from(sketch_lines) - 1,
            zero: 0,
            alive_until_ns: u64::MAX,
            syn_options: syn_option::NO_SCALE,
        };
        let block = Self::over(map, control);
        block.change(|_| {})?;
        Ok(block)
    }

    /// Goes on with what is in the map: with another secret, the sketch would be about nobody. The verified
    /// connections are those of an agent that has ended.
    ///
    /// # Errors
    /// The map refuses.
    pub fn inherited(map: Array<Control>) -> Result<Self, KernelError> {
        let control = map.get(&0, 0).map_err(KernelError::map("CONTROL"))?;
        let block = Self::over(map, control);
        block.set_flag(control_flag::FLOWS, false)?;
        Ok(block)
    }

    fn over(map: Array<Control>, control: Control) -> Self {
        Self(Arc::new(Inner {
            map: Mutex::new(map),
            values: Values::new(control),
        }))
    }

    /// What is in force.
    #[must_use]
    pub fn current(&self) -> Control {
        self.0.values.control()
    }

    /// Says whether the table behind `flag` holds anything.
    ///
    /// # Errors
    /// The map refuses.
    pub fn set_flag(&self, flag: u64, on: bool) -> Result<(), KernelError> {
        self.change(|values| {
            if on {
                values.flags.fetch_or(flag, Ordering::SeqCst);
            } else {
                values.flags.fetch_and(!flag, Ordering::SeqCst);
            }
        })
    }

    /// Says until when limits hold without another word of the agent.
    ///
    /// # Errors
    /// The map refuses.
    pub fn alive_until(&self, moment_ns: u64) -> Result<(), KernelError> {
        self.change(|values| values.alive_until_ns.store(moment_ns, Ordering::SeqCst))
    }

    /// Says what this node's stack takes on in a connection, as `syn_option`s.
    ///
    /// # Errors
    /// The map refuses.
    pub fn set_syn_options(&self, options: u64) -> Result<(), KernelError> {
        self.change(|values| values.syn_options.store(options, Ordering::SeqCst))
    }

    /// For the heartbeat's thread.
    ///
    /// # Errors
    /// There is no file descriptor left.
    pub fn beacon(&self) -> Result<Beacon, KernelError> {
        let failed = KernelError::map("CONTROL");
        let descriptor = self.map().map().fd().as_fd().try_clone_to_owned();
        let map = descriptor
            .map_err(|error| MapError::IoError(error))
            .and_then(MapData::from_fd)
            .and_then(|data| Array::try_from(Map::Array(data)))
            .map_err(failed)?;
        Ok(Beacon {
            map,
            control: self.clone(),
        })
    }

    fn map(&self) -> MutexGuard<'_, Array<Control>> {
        self.0.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&Values)) -> Result<(), KernelError> {
        let values = &self.0.values;
        let mut map = self.map();
        change(values);
        values.changes.fetch_add(1, Ordering::SeqCst);
        loop {
            map.set(0, values.control(), 0)
                .map_err(KernelError::map("CONTROL"))?;
            // A beacon that has begun before the change may write what was. It never waits; so we do.
            if values.beating.load(Ordering::SeqCst) == 0 {
                return Ok(());
            }
            thread::yield_now();
        }
    }
}

impl Beacon {
    /// As [`ControlBlock::alive_until`]. Waits for nobody.
    ///
    /// # Errors
    /// The map refuses.
    pub fn alive_until(&mut self, moment_ns: u64) -> Result<(), KernelError> {
        let values = &self.control.0.values;
        values.alive_until_ns.store(moment_ns, Ordering::SeqCst);
        values.beating.fetch_add(1, Ordering::SeqCst);
        let written = loop {
            let before = values.changes.load(Ordering::SeqCst);
            let written = self.map.set(0, values.control(), 0);
            if written.is_err() || values.changes.load(Ordering::SeqCst) == before {
                break written;
            }
        };
        values.beating.fetch_sub(1, Ordering::SeqCst);
        written.map_err(KernelError::map("CONTROL"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::kernel::{
        EventRate,
        object::{self, Sizes},
    };

    /// In a map of the kernel's. `None`: this is not root.
    fn block() -> Option<ControlBlock> {
        // SAFETY: takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            assert!(
                std::env::var_os("ENFORCER_NO_SKIP").is_none_or(|value| value != "1"),
                "needs root, and ENFORCER_NO_SKIP=1 forbids to skip"
            );
            eprintln!("skipped: needs root");
            return None;
        }
        let sizes = Sizes {
            sketch_lines: 1_024,
            max_flows: 16,
            injected_time: false,
            tick_ns: 0,
            events: EventRate::None,
            debug_log: false,
        };
        let mut ebpf = object::load(sizes).unwrap();
        let map = object::take(&mut ebpf, "CONTROL").unwrap();
        Some(ControlBlock::new(map, 1_024).unwrap())
    }

    #[test]
    fn d1_the_beacon_beats_while_another_thread_hangs_with_the_lock() {
        let Some(block) = block() else { return };
        let mut beacon = block.beacon().unwrap();
        let hung = block.map();
        beacon.alive_until(4_711).unwrap();
        assert_eq!(hung.get(&0, 0).unwrap().alive_until_ns, 4_711);
    }

    /// A beat that has begun before a flag is set must not write the flags of before over it.
    #[test]
    fn what_is_set_is_in_the_map_whatever_the_beacon_does() {
        let Some(block) = block() else { return };
        let (mut beacon, reader) = (block.beacon().unwrap(), block.beacon().unwrap());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for moment in 1.. {
                    beacon.alive_until(moment).unwrap();
                    if done.load(Ordering::Acquire) {
                        break;
                    }
                }
            });
            for round in 0..20_000 {
                let on = round % 2 == 0;
                block.set_flag(control_flag::FLOWS, on).unwrap();
                let flags = reader.map.get(&0, 0).unwrap().flags;
                assert_eq!(flags & control_flag::FLOWS != 0, on, "round {round}");
            }
            done.store(true, Ordering::Release);
        });
    }
}
