//! Signals, and the end of the process: a thread of its own hears them, whatever the others wait for, and ends the process
//! when they do not come to an end.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use enforcer_supervision::Parts;
use enforcer_sys::process::end_now;

/// How long the end may take beyond the drain.
pub const GRACE: Duration = Duration::from_secs(2);

/// How long the drain takes at most where a part has failed: until the next agent runs, nobody watches limits.
pub const DRAIN_OF_FAILED: Duration = Duration::from_secs(5);

/// How often is looked whether a part has failed, and how long a last line has to be written.
const LOOK: Duration = Duration::from_millis(100);
const LAST_LINE: Duration = Duration::from_millis(50);

/// Why the agent ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// By SIGTERM or SIGINT.
    #[error("asked by a signal")]
    Asked,
    /// A part has failed.
    #[error("{0}")]
    Failed(Arc<String>),
}

impl Cause {
    /// How long requests may take to finish.
    #[must_use]
    pub fn drain(&self, configured: Duration) -> Duration {
        match self {
            Self::Asked => configured,
            Self::Failed(_) => configured.min(DRAIN_OF_FAILED),
        }
    }
}

/// SIGHUP, which does not end the process from the moment when this is there: a hook that has renewed a certificate may come
/// while the agent starts.
pub struct HangUps {
    runtime: Runtime,
    signal: Signal,
}

impl HangUps {
    /// Takes SIGHUP. What comes is heard by [`listen`].
    ///
    /// # Errors
    /// The system refuses.
    pub fn take() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signal = {
            let _here = runtime.enter();
            signal(SignalKind::hangup())?
        };
        Ok(Self { runtime, signal })
    }
}

/// Hears signals from now on. What is returned says once why the agent is to end; from then on the process ends within
/// `drain` and [`GRACE`], or at once by another signal. `drain` and `hang_up` must not block.
///
/// # Errors
/// Signals cannot be heard, or there is no thread to be had.
pub fn listen(
    hang_ups: HangUps,
    drain: impl Fn() -> Duration + Send + 'static,
    parts: Parts,
    hang_up: impl Fn() + Send + 'static,
) -> io::Result<Receiver<Cause>> {
    let (tell, causes) = sync_channel(1);
    let HangUps { runtime, signal } = hang_ups;
    let signals = {
        let _here = runtime.enter();
        Signals::new(signal)?
    };
    let run = move || runtime.block_on(hear(signals, drain, parts, hang_up, tell));
    thread::Builder::new().name("signals".to_owned()).spawn(run)?;
    Ok(causes)
}

async fn hear(
    signals: Signals,
    drain: impl Fn() -> Duration,
    parts: Parts,
    hang_up: impl Fn(),
    tell: SyncSender<Cause>,
) {
    let Signals {
        mut ends,
        mut hang_ups,
    } = signals;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let cause = loop {
        tokio::select! {
            () = ends.next() => break Cause::Asked,
            _ = hang_ups.recv() => hang_up(),
            _ = looks.tick() => {
                if let Some(failure) = parts.failure() {
                    break Cause::Failed(failure);
                }
            }
        }
    };
    parts.stop();
    let deadline = Instant::now() + cause.drain(drain()) + GRACE;
    // There is room for one, and whoever waits for it ends the process when it has gone.
    let _ = tell.try_send(cause);
    tokio::select! {
        () = sleep_until(deadline - LAST_LINE) => {
            tracing::error!("the agent does not come to an end in time: something hangs; it ends now");
        }
        () = ends.next() => tracing::warn!("a second signal: the agent ends now"),
    }
    thread::sleep(LAST_LINE);
    end_now(1);
}

struct Signals {
    ends: Ends,
    hang_ups: Signal,
}

/// SIGTERM and SIGINT.
struct Ends([Signal; 2]);

impl Signals {
    fn new(hang_ups: Signal) -> io::Result<Self> {
        Ok(Self {
            ends: Ends([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]),
            hang_ups,
        })
    }
}

impl Ends {
    async fn next(&mut self) {
        let [terminate, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_failed_drains_shortly() {
        let failed = Cause::Failed(Arc::default());
        let long = Duration::from_secs(30);
        assert_eq!(Cause::Asked.drain(long), long);
        assert_eq!(failed.drain(long), DRAIN_OF_FAILED);
        assert_eq!(failed.drain(Duration::ZERO), Duration::ZERO);
    }
}
