//! The stack's sockets and its cookies.
//!
//! The third module with `unsafe`: here it is for calls of the kernel's own functions.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_TCP_LISTEN, bpf_sock, xdp_md},
    helpers::generated::{
        bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie,
    },
};

use super::options::Offer;
use crate::{
    answer::{family::Family, word},
    frame::Header,
    parse::tcp,
};

/// The network namespace of the interface.
const THIS_NAMESPACE: u64 = u64::MAX;

/// A cookie's verdict: it holds.
pub const VALID: i64 = 0;
/// It does not (`ENOENT`).
pub const INVALID: i64 = -2;

/// A listening socket that would take the packet, while no connection does. It must be released.
pub struct Listener(*mut bpf_sock);

impl Listener {
    /// Looks for it as the stack would.
    #[inline(always)]
    pub fn of<F: Family>(ctx: *mut xdp_md, ip: F::Header, segment: Header<20>) -> Option<Self> {
        let mut tuple = F::tuple(ip, segment.u32::<0>());
        // SAFETY: the context is valid while the program runs, and the key is as long as said.
        let socket = unsafe {
            bpf_skc_lookup_tcp(
                ctx.cast(),
                tuple.as_mut_ptr().cast(),
                F::TUPLE as u32,
                THIS_NAMESPACE,
                0,
            )
        };
        if socket.is_null() {
            return None;
        }
        let found = Self(socket);
        // SAFETY: the socket is held; the kernel turns the load into one of the socket's own field.
        let state = unsafe { ptr::read_volatile(&raw const (*socket).state) };
        if state != BPF_TCP_LISTEN {
            found.release(0);
            return None;
        }
        Some(found)
    }

    /// A cookie for the SYN. The stack then takes such cookies back at this listener. `None`: it would
    /// not send one itself: its queue is not full and `net.ipv4.tcp_syncookies` is not 2, or the
    /// service does not accept what has already come.
    #[inline(always)]
    pub fn cookie<F: Family>(&self, ip: F::Header, segment: Header<20>, offer: Offer) -> Option<u32> {
        let mss = if offer.mss() == 0 {
            F::LEAST_MSS
        } else {
            offer.mss()
        };
        let [high, low] = mss.to_be_bytes();
        // The SYN without the options that a cookie does not depend on, so that its length is fixed.
        let mut header = [
            segment.u32::<0>(),
            segment.u32::<4>(),
            0,
            word([6 << 4, tcp::SYN, 0, 0]),
            0,
            word([2, 4, high, low]),
        ];
        // SAFETY: the socket is held, and both headers are as long as said.
        let answer = unsafe {
            bpf_tcp_gen_syncookie(
                self.0.cast(),
                F::pointer(ip),
                F::LENGTH as u32,
                header.as_mut_ptr().cast(),
                size_of_val(&header) as u32,
            )
        };
        if answer < 0 { None } else { Some(answer as u32) }
    }

    /// Whether the ACK brings a cookie back: [`VALID`], [`INVALID`], or the stack does not say.
    #[inline(always)]
    pub fn check<F: Family>(&self, ip: F::Header, segment: Header<20>) -> i64 {
        // SAFETY: the socket is held, and both headers are as long as said.
        unsafe {
            bpf_tcp_check_syncookie(
                self.0.cast(),
                F::pointer(ip),
                F::LENGTH as u32,
                segment.pointer(),
                20,
            )
        }
    }

    /// Gives the socket back, and `result` on.
    #[inline(always)]
    pub fn release(self, result: u64) -> u64 {
        // SAFETY: the socket is held, and not used after this.
        unsafe { bpf_sk_release(self.0.cast()) };
        result
    }
}
