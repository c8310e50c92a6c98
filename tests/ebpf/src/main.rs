//! The lab's kernel programs: a packet source (`lab_flood`), two sinks (`lab_count` passes,
//! `lab_sink` drops), `lab_drop`, which is a benchmark's floor, and `lab_pass`, which only makes a veth
//! peer accept frames from XDP.
#![no_std]
#![no_main]

mod flood;
mod layout;
mod sink;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Sends one packet of the plan: see [`flood`].
#[xdp]
fn lab_flood(ctx: XdpContext) -> u32 {
    flood::send(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Counts and passes.
#[xdp]
fn lab_count(ctx: XdpContext) -> u32 {
    sink::count(&ctx);
    xdp_action::XDP_PASS
}

/// Counts and drops.
#[xdp]
fn lab_sink(ctx: XdpContext) -> u32 {
    sink::count(&ctx);
    xdp_action::XDP_DROP
}

/// Drops.
#[xdp]
fn lab_drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Passes.
#[xdp]
fn lab_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
