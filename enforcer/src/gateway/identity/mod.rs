//! Who is behind a request: client certificates, access tokens, and whether they suffice.

pub mod certificate;
pub mod jwks;
pub mod json;
pub mod key;
pub mod spiffe;
