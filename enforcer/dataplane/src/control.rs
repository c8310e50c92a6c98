//! The control map: what all packets need and no generation owns.

use std::sync::Arc;

use enforcer_common::{
    hash::Key,
    layout::{Control, control_flag, syn_option},
};

use super::{KernelError, elements::Elements as _, object::Array, turns::Turns};
use enforcer_supervision::sync::{Rank, Ranked};

/// The control map and what it is to hold. Nobody waits for another's writing, the heartbeat least of all.
#[derive(Clone)]
pub struct ControlBlock(Arc<Block>);

struct Block {
    map: Array<Control>,
    state: Ranked<State>,
}

struct State {
    control: Control,
    turns: Turns<()>,
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
        let turns = Turns::default();
        let state = Ranked::new(Rank::Control, State { control, turns });
        Self(Arc::new(Block { map, state }))
    }

    /// What is in force.
    #[must_use]
    pub fn current(&self) -> Control {
        self.0.state.lock().control
    }

    /// Says whether the table behind `flag` holds anything.
    ///
    /// # Errors
    /// The map refuses.
    pub fn set_flag(&self, flag: u64, on: bool) -> Result<(), KernelError> {
        self.follow(flag, || on)
    }

    /// As [`Self::set_flag`], by what `on` says when it is this change's turn: of two that a table's threads make at
    /// once, the later one then knows better.
    ///
    /// # Errors
    /// The map refuses.
    pub fn follow(&self, flag: u64, on: impl FnOnce() -> bool) -> Result<(), KernelError> {
        self.change(|control| {
            control.flags = if on() {
                control.flags | flag
            } else {
                control.flags & !flag
            };
        })
    }

    /// Says until when limits hold without another word of the agent.
    ///
    /// # Errors
    /// The map refuses.
    pub fn alive_until(&self, moment_ns: u64) -> Result<(), KernelError> {
        self.change(|control| control.alive_until_ns = moment_ns)
    }

    fn change(&self, change: impl FnOnce(&mut Control)) -> Result<(), KernelError> {
        let Block { map, state } = &*self.0;
        let mut memory = state.lock();
        change(&mut memory.control);
        let mine = memory.turns.begin(());
        drop(memory);
        if !mine {
            return Ok(());
        }
        loop {
            let control = self.current();
            let written = map.put("CONTROL", &0, &control);
            if !state.lock().turns.again(()) {
                return written;
            }
        }
    }

    /// Says what this node's stack takes on in a connection, as `syn_option`s.
    ///
    /// # Errors
    /// The map refuses.
    pub fn set_syn_options(&self, options: u64) -> Result<(), KernelError> {
        self.change(|control| control.syn_options = options)
    }
}
