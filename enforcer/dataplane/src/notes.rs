//! The agent's notes to the agent that comes after it: which numbers stand for which names in the maps.
//! They lie in a map beside those, so that they cannot be about others.

use aws_lc_rs::digest::{SHA256, digest};
use enforcer_common::layout::{NOTE_CHUNK, NOTE_CHUNKS};
use serde::{Deserialize, Serialize};

use super::{
    KernelError,
    numbers::{Numbers, Record},
    object::Array,
    pins::network_namespace,
};

/// Bytes in front of the text: sequence, length, and the first bytes of its digest.
const HEADER: usize = 24;
/// Bytes of text, at most: about twice what all names in all maps come to.
const LONGEST: usize = NOTE_CHUNKS as usize * NOTE_CHUNK - HEADER;

/// The notes. They are written into the bank that is not the latest, so that an agent that is killed
/// half-way leaves the earlier ones behind.
pub struct Notes {
    map: Array<[u8; NOTE_CHUNK]>,
    sequence: u64,
    written: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    /// Interface indices mean something in one network namespace only.
    network: u64,
    numbers: Record,
}

impl Notes {
    /// Over the given map.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(map: Array<[u8; NOTE_CHUNK]>) -> Result<Self, KernelError> {
        let latest = latest(&map)?;
        let (sequence, written) = latest.unwrap_or_default();
        Ok(Self {
            map,
            sequence,
            written,
        })
    }

    /// The numbers that another agent has left.
    ///
    /// # Errors
    /// Why there are none, to tell the operator.
    pub fn read(map: &Array<[u8; NOTE_CHUNK]>) -> Result<Numbers, String> {
        let latest = latest(map).map_err(|error| error.to_string())?;
        let Some((_, text)) = latest else {
            return Err("no policies had been applied to what is pinned".to_owned());
        };
        let text: Text = serde_json::from_slice(&text)
            .map_err(|error| format!("the pinned notes are unreadable: {error}"))?;
        if text.network != network_namespace() {
            return Err("what is pinned belongs to another network namespace".to_owned());
        }
        Numbers::try_from(text.numbers).map_err(|name| format!("the pinned notes have the name `{name}`"))
    }

    /// Notes which numbers are given, before the maps speak of them.
    ///
    /// # Errors
    /// The kernel refuses. More than fits is no error: the next agent then begins anew.
    pub fn write(&mut self, numbers: &Numbers) -> Result<(), KernelError> {
        let text = Text {
            network: network_namespace(),
            numbers: numbers.into(),
        };
        let mut text = serde_json::to_vec(&text).unwrap_or_default();
        if text.len() > LONGEST {
            tracing::warn!(
                bytes = text.len(),
                "too many names to be kept: a restart will begin anew"
            );
            text = b"{}".to_vec();
        }
        if text == self.written {
            return Ok(());
        }
        let sequence = self.sequence + 1;
        let mut bytes = Vec::with_capacity(HEADER + text.len());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend((text.len() as u64).to_ne_bytes());
        bytes.extend(&digest(&SHA256, &text).as_ref()[..8]);
        bytes.extend(&text);
        for (index, chunk) in (first(sequence)..).zip(bytes.chunks(NOTE_CHUNK)) {
            let mut value = [0; NOTE_CHUNK];
            value[..chunk.len()].copy_from_slice(chunk);
            self.map.set(index, value, 0).map_err(KernelError::map("NOTES"))?;
        }
        self.sequence = sequence;
        self.written = text;
        Ok(())
    }
}

/// Where the bank of a sequence number begins.
fn first(sequence: u64) -> u32 {
    if sequence.is_multiple_of(2) {
        0
    } else {
        NOTE_CHUNKS
    }
}

/// The sequence and text of the latest notes that are whole.
fn latest(map: &Array<[u8; NOTE_CHUNK]>) -> Result<Option<(u64, Vec<u8>)>, KernelError> {
    let banks = [bank(map, 0)?, bank(map, NOTE_CHUNKS)?];
    Ok(banks.into_iter().flatten().max_by_key(|(sequence, _)| *sequence))
}

fn bank(map: &Array<[u8; NOTE_CHUNK]>, first: u32) -> Result<Option<(u64, Vec<u8>)>, KernelError> {
    let chunk = |index| map.get(&index, 0).map_err(KernelError::map("NOTES"));
    let mut bytes = chunk(first)?.to_vec();
    let word = |at: usize| -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(word)
    };
    let (sequence, length) = (word(0), word(8));
    let Some(length) = usize::try_from(length)
        .ok()
        .filter(|length| (1..=LONGEST).contains(length))
    else {
        return Ok(None);
    };
    for index in (first + 1..).take((HEADER + length).div_ceil(NOTE_CHUNK) - 1) {
        bytes.extend(chunk(index)?);
    }
    let text = &bytes[HEADER..HEADER + length];
    let whole = digest(&SHA256, text).as_ref()[..8] == bytes[16..24];
    Ok(whole.then(|| (sequence, text.to_vec())))
}
