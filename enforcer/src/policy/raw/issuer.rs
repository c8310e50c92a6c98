//! The parts of an `Issuer`.

use serde::Deserialize;

use super::Duration;

/// `dpop`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Dpop {
    pub(crate) required: Option<bool>,
    pub(crate) nonce: Option<bool>,
    pub(crate) max_age: Option<Duration>,
}
