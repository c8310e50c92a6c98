//! Tokens of an issuer with real keys: which hold, which do not, and where the keys come from.

mod cache;
mod hostile_content;
mod hostile_form;
mod issuer;
mod keys;
mod trust;
mod verification;
