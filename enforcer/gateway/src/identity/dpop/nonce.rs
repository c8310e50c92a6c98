//! Nonces that the gateway gives out (RFC 9449, section 8) without remembering them: each is the keyed
//! hash of its issuer and of the minute that it was made in.

use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// How long the same nonce is given out; it is taken for as long again.
const SLOT: Duration = Duration::from_secs(60);

/// How old a nonce is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    Current,
    /// Taken still; the client should be given a new one.
    Previous,
}

/// The nonce to give out at `now`, since the epoch.
pub(super) fn current(secret: &hmac::Key, issuer: &str, now: Duration) -> String {
    of_slot(secret, issuer, slot(now))
}

/// Whether `nonce` was given out lately; `None` if not.
pub(super) fn judge(secret: &hmac::Key, issuer: &str, nonce: &str, now: Duration) -> Option<Freshness> {
    let slot = slot(now);
    let is_of = |slot| {
        let ours = of_slot(secret, issuer, slot);
        constant_time::verify_slices_are_equal(ours.as_bytes(), nonce.as_bytes()).is_ok()
    };
    if is_of(slot) {
        Some(Freshness::Current)
    } else if slot.checked_sub(1).is_some_and(is_of) {
        Some(Freshness::Previous)
    } else {
        None
    }
}

fn slot(now: Duration) -> u64 {
    now.as_secs() / SLOT.as_secs()
}

fn of_slot(secret: &hmac::Key, issuer: &str, slot: u64) -> String {
    let mut context = hmac::Context::with_key(secret);
    // Apart from what the same key is used for in `replay`.
    context.update(b"nonce");
    context.update(&slot.to_be_bytes());
    context.update(issuer.as_bytes());
    URL_SAFE_NO_PAD.encode(context.sign())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_hold_for_their_minute_and_the_next() {
        let [secret, other] = [1, 2].map(|byte| hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]));
        let at = Duration::from_secs;
        let nonce = current(&secret, "corp", at(600));
        let judge = |issuer, seconds| judge(&secret, issuer, &nonce, at(seconds));
        assert_eq!(judge("corp", 600), Some(Freshness::Current));
        assert_eq!(judge("corp", 659), Some(Freshness::Current));
        assert_eq!(judge("corp", 660), Some(Freshness::Previous));
        assert_eq!(judge("corp", 719), Some(Freshness::Previous));
        assert_eq!(judge("corp", 720), None);
        assert_eq!(judge("corp", 599), None, "of the future");
        assert_eq!(judge("other", 600), None);
        assert_eq!(super::judge(&other, "corp", &nonce, at(600)), None);
        assert_eq!(super::judge(&secret, "corp", "", at(0)), None);
    }
}
