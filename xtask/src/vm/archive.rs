//! The archive that a kernel unpacks as its first file system: cpio in its "newc" form, which is described
//! in the kernel's own Documentation/driver-api/early-userspace/buffer-format.rst.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Fields are aligned to this many bytes.
const ALIGNMENT: usize = 4;
/// Length of an entry's header.
const HEADER: usize = 110;
/// The name of the last entry.
const END: &str = "TRAILER!!!";

/// An archive being written. Every file in it may be executed, and folders come by themselves.
pub(super) struct Archive<W: Write> {
    output: W,
    entries: u32,
    names: BTreeSet<String>,
}

impl Archive<BufWriter<File>> {
    /// Begins an archive in a file, which is replaced.
    pub(super) fn create(file: &Path) -> Result<Self> {
        let output =
            File::create(file).with_context(|| format!("{} could not be written", file.display()))?;
        Ok(Self::new(BufWriter::new(output)))
    }
}

impl<W: Write> Archive<W> {
    fn new(output: W) -> Self {
        Self {
            output,
            entries: 0,
            names: BTreeSet::new(),
        }
    }

    /// Adds an empty folder, and those that it is in.
    pub(super) fn folder(&mut self, name: &str) -> Result<()> {
        let name = relative(name)?;
        self.folders_of(name)?;
        self.add(name, FOLDER, &[])
    }

    /// Adds a file, and the folders that it is in. A name that is there already stays as it is.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let name = relative(name)?;
        self.folders_of(name)?;
        self.add(name, PROGRAM, content)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<W> {
        self.entry(END, 0, &[])?;
        self.output.flush().context("the archive could not be written")?;
        Ok(self.output)
    }

    fn folders_of(&mut self, name: &str) -> Result<()> {
        for (end, _) in name.match_indices('/') {
            self.add(&name[..end], FOLDER, &[])?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        if self.names.insert(name.to_owned()) {
            self.entry(name, mode, content)?;
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        let name_size = u32::try_from(name.len() + 1)?;
        // inode, mode, owner, group, links, time, size, device (two), special device (two), name, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.write(name, &fields, content)
            .context("the archive could not be written")
    }

    fn write(&mut self, name: &str, fields: &[u32], content: &[u8]) -> io::Result<()> {
        self.output.write_all(b"070701")?;
        for field in fields {
            write!(self.output, "{field:08x}")?;
        }
        self.output.write_all(name.as_bytes())?;
        self.output.write_all(&[0])?;
        self.pad(HEADER + name.len() + 1)?;
        self.output.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        let missing = length.next_multiple_of(ALIGNMENT) - length;
        self.output.write_all(&[0; ALIGNMENT][..missing])
    }
}

/// Names in an archive begin at its root, without a slash.
fn relative(name: &str) -> Result<&str> {
    let name = name.trim_start_matches('/');
    if name.is_empty() {
        bail!("an entry of the archive has no name");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_as_the_kernel_describes_it() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/a/b", b"xyz").unwrap();
        let bytes = archive.finish().unwrap();
        let expected = concat!(
            "070701",
            "00000001",
            "000041ed",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000002",
            "00000000",
            "a\0",
            "070701",
            "00000002",
            "000081ed",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000003",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000004",
            "00000000",
            "a/b\0\0\0",
            "xyz\0",
            "070701",
            "00000003",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000b",
            "00000000",
            "TRAILER!!!\0\0\0\0",
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn a_name_comes_once() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("lib/x").unwrap();
        archive.file("/lib/y", b"first").unwrap();
        archive.file("lib/y", b"second").unwrap();
        assert_eq!(archive.entries, 3);
        assert!(archive.folder("/").is_err());
    }
}
