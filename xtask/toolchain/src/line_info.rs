//! Takes out of an object which instruction comes from which line.
//!
//! The verifier prints the lines when it refuses a program. The loader keeps them for each function up to the end of its
//! section, several MiB in all, and so do kernel and agent as long as the programs are there: a release, which has been
//! loaded before, goes without.

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _};

/// The section that tells functions and lines apart from BTF itself (Documentation/bpf/btf.rst, 4.1).
const SECTION: &str = ".BTF.ext";
/// Where the section's header has the length of its line information.
const LINE_INFO_LENGTH: usize = 20;
/// The magic number at the section's beginning, of little-endian objects.
const MAGIC: [u8; 2] = 0xeb9f_u16.to_le_bytes();

/// Sets the length of the line information to zero. Functions, which the verifier needs, stay known.
///
/// # Errors
/// The bytes are no object with such a section.
pub(crate) fn remove(object: &mut [u8]) -> Result<()> {
    let (start, length) = object::File::parse(&*object)?
        .section_by_name(SECTION)
        .with_context(|| format!("there is no section {SECTION}"))?
        .file_range()
        .with_context(|| format!("section {SECTION} has no bytes"))?;
    let start = usize::try_from(start)?;
    let section = object
        .get_mut(start..start + usize::try_from(length)?)
        .with_context(|| format!("section {SECTION} ends behind the object"))?;
    clear(section)
}

/// The same of the section's bytes.
fn clear(section: &mut [u8]) -> Result<()> {
    ensure!(
        section.starts_with(&MAGIC) && section.len() >= LINE_INFO_LENGTH + 4,
        "section {SECTION} does not begin with its header"
    );
    section[LINE_INFO_LENGTH..LINE_INFO_LENGTH + 4].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header as linkers write it: magic, version, flags and length, then offset and length of functions, of lines and
    /// of relocations (`struct btf_ext_header`).
    fn header() -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &[1, 0]].concat();
        for number in [32_u32, 0, 292, 292, 127_452, 127_744, 0] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn lines_are_gone_and_all_else_stays() {
        let mut section = header();
        clear(&mut section).unwrap();
        let mut wanted = header();
        wanted[20..24].copy_from_slice(&[0; 4]);
        assert_eq!(section, wanted);
    }

    #[test]
    fn what_is_no_such_section_is_refused() {
        let short = header()[..20].to_vec();
        let other = [&[0; 2], &header()[2..]].concat();
        for mut section in [short, other, Vec::new()] {
            assert!(clear(&mut section).is_err(), "{section:?}");
        }
        assert!(remove(&mut b"no object".to_vec()).is_err());
    }
}
