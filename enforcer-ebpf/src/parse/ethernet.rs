//! Ethernet II, IEEE 802.1Q and 802.1ad.

use enforcer_common::verdict::Reason;

use crate::frame::{Frame, Header};

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;

const VLAN: u16 = 0x8100;
const PROVIDER_VLAN: u16 = 0x88a8;
/// Before 802.1ad was a standard.
const OLD_PROVIDER_VLAN: u16 = 0x9100;

const HEADER: usize = 14;
const TAG: usize = 4;

/// The type of what is carried, and where that begins.
#[inline(always)]
pub fn parse(frame: &Frame) -> Result<(u16, usize), Reason> {
    let mut kind = read(frame, HEADER - 2)?;
    let mut offset = HEADER;
    if is_vlan(kind) {
        kind = read(frame, offset + 2)?;
        offset += TAG;
        if is_vlan(kind) {
            kind = read(frame, offset + 2)?;
            offset += TAG;
        }
    }
    Ok((kind, offset))
}

#[inline(always)]
fn read(frame: &Frame, offset: usize) -> Result<u16, Reason> {
    frame
        .header::<2>(offset)
        .map(Header::be16::<0>)
        .ok_or(Reason::Truncated)
}

#[inline(always)]
fn is_vlan(kind: u16) -> bool {
    matches!(kind, VLAN | PROVIDER_VLAN | OLD_PROVIDER_VLAN)
}
