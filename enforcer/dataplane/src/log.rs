//! What the kernel programs log for people who look for a fault of the programs themselves. Off unless the
//! agent's own log takes it in when they are loaded (`ENFORCER_LOG=info,kernel=debug`): then each packet that
//! has an event has a line too, so that there are as many as of those.

use std::io;

use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use enforcer_sys::bpf;
use log::{Metadata, Record};

use super::KernelError;

/// The target of the lines in the agent's log.
const TARGET: &str = "kernel";

/// The level that the programs are loaded with: their lines, or none.
#[must_use]
pub fn level(on: bool) -> u8 {
    if on { Level::Debug as u8 } else { 0 }
}

/// Whether the agent's log takes such lines in.
#[must_use]
pub fn is_wanted() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// The lines. One reader.
pub struct KernelLog(EbpfLogger<Forward>);

impl KernelLog {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        EbpfLogger::init_with_logger(ebpf, Forward)
            .map(Self)
            .map_err(|_| KernelError::Missing("AYA_LOGS"))
    }

    /// Hands lines on as they come, within a tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses to wait for them.
    pub async fn forward(self) -> io::Result<()> {
        let mut lines = bpf::readable_log(self.0)?;
        loop {
            let mut ready = lines.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

struct Forward;

impl log::Log for Forward {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        is_wanted()
    }

    fn log(&self, record: &Record<'_>) {
        tracing::debug!(target: TARGET, "{}", record.args());
    }

    fn flush(&self) {}
}
