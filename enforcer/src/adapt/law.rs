//! How a policy's state follows from what is observed, and its limits from its state. Pure, so that it
//! can be tested and explained.
//!
//! Limits fall fast and rise slowly (additive increase, multiplicative decrease: Chiu and Jain, 1989),
//! and a state is left only after it has not been true for a while.

use std::fmt;

/// How things stand with what a policy protects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing unusual.
    #[default]
    Calm,
    /// Services answer slower than they should, or a notable part of what arrives is over its limits.
    Pressure,
    /// Most of what arrives is over its limits.
    Attack,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Calm, Self::Pressure, Self::Attack];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Pressure => "pressure",
            Self::Attack => "attack",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was seen of a policy in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observation {
    /// Packets per second that arrived.
    pub arrived: f64,
    /// Packets per second over a limit: dropped, or in shadow counted as such.
    pub over: f64,
    /// What services usually took for requests that came under the policy, in seconds, if there were any.
    pub latency: Option<f64>,
    /// What latency should stay below, in seconds.
    pub target: f64,
}

/// Below this many packets per second over their limits, nobody is attacking.
const NOISE: f64 = 100.0;
/// The part of arrivals over their limits that makes an attack.
const ATTACK_SHARE: f64 = 0.5;
/// The part that makes pressure.
const PRESSURE_SHARE: f64 = 0.1;
/// Intervals for which a worse state must no longer be true before it is left.
const PATIENCE: u32 = 5;
/// What a limit is multiplied with in each interval that it falls.
const FALL: f64 = 0.7;
/// The part of the range between floor and rate that it rises by in each calm interval.
const RISE: f64 = 0.1;

/// A policy's state, with its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regulator {
    state: State,
    /// Intervals in which a better state was observed.
    better_for: u32,
}

/// What an interval has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state now.
    pub state: State,
    /// Which way limits move, and why.
    pub cause: Cause,
}

/// Why limits move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Down: services are slower than their target.
    Latency,
    /// Down: most of what arrives is over its limits.
    Flood,
    /// Not at all: something is wrong, and not getting worse.
    Hold,
    /// Up.
    Calm,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latency => "a service is slower than its target",
            Self::Flood => "most packets that arrive are over their limits",
            Self::Hold => "holding until it has been calm for a while",
            Self::Calm => "calm",
        })
    }
}

impl Regulator {
    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes in what was seen in one interval.
    pub fn observe(&mut self, seen: &Observation) -> Step {
        let slow = seen.latency.is_some_and(|latency| latency > seen.target);
        let share = if seen.arrived > 0.0 {
            seen.over / seen.arrived
        } else {
            0.0
        };
        let flood = seen.over > NOISE && share >= ATTACK_SHARE;
        let apparent = if flood {
            State::Attack
        } else if slow || (seen.over > NOISE && share >= PRESSURE_SHARE) {
            State::Pressure
        } else {
            State::Calm
        };
        if apparent >= self.state {
            self.state = apparent;
            self.better_for = 0;
        } else {
            self.better_for += 1;
            if self.better_for >= PATIENCE {
                self.state = apparent;
                self.better_for = 0;
            }
        }
        let cause = if slow {
            Cause::Latency
        } else if flood {
            Cause::Flood
        } else if self.state == State::Calm {
            Cause::Calm
        } else {
            Cause::Hold
        };
        Step {
            state: self.state,
            cause,
        }
    }
}

/// The next rate of a limit between `floor` and `rate`, all per second.
#[must_use]
pub fn next_rate(now: f64, floor: f64, rate: f64, cause: Cause) -> f64 {
    let next = match cause {
        Cause::Latency | Cause::Flood => now * FALL,
        Cause::Hold => now,
        Cause::Calm => now + (rate - floor) * RISE,
    };
    next.clamp(floor.min(rate), rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: f64 = 0.25;

    fn quiet() -> Observation {
        Observation {
            arrived: 1_000.0,
            over: 0.0,
            latency: Some(0.01),
            target: TARGET,
        }
    }

    fn flood() -> Observation {
        Observation {
            arrived: 100_000.0,
            over: 90_000.0,
            latency: Some(0.01),
            target: TARGET,
        }
    }

    fn slow() -> Observation {
        Observation {
            latency: Some(1.0),
            ..quiet()
        }
    }

    #[test]
    fn a_flood_is_an_attack_at_once() {
        let mut regulator = Regulator::default();
        assert_eq!(
            regulator.observe(&flood()),
            Step {
                state: State::Attack,
                cause: Cause::Flood
            }
        );
    }

    #[test]
    fn an_attack_is_over_only_after_a_while() {
        let mut regulator = Regulator::default();
        let _ = regulator.observe(&flood());
        for _ in 1..PATIENCE {
            assert_eq!(
                regulator.observe(&quiet()),
                Step {
                    state: State::Attack,
                    cause: Cause::Hold
                }
            );
        }
        assert_eq!(
            regulator.observe(&quiet()),
            Step {
                state: State::Calm,
                cause: Cause::Calm
            }
        );
    }

    #[test]
    fn a_relapse_begins_the_wait_anew() {
        let mut regulator = Regulator::default();
        let _ = regulator.observe(&slow());
        for _ in 1..PATIENCE {
            let _ = regulator.observe(&quiet());
        }
        assert_eq!(regulator.observe(&slow()).state, State::Pressure);
        assert_eq!(regulator.observe(&quiet()).state, State::Pressure);
    }

    #[test]
    fn a_slow_service_is_pressure() {
        let mut regulator = Regulator::default();
        assert_eq!(
            regulator.observe(&slow()),
            Step {
                state: State::Pressure,
                cause: Cause::Latency
            }
        );
    }

    #[test]
    fn a_few_packets_over_are_noise() {
        let mut regulator = Regulator::default();
        let seen = Observation {
            arrived: 60.0,
            over: 50.0,
            ..quiet()
        };
        assert_eq!(regulator.observe(&seen).state, State::Calm);
    }

    #[test]
    fn rates_stay_between_floor_and_rate() {
        let mut rate = 20_000.0;
        for _ in 0..100 {
            rate = next_rate(rate, 2_000.0, 20_000.0, Cause::Flood);
            assert!((2_000.0..=20_000.0).contains(&rate));
        }
        assert!((rate - 2_000.0).abs() < f64::EPSILON);
        assert!((next_rate(rate, 2_000.0, 20_000.0, Cause::Hold) - rate).abs() < f64::EPSILON);
        for _ in 0..10 {
            rate = next_rate(rate, 2_000.0, 20_000.0, Cause::Calm);
        }
        assert!(
            (rate - 20_000.0).abs() < 1.0,
            "ten calm intervals bring all of it back: {rate}"
        );
    }
}
