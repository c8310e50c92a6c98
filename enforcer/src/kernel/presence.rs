//! The bits in front of the access lists' trie: see `enforcer_common::presence`.

use std::sync::atomic::Ordering::Relaxed;

use enforcer_common::{
    layout::{AccessKey, IPV4_LIST},
    presence::{WORDS, met},
};

use super::{KernelError, address::prefix_bits, memory::Words, object::Array};

/// The bits, in the kernel and here.
pub struct Presence {
    map: Array<u64>,
    /// Most are zero. Nobody else has them: they are atomic only because all [`Words`] are.
    words: Words,
}

impl Presence {
    /// Over the given map, all clear.
    #[must_use]
    pub fn new(map: Array<u64>) -> Self {
        Self {
            map,
            words: Words::zero(WORDS as usize),
        }
    }

    /// Over an earlier agent's map. It takes a call for each word, which is a fraction of a second in all.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn inherited(map: Array<u64>) -> Result<Self, KernelError> {
        let words = Words::zero(WORDS as usize);
        for (word, found) in words.iter().zip(map.iter()) {
            let found = found.map_err(KernelError::map("PRESENCE"))?;
            // Writing a zero would take a page for it.
            if found != 0 {
                word.store(found, Relaxed);
            }
        }
        Ok(Self { map, words })
    }

    /// Sets what a prefix meets. To be called before the prefix is entered.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add(&mut self, key_bits: u32, key: &AccessKey) -> Result<(), KernelError> {
        // Neighbours share words: each is written when all its bits are known.
        let mut pending: Option<(u32, u64)> = None;
        for (place, bit) in met_by(key_bits, key) {
            let word = match pending {
                Some((before, word)) if before == place => word,
                Some((before, word)) => {
                    self.write(before, word)?;
                    self.word(place)
                }
                None => self.word(place),
            };
            pending = Some((place, word | bit));
        }
        pending.map_or(Ok(()), |(place, word)| self.write(place, word))
    }

    /// Clears what none of the prefixes that there are meets.
    ///
    /// # Errors
    /// The kernel refuses, or a prefix cannot be read.
    pub fn keep(
        &mut self,
        prefixes: impl Iterator<Item = Result<(u32, AccessKey), KernelError>>,
    ) -> Result<(), KernelError> {
        let wanted = Words::zero(self.words.len());
        for prefix in prefixes {
            let (key_bits, key) = prefix?;
            for (place, bit) in met_by(key_bits, &key) {
                wanted[place as usize].fetch_or(bit, Relaxed);
            }
        }
        for (place, word) in (0..).zip(wanted.iter()) {
            self.write(place, word.load(Relaxed))?;
        }
        Ok(())
    }

    fn write(&mut self, place: u32, word: u64) -> Result<(), KernelError> {
        if self.word(place) != word {
            self.map
                .set(place, word, 0)
                .map_err(KernelError::map("PRESENCE"))?;
            self.words[place as usize].store(word, Relaxed);
        }
        Ok(())
    }

    fn word(&self, place: u32) -> u64 {
        self.words[place as usize].load(Relaxed)
    }
}

/// Words and the bits in them.
fn met_by(key_bits: u32, key: &AccessKey) -> impl Iterator<Item = (u32, u64)> + use<> {
    met(&key.address, prefix_bits(key_bits, key.table & IPV4_LIST != 0))
}
