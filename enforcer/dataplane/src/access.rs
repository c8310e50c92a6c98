//! The access lists' trie, which generations and denials both write.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use aya::maps::{LpmTrie, MapData, lpm_trie::Key};
use enforcer_common::layout::{Access, AccessKey};

use super::{KernelError, elements::Elements as _, presence::Presence};
use enforcer_supervision::sync::system_call;

/// The trie, and the bits in front of it. A clone is the same one. Writers do not wait for each other: no two of them
/// write the same prefix of the same list.
#[derive(Clone)]
pub struct AccessMap(Arc<Lists>);

struct Lists {
    trie: LpmTrie<MapData, AccessKey, Access>,
    presence: Presence,
    /// Something has been removed since the bits were last right.
    stale: AtomicBool,
}

impl AccessMap {
    /// Over the given maps.
    #[must_use]
    pub fn new(trie: LpmTrie<MapData, AccessKey, Access>, presence: Presence) -> Self {
        Self(Arc::new(Lists {
            trie,
            presence,
            // An earlier agent may have ended before it tidied.
            stale: AtomicBool::new(true),
        }))
    }

    /// Enters or replaces a prefix.
    ///
    /// # Errors
    /// The map is full or the kernel refuses.
    pub fn insert(&self, key: &Key<AccessKey>, entry: Access) -> Result<(), KernelError> {
        self.0.presence.add(key.prefix_len(), &key.data())?;
        self.0.trie.put("ACCESS", key, &Self::entry(key, entry))
    }

    /// An entry as it is kept under a key.
    #[must_use]
    pub fn entry(key: &Key<AccessKey>, entry: Access) -> Access {
        Access {
            // At most 160.
            prefix: u16::try_from(key.prefix_len()).unwrap_or(u16::MAX),
            ..entry
        }
    }

    /// All entries.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn entries(&self) -> Result<Vec<(Key<AccessKey>, Access)>, KernelError> {
        system_call("ACCESS");
        let entries = self.0.trie.iter().collect::<Result<_, _>>();
        entries.map_err(KernelError::map("ACCESS"))
    }

    /// Removes a prefix, if it is there. Its bits stay until [`Self::tidy`]: that costs time, nothing else.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self, key: &Key<AccessKey>) -> Result<(), KernelError> {
        self.0.stale.store(true, SeqCst);
        self.0.trie.remove_if_present("ACCESS", key).map(|_| ())
    }

    /// Clears the bits of prefixes that are no longer there. For one thread at a time; prefixes may come meanwhile.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tidy(&self) -> Result<(), KernelError> {
        let Lists {
            trie,
            presence,
            stale,
        } = &*self.0;
        // Before the prefixes are read: what is removed from here on is left to the next time.
        if !stale.swap(false, SeqCst) {
            return Ok(());
        }
        let prefixes = trie.keys().map(|key| {
            key.map(|key| (key.prefix_len(), key.data()))
                .map_err(KernelError::map("ACCESS"))
        });
        let tidied = presence.keep(prefixes);
        if tidied.is_err() {
            stale.store(true, SeqCst);
        }
        tidied
    }
}
