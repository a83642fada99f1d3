//! Memory for the chase, with pages of one size.

use std::fmt;

use anyhow::{Context, Result};
use memmap2::{Advice, MmapMut, MmapOptions};

/// Bytes of a large page.
const LARGE: usize = 2 << 20;

/// Size of the pages that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Small => "4K",
            Self::Large => "2M",
        })
    }
}

/// Memory, aligned to 2 MiB.
pub struct Arena {
    map: MmapMut,
    start: usize,
    bytes: usize,
}

impl Arena {
    /// So many bytes, all touched; an error that says why when the system gives other pages.
    ///
    /// # Errors
    /// There is no memory, or no large page.
    pub fn new(bytes: usize, pages: Pages) -> Result<Self> {
        let bytes = bytes.next_multiple_of(LARGE);
        let map = MmapOptions::new().len(bytes + LARGE).map_anon();
        let mut map = map.with_context(|| format!("{} MiB of memory", bytes >> 20))?;
        let advice = match pages {
            Pages::Small => Advice::NoHugePage,
            Pages::Large => Advice::HugePage,
        };
        map.advise(advice)
            .context("the system takes no advice about huge pages")?;
        let address = map.as_ptr().addr();
        let start = address.next_multiple_of(LARGE) - address;
        // The first touch decides what backs the memory.
        map[start..start + bytes].fill(1);
        let arena = Self { map, start, bytes };
        let large = arena.in_large_pages()?;
        match pages {
            Pages::Large if large < bytes => anyhow::bail!(
                "the system gave large pages for {} of {} MiB: see /sys/kernel/mm/transparent_hugepage/enabled",
                large >> 20,
                bytes >> 20
            ),
            Pages::Small if large > 0 => {
                anyhow::bail!("the system gave large pages though it was asked not to")
            }
            _ => Ok(arena),
        }
    }

    /// The memory, word by word.
    pub fn words(&mut self) -> &mut [u64] {
        // The start is aligned to 2 MiB and the length a multiple of it, so nothing is left over.
        bytemuck::cast_slice_mut(&mut self.map[self.start..self.start + self.bytes])
    }

    /// Bytes of the mapping that are in large pages.
    fn in_large_pages(&self) -> Result<usize> {
        let text = std::fs::read_to_string("/proc/self/smaps").context("read /proc/self/smaps")?;
        Ok(large_pages(&text, self.map.as_ptr().addr() + self.start))
    }
}

/// Bytes in large pages of the mapping around an address, by the text of `smaps`.
fn large_pages(smaps: &str, address: usize) -> usize {
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = first.split_once('-')
            && let (Some(start), Some(end)) = (hex(start), hex(end))
        {
            inside = (start..end).contains(&address);
        } else if inside && let Some(rest) = line.strip_prefix("AnonHugePages:") {
            let kib = rest.trim().trim_end_matches("kB").trim();
            return kib.parse::<usize>().unwrap_or(0) << 10;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pages_are_given_and_are_words() {
        let mut arena = Arena::new(3 << 20, Pages::Small).unwrap();
        assert_eq!(arena.words().len() * 8, 4 << 20);
        assert!(arena.words().iter().all(|word| *word == 0x0101_0101_0101_0101));
    }

    #[test]
    fn the_mapping_around_an_address_is_found() {
        let text = "1000-3000 rw-p 00000000 00:00 0 \nSize: 8 kB\nAnonHugePages:      2048 kB\n\
                    5000-9000 rw-p 00000000 00:00 0 \nAnonHugePages:      4096 kB\n";
        assert_eq!(large_pages(text, 0x2fff), 2 << 20);
        assert_eq!(large_pages(text, 0x5000), 4 << 20);
        assert_eq!(large_pages(text, 0x4000), 0);
    }
}
