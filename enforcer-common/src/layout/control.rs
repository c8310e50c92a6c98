//! What all packets need, and no generation owns.

use crate::hash::Key;

/// The one element of the control map: what all packets need and no generation owns.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Control {
    /// The sketch's secret.
    pub key: Key,
    /// [`control_flag`]s.
    pub flags: u64,
    /// The index of the sketch's last line: a power of two less one.
    pub sketch_mask: u64,
    /// Zero, which the verifier does not know: what it is added to, the verifier knows nothing of. Stages
    /// behind the parser are so looked at once, not once for each kind of packet.
    pub zero: u64,
    /// Until when, in ns of the monotonic clock, the agent counts as alive: it moves this on as long as it
    /// runs. Past it, limits lapse. `u64::MAX`: never.
    pub alive_until_ns: u64,
    /// What this node's stack takes on in a connection, as [`syn_option`]s.
    pub syn_options: u64,
}

/// TCP options as a SYN cookie's timestamp carries them: its low bits tell the stack what the SYN had
/// (`net/ipv4/syncookies.c`).
pub mod syn_option {
    /// Window scale (RFC 7323); [`NO_SCALE`] is none.
    pub const SCALE: u64 = 0x0f;
    /// There is no window scale.
    pub const NO_SCALE: u64 = 0x0f;
    /// Selective acknowledgement (RFC 2018).
    pub const SACK: u64 = 1 << 4;
    /// Timestamps (RFC 7323) that the stack reads back as they were sent. Not part of the timestamp.
    pub const TIMESTAMPS: u64 = 1 << 8;
}

/// Which tables hold anything at all, so that packets skip the others.
pub mod control_flag {
    /// The management list has entries.
    pub const MANAGEMENT: u64 = 1;
    /// Operators have denied somebody.
    pub const OPERATOR: u64 = 1 << 1;
    /// There are verified connections.
    pub const FLOWS: u64 = 1 << 2;
    /// When the agent is gone, deny lists lapse too.
    pub const DENIALS_LAPSE: u64 = 1 << 3;
    /// There are sources that were verified recently.
    pub const RECENTS: u64 = 1 << 4;
    /// The agent has denied somebody for failed authentication.
    pub const AUTOMATIC: u64 = 1 << 5;
    /// Some connections are revoked.
    pub const REVOKED: u64 = 1 << 8;
    /// When the agent is gone, SYNs go on being answered with cookies where they were.
    pub const COOKIES_HOLD: u64 = 1 << 9;
}
