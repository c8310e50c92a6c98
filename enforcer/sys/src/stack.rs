//! What this node's stack takes on in a connection, and which addresses are its own.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    ptr,
};

use enforcer_common::layout::{Address, syn_option};

/// `tcpi_options` (`include/uapi/linux/tcp.h`).
const HAS_SACK: u8 = 2;
const HAS_SCALE: u8 = 4;

/// What the stack takes on, as `syn_option`s without timestamps: seen at a connection of the node to
/// itself, for the window scale follows from buffer sizes that not every network namespace shows.
///
/// # Errors
/// There is no such connection.
pub fn options() -> io::Result<u64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let _client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    let info = tcp_info(&server)?;
    let scale = if info.tcpi_options & HAS_SCALE == 0 {
        syn_option::NO_SCALE
    } else {
        // The upper half is the scale of what is received.
        u64::from(info.tcpi_snd_rcv_wscale >> 4)
    };
    let sack = if info.tcpi_options & HAS_SACK == 0 {
        0
    } else {
        syn_option::SACK
    };
    Ok(scale | sack)
}

fn tcp_info(stream: &TcpStream) -> io::Result<libc::tcp_info> {
    // SAFETY: it is made of integers, for which zeros are values.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).unwrap_or(0);
    // SAFETY: the socket is open, and at most `length` bytes are written to `info`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(info)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The addresses of this node's interfaces; none if the kernel does not say.
pub fn addresses() -> BTreeSet<Address> {
    let mut head = ptr::null_mut();
    // SAFETY: the list that it makes is freed below.
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return BTreeSet::new();
    }
    let mut found = BTreeSet::new();
    let mut entry = head;
    while !entry.is_null() {
        // SAFETY: `entry` is part of the list, which lives until it is freed.
        let current = unsafe { &*entry };
        // SAFETY: the address is null or one of its family, and lives as long as the list.
        found.extend(unsafe { address(current.ifa_addr) });
        entry = current.ifa_next;
    }
    // SAFETY: `head` came from `getifaddrs` and is freed once.
    unsafe { libc::freeifaddrs(head) };
    found
}

/// # Safety
/// `socket` is null or points to an address as long as its family's.
unsafe fn address(socket: *const libc::sockaddr) -> Option<Address> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: every address begins with its family.
    match i32::from(unsafe { (*socket).sa_family }) {
        libc::AF_INET => {
            // SAFETY: an address of this family.
            let ipv4 = unsafe { ptr::read_unaligned(socket.cast::<libc::sockaddr_in>()) };
            let bytes = ipv4.sin_addr.s_addr.to_ne_bytes();
            Some(Ipv4Addr::from(bytes).to_ipv6_mapped().octets())
        }
        libc::AF_INET6 => {
            // SAFETY: an address of this family.
            let ipv6 = unsafe { ptr::read_unaligned(socket.cast::<libc::sockaddr_in6>()) };
            Some(Ipv6Addr::from(ipv6.sin6_addr.s6_addr).octets())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_an_own_address() {
        assert!(addresses().contains(&Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets()));
    }

    #[test]
    fn a_stack_scales_as_its_largest_buffer_asks() {
        let sysctl = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap_or_default();
            text.split_whitespace()
                .last()
                .and_then(|last| last.parse::<u64>().ok())
        };
        let largest = sysctl("ipv4/tcp_rmem")
            .unwrap()
            .max(sysctl("core/rmem_max").unwrap_or(0));
        // `tcp_select_initial_window` in net/ipv4/tcp_output.c
        let expected = u64::from(largest.ilog2()).saturating_sub(15).min(14);
        assert_eq!(options().unwrap() & syn_option::SCALE, expected);
    }
}
