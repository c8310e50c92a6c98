//! The dead-man switch: the agent says at intervals that it is there. When it has not for too long, limits
//! that nobody watches lapse to pass, until it is back.

use std::time::Duration;

use enforcer_common::layout::control_flag;

use super::{KernelError, Staying, control::ControlBlock};
use enforcer_supervision::sync::without_waiting;
use enforcer_sys::clock::{after, monotonic_ns};

/// The agent's sign of life.
#[derive(Clone)]
pub struct Heartbeat {
    control: ControlBlock,
    lapse: Option<Duration>,
}

impl Heartbeat {
    /// Beats for the first time.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(control: ControlBlock, staying: &Staying) -> Result<Self, KernelError> {
        control.set_flag(control_flag::DENIALS_LAPSE, !staying.keeps_denials)?;
        control.set_flag(control_flag::COOKIES_HOLD, staying.keeps_cookies)?;
        let lapse = staying.dead_man;
        let heartbeat = Self { control, lapse };
        heartbeat.beat()?;
        Ok(heartbeat)
    }

    /// Says that the agent is there. Waits for nobody's system calls but its own.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn beat(&self) -> Result<(), KernelError> {
        let until = self.lapse.map_or(u64::MAX, |lapse| after(monotonic_ns(), lapse));
        without_waiting(|| self.control.alive_until(until))
    }

    /// How long limits hold without a beat. `None`: for ever.
    #[must_use]
    pub fn lapse(&self) -> Option<Duration> {
        self.lapse
    }
}
