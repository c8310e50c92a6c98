//! A steady flow of numbered datagrams, which tells exactly which of them did not arrive.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

use crate::{netns::Namespace, sys};

/// How often the sender looks what is due.
const TICK: Duration = Duration::from_millis(1);
/// The most that is sent in one tick, so that a sender that was late does not overfill the link's ring.
const MOST_PER_TICK: u64 = 20;
/// How long the sink waits for more once nothing is sent any more.
const QUIET: Duration = Duration::from_millis(300);
/// Enough for seconds in which the sink does not get a processor.
const BUFFER: libc::c_int = 64 << 20;

/// A flow under way, from one namespace to a sink in another. Dropping it ends it.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sender: Option<JoinHandle<Result<Sent>>>,
    sink: Option<JoinHandle<Result<BTreeSet<u64>>>>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    packets: u64,
    elapsed: Duration,
}

/// What became of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub sent: u64,
    pub arrived: u64,
    /// The numbers of the first packets that did not arrive.
    pub missing: Vec<u64>,
    /// From the first packet to the last.
    pub elapsed: Duration,
}

impl Steady {
    /// Sends `rate` datagrams a second from `source` to `target`, which a sink in `node` receives.
    ///
    /// # Errors
    /// If a socket cannot be opened.
    pub fn start(source: &Namespace, node: &Namespace, target: SocketAddr, rate: u32) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let socket = node.run(|| {
            let socket = UdpSocket::bind(target).with_context(|| format!("cannot listen on {target}"))?;
            sys::force_receive_buffer(&socket, BUFFER)?;
            socket.set_read_timeout(Some(QUIET))?;
            Ok(socket)
        })?;
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&arrived));
        let sink = std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || receive(&socket, &stopped, &counted))?;
        let socket = source.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(target)?;
            Ok(socket)
        })?;
        let stopped = Arc::clone(&stop);
        let sender = std::thread::Builder::new()
            .name("sender".to_owned())
            .spawn(move || send(&socket, rate, &stopped))?;
        Ok(Self {
            stop,
            arrived,
            sender: Some(sender),
            sink: Some(sink),
        })
    }

    /// How many have arrived so far.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    /// If a socket failed.
    pub fn finish(mut self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = join(self.sender.take())?;
        let numbers = join(self.sink.take())?;
        let missing = (0..sent.packets).filter(|number| !numbers.contains(number));
        Ok(Outcome {
            sent: sent.packets,
            arrived: numbers.len() as u64,
            missing: missing.take(10).collect(),
            elapsed: sent.elapsed,
        })
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn join<T>(thread: Option<JoinHandle<Result<T>>>) -> Result<T> {
    thread
        .and_then(|thread| thread.join().ok())
        .ok_or_else(|| anyhow!("a thread of the steady flow panicked"))?
}

fn send(socket: &UdpSocket, rate: u32, stop: &AtomicBool) -> Result<Sent> {
    let start = Instant::now();
    let mut packets = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(start.elapsed().as_micros())? * u64::from(rate) / 1_000_000;
        for _ in 0..due.saturating_sub(packets).min(MOST_PER_TICK) {
            socket.send(&u64::to_be_bytes(packets))?;
            packets += 1;
        }
        std::thread::sleep(TICK);
    }
    Ok(Sent {
        packets,
        elapsed: start.elapsed(),
    })
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, arrived: &AtomicU64) -> Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    let mut packet = [0; 8];
    loop {
        match socket.recv(&mut packet) {
            Ok(_) => {
                numbers.insert(u64::from_be_bytes(packet));
                arrived.store(numbers.len() as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(numbers);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
