//! Recordings: pcap and pcapng (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng), record by record.
//!
//! Memory is bounded: one buffer of [`BUFFER`] bytes, and the properties of at most [`MAX_INTERFACES`]
//! interfaces.

use std::{fs::File, io, path::Path};

use enforcer_common::verdict::Direction;
use pcap_parser::{
    Block, InterfaceDescriptionBlock, LegacyPcapBlock, OptionCode, PcapBlockOwned, PcapError, PcapHeader,
    create_reader,
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

use super::link::Link;

/// The longest record is 256 KiB by libpcap's own bound, and as much again for its options.
const BUFFER: usize = 1 << 20;
/// Interfaces in one section of a pcapng file, at most.
const MAX_INTERFACES: usize = 1_024;
const NANOSECONDS: u64 = 1_000_000_000;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("cannot be opened: {0}")]
    Open(#[source] io::Error),
    #[error("cannot be read")]
    Read,
    #[error("is empty")]
    Empty,
    #[error("is neither pcap nor pcapng; record with `tcpdump -i INTERFACE -w FILE`")]
    Format,
    #[error(
        "has packets of link type {0}, which is not taken: Ethernet, raw IP and Linux cooked (SLL, SLL2) are; record with `tcpdump -i INTERFACE`"
    )]
    Link(i32),
    #[error("describes more than {MAX_INTERFACES} interfaces in one section")]
    Interfaces,
    #[error("has a packet of interface {0}, which it does not describe")]
    Interface(u32),
    #[error("says of an interface that its time has a resolution of 2^-{0} or 10^-{0} s, which is none")]
    Resolution(u8),
    #[error("is damaged after {0} bytes")]
    Damaged(usize),
}

/// A packet as it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Nanoseconds since 1970. `None`: not recorded (a pcapng simple packet).
    pub time_ns: Option<u64>,
    pub link: Link,
    /// As far as it was kept.
    pub bytes: &'a [u8],
    /// How long it was.
    pub length: usize,
    /// Which way it went, if the recording says.
    pub direction: Option<Direction>,
}

/// An open recording.
pub struct Recording {
    reader: Box<dyn PcapReaderIterator + Send>,
    clocks: Clocks,
}

#[derive(Default)]
struct Clocks {
    /// pcap's own, or those of this pcapng section.
    interfaces: Vec<Interface>,
}

/// What an interface's records are to be read by.
#[derive(Clone, Copy)]
struct Interface {
    link: Link,
    /// Ticks in a second.
    ticks: u128,
    /// Seconds added to each time.
    offset: i64,
    /// Zero: no bound.
    snap: u32,
}

impl Recording {
    /// Opens a file.
    ///
    /// # Errors
    /// It is not there or is no recording.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let file = File::open(path).map_err(RecordingError::Open)?;
        let reader = create_reader(BUFFER, file).map_err(|error| match error {
            PcapError::Eof => RecordingError::Empty,
            PcapError::ReadError => RecordingError::Read,
            _ => RecordingError::Format,
        })?;
        Ok(Self {
            reader,
            clocks: Clocks::default(),
        })
    }

    /// Hands each record to `take`, in order. `false`: the file ends in the middle of a record.
    ///
    /// # Errors
    /// The file is damaged or of a kind that is not taken, or `take` fails.
    pub fn each<E: From<RecordingError>>(
        mut self,
        mut take: impl FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let Self { reader, clocks } = &mut self;
        let mut read = 0;
        loop {
            let consumed = match reader.next() {
                Ok((consumed, block)) => {
                    if let Some(record) = clocks.record(&block)? {
                        take(&record)?;
                    }
                    consumed
                }
                Err(PcapError::Eof) => return Ok(true),
                Err(PcapError::UnexpectedEof) => return Ok(false),
                Err(PcapError::Incomplete(_)) => {
                    reader.refill().map_err(|_| RecordingError::Read)?;
                    continue;
                }
                Err(PcapError::ReadError) => return Err(RecordingError::Read.into()),
                Err(_) => return Err(RecordingError::Damaged(read).into()),
            };
            read += consumed;
            reader.consume(consumed);
        }
    }
}

impl Clocks {
    fn record<'a>(&mut self, block: &'a PcapBlockOwned<'a>) -> Result<Option<Record<'a>>, RecordingError> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                self.interfaces = vec![Interface::of_header(header)?];
                Ok(None)
            }
            PcapBlockOwned::Legacy(block) => self.legacy(block).map(Some),
            PcapBlockOwned::NG(block) => self.section(block),
        }
    }

    fn legacy<'a>(&self, block: &LegacyPcapBlock<'a>) -> Result<Record<'a>, RecordingError> {
        let interface = self.interface(0)?;
        let ticks = u128::from(block.ts_sec) * interface.ticks + u128::from(block.ts_usec);
        Ok(Record {
            time_ns: interface.nanoseconds(ticks),
            link: interface.link,
            bytes: block.data,
            length: (block.origlen as usize).max(block.data.len()),
            direction: None,
        })
    }

    fn section<'a>(&mut self, block: &'a Block<'a>) -> Result<Option<Record<'a>>, RecordingError> {
        match block {
            Block::SectionHeader(_) => self.interfaces.clear(),
            Block::InterfaceDescription(description) => {
                if self.interfaces.len() == MAX_INTERFACES {
                    return Err(RecordingError::Interfaces);
                }
                self.interfaces.push(Interface::of_description(description)?);
            }
            Block::EnhancedPacket(packet) => {
                let interface = self.interface(packet.if_id)?;
                let ticks = (u128::from(packet.ts_high) << 32) | u128::from(packet.ts_low);
                let bytes = packet.packet_data();
                let flags = packet.options.iter().find(|each| each.code == OptionCode(2));
                return Ok(Some(Record {
                    time_ns: interface.nanoseconds(ticks),
                    link: interface.link,
                    bytes,
                    length: (packet.origlen as usize).max(bytes.len()),
                    direction: flags.and_then(|flags| {
                        direction(if packet.big_endian() {
                            flags.value.get(3)
                        } else {
                            flags.value.first()
                        })
                    }),
                }));
            }
            Block::SimplePacket(packet) => {
                let interface = self.interface(0)?;
                let length = packet.origlen as usize;
                let kept = if interface.snap == 0 {
                    length
                } else {
                    length.min(interface.snap as usize)
                };
                let bytes = packet.data.get(..kept).unwrap_or(packet.data);
                return Ok(Some(Record {
                    time_ns: None,
                    link: interface.link,
                    bytes,
                    length,
                    direction: None,
                }));
            }
            _ => {}
        }
        Ok(None)
    }

    fn interface(&self, number: u32) -> Result<Interface, RecordingError> {
        let found = self.interfaces.get(number as usize).copied();
        found.ok_or(RecordingError::Interface(number))
    }
}

/// The lowest two bits of `epb_flags` (draft-ietf-opsawg-pcapng, 4.3.1).
fn direction(flags: Option<&u8>) -> Option<Direction> {
    match flags? & 3 {
        1 => Some(Direction::Ingress),
        2 => Some(Direction::Egress),
        _ => None,
    }
}

impl Interface {
    fn of_header(header: &PcapHeader) -> Result<Self, RecordingError> {
        let ticks = if header.is_nanosecond_precision() {
            1_000_000_000
        } else {
            1_000_000
        };
        Ok(Self {
            // The upper bits tell the length of frame check sequences.
            link: Link::of(header.network.0 & 0xffff)?,
            ticks,
            offset: 0,
            snap: header.snaplen,
        })
    }

    fn of_description(description: &InterfaceDescriptionBlock<'_>) -> Result<Self, RecordingError> {
        let resolution = description.if_tsresol;
        let (base, exponent) = if resolution & 0x80 == 0 {
            (10_u128, resolution)
        } else {
            (2_u128, resolution & 0x7f)
        };
        let ticks = base
            .checked_pow(u32::from(exponent))
            .filter(|ticks| *ticks <= 1 << 64)
            .ok_or(RecordingError::Resolution(exponent))?;
        // The parser takes this option for little-endian in either case.
        let big_endian = description.block_type.swap_bytes() == INTERFACE_DESCRIPTION;
        let offset = description.if_tsoffset;
        Ok(Self {
            link: Link::of(description.linktype.0)?,
            ticks,
            offset: if big_endian { offset.swap_bytes() } else { offset },
            snap: description.snaplen,
        })
    }

    /// Since 1970. `None`: before that, or after 2554.
    fn nanoseconds(self, ticks: u128) -> Option<u64> {
        let whole = i128::try_from(ticks / self.ticks).ok()? + i128::from(self.offset);
        let part = ticks % self.ticks * u128::from(NANOSECONDS) / self.ticks;
        let total = whole * i128::from(NANOSECONDS) + i128::try_from(part).ok()?;
        u64::try_from(total).ok()
    }
}

/// The type of a block that describes an interface.
const INTERFACE_DESCRIPTION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(ticks: u128, offset: i64) -> Interface {
        Interface {
            link: Link::Ethernet,
            ticks,
            offset,
            snap: 0,
        }
    }

    #[test]
    fn every_resolution_comes_to_nanoseconds() {
        let second = u64::try_from(1_700_000_000 * u128::from(NANOSECONDS)).unwrap();
        for (ticks_in_second, part) in [
            (1_000_000, 250_000),
            (1_000_000_000, 250_000_000),
            (1 << 20, 1 << 18),
        ] {
            let ticks = 1_700_000_000 * ticks_in_second + part;
            assert_eq!(
                interface(ticks_in_second, 0).nanoseconds(ticks),
                Some(second + 250_000_000)
            );
            let later = interface(ticks_in_second, 60).nanoseconds(ticks);
            assert_eq!(later, Some(second + 60 * NANOSECONDS + 250_000_000));
        }
    }

    #[test]
    fn times_that_are_none_are_not_made_up() {
        assert_eq!(interface(1, -1).nanoseconds(0), None);
        assert_eq!(interface(1, 0).nanoseconds(1 << 64), None);
        assert_eq!(interface(1, i64::MAX).nanoseconds(u128::from(u64::MAX)), None);
    }
}
