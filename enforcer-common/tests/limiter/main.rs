//! The limiters against exact arithmetic: what they admit, what they refuse, and what they say about it.

mod agreement;
mod arrivals;
mod bounds;
mod clock;
mod conforming;
mod debit;
mod oracle;
mod parameters;
mod queue;
mod retry;
mod shared;
mod sketch;
