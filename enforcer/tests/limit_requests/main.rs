//! Limits on requests: how much they admit, what they say, and who waits.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod reporting;
#[cfg(test)]
mod sketch;
#[cfg(test)]
mod waiting;
