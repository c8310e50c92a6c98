//! SYN cookies beside limits about SYNs, and beside shares of sources that were verified recently.

use std::net::IpAddr;

use anyhow::Result;
use enforcer_common::verdict::{Reason, Verdict};
use lab::topology::Neighbour;

use crate::{
    bench::{Bench, NOW, linux, on_a_node},
    segments::{ACK, SEQUENCE, SYN, Segment},
};

fn nodes() -> [IpAddr; 2] {
    [Neighbour::Client.node_ipv4(), Neighbour::Client.node_ipv6()]
}

/// A source that may send no more by its limit is answered out of its share, with a cookie as everybody.
#[test]
fn a_syn_out_of_the_share_is_answered_with_a_cookie() -> Result<()> {
    on_a_node(|| {
        let policy = "  limits: [{per: source, rate: 1/d, burst: 1}]
  verified: {rate: 10/s, recent: {rate: 1/s, burst: 2}}";
        for node in nodes() {
            let mut bench = Bench::new("enforce", policy)?;
            let syn = bench.segment(node, SYN, linux());
            let _ = bench.answer(&syn);
            assert_eq!(bench.arrive(&syn).1, Reason::Limit0);
            bench.offline.recents.saw(syn.client, NOW)?;
            let answer = bench.answer(&syn);
            let proof = Segment {
                sequence: SEQUENCE + 1,
                acknowledged: answer.cookie.wrapping_add(1),
                ..bench.segment(node, ACK, Vec::new())
            };
            assert_eq!(
                bench.arrive(&proof).1,
                Reason::SynCookieValid,
                "the share's second packet"
            );
            let (verdict, reason, _) = bench.arrive(&syn);
            assert_eq!(
                (verdict, reason),
                (Verdict::Drop, Reason::Limit0),
                "it is used up"
            );
        }
        Ok(())
    })
}

/// Under a limit that all share, the ACK that brings a cookie back stands for its SYN.
#[test]
fn a_limit_on_syns_counts_those_that_came_true() -> Result<()> {
    on_a_node(|| {
        let policy = "  limits: [{per: service, traffic: tcp-syn, rate: 1/d, burst: 1}]";
        for node in nodes() {
            let mut bench = Bench::new("enforce", policy)?;
            let syn = bench.segment(node, SYN, linux());
            let mut cookie = 0;
            for _ in 0..5 {
                cookie = bench.answer(&syn).cookie;
            }
            let proof = Segment {
                sequence: SEQUENCE + 1,
                acknowledged: cookie.wrapping_add(1),
                ..bench.segment(node, ACK, Vec::new())
            };
            assert_eq!(bench.arrive(&proof).1, Reason::SynCookieValid);
            assert_eq!(bench.arrive(&proof).1, Reason::Limit0);
        }
        Ok(())
    })
}
