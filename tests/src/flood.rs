//! Floods inside the lab: millions of packets a second from one thread, from one source or millions,
//! bounded in count and time.
//!
//! The kernel runs `lab_flood` on live frames, which leave by a veth without a socket, a copy or a
//! queue in between.

use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};

use crate::{
    frame::{self, ETHERNET, IPV4, IPV6, Link, Payload},
    interface, kernel,
    kernel::{CHECKSUM_ICMPV6, CHECKSUM_NONE, CHECKSUM_TCP, CHECKSUM_UDP, HEADER_V4, HEADER_V6, Plan},
    netns::Namespace,
    sys,
};

/// No flood lasts longer than this.
pub const LONGEST: Duration = Duration::from_secs(60);

const PROGRAM: &str = "lab_flood";
/// The index that every namespace's loopback has.
const LOOPBACK: u32 = 1;

/// Frames that the kernel sends before it looks for other work.
const BATCH: u32 = 64;
/// How often a throttled flood sends. Each run sets up a pool of pages, so not too often.
const TICK: Duration = Duration::from_millis(5);
/// The most that one run sends, so that a flood notices that it is to stop.
const MOST_PER_RUN: u64 = 65_536;

/// A flood to send.
#[derive(Clone, Debug)]
pub struct Flood {
    /// The interface that the packets leave by.
    pub interface: String,
    pub link: Link,
    /// IPv4: the first source address. IPv6: the first; each further source is in the next /64, counted
    /// in the address's bytes 4 to 7.
    pub first_source: IpAddr,
    /// How many sources take turns, one packet each.
    pub sources: NonZeroU32,
    /// The first source port and how many take turns. Left out for ICMP.
    pub source_ports: (u16, NonZeroU16),
    pub target: SocketAddr,
    pub payload: Payload,
    /// How many packets at most.
    pub packets: u64,
    /// How long at most; never above [`LONGEST`].
    pub duration: Duration,
    /// Packets per second; `None` sends as fast as one processor can.
    pub rate: Option<NonZeroU32>,
    /// Sends before any other work of the machine, as packets from outside do not wait for the node's
    /// scheduler either. To be used with a rate.
    pub first: bool,
    /// The processor that sends; `None` leaves it to the scheduler. The receiving side of a veth works
    /// on the sender's processor.
    pub processor: Option<usize>,
}

/// What a flood has sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    /// Handed to the interface; its peer counts what it lost of them.
    pub packets: u64,
    pub elapsed: Duration,
}

/// A flood under way. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Sent>>>,
}

impl Flood {
    /// Sends the flood from a thread in `namespace`.
    ///
    /// # Errors
    /// If the flood contradicts itself, the interface is missing or the kernel refuses the program.
    pub fn start(self, namespace: &Namespace) -> Result<Running> {
        let frame = self.frame()?;
        let plan = self.plan(&frame, interface::index(namespace, &self.interface)?);
        let mut programs = kernel::load()?;
        prepare(&mut programs, &[plan])?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let namespace = namespace.clone();
        let thread = std::thread::Builder::new()
            .name("flood".to_owned())
            .spawn(move || {
                let _entered = namespace.enter()?;
                if let Some(processor) = self.processor {
                    sys::stay_on(processor)
                        .with_context(|| format!("the flood cannot stay on processor {processor}"))?;
                }
                if self.first {
                    sys::go_first().context("the flood cannot raise its priority")?;
                }
                self.send(&programs, &frame, &stopped)
            })?;
        Ok(Running {
            stop,
            thread: Some(thread),
        })
    }

    /// Sends runs of `run_packets` each, of this flood and `other` in turn if there is one; packets and
    /// processor time of each run.
    ///
    /// Time that the processor spends on others is not counted, which the clock on the wall would: so the
    /// rate is that of the work itself, however busy the machine is.
    ///
    /// # Errors
    /// If the flood contradicts itself, the frames are not of one length, or the kernel refuses.
    pub fn metered(
        &self,
        other: Option<&Self>,
        namespace: &Namespace,
        run_packets: u32,
    ) -> Result<Vec<(u64, Duration)>> {
        let frame = self.frame()?;
        let interface = interface::index(namespace, &self.interface)?;
        let mut plans = vec![self.plan(&frame, interface)];
        if let Some(other) = other {
            let second = other.frame()?;
            if second.len() != frame.len() {
                let (a, b) = (frame.len(), second.len());
                bail!("frames of {a} and {b} bytes cannot take turns: pad the shorter payload");
            }
            plans[0].alternates = 1;
            plans.push(other.plan(&second, interface));
        }
        let mut programs = kernel::load()?;
        prepare(&mut programs, &plans)?;
        namespace.run(|| {
            if let Some(processor) = self.processor {
                sys::stay_on(processor)
                    .with_context(|| format!("the flood cannot stay on processor {processor}"))?;
            }
            let program = kernel::loaded(&programs, PROGRAM)?;
            let started = Instant::now();
            let (mut runs, mut sent) = (Vec::new(), 0);
            while sent < self.packets && started.elapsed() < self.duration.min(LONGEST) {
                let before = sys::thread_time_ns()?;
                run(program, &frame, run_packets)?;
                let spent = Duration::from_nanos(sys::thread_time_ns()? - before);
                let total = sent_so_far(&programs)?;
                runs.push((total - sent, spent));
                sent = total;
            }
            Ok(runs)
        })
    }

    /// The first `count` frames, written by the program as it would send them, but not sent.
    ///
    /// # Errors
    /// If the flood contradicts itself or the kernel refuses the program.
    pub fn preview(&self, count: usize) -> Result<Vec<Vec<u8>>> {
        let frame = self.frame()?;
        let mut programs = kernel::load()?;
        prepare(&mut programs, &[self.plan(&frame, LOOPBACK)])?;
        let program = kernel::loaded(&programs, PROGRAM)?;
        (0..count)
            .map(|_| {
                let mut written = vec![0; frame.len()];
                let mut options = TestRunOptions::new();
                options.data_in = Some(&frame);
                options.data_out = Some(&mut written);
                program
                    .test_run(options)
                    .context("the kernel refuses to run the flood's program")?;
                Ok(written)
            })
            .collect()
    }

    /// The frame as the first source sends it, padded to what the program writes.
    ///
    /// # Errors
    /// If source and target are of different families or the payload is too long.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let from = SocketAddr::new(self.first_source, self.source_ports.0);
        let mut frame = frame::build(self.link, from, self.target, self.payload)?;
        let least = if self.target.is_ipv4() {
            HEADER_V4
        } else {
            HEADER_V6
        };
        frame.resize(frame.len().max(least), 0);
        Ok(frame)
    }

    fn send(&self, programs: &Ebpf, frame: &[u8], stop: &AtomicBool) -> Result<Sent> {
        let started = Instant::now();
        let deadline = self.duration.min(LONGEST);
        loop {
            let sent = sent_so_far(programs)?;
            let elapsed = started.elapsed();
            if sent >= self.packets || elapsed >= deadline || stop.load(Ordering::Relaxed) {
                return Ok(Sent {
                    packets: sent,
                    elapsed,
                });
            }
            let due = self.due(elapsed).min(self.packets).saturating_sub(sent);
            // The limit makes it fit.
            let due = due.min(MOST_PER_RUN) as u32;
            if due == 0 {
                std::thread::sleep(TICK);
            } else {
                run(kernel::loaded(programs, PROGRAM)?, frame, due)?;
            }
        }
    }

    /// How many packets should have been sent by the end of the tick that begins after `elapsed`.
    fn due(&self, elapsed: Duration) -> u64 {
        let Some(rate) = self.rate else {
            return u64::MAX;
        };
        let ticks = elapsed.as_micros() / TICK.as_micros() + 1;
        let micros = u64::try_from(ticks * TICK.as_micros()).unwrap_or(u64::MAX);
        micros.saturating_mul(u64::from(rate.get())) / 1_000_000
    }

    fn plan(&self, frame: &[u8], interface: u32) -> Plan {
        let ipv4 = self.target.is_ipv4();
        let (ip, transport) = if ipv4 {
            (IPV4, ETHERNET + IPV4)
        } else {
            (IPV6, ETHERNET + IPV6)
        };
        let has_ports = !matches!(self.payload, Payload::Icmp { .. });
        let mut header = frame[..if ipv4 { HEADER_V4 } else { HEADER_V6 }].to_vec();
        if ipv4 {
            header[ETHERNET + 10..ETHERNET + 12].fill(0);
            header[ETHERNET + 12..ETHERNET + 16].fill(0);
        } else {
            header[ETHERNET + 12..ETHERNET + 16].fill(0);
        }
        if has_ports {
            header[transport..transport + 2].fill(0);
        }
        let checksum = match (self.payload, ipv4) {
            (Payload::Udp { .. }, _) => CHECKSUM_UDP,
            (Payload::TcpSyn | Payload::TcpAck, _) => CHECKSUM_TCP,
            (Payload::Icmp { .. }, true) => CHECKSUM_NONE,
            (Payload::Icmp { .. }, false) => CHECKSUM_ICMPV6,
        };
        if checksum != CHECKSUM_NONE {
            let at = transport + self.payload.checksum_at();
            header[at..at + 2].fill(0);
        }
        let ip_sum = frame::sum(&header[ETHERNET..ETHERNET + ip]);
        // What follows the header is zeros: it adds nothing to the sums.
        let length = frame_payload_length(frame, ipv4);
        let segment_end = (transport + usize::from(length)).min(header.len());
        let transport_sum = frame::sum(&header[transport..segment_end])
            + frame::pseudo_sum(
                blank_source(self.first_source),
                self.target.ip(),
                self.payload.protocol(ipv4),
                length,
            );
        Plan {
            header: words(&header),
            family: if ipv4 { 4 } else { 6 },
            interface,
            first_source: varying_word(self.first_source),
            sources: self.sources.get(),
            first_port: u32::from(self.source_ports.0),
            ports: if has_ports {
                u32::from(self.source_ports.1.get())
            } else {
                0
            },
            ip_sum,
            transport_sum,
            checksum,
            alternates: 0,
        }
    }
}

impl Running {
    /// Waits until the flood has sent everything or its time is up.
    ///
    /// # Errors
    /// If the kernel refused to send.
    pub fn wait(mut self) -> Result<Sent> {
        self.join()
    }

    /// Ends the flood before its time.
    ///
    /// # Errors
    /// If the kernel refused to send.
    pub fn stop(mut self) -> Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(&mut self) -> Result<Sent> {
        let thread = self.thread.take().ok_or_else(|| anyhow!("the flood has ended"))?;
        match thread.join() {
            Ok(sent) => sent,
            Err(_panic) => bail!("the flood's thread panicked"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Who drops a flood does not want its result.
            let _ = thread.join();
        }
    }
}

fn prepare(programs: &mut Ebpf, plans: &[Plan]) -> Result<()> {
    kernel::program(programs, PROGRAM)?;
    let map = programs
        .map_mut("PLAN")
        .ok_or_else(|| anyhow!("the lab's programs have no map PLAN"))?;
    let mut map: Array<&mut MapData, Plan> = Array::try_from(map)?;
    for (place, plan) in (0..).zip(plans) {
        map.set(place, *plan, 0)?;
    }
    Ok(())
}

fn sent_so_far(programs: &Ebpf) -> Result<u64> {
    let map = programs
        .map("SENT")
        .ok_or_else(|| anyhow!("the lab's programs have no map SENT"))?;
    let sent: Array<&MapData, u64> = Array::try_from(map)?;
    Ok(sent.get(&0, 0)?)
}

/// Sends `times` packets, or fewer if a signal interrupts.
fn run(program: &Xdp, frame: &[u8], times: u32) -> Result<()> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.repeat = times;
    options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
    match program.test_run(options) {
        Ok(_result) => Ok(()),
        Err(ProgramError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::Interrupted =>
        {
            Ok(())
        }
        Err(error) => Err(error).context("the kernel refuses to send live frames (needs Linux 5.18)"),
    }
}

/// The length of what follows the IP header, as that header says.
fn frame_payload_length(frame: &[u8], ipv4: bool) -> u16 {
    if ipv4 {
        u16::from_be_bytes([frame[ETHERNET + 2], frame[ETHERNET + 3]]) - IPV4 as u16
    } else {
        u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]])
    }
}

/// The part of the address that differs between sources.
fn varying_word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u32,
    }
}

/// The address with the part that differs between sources zero.
fn blank_source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(0.into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !(u128::from(u32::MAX) << 64)).into()),
    }
}

fn words(header: &[u8]) -> [u64; HEADER_V6 / 8] {
    let mut words = [0; HEADER_V6 / 8];
    for (word, bytes) in words.iter_mut().zip(header.chunks_exact(8)) {
        let mut buffer = [0; 8];
        buffer.copy_from_slice(bytes);
        *word = u64::from_ne_bytes(buffer);
    }
    words
}
