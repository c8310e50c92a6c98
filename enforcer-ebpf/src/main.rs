//! Enforcer's kernel half: an XDP program for what arrives and TC programs for what leaves.
//!
//! A packet goes through the stages in one straight line, each a file: parse, lifeline, service,
//! access list, verified flow, SYN defence, limits, reserves, verdict. One exit counts every verdict. Nothing on the way
//! allocates, logs, inserts into a map or loops more than a constant number of times.
#![no_std]
#![no_main]
#![expect(
    internal_features,
    reason = "core's atomics have no compare-and-swap for BPF; the intrinsic has"
)]
#![feature(asm_experimental_arch, core_intrinsics)]

mod access;
mod answer;
mod atomic;
mod clock;
mod egress;
mod events;
mod flow;
mod flow_memory;
mod forget;
mod frame;
mod ingress;
mod interface;
mod lifeline;
mod limits;
mod maps;
mod parse;
mod recent;
mod reset;
mod scratch;
mod service;
mod sketch;
mod syn;
mod udp;
mod verdict;

use self::egress::Side;
use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Decides about what arrives at an interface.
#[xdp]
fn enforcer_xdp(ctx: XdpContext) -> u32 {
    ingress::program(&ctx)
}

/// Measures when the kernel's ticks began, for [`enforcer_xdp`]: the agent runs it before it attaches anything.
#[xdp]
fn enforcer_origin(_ctx: XdpContext) -> u32 {
    clock::measure_origin();
    xdp_action::XDP_PASS
}

/// Decides about what leaves by an interface.
#[classifier]
fn enforcer_tc_egress(ctx: TcContext) -> i32 {
    egress::program(&ctx, Side::Node)
}

/// Decides about what an interface's other end sends: a pod, where the interface is the host's end of its veth.
#[classifier]
fn enforcer_tc_ingress(ctx: TcContext) -> i32 {
    egress::program(&ctx, Side::Pod)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing panics; if something did, this endless loop would not pass the verifier.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
