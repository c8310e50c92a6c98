//! Limits on requests: how much they admit, what they say, and who waits.

mod admission;
mod fixture;
mod keys;
mod reporting;
mod sketch;
mod waiting;
