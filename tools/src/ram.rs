//! Reading a RAM file, in pieces and as the walker wants it.
//!
//! The file is read, not mapped: another process writes to it, and a read gives a copy that nobody changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use audit::{Pa, PhysicalRead};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::layout::{Layout, LayoutError};

/// Bytes of a page.
const PAGE: usize = 4096;

/// The memory of a machine, kept in a file.
#[derive(Debug)]
pub struct RamFile {
    file: File,
    layout: Layout,
}

impl RamFile {
    /// Opens the RAM file of a q35 machine; its size says how it is laid out.
    ///
    /// # Errors
    /// The file cannot be opened, or its size is no machine's ([`LayoutError`] inside `InvalidData`).
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, Layout::q35)
    }

    /// Opens a RAM file with a layout made from its size.
    ///
    /// # Errors
    /// As [`RamFile::open`].
    pub fn open_with(
        path: &Path,
        layout: impl FnOnce(u64) -> Result<Layout, LayoutError>,
    ) -> io::Result<Self> {
        let file = File::open(path)?;
        let layout = layout(file.metadata()?.len())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Self { file, layout })
    }

    /// Which byte is which address.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// A view for the walker: it reads each page once, so take a new one for each moment.
    pub fn view(&self) -> RamView<'_> {
        RamView {
            ram: self,
            pages: RefCell::default(),
        }
    }

    /// Fills `buffer` from `offset` in the file.
    ///
    /// # Errors
    /// The file cannot be read there.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// The parts of the file that may hold something else than zeros, in order: what the file system has not left out.
    ///
    /// # Errors
    /// The file cannot be asked.
    pub fn data(&self) -> io::Result<Vec<Range<u64>>> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.layout.bytes() {
            let start = match self.seek(at, Whence::SeekData) {
                Ok(start) => start,
                // Only holes from here to the end.
                Err(Errno::ENXIO) => break,
                // The file system does not know: everything may be data.
                Err(Errno::EINVAL) => at,
                Err(error) => return Err(error.into()),
            };
            let end = match self.seek(start, Whence::SeekHole) {
                Ok(end) => end.min(self.layout.bytes()),
                Err(Errno::EINVAL) => self.layout.bytes(),
                Err(error) => return Err(error.into()),
            };
            // A file that another process writes may have changed between the two questions.
            if end > start {
                found.push(start..end);
            }
            at = end.max(start + 1);
        }
        Ok(found)
    }

    /// Calls `visit` with the address and the bytes of each page that may hold something else than zeros, in order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn for_each_page(&self, mut visit: impl FnMut(u64, &[u8; PAGE])) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        for range in self.data()? {
            // One range may begin in the page in which the last one ended.
            at = (range.start & !(PAGE as u64 - 1)).max(at);
            while at < range.end {
                let length = (self.layout.bytes() - at).min(buffer.len() as u64) as usize;
                let bytes = buffer.get_mut(..length).unwrap_or_default();
                self.read_at(at, bytes)?;
                for page in bytes.as_chunks().0 {
                    if at < range.end {
                        visit(self.layout.address(at), page);
                        at += PAGE as u64;
                    }
                }
            }
        }
        Ok(())
    }

    fn seek(&self, offset: u64, whence: Whence) -> Result<u64, Errno> {
        // Reads give their offset, so moving the file's own position disturbs nobody.
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        let found = lseek(&self.file, offset, whence)?;
        u64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }
}

/// RAM as the walker reads it, each page as it was when it was first looked at.
#[derive(Debug)]
pub struct RamView<'r> {
    ram: &'r RamFile,
    pages: RefCell<HashMap<u64, Option<Box<[u8; PAGE]>>>>,
}

impl RamView<'_> {
    /// The most tables that can be in this RAM; a limit for walks.
    pub fn table_limit(&self) -> u64 {
        self.ram.layout.bytes() / 4096
    }

    fn read_page(&self, pa: u64) -> Option<Box<[u8; PAGE]>> {
        let offset = self.ram.layout.offset(pa)?;
        let mut page = Box::new([0; PAGE]);
        // A file that has become shorter has no RAM there.
        self.ram.read_at(offset, &mut page[..]).ok()?;
        Some(page)
    }
}

impl PhysicalRead for RamView<'_> {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        let pa = pa.get();
        let mut pages = self.pages.borrow_mut();
        let page = pages
            .entry(pa & !0xfff)
            .or_insert_with(|| self.read_page(pa & !0xfff));
        let at = (pa & 0xfff) as usize;
        let word = page.as_ref()?.get(at..at + 8)?;
        Some(u64::from_le_bytes(word.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_is_read_where_it_has_data() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 30).unwrap();
        file.as_file()
            .write_all_at(&7_u64.to_le_bytes(), 3 << 30)
            .unwrap();
        let ram = RamFile::open(file.path()).unwrap();
        let data = ram.data().unwrap();
        let bytes: u64 = data.iter().map(|range| range.end - range.start).sum();
        assert!(data.iter().any(|range| range.contains(&(3 << 30))), "{data:?}");
        assert!(bytes < 64 << 20, "{data:?}");
        let view = ram.view();
        // 3 GiB into the file is 1 GiB above 4 GiB.
        assert_eq!(view.read_u64(Pa::new(5 << 30)), Some(7));
        assert_eq!(view.read_u64(Pa::new(0x1000)), Some(0));
        assert_eq!(view.read_u64(Pa::new(3 << 30)), None);
        assert_eq!(view.read_u64(Pa::new(0xb_0000)), None);
    }

    #[test]
    fn every_page_with_data_is_visited_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        // Runs of pages longer than what is read at once, the last page, and a hole between.
        for (offset, pages) in [(0x1000, 3), (2 << 20, 600), ((8 << 20) - 4096, 1)] {
            let page = |number: u64| (offset + 4096 * number).to_le_bytes();
            for number in 0..pages {
                file.as_file()
                    .write_all_at(&page(number), offset + 4096 * number)
                    .unwrap();
            }
        }
        let (mut all, mut marked) = (Vec::new(), 0);
        RamFile::open(file.path())
            .unwrap()
            .for_each_page(|pa, page| {
                all.push(pa);
                let mark = u64::from_le_bytes(page[..8].try_into().unwrap());
                assert!(mark == 0 || mark == pa);
                marked += u32::from(mark != 0);
            })
            .unwrap();
        assert_eq!(marked, 604);
        assert!(all.is_sorted_by(|one, next| one < next));
        assert!(all.len() < 2048, "holes are left out");
    }

    #[test]
    fn a_file_that_is_no_ram_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(100).unwrap();
        assert!(
            RamFile::open(file.path())
                .unwrap_err()
                .to_string()
                .contains("whole 4K pages")
        );
    }
}
