//! The system calls that the standard library lacks. All of the lab's unsafe code is here.
#![expect(
    unsafe_code,
    reason = "system calls and the kernel's memory layouts have no safe form in std"
)]

pub(crate) mod raw;

use std::{
    io,
    net::UdpSocket,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
};

use crate::kernel::Plan;

// SAFETY: `repr(C)`, integers only, no padding (its size is asserted beside its definition), and
// any bytes are a valid value.
unsafe impl aya::Pod for Plan {}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Moves this thread into a network namespace.
pub(crate) fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an open descriptor and a flag; only this thread's network namespace changes.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Lets `command` start its process in `namespace`, and end with the thread that starts it.
pub(crate) fn confine(command: &mut Command, namespace: OwnedFd) {
    let before_exec = move || {
        // SAFETY: as in `enter_network`; both calls are async-signal-safe and allocate nothing.
        unsafe {
            check(libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET))?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM))
        }
    };
    // SAFETY: the closure makes two system calls and touches no lock and no memory of the parent
    // but the descriptor that it owns.
    unsafe { command.pre_exec(before_exec) };
}

/// Sends `signal` to the process `pid`.
pub(crate) fn send_signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: integers only. `pid` is positive, so that no process group is meant.
    check(unsafe { libc::kill(pid, signal) })
}

/// Keeps this thread on one processor.
pub(crate) fn stay_on(processor: usize) -> io::Result<()> {
    // SAFETY: a `cpu_set_t` of zeros is the empty set; `CPU_SET` ignores processors beyond its
    // size; the call reads the set and no more.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        check(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set))
    }
}

/// Processor time that this thread has had, in nanoseconds. It includes the packets that the kernel
/// receives on the thread's time.
pub(crate) fn thread_time_ns() -> io::Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours.
    check(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) })?;
    Ok(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

/// Puts this thread before all that are scheduled fairly.
pub(crate) fn go_first() -> io::Result<()> {
    // SAFETY: integers only; `0` is the calling thread.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) })
}

/// Sets a socket's receive buffer, beyond what the system allows to others.
pub(crate) fn force_receive_buffer(socket: &UdpSocket, bytes: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&bytes)).map_err(io::Error::other)?;
    // SAFETY: an open descriptor and an integer of the size that is said.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size,
        )
    })
}

/// What the kernel knows of a TCP connection.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    // SAFETY: a `tcp_info` is made of integers, for which zeros are values; the call writes at most
    // `length` bytes to it.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        check(libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        ))?;
        Ok(info)
    }
}

/// A socket that sends echo requests and gets their replies (icmp(7)), where `net.ipv4.ping_group_range` admits
/// this process.
pub(crate) fn ping_socket(ipv4: bool) -> io::Result<UdpSocket> {
    let (family, protocol) = if ipv4 {
        (libc::AF_INET, libc::IPPROTO_ICMP)
    } else {
        (libc::AF_INET6, libc::IPPROTO_ICMPV6)
    };
    // SAFETY: takes and returns numbers.
    let socket = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) };
    check(socket)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { UdpSocket::from_raw_fd(socket) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
