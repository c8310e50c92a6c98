//! What requests ask of the kernel, off the threads that answer them: at most so many at a time, and not for ever.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

/// Questions to the kernel at one time.
const READING: usize = 4;
/// Changes at one time. They have threads of their own, so that nobody who only asks can keep an operator from denying.
const CHANGING: usize = 4;
/// How long a request waits for its turn and its answer together.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Turns for what requests want of the kernel.
pub struct Rooms {
    reading: Arc<Semaphore>,
    changing: Arc<Semaphore>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            reading: Arc::new(Semaphore::new(READING)),
            changing: Arc::new(Semaphore::new(CHANGING)),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// It may still be done.
    #[error("there is no answer after {} s: the kernel, or this node, is too busy; ask again", PATIENCE.as_secs())]
    Late,
    /// A fault of ours.
    #[error("the agent failed while it was answering: {0}")]
    Failed(#[from] tokio::task::JoinError),
}

impl Rooms {
    /// Reads from the kernel.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        take_turn(&self.reading, work).await
    }

    /// Changes something in the kernel. What is begun is done, though nobody waits any more.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        take_turn(&self.changing, work).await
    }
}

async fn take_turn<T: Send + 'static>(
    room: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoAnswer> {
    let until = Instant::now() + PATIENCE;
    let turn = timeout_at(until, Arc::clone(room).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        return Err(NoAnswer::Late);
    };
    let work = tokio::task::spawn_blocking(move || {
        let result = work();
        // As long as the work lasts, whether or not anybody waits for it: that is what bounds the threads.
        drop(turn);
        result
    });
    match timeout_at(until, work).await {
        Err(_late) => Err(NoAnswer::Late),
        Ok(done) => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_bound_are_under_way_and_nobody_waits_for_ever() {
        let rooms = Arc::new(Rooms::default());
        let (begun, seen) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        let asked: Vec<_> = (0..=READING)
            .map(|_| {
                let (rooms, begun, held) = (Arc::clone(&rooms), begun.clone(), Arc::clone(&held));
                tokio::spawn(async move {
                    let work = move || {
                        begun.send(()).unwrap();
                        // It ends when the other end is dropped.
                        let _ = held.lock().unwrap().recv();
                    };
                    rooms.read(work).await
                })
            })
            .collect();
        for _ in 0..READING {
            while seen.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
        }
        tokio::time::advance(PATIENCE).await;
        for each in asked {
            assert!(matches!(each.await.unwrap(), Err(NoAnswer::Late)));
        }
        // Who changes something does not wait for those who ask.
        assert_eq!(rooms.change(|| 7).await.unwrap(), 7);
        drop(release);
        drop(begun);
        assert_eq!(seen.iter().count(), 0, "one more was under way than may be");
        assert_eq!(rooms.read(|| 8).await.unwrap(), 8);
    }
}
