//! Answers that were given lately: a bounded number, of which the oldest goes first.

use std::{
    collections::{HashMap, VecDeque},
    time::SystemTime,
};

use super::Digest;

/// Answers, each until its time.
#[derive(Debug)]
pub(super) struct Answers<T> {
    most: usize,
    kept: HashMap<Digest, (T, SystemTime)>,
    /// All of `kept`, oldest first.
    order: VecDeque<Digest>,
}

impl<T: Clone> Answers<T> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            kept: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The answer, if its time is not over.
    pub(super) fn get(&self, digest: &Digest, now: SystemTime) -> Option<T> {
        let (answer, until) = self.kept.get(digest)?;
        (now < *until).then(|| answer.clone())
    }

    /// Whether there is or was an answer, as far as that is remembered.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.kept.contains_key(digest)
    }

    /// Keeps an answer until then.
    pub(super) fn keep(&mut self, digest: Digest, answer: T, until: SystemTime, now: SystemTime) {
        if until <= now {
            return;
        }
        if self.kept.insert(digest, (answer, until)).is_none() {
            self.order.push_back(digest);
        }
        while self.kept.len() > self.most || self.oldest_is_over(now) {
            if let Some(oldest) = self.order.pop_front() {
                self.kept.remove(&oldest);
            }
        }
    }

    fn oldest_is_over(&self, now: SystemTime) -> bool {
        let oldest = self.order.front().and_then(|digest| self.kept.get(digest));
        oldest.is_some_and(|(_, until)| *until <= now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn answers_end_in_time_and_in_number() {
        let mut answers = Answers::new(2);
        answers.keep([1; 32], 'a', at(20), at(10));
        assert_eq!(answers.get(&[1; 32], at(19)), Some('a'));
        assert_eq!(answers.get(&[1; 32], at(20)), None);
        answers.keep([2; 32], 'b', at(30), at(11));
        answers.keep([1; 32], 'c', at(40), at(12));
        assert_eq!(
            answers.get(&[1; 32], at(39)),
            Some('c'),
            "the newer answer counts"
        );
        answers.keep([3; 32], 'd', at(30), at(13));
        assert_eq!((answers.kept.len(), answers.order.len()), (2, 2));
        assert_eq!(answers.get(&[3; 32], at(13)), Some('d'));
        answers.keep([4; 32], 'e', at(13), at(13));
        assert_eq!(answers.get(&[4; 32], at(12)), None, "it was over when it came");
        answers.keep([5; 32], 'f', at(90), at(50));
        assert_eq!(
            (answers.kept.len(), answers.order.len()),
            (1, 1),
            "others are over"
        );
    }
}
