//! The bits in front of the access lists' trie: see `enforcer_common::presence`.

use enforcer_common::{
    layout::{AccessKey, IPV4_LIST},
    presence::{WORDS, met},
};

use super::{KernelError, address::prefix_bits, object::Array};

/// The bits, in the kernel and here.
pub struct Presence {
    map: Array<u64>,
    words: Vec<u64>,
}

impl Presence {
    /// Over the given map, all clear.
    #[must_use]
    pub fn new(map: Array<u64>) -> Self {
        Self {
            map,
            words: vec![0; WORDS as usize],
        }
    }

    /// Over an earlier agent's map. It takes a call for each word, which is a fraction of a second in all.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn inherited(map: Array<u64>) -> Result<Self, KernelError> {
        let words = map
            .iter()
            .collect::<Result<_, _>>()
            .map_err(KernelError::map("PRESENCE"))?;
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
                    self.words[place as usize]
                }
                None => self.words[place as usize],
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
        let mut wanted = vec![0_u64; self.words.len()];
        for prefix in prefixes {
            let (key_bits, key) = prefix?;
            for (place, bit) in met_by(key_bits, &key) {
                wanted[place as usize] |= bit;
            }
        }
        for (place, word) in (0..).zip(wanted) {
            self.write(place, word)?;
        }
        Ok(())
    }

    fn write(&mut self, place: u32, word: u64) -> Result<(), KernelError> {
        if self.words[place as usize] != word {
            self.map
                .set(place, word, 0)
                .map_err(KernelError::map("PRESENCE"))?;
            self.words[place as usize] = word;
        }
        Ok(())
    }
}

/// Words and the bits in them.
fn met_by(key_bits: u32, key: &AccessKey) -> impl Iterator<Item = (u32, u64)> + use<> {
    met(&key.address, prefix_bits(key_bits, key.table & IPV4_LIST != 0))
}
