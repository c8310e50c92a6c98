//! The access lists' trie, which generations and denials both write.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{LpmTrie, MapData, MapError, lpm_trie::Key};
use enforcer_common::layout::{Access, AccessKey};

use super::{KernelError, presence::Presence};

/// The trie, and the bits in front of it. A clone is the same one.
#[derive(Clone)]
pub struct AccessMap(Arc<Mutex<Lists>>);

struct Lists {
    trie: LpmTrie<MapData, AccessKey, Access>,
    presence: Presence,
    /// Something has been removed since the bits were last right.
    stale: bool,
}

impl AccessMap {
    /// Over the given maps.
    #[must_use]
    pub fn new(trie: LpmTrie<MapData, AccessKey, Access>, presence: Presence) -> Self {
        Self(Arc::new(Mutex::new(Lists {
            trie,
            presence,
            // An earlier agent may have ended before it tidied.
            stale: true,
        })))
    }

    /// Enters or replaces a prefix.
    ///
    /// # Errors
    /// The map is full or the kernel refuses.
    pub fn insert(&self, key: &Key<AccessKey>, entry: Access) -> Result<(), KernelError> {
        let mut lists = self.lists();
        lists.presence.add(key.prefix_len(), &key.data())?;
        let entry = Access {
            // At most 160.
            prefix: u16::try_from(key.prefix_len()).unwrap_or(u16::MAX),
            ..entry
        };
        lists
            .trie
            .insert(key, entry, 0)
            .map_err(KernelError::map("ACCESS"))
    }

    /// All entries.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn entries(&self) -> Result<Vec<(Key<AccessKey>, Access)>, KernelError> {
        self.lists()
            .trie
            .iter()
            .collect::<Result<_, _>>()
            .map_err(KernelError::map("ACCESS"))
    }

    /// Removes a prefix, if it is there. Its bits stay until [`Self::tidy`]: that costs time, nothing else.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self, key: &Key<AccessKey>) -> Result<(), KernelError> {
        let mut lists = self.lists();
        lists.stale = true;
        match lists.trie.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) if not_found(&error) => Ok(()),
            Err(error) => Err(KernelError::map("ACCESS")(error)),
        }
    }

    /// Clears the bits of prefixes that are no longer there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tidy(&self) -> Result<(), KernelError> {
        let mut lists = self.lists();
        if !lists.stale {
            return Ok(());
        }
        let Lists { trie, presence, .. } = &mut *lists;
        presence.keep(trie.keys().map(|key| {
            key.map(|key| (key.prefix_len(), key.data()))
                .map_err(KernelError::map("ACCESS"))
        }))?;
        lists.stale = false;
        Ok(())
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOENT))
}
