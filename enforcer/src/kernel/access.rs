//! The access lists' trie, which generations and denials both write.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{LpmTrie, MapData, MapError, lpm_trie::Key};
use enforcer_common::layout::{Access, AccessKey};

use super::KernelError;

/// The trie. A clone is the same one.
#[derive(Clone)]
pub struct AccessMap(Arc<Mutex<LpmTrie<MapData, AccessKey, Access>>>);

impl AccessMap {
    /// Over the given map.
    #[must_use]
    pub fn new(map: LpmTrie<MapData, AccessKey, Access>) -> Self {
        Self(Arc::new(Mutex::new(map)))
    }

    /// Enters or replaces a prefix.
    ///
    /// # Errors
    /// The map is full or the kernel refuses.
    pub fn insert(&self, key: &Key<AccessKey>, entry: Access) -> Result<(), KernelError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Access {
            prefix: key.prefix_len(),
            ..entry
        };
        map.insert(key, entry, 0).map_err(KernelError::map("ACCESS"))
    }

    /// Removes a prefix, if it is there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self, key: &Key<AccessKey>) -> Result<(), KernelError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match map.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) if not_found(&error) => Ok(()),
            Err(error) => Err(KernelError::map("ACCESS")(error)),
        }
    }
}

fn not_found(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOENT))
}
