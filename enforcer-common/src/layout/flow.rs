//! Verified connections.

use super::Address;

/// A verified TCP connection, as its packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The peer.
    pub source: Address,
    /// The local end.
    pub destination: Address,
    /// In network byte order.
    pub source_port: u16,
    /// In network byte order.
    pub destination_port: u16,
}

/// Who is behind a verified connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The identity's place among the budgets.
    pub identity: u32,
    /// Zero.
    pub reserved: u32,
}
