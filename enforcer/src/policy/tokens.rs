//! How an issuer's tokens are checked, beside their signature and claims.

use std::time::Duration;

/// Proofs of possession (DPoP, RFC 9449). A token that is bound to a key (`cnf.jkt`) needs its proof
/// whatever this says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpop {
    /// Whether tokens that are bound to no key are refused.
    pub required: bool,
    /// Whether proofs must have a nonce of the gateway (RFC 9449, section 8).
    pub nonce: bool,
    /// How long after its `iat` a proof may be used, once.
    pub max_age: Duration,
}

impl Default for Dpop {
    fn default() -> Self {
        Self {
            required: false,
            nonce: false,
            max_age: Duration::from_secs(60),
        }
    }
}
