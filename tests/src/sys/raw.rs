//! Sockets for whole packets: sending frames in bulk, and receiving with the addresses that the stack has seen.

use std::{
    io, iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::check;

/// Messages of one system call.
const MESSAGES: usize = 64;
/// Bytes that are kept of a received packet: enough for an IPv4 header with options, and TCP.
const KEPT: usize = 96;
/// Bytes for what comes beside a packet: two items with an IPv6 address at most.
const BESIDE: usize = 128;
const RECEIVE_BUFFER: libc::c_int = 32 << 20;

/// A packet as a socket has got it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// IPv6's hop limit.
    pub hops: Option<u8>,
    /// Its first bytes: a raw socket's of IPv4 begin with the IP header.
    pub bytes: &'a [u8],
}

/// A socket that sends whole frames by an interface of this thread's network namespace.
pub(crate) fn frame_socket(interface: u32) -> io::Result<OwnedFd> {
    let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    // SAFETY: a `sockaddr_ll` is made of integers, for which zeros are values.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = interface.cast_signed();
    // SAFETY: an open descriptor, and an address of the size that is said.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })?;
    Ok(socket)
}

/// Sends frames in order; how many the kernel has refused.
pub(crate) fn send_frames(socket: &OwnedFd, frames: &[&[u8]]) -> io::Result<usize> {
    let mut refused = 0;
    let mut rest = frames;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(MESSAGES)];
        let mut parts: Vec<libc::iovec> = batch
            .iter()
            .map(|frame| libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts.iter_mut().map(message).collect();
        // SAFETY: each message names one part, which is a frame that outlives the call and is only read.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                0,
            )
        };
        let sent = match usize::try_from(sent) {
            Ok(sent) => sent,
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN) => 0,
                // The first of them is no frame that this interface sends, or a filter on the way out has dropped it.
                Some(libc::EINVAL | libc::EMSGSIZE | libc::ENOBUFS) => {
                    refused += 1;
                    1
                }
                _ => return Err(io::Error::last_os_error()),
            },
        };
        rest = &rest[sent..];
    }
    Ok(refused)
}

/// A device without Ethernet headers, `name`, in this thread's network namespace: each write is a packet that it
/// receives. It is gone with the descriptor.
pub(crate) fn tun(name: &str) -> io::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: an `ifreq` is made of integers, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: an open descriptor, and a request that the call reads and writes.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file.into())
}

/// A socket of the stack: datagrams of UDP, or all of `protocol`. It does not block.
pub(crate) fn stack_socket(ipv4: bool, kind: libc::c_int, protocol: u8) -> io::Result<OwnedFd> {
    let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 };
    let socket = socket(family, kind | libc::SOCK_NONBLOCK, protocol.into())?;
    let set = |level, name, value: libc::c_int| {
        // SAFETY: an open descriptor, and an integer of the size that is said.
        check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        })
    };
    set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
    if ipv4 {
        set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    } else {
        // A raw socket is of one family anyway.
        if kind == libc::SOCK_DGRAM {
            set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        }
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
    }
    Ok(socket)
}

/// Binds a socket of the stack to `port` of all addresses.
pub(crate) fn bind_port(socket: &OwnedFd, ipv4: bool, port: u16) -> io::Result<()> {
    // SAFETY: both are made of integers, for which zeros are values: any address.
    let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    v4.sin_family = libc::AF_INET as libc::sa_family_t;
    v4.sin_port = port.to_be();
    v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    v6.sin6_port = port.to_be();
    let (address, length): (*const libc::sockaddr, usize) = if ipv4 {
        ((&raw const v4).cast(), size_of_val(&v4))
    } else {
        ((&raw const v6).cast(), size_of_val(&v6))
    };
    // SAFETY: an open descriptor, and an address of the size that is said.
    check(unsafe { libc::bind(socket.as_raw_fd(), address, length as libc::socklen_t) })
}

/// Which of `sockets` have something to read, after waiting for `milliseconds` at most.
pub(crate) fn readable<'a>(
    sockets: impl Iterator<Item = &'a OwnedFd>,
    milliseconds: libc::c_int,
) -> io::Result<Vec<usize>> {
    let mut polled: Vec<libc::pollfd> = sockets
        .map(|socket| libc::pollfd {
            fd: socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // SAFETY: the array is ours, of the length that is said, and its descriptors are open.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, milliseconds) };
    if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
        return Err(io::Error::last_os_error());
    }
    Ok((0..polled.len()).filter(|at| polled[*at].revents != 0).collect())
}

/// Takes everything that a socket of the stack holds.
pub(crate) fn receive_all(socket: &OwnedFd, mut each: impl FnMut(Received<'_>)) -> io::Result<()> {
    let mut bytes = vec![[0_u8; KEPT]; MESSAGES];
    // `u64` for the alignment that control messages want.
    let mut beside = vec![[0_u64; BESIDE / 8]; MESSAGES];
    // SAFETY: made of integers, for which zeros are values.
    let mut names: Vec<libc::sockaddr_storage> = vec![unsafe { std::mem::zeroed() }; MESSAGES];
    loop {
        let mut parts: Vec<libc::iovec> = bytes
            .iter_mut()
            .map(|bytes| libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: KEPT,
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = iter::zip(&mut parts, iter::zip(&mut names, &mut beside))
            .map(|(part, (name, beside))| {
                let mut message = message(part);
                message.msg_hdr.msg_name = (&raw mut *name).cast();
                message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                message.msg_hdr.msg_control = beside.as_mut_ptr().cast();
                message.msg_hdr.msg_controllen = BESIDE;
                message
            })
            .collect();
        // SAFETY: each message names buffers of ours with their sizes, which outlive the call.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                MESSAGES as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(got) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(()),
                // What an ICMP error has left on the socket; reading it has cleared it.
                Some(
                    libc::EINTR
                    | libc::ECONNREFUSED
                    | libc::EHOSTUNREACH
                    | libc::ENETUNREACH
                    | libc::EPROTO
                    | libc::EMSGSIZE,
                ) => continue,
                _ => return Err(error),
            }
        };
        for ((message, name), bytes) in messages[..got].iter().zip(&names).zip(&bytes) {
            let (destination, hops) = beside_of(&message.msg_hdr);
            let length = (message.msg_len as usize).min(KEPT);
            if let (Some(source), Some(destination)) = (address_of(name), destination) {
                each(Received {
                    source,
                    destination,
                    hops,
                    bytes: &bytes[..length],
                });
            }
        }
    }
}

fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes and returns numbers.
    let socket = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    check(socket)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// A message of one part, without addresses.
fn message(part: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: made of integers and pointers, for which zeros are values.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = part;
    message.msg_hdr.msg_iovlen = 1;
    message
}

fn address_of(name: &libc::sockaddr_storage) -> Option<IpAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel has written an address of this family.
            let name = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            Some(Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let name = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            Some(Ipv6Addr::from(name.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The destination and the hop limit that came beside a packet.
fn beside_of(header: &libc::msghdr) -> (Option<IpAddr>, Option<u8>) {
    let (mut destination, mut hops) = (None, None);
    // SAFETY: the kernel has written control messages to the buffer that the header names; the macros stay
    // within it. Their data is read unaligned, by the type that level and kind tell.
    unsafe {
        let mut item = libc::CMSG_FIRSTHDR(header);
        while !item.is_null() {
            let data = libc::CMSG_DATA(item);
            match ((*item).cmsg_level, (*item).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    destination = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    hops = u8::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                _ => {}
            }
            item = libc::CMSG_NXTHDR(header, item);
        }
    }
    (destination, hops)
}
