//! Ethernet II, IEEE 802.1Q and 802.1ad.

use enforcer_common::verdict::Reason;

use crate::{
    forget::forget,
    frame::{Frame, Header},
};

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;

const VLAN: u16 = 0x8100;
const PROVIDER_VLAN: u16 = 0x88a8;
/// Before 802.1ad was a standard.
const OLD_PROVIDER_VLAN: u16 = 0x9100;

/// Bytes of an Ethernet header.
pub const HEADER: usize = 14;
const TAG: usize = 4;
/// Tags that are looked through. Linux takes off as many as there are, where their number is 0.
const MAX_TAGS: usize = 8;
/// All offsets that tags lead to, and more.
const OFFSET_BITS: u64 = 63;

const _: () = assert!(HEADER + MAX_TAGS * TAG <= OFFSET_BITS as usize);

/// The type behind the Ethernet header, which may be a tag's.
#[inline(always)]
pub fn kind(frame: &Frame) -> Result<u16, Reason> {
    read(frame, HEADER - 2)
}

/// The type of what is carried behind all tags, and where that begins. `zero` is for [`forget`].
#[inline(always)]
pub fn parse(frame: &Frame, zero: u64) -> Result<(u16, usize), Reason> {
    let mut kind = kind(frame)?;
    let mut offset = HEADER;
    for _ in 0..MAX_TAGS {
        if !is_vlan(kind) {
            break;
        }
        kind = read(frame, offset + 2)?;
        offset += TAG;
    }
    if is_vlan(kind) {
        return Err(Reason::VlanTags);
    }
    // What follows is looked at once, not once for each number of tags.
    let kind = forget(u64::from(kind), zero) as u16;
    Ok((kind, (forget(offset as u64, zero) & OFFSET_BITS) as usize))
}

/// What IEEE 802 has for keeping a link working: spanning trees and other 802.2 (a length in place of a type), link
/// aggregation, link layer discovery, and authentication at a port.
#[inline(always)]
pub fn is_link_control(kind: u16) -> bool {
    matches!(kind, 0..=0x05ff | 0x8809 | 0x88cc | 0x888e)
}

/// Whether it may carry IP that the stack unwraps at another device: MPLS, PPPoE, MACsec.
#[inline(always)]
pub fn is_opaque(kind: u16) -> bool {
    matches!(kind, 0x8847 | 0x8848 | 0x8863 | 0x8864 | 0x88e5)
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
