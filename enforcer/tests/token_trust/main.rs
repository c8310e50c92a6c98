//! Tokens of an issuer with real keys: which hold, which do not, and where the keys come from.

#[cfg(test)]
mod cache;
#[cfg(test)]
mod hostile_content;
#[cfg(test)]
mod hostile_form;
#[cfg(test)]
mod issuer;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod verification;
