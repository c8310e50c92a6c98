//! Looks whether certificate files have changed, on a thread of its own: a disk that does not answer keeps nobody else.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use super::{expiring::Shown, listeners::Listeners, metrics::GatewayMetrics, policies::Policies};
use enforcer_supervision::Reader;

/// How often it looks. Only files that have changed are read.
const LOOK: Duration = Duration::from_millis(250);

/// How often is said that a certificate is not valid, or not for long.
const LOOK_AT_VALIDITY: Duration = Duration::from_secs(86_400);

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Files {
    /// Dropping it ends the thread.
    pub(super) running: SyncSender<()>,
    pub(super) thread: JoinHandle<()>,
}

/// Starts the thread.
///
/// # Errors
/// There is none to be had.
pub(super) fn start(
    policies: Policies,
    listeners: Arc<Listeners>,
    metrics: GatewayMetrics,
    reader: Reader,
) -> io::Result<Files> {
    let (running, ended) = sync_channel(0);
    let run = move || run(&policies, &listeners, &metrics, &reader, &ended);
    let thread = Builder::new().name("gateway-files".to_owned()).spawn(run)?;
    Ok(Files { running, thread })
}

fn run(
    policies: &Policies,
    listeners: &Listeners,
    metrics: &GatewayMetrics,
    reader: &Reader,
    ended: &Receiver<()>,
) {
    let mut shown = Shown::default();
    shown.look(&policies.current(), metrics, true);
    let mut validity = Instant::now() + LOOK_AT_VALIDITY;
    while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let generation = policies.current();
        // What is wrong is logged and counted; the next look may find better files.
        reader.during(|| {
            listeners.reload_files().unwrap_or_default();
            for tls in generation.tls.iter().flatten() {
                if !tls.reload() {
                    metrics.reload_failures.inc();
                }
            }
        });
        listeners.sweep();
        let again = Instant::now() >= validity;
        if again {
            listeners.show_validity();
            validity += LOOK_AT_VALIDITY;
        }
        shown.look(&generation, metrics, again);
    }
}
