//! The control map: what all packets need and no generation owns.

use std::sync::{Arc, Mutex, PoisonError};

use enforcer_common::{
    hash::Key,
    layout::{Control, syn_option},
};

use super::{KernelError, object::Array};

/// The control map and what was last written to it.
#[derive(Clone)]
pub struct ControlBlock(Arc<Mutex<(Array<Control>, Control)>>);

impl ControlBlock {
    /// Writes the sketch's secret, drawn now, and its mask.
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
            syn_options: syn_option::NO_SCALE,
        };
        let block = Self(Arc::new(Mutex::new((map, control))));
        block.set_flag(0, false)?;
        Ok(block)
    }

    /// What is in force.
    #[must_use]
    pub fn current(&self) -> Control {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Says whether the table behind `flag` holds anything.
    ///
    /// # Errors
    /// The map refuses.
    pub fn set_flag(&self, flag: u64, on: bool) -> Result<(), KernelError> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, control) = &mut *guard;
        control.flags = if on {
            control.flags | flag
        } else {
            control.flags & !flag
        };
        map.set(0, *control, 0).map_err(KernelError::map("CONTROL"))
    }

    /// Says what this node's stack takes on in a connection, as `syn_option`s.
    ///
    /// # Errors
    /// The map refuses.
    pub fn set_syn_options(&self, options: u64) -> Result<(), KernelError> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, control) = &mut *guard;
        control.syn_options = options;
        map.set(0, *control, 0).map_err(KernelError::map("CONTROL"))
    }
}
