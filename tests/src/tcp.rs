//! What both ends of a TCP connection have agreed on, and a service that says so.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{netns::Namespace, sys};

/// `tcpi_options` (`include/uapi/linux/tcp.h`).
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const SCALE: u8 = 4;

const ON_THE_WIRE: usize = 5;

/// One end's view of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    pub timestamps: bool,
    pub sack: bool,
    pub scaled: bool,
    /// Shift of the windows that the other end announces.
    pub peer_scale: u8,
    /// Shift of its own.
    pub own_scale: u8,
    /// Largest segment that it sends.
    pub mss: u16,
}

impl Agreed {
    /// As `stream` has it.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn of(stream: &TcpStream) -> Result<Self> {
        let info = sys::tcp_info(stream.as_fd()).context("no TCP_INFO")?;
        Ok(Self::read(
            info.tcpi_options,
            info.tcpi_snd_rcv_wscale,
            u16::try_from(info.tcpi_snd_mss).unwrap_or(u16::MAX),
        ))
    }

    fn read(options: u8, scales: u8, mss: u16) -> Self {
        Self {
            timestamps: options & TIMESTAMPS != 0,
            sack: options & SACK != 0,
            scaled: options & SCALE != 0,
            peer_scale: scales & 0x0f,
            own_scale: scales >> 4,
            mss,
        }
    }

    fn to_wire(self) -> [u8; ON_THE_WIRE] {
        let flag = |set: bool, bit| if set { bit } else { 0 };
        let options = flag(self.timestamps, TIMESTAMPS) | flag(self.sack, SACK) | flag(self.scaled, SCALE);
        let [high, low] = self.mss.to_be_bytes();
        [options, self.peer_scale, self.own_scale, high, low]
    }
}

/// Connects to a [`Teller`]: what this end and the other have agreed on.
///
/// # Errors
/// If the connection is not made, or does not work, within `patience`.
pub fn ask(target: SocketAddr, patience: Duration) -> Result<(Agreed, Agreed)> {
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"?")?;
    let mut told = [0; ON_THE_WIRE];
    stream.read_exact(&mut told)?;
    let [options, peer, own, high, low] = told;
    let other = Agreed::read(options, own << 4 | peer, u16::from_be_bytes([high, low]));
    Ok((Agreed::of(&stream)?, other))
}

/// A plain service that tells each client what its own end of the connection has agreed on.
#[derive(Debug)]
pub struct Teller {
    address: SocketAddr,
    namespace: Namespace,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Teller {
    /// Listens in `namespace`.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = namespace.run(|| Ok(TcpListener::bind(address)?))?;
        let address = listener.local_addr()?;
        let ending = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ending);
        let thread = std::thread::Builder::new()
            .name("teller".to_owned())
            .spawn(move || {
                for stream in listener.incoming() {
                    if seen.load(Ordering::Acquire) {
                        break;
                    }
                    // A client that has gone hears nothing, and says so itself.
                    let _ = stream.map_err(|error| anyhow!(error)).and_then(tell);
                }
            })?;
        Ok(Self {
            address,
            namespace: namespace.clone(),
            ending,
            thread: Some(thread),
        })
    }
}

fn tell(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.read_exact(&mut [0])?;
    stream.write_all(&Agreed::of(&stream)?.to_wire())?;
    Ok(())
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // Wakes the thread; if it cannot be woken, it is left to the process's end.
        let woken = self.namespace.run(|| {
            TcpStream::connect_timeout(&self.address, Duration::from_secs(1))?;
            Ok(())
        });
        if let (Ok(()), Some(thread)) = (woken, self.thread.take()) {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}
