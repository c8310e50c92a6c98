//! The leaky bucket, as a queue: it holds at most `burst` and drains at the constant rate.
//!
//! Two things go by this name. As a *meter* (J. Turner, New Directions in Communications, 1986; ITU-T I.371 annex A,
//! the "continuous-state leaky bucket") it only decides who conforms, and annex A proves that it decides exactly as
//! virtual scheduling does: the bucket's content, in time, is `max(TAT - now, 0)`, it drains as time passes, and
//! the limit is the bucket's capacity. So admission is the token bucket's, bit for bit, and so is its bound on
//! what is admitted: a queue of `burst` units takes that much at once, and then `rate`.
//!
//! As a *queue* (A. Tanenbaum, Computer Networks, "traffic shaping") what is admitted leaves one after the other.
//! That is what this algorithm adds: [`super::Decision::delay_ns`], how long the admitted cost waits behind those before
//! it. Idle time earns nothing: who finds the queue empty leaves at once, and the next not before `cost · period /
//! amount` later. Who waits as told leaves so that in any interval of length `d`
//!
//! `departed <= largest cost + amount · d / period`
//!
//! up to what the rate makes in the 1 ns to which delays are rounded up. No one waits longer than the queue is:
//! `burst · period / amount`. Where nothing can wait (a packet at ingress), the delay is ignored, and the bucket
//! is the meter.

use super::{Params, token_bucket};

/// How long a cost waits that arrives now and is admitted.
#[inline(always)]
pub(super) fn delay_ns(params: &Params, state: u64, now_ns: u64) -> u64 {
    token_bucket::reset_after_ns(params, state, now_ns)
}
