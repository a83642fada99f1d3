//! Which pages the work may touch: those that are mapped at every moment, and which of them lie next to hidden memory.

use memory::address::{Hpa, Pfn};
use memory::layout::direct;
use tools::tlb::Mapping;
use workloads::Extent;

const REGION_FRAMES: u64 = 512;
const GIGABLOCK_FRAMES: u64 = 1 << 18;

/// The host's pages.
pub struct HostPages {
    /// A bit for each frame from 0 on, 512 to an element.
    blocks: Vec<[u64; 8]>,
    /// Pieces next to hidden memory.
    pub neighbours: Vec<Extent>,
    /// Whether these pieces are 2M blocks with a hole in them; else they are gigablocks with one.
    pub in_same_block: bool,
}

impl HostPages {
    /// The pages of RAM that are mapped in all of these direct maps.
    pub fn new<'m>(ram: &[Extent], maps: impl Iterator<Item = &'m Mapping>) -> Self {
        let end = ram.last().map_or(0, |extent| extent.start.get() + extent.frames);
        let mut blocks = vec![[0_u64; 8]; end.div_ceil(REGION_FRAMES) as usize];
        for extent in ram {
            for frame in extent.start.get()..extent.start.get() + extent.frames {
                let word =
                    &mut blocks[(frame / REGION_FRAMES) as usize][(frame % REGION_FRAMES / 64) as usize];
                *word |= 1 << (frame % 64);
            }
        }
        let in_ram = blocks.clone();
        for map in maps {
            for (number, block) in (0_u64..).zip(&mut blocks) {
                let mapped = direct(Hpa::new(number << 21)).map_or([0; 8], |at| map.pages(at.get()));
                for (word, mapped) in block.iter_mut().zip(mapped) {
                    *word &= mapped;
                }
            }
        }
        let count = |block: &[u64; 8]| block.iter().map(|word| word.count_ones()).sum::<u32>();
        let extents = |frames: u64, chosen: &dyn Fn(u64) -> bool| -> Vec<Extent> {
            (0..end / frames)
                .filter(|number| chosen(*number))
                .map(|number| Extent {
                    start: Pfn::new(number * frames),
                    frames,
                })
                .collect()
        };
        let broken = extents(REGION_FRAMES, &|number| {
            let (usable, all) = (count(&blocks[number as usize]), count(&in_ram[number as usize]));
            usable > 0 && usable < all
        });
        let in_same_block = !broken.is_empty();
        let neighbours = if in_same_block {
            broken
        } else {
            extents(GIGABLOCK_FRAMES, &|number| {
                let first = (number * 512) as usize;
                let (usable, all) = (first..first + 512).fold((0, 0), |(usable, all), block| {
                    (usable + count(&blocks[block]), all + count(&in_ram[block]))
                });
                usable > 0 && usable < all
            })
        };
        Self {
            blocks,
            neighbours,
            in_same_block,
        }
    }

    /// Whether the work may touch a page.
    pub fn usable(&self, page: Pfn) -> bool {
        let number = page.get();
        self.blocks
            .get((number / REGION_FRAMES) as usize)
            .is_some_and(|block| block[(number % REGION_FRAMES / 64) as usize] >> (number % 64) & 1 == 1)
    }
}
