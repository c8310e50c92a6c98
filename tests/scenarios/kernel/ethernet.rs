//! Ethernet: short frames, tags, and what is neither IPv4 nor IPv6.

use enforcer_common::verdict::Reason;
use lab::frame::layers::{TYPE_IPV4, TYPE_IPV6, ethernet, tcp};

use crate::{
    packets::{ACK, TCP, v4, v6},
    rig::{Case, check_both},
};

/// The policy denies both clients: whatever is understood as their packet says so.
const DENY: &str = "  deny: [192.0.2.0/24, \"2001:db8:1::/48\"]";

const CUSTOMER: u16 = 0x8100;
const PROVIDER: u16 = 0x88a8;
const OLD_PROVIDER: u16 = 0x9100;

fn tagged(tags: &[u16]) -> [Vec<u8>; 2] {
    let segment = tcp(1, 443, 5, ACK);
    [
        ethernet(tags, TYPE_IPV4, &v4(TCP).packet(&segment)),
        ethernet(tags, TYPE_IPV6, &v6(TCP).packet(&segment)),
    ]
}

#[test]
fn tags() {
    let tables: [(&str, &[u16], Reason); 11] = [
        ("no tag", &[], Reason::Denied),
        ("802.1Q", &[CUSTOMER], Reason::Denied),
        ("802.1ad alone", &[PROVIDER], Reason::Denied),
        ("0x9100 alone", &[OLD_PROVIDER], Reason::Denied),
        ("802.1Q twice", &[CUSTOMER, CUSTOMER], Reason::Denied),
        ("802.1ad and 802.1Q", &[PROVIDER, CUSTOMER], Reason::Denied),
        ("0x9100 and 802.1Q", &[OLD_PROVIDER, CUSTOMER], Reason::Denied),
        ("802.1ad twice", &[PROVIDER, PROVIDER], Reason::Denied),
        ("802.1Q around 802.1ad", &[CUSTOMER, PROVIDER], Reason::Denied),
        ("eight tags", &[CUSTOMER; 8], Reason::Denied),
        (
            "nine tags are not looked through, and do not pass",
            &[CUSTOMER; 9],
            Reason::VlanTags,
        ),
    ];
    check_both("p", DENY, || {
        let case = |(description, tags, reason): (_, &[u16], Reason)| {
            tagged(tags).map(|frame| Case::arrives(description, frame, reason, "p"))
        };
        tables.into_iter().flat_map(case).collect()
    });
}

#[test]
fn short_frames() {
    check_both("p", DENY, || {
        let cut = |frame: &[u8], length: usize| frame[..length].to_vec();
        let [one, two] = [tagged(&[CUSTOMER]), tagged(&[PROVIDER, CUSTOMER])];
        let [one, two] = [&one[0], &two[1]];
        vec![
            Case::arrives("a tag's type alone", cut(one, 14), Reason::Truncated, "p"),
            Case::arrives(
                "a tag without the inner type",
                cut(one, 16),
                Reason::Truncated,
                "p",
            ),
            Case::arrives("half of the inner type", cut(one, 17), Reason::Truncated, "p"),
            Case::arrives(
                "a tagged type and no packet",
                cut(one, 18),
                Reason::Truncated,
                "p",
            ),
            Case::arrives("a second tag cut off", cut(two, 20), Reason::Truncated, "p"),
            Case::arrives("two tags and no packet", cut(two, 22), Reason::Truncated, "p"),
            Case::arrives(
                "IPv4's type alone",
                ethernet(&[], TYPE_IPV4, &[]),
                Reason::Truncated,
                "p",
            ),
            Case::arrives(
                "IPv6's type alone",
                ethernet(&[], TYPE_IPV6, &[]),
                Reason::Truncated,
                "p",
            ),
        ]
    });
}

#[test]
fn other_types() {
    let types: [(&str, u16, Reason); 14] = [
        ("ARP", 0x0806, Reason::Lifeline),
        ("LLDP", 0x88cc, Reason::NotIp),
        ("EAPOL", 0x888e, Reason::NotIp),
        ("MPLS", 0x8847, Reason::Opaque),
        ("MPLS multicast", 0x8848, Reason::Opaque),
        ("PPPoE discovery", 0x8863, Reason::Opaque),
        ("PPPoE", 0x8864, Reason::Opaque),
        ("MACsec", 0x88e5, Reason::Opaque),
        ("link aggregation", 0x8809, Reason::NotIp),
        ("the time", 0x88f7, Reason::NotIp),
        ("reverse ARP", 0x8035, Reason::NotIp),
        ("an 802.3 length", 46, Reason::NotIp),
        ("IPX", 0x8137, Reason::NotIp),
        ("nothing at all", 0, Reason::NotIp),
    ];
    check_both("p", DENY, || {
        let case = |(description, kind, reason)| {
            [
                Case::arrives(description, ethernet(&[], kind, &[0; 46]), reason, None),
                Case::arrives(description, ethernet(&[CUSTOMER], kind, &[0; 46]), reason, None),
                Case::arrives(description, ethernet(&[], kind, &[]), reason, None),
                Case::leaves(description, ethernet(&[], kind, &[0; 46]), reason, None),
            ]
        };
        types.into_iter().flat_map(case).collect()
    });
}
