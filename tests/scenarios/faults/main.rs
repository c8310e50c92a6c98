//! Faults on purpose: parts of the agent hang or panic, disks do not answer, nobody reads its log. Limits hold, or those
//! who supervise the agent are told within ten seconds; and it comes to an end when it is to.

mod bench;
mod disks;
mod parts;
