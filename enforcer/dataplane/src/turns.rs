//! Who writes an entry of a map now.
//!
//! What a map is to hold is decided in memory, under a lock that is not held while the kernel is told. Two threads that
//! change one entry could then tell the kernel in the wrong order. So one of them writes at a time, and nobody waits for
//! it: who comes meanwhile leaves word, and the one who writes looks at the memory again.

use std::{collections::HashMap, hash::Hash};

/// The entries that are being written, and which of them have changed since. No more than there are threads.
#[derive(Debug)]
pub struct Turns<K>(HashMap<K, bool>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Turns<K> {
    /// Whether the caller is to write an entry that it has changed. If not, another thread will.
    #[must_use]
    pub fn begin(&mut self, entry: K) -> bool {
        match self.0.get_mut(&entry) {
            Some(changed) => {
                *changed = true;
                false
            }
            None => self.0.insert(entry, false).is_none(),
        }
    }

    /// Whether the caller, who has written an entry, is to write it once more. If not, its turn has ended.
    #[must_use]
    pub fn again(&mut self, entry: K) -> bool {
        match self.0.get_mut(&entry) {
            Some(changed) if *changed => {
                *changed = false;
                true
            }
            _ => {
                self.0.remove(&entry);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
        thread,
    };

    use super::*;

    #[test]
    fn one_writes_at_a_time_and_what_comes_meanwhile_is_written_too() {
        let mut turns = Turns::default();
        assert!(turns.begin(7));
        assert!(!turns.begin(7), "another is writing it");
        assert!(turns.begin(8));
        assert!(turns.again(7), "it has changed");
        assert!(!turns.again(7));
        assert!(!turns.again(8));
        assert!(turns.begin(7), "the turn has ended");
    }

    #[test]
    fn what_is_written_in_the_end_is_what_memory_says() {
        const ENTRIES: u32 = 4;
        let memory = Mutex::new((BTreeMap::<u32, u32>::new(), Turns::default()));
        let kernel = Arc::new(Mutex::new(BTreeMap::<u32, u32>::new()));
        let change = &|entry: u32, value: Option<u32>| {
            let mine = {
                let mut memory = memory.lock().unwrap();
                match value {
                    Some(value) => memory.0.insert(entry, value),
                    None => memory.0.remove(&entry),
                };
                memory.1.begin(entry)
            };
            if !mine {
                return;
            }
            loop {
                let wanted = memory.lock().unwrap().0.get(&entry).copied();
                thread::yield_now();
                match wanted {
                    Some(value) => kernel.lock().unwrap().insert(entry, value),
                    None => kernel.lock().unwrap().remove(&entry),
                };
                if !memory.lock().unwrap().1.again(entry) {
                    return;
                }
            }
        };
        thread::scope(|scope| {
            for writer in 0..4 {
                scope.spawn(move || {
                    for round in 0..2_000 {
                        let value = writer * 10_000 + round;
                        change(value % ENTRIES, (value % 3 != 0).then_some(value));
                    }
                });
            }
        });
        assert_eq!(memory.lock().unwrap().0, *kernel.lock().unwrap());
    }
}
