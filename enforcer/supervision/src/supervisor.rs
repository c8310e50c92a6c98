//! The thread that looks at all parts.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    Condition, PATIENCE, PartMetrics, Parts, State,
    notify::{Message, Notifier},
};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);

/// What the supervisor remembers of parts, by their addresses: the progress that it saw, and how long there has been none.
#[derive(Default)]
struct Watcher(HashMap<*const State, (u64, Duration)>);

/// Starts the thread. It runs as long as the process.
///
/// # Errors
/// There is no thread to be had.
pub fn start(parts: Parts, notifier: Arc<Notifier>, metrics: PartMetrics) -> io::Result<()> {
    let run = move || {
        let mut watcher = Watcher::default();
        let mut last = Instant::now();
        loop {
            let now = Instant::now();
            watcher.look(&parts, now.saturating_duration_since(last));
            last = now;
            notifier.tell(if parts.are_sound() {
                Message::Watchdog
            } else {
                Message::WatchdogTrigger
            });
            parts.show(&metrics);
            thread::sleep(LOOK);
        }
    };
    thread::Builder::new()
        .name("supervisor".to_owned())
        .spawn(run)
        .map(drop)
}

impl Watcher {
    /// Looks at all parts; the last look was so long ago.
    fn look(&mut self, parts: &Parts, elapsed: Duration) {
        parts.looked();
        // Where this thread was late, others may have had no processor either: the machine was suspended or starved.
        let elapsed = elapsed.min(LOOK);
        let all = parts.0.parts.load_full();
        self.0
            .retain(|known, _| all.iter().any(|part| Arc::as_ptr(part) == *known));
        for part in all.iter() {
            let progress = part.progress.load(Ordering::Relaxed);
            let (seen, idle) = match self.0.entry(Arc::as_ptr(part)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    new.insert((progress, Duration::ZERO));
                    continue;
                }
            };
            if *seen == progress {
                *idle += elapsed;
            } else {
                (*seen, *idle) = (progress, Duration::ZERO);
            }
            let condition = if *idle >= PATIENCE {
                Condition::Stalled
            } else {
                Condition::Sound
            };
            if part.set(condition) {
                tell(part, condition);
            }
        }
    }
}

fn tell(part: &State, condition: Condition) {
    let name = part.name.as_str();
    if condition == Condition::Stalled {
        tracing::error!(
            part = name,
            "no progress for {PATIENCE:?}: /healthz answers 503, and whoever supervises the agent is to restart it"
        );
    } else {
        tracing::warn!(part = name, "makes progress again");
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn a_part_without_progress_is_named_after_ten_seconds_and_no_longer_when_it_goes_on() {
        let parts = Parts::default();
        let registry = Registry::new();
        let metrics = parts.metrics(&registry).unwrap();
        let (quick, stuck) = (parts.part("quick"), parts.part("stuck"));
        let mut watcher = Watcher::default();
        let mut waited = Duration::ZERO;
        watcher.look(&parts, LOOK);
        while parts.are_sound() {
            quick.beat();
            watcher.look(&parts, LOOK);
            waited += LOOK;
        }
        assert!((PATIENCE..=PATIENCE + LOOK).contains(&waited), "{waited:?}");
        assert_eq!(parts.troubles(), ["stuck: no progress for 10s"]);
        parts.show(&metrics);
        let stalled = |part| metrics.stalled.with_label_values(&[part]).get();
        assert_eq!([stalled("quick"), stalled("stuck")], [0, 1]);
        assert_eq!(parts.failure(), None, "it may come back");
        stuck.beat();
        watcher.look(&parts, LOOK);
        assert!(parts.are_sound());
        quick.end();
        stuck.end();
    }

    /// After a suspend all parts are late, and none of them hangs.
    #[test]
    fn a_machine_that_stood_still_does_not_count() {
        let parts = Parts::default();
        let part = parts.part("part");
        let mut watcher = Watcher::default();
        for _ in 0..5 {
            watcher.look(&parts, Duration::from_secs(3600));
        }
        assert!(parts.are_sound(), "{:?}", parts.troubles());
        part.end();
    }
}
