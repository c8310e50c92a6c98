//! How an issuer's tokens are checked, beside their signature and claims.

use std::time::Duration;

use super::duration_within;
use crate::policy::{model::Dpop, raw, yaml::place::Place};

pub(super) fn dpop(raw: raw::Dpop, at: &Place<'_>) -> Dpop {
    let default = Dpop::default();
    let within = duration_within(Duration::from_secs(1), Duration::from_secs(600));
    Dpop {
        required: raw.required.unwrap_or(default.required),
        nonce: raw.nonce.unwrap_or(default.nonce),
        max_age: at
            .optional("maxAge", raw.max_age, within)
            .unwrap_or(default.max_age),
    }
}
