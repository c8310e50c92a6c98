//! Who is behind a request: client certificates, access tokens, and whether they suffice.
//!
//! The way of a request: [`bearer::token`] finds the token, `Trusted::verify_or_refresh`
//! verifies it (most of the time by what the connection remembers or the worker's [`cache::TokenCache`]),
//! `Trusted::prove` checks the proof of one that is bound to a key, [`authorize::authorize`]
//! compares the proofs with the rule, and [`challenge::Challenge`] says what is missing.

pub mod api_key;
pub mod authorize;
pub mod bearer;
pub mod cache;
pub mod challenge;
mod claims;
pub mod condition;
pub mod dpop;
pub mod facts;
pub(crate) mod introspection;
pub mod json;
pub mod jwks;
mod kept;
pub mod key;
pub mod keystore;
pub mod reason;
pub(crate) mod repeated;
pub mod scope;
pub mod source;
pub mod token;
pub(crate) mod trusted;
pub mod verifier;
