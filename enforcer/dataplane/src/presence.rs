//! The bits in front of the access lists' trie: see `enforcer_common::presence`.

use std::sync::atomic::Ordering::Relaxed;

use enforcer_common::{
    layout::{AccessKey, IPV4_LIST},
    presence::{WORDS, met},
};

use super::{KernelError, address::prefix_bits, elements::Elements as _, object::Array, turns::Turns};
use enforcer_supervision::sync::{Rank, Ranked, system_call};
use enforcer_sys::memory::Words;

/// The bits, in the kernel and here.
pub struct Presence {
    map: Array<u64>,
    /// Most are zero. Changed under the lock of `state`.
    words: Words,
    state: Ranked<State>,
}

#[derive(Default)]
struct State {
    turns: Turns<u32>,
    /// Bits that were set since [`Presence::keep`] began to look at the prefixes, which may have missed theirs. `None`:
    /// it is not at work. Bounded by the prefixes that come in that time.
    since: Option<Vec<(u32, u64)>>,
}

impl Presence {
    /// Over the given map, all clear.
    #[must_use]
    pub fn new(map: Array<u64>) -> Self {
        Self {
            map,
            words: Words::zero(WORDS as usize),
            state: Ranked::new(Rank::Presence, State::default()),
        }
    }

    /// Over an earlier agent's map. It takes a call for each word, which is a fraction of a second in all.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn inherited(map: Array<u64>) -> Result<Self, KernelError> {
        let presence = Self::new(map);
        for (word, found) in presence.words.iter().zip(presence.map.iter()) {
            let found = found.map_err(KernelError::map("PRESENCE"))?;
            // Writing a zero would take a page for it.
            if found != 0 {
                word.store(found, Relaxed);
            }
        }
        Ok(presence)
    }

    /// Sets what a prefix meets. To be called before the prefix is entered.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add(&self, key_bits: u32, key: &AccessKey) -> Result<(), KernelError> {
        // Neighbours share words: each is written when all its bits are known.
        let mut pending: Option<(u32, u64)> = None;
        for (place, bit) in met_by(key_bits, key) {
            match &mut pending {
                Some((before, bits)) if *before == place => *bits |= bit,
                _ => {
                    if let Some((before, bits)) = pending.replace((place, bit)) {
                        self.set(before, bits)?;
                    }
                }
            }
        }
        pending.map_or(Ok(()), |(place, bits)| self.set(place, bits))
    }

    fn set(&self, place: u32, bits: u64) -> Result<(), KernelError> {
        let mut state = self.state.lock();
        if let Some(since) = &mut state.since {
            since.push((place, bits));
        }
        let before = self.words[place as usize].fetch_or(bits, Relaxed);
        let mine = before & bits != bits && state.turns.begin(place);
        drop(state);
        if mine { self.settle(place) } else { Ok(()) }
    }

    /// Clears what none of the prefixes that there are meets. For one thread at a time.
    ///
    /// # Errors
    /// The kernel refuses, or a prefix cannot be read.
    pub fn keep(
        &self,
        prefixes: impl Iterator<Item = Result<(u32, AccessKey), KernelError>>,
    ) -> Result<(), KernelError> {
        self.state.lock().since = Some(Vec::new());
        let kept = self.keep_while_noting(prefixes);
        self.state.lock().since = None;
        kept
    }

    fn keep_while_noting(
        &self,
        prefixes: impl Iterator<Item = Result<(u32, AccessKey), KernelError>>,
    ) -> Result<(), KernelError> {
        system_call("ACCESS");
        let wanted = Words::zero(self.words.len());
        for prefix in prefixes {
            let (key_bits, key) = prefix?;
            for (place, bit) in met_by(key_bits, &key) {
                wanted[place as usize].fetch_or(bit, Relaxed);
            }
        }
        for (place, word) in (0..).zip(self.words.iter()) {
            if word.load(Relaxed) == wanted[place as usize].load(Relaxed) {
                continue;
            }
            let mut state = self.state.lock();
            for (place, bits) in state.since.iter_mut().flat_map(std::mem::take) {
                wanted[place as usize].fetch_or(bits, Relaxed);
            }
            word.store(wanted[place as usize].load(Relaxed), Relaxed);
            let mine = state.turns.begin(place);
            drop(state);
            if mine {
                self.settle(place)?;
            }
        }
        Ok(())
    }

    /// Tells the kernel which bits a word has.
    fn settle(&self, place: u32) -> Result<(), KernelError> {
        loop {
            let word = self.words[place as usize].load(Relaxed);
            let written = self.map.put("PRESENCE", &place, &word);
            if !self.state.lock().turns.again(place) {
                return written;
            }
        }
    }
}

/// Words and the bits in them.
fn met_by(key_bits: u32, key: &AccessKey) -> impl Iterator<Item = (u32, u64)> + use<> {
    met(&key.address, prefix_bits(key_bits, key.table & IPV4_LIST != 0))
}
