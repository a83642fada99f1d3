//! The hypervisor's ELF file as boot media need it: its segments, its PVH entry, and a copy without what only debuggers read.

use anyhow::{Context, Result, anyhow, ensure};
use object::LittleEndian as LE;
use object::elf::{FileHeader64, NoteType, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// The note's name and type that hold the entry (Xen `xen/include/public/elfnote.h`: XEN_ELFNOTE_PHYS32_ENTRY).
const NOTE_NAME: &[u8] = b"Xen";
const NOTE_TYPE: NoteType = NoteType(18);

/// A segment that a loader puts into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Physical address.
    pub address: u32,
    /// What the file has for it.
    pub bytes: &'a [u8],
    /// One past its last byte in memory.
    pub end: u32,
}

/// What a loader reads in the file.
#[derive(Debug)]
pub struct ImageFile<'a> {
    /// Segments in the file's order.
    pub segments: Vec<Segment<'a>>,
    /// Physical address of the PVH entry.
    pub entry: u32,
    /// Bytes of the file up to the end of the last segment.
    loaded: usize,
}

impl<'a> ImageFile<'a> {
    /// Reads the file.
    ///
    /// # Errors
    /// It is no ELF file that a PVH loader could start.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        let damaged = |error| anyhow!("the image is not the ELF file it should be: {error}");
        let header = FileHeader64::<LE>::parse(file).map_err(damaged)?;
        let headers = header.program_headers(LE, file).map_err(damaged)?;
        let mut image = Self {
            segments: Vec::new(),
            entry: 0,
            loaded: 0,
        };
        for header in headers {
            if header.p_type(LE) == PT_LOAD {
                let (start, size) = header.file_range(LE);
                let bytes = header
                    .data(LE, file)
                    .map_err(|()| anyhow!("a segment of the image lies beyond its file"))?;
                let address = header.p_paddr(LE);
                let end = address.checked_add(header.p_memsz(LE));
                let end = end.and_then(|end| u32::try_from(end).ok());
                image.segments.push(Segment {
                    address: u32::try_from(address).context("a segment above 4 GiB")?,
                    bytes,
                    end: end.context("a segment that ends above 4 GiB")?,
                });
                image.loaded = image.loaded.max(usize::try_from(start + size)?);
            }
            let Some(mut notes) = header.notes(LE, file).map_err(damaged)? else {
                continue;
            };
            while let Some(note) = notes.next().map_err(damaged)? {
                if (note.name(), note.n_type(LE)) == (NOTE_NAME, NOTE_TYPE) {
                    let entry = note.desc().first_chunk().context("a PVH note without an entry")?;
                    image.entry = u32::from_le_bytes(*entry);
                }
            }
        }
        ensure!(
            image.entry != 0 && !image.segments.is_empty(),
            "the image has no PVH entry"
        );
        Ok(image)
    }

    /// One past the last byte of the image in memory.
    pub fn end(&self) -> u32 {
        self.segments
            .iter()
            .map(|segment| segment.end)
            .max()
            .unwrap_or_default()
    }
}

/// The file without its sections: GRUB loads them all, symbols and debug information too, and reading those from an emulated disc
/// takes longer than all else. The segments, by which loaders go, stay as they are.
///
/// # Errors
/// As [`ImageFile::parse`].
pub fn without_sections(file: &[u8]) -> Result<Vec<u8>> {
    let image = ImageFile::parse(file)?;
    let mut bytes = file.get(..image.loaded).context("a short file")?.to_vec();
    // ELF-64 Object File Format 1.5, figure 2: e_shoff at 40; e_shentsize, e_shnum and e_shstrndx from 58 on.
    for range in [40..48, 58..64] {
        bytes.get_mut(range).context("a short file")?.fill(0);
    }
    Ok(bytes)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A file with two segments and the note, as the hypervisor's: header, three program headers, note, contents at 0x1000.
    pub fn made_up() -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        file.resize(16, 0);
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        file.extend(0xffff_ffff_8020_0000_u64.to_le_bytes());
        file.extend(64_u64.to_le_bytes());
        file.extend(0x1700_u64.to_le_bytes()); // e_shoff
        file.extend([0; 4]);
        for half in [64_u16, 56, 3, 64, 1, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut segment = |kind: u32, offset: u64, address: u64, size: u64, memory: u64, align: u64| {
            file.extend(kind.to_le_bytes());
            file.extend(5_u32.to_le_bytes());
            for long in [
                offset,
                0xffff_ffff_8000_0000 + address,
                address,
                size,
                memory,
                align,
            ] {
                file.extend(long.to_le_bytes());
            }
        };
        segment(PT_LOAD.0, 0x1000, 0x20_0000, 700, 700, 0x1000);
        segment(PT_LOAD.0, 0x1400, 0x20_1000, 0x100, 0x5000, 0x1000);
        segment(object::elf::PT_NOTE.0, 0x200, 0x20_0000, 20, 20, 4);
        file.resize(0x200, 0);
        for word in [4_u32, 4, NOTE_TYPE.0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(b"Xen\0");
        file.extend(0x20_0040_u32.to_le_bytes());
        file.resize(0x1000, 0);
        file.extend([0xaa; 0x400]);
        file.extend([0xbb; 0x100]);
        file.resize(0x1800, 0xcc);
        file
    }

    #[test]
    fn segments_and_entry() {
        let file = made_up();
        let image = ImageFile::parse(&file).unwrap();
        assert_eq!(image.entry, 0x20_0040);
        assert_eq!(image.end(), 0x20_6000);
        let [text, data] = image.segments[..] else {
            panic!("{image:?}")
        };
        assert_eq!((text.address, text.bytes), (0x20_0000, &[0xaa; 700][..]));
        assert_eq!((data.address, data.bytes), (0x20_1000, &[0xbb; 0x100][..]));
    }

    #[test]
    fn without_sections_the_segments_stay() {
        let file = made_up();
        let bare = without_sections(&file).unwrap();
        assert_eq!(bare.len(), 0x1500);
        let (before, after) = (ImageFile::parse(&file).unwrap(), ImageFile::parse(&bare).unwrap());
        assert_eq!(before.segments, after.segments);
        assert_eq!(
            FileHeader64::<LE>::parse(&*bare).unwrap().e_shnum(LE),
            0,
            "no section is left"
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let good = made_up();
        for bad in [&b"text"[..], &good[..100], &good[..0x1100]] {
            assert!(ImageFile::parse(bad).is_err());
        }
        let mut no_entry = good.clone();
        no_entry[0x208] = 17;
        assert!(
            ImageFile::parse(&no_entry)
                .unwrap_err()
                .to_string()
                .contains("no PVH entry")
        );
    }
}
