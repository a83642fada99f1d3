//! Addresses through the TLBs, and what they cost.

use std::fmt;

use super::array::{Entries, Replacement};
use super::geometry::{Array, Geometry, Index, PageSize, Ways};
use super::mapping::{Mapping, Path};

/// What a walk goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimensions {
    /// The tables alone.
    One,
    /// Also the second stage of an outer hypervisor, whose leaves have this size: then each table's address, and the result, is translated once more, and
    /// a TLB entry covers the smaller of the two leaves.
    Two(PageSize),
}

/// Nothing is mapped at an address that was to be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMapped {
    /// The address.
    pub va: u64,
}

impl fmt::Display for NotMapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing is mapped at {:#x}, which the work touches", self.va)
    }
}

impl std::error::Error for NotMapped {}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accesses.
    pub accesses: u64,
    /// Of these, missed in the first level.
    pub misses: u64,
    /// Of these, missed in the second level too: walks.
    pub walks: u64,
    /// Walks by size of the leaf: 4K, 2M, 1G.
    pub walks_by_size: [u64; 3],
    /// Loads of the walker.
    pub loads: u64,
    /// Of these, such that went to memory.
    pub loads_from_memory: u64,
    /// Core cycles for second-level hits and walks, by the geometry's weights.
    pub cycles: u64,
}

impl Counts {
    /// A count for each thousand accesses.
    pub fn per_thousand(&self, count: u64) -> f64 {
        count as f64 * 1000.0 / self.accesses.max(1) as f64
    }
}

/// Translations in arrays.
struct Tlb {
    arrays: &'static [Array],
    entries: Vec<Entries>,
}

impl Tlb {
    fn new(arrays: &'static [Array], replacement: Replacement) -> Self {
        let entries = arrays
            .iter()
            .map(|array| Entries::new(array.sets.into(), array.ways, replacement))
            .collect();
        Self { arrays, entries }
    }

    /// Set and tag of a page in an array.
    fn place(array: &Array, va: u64, size: PageSize) -> (u64, u64) {
        let kept = if array.splits_1g && size == PageSize::G1 {
            PageSize::M2
        } else {
            size
        };
        let number = va >> kept.shift();
        let set = match array.index {
            Index::Low => number,
            Index::Xor => number ^ number >> array.sets.trailing_zeros(),
        };
        (set % u64::from(array.sets), number << 2 | kept as u64)
    }

    fn look_up(&mut self, va: u64, size: PageSize) -> bool {
        self.arrays.iter().zip(&mut self.entries).any(|(array, entries)| {
            let (set, tag) = Self::place(array, va, size);
            entries.look_up(set, array.ways_for(size), tag)
        })
    }

    fn insert(&mut self, va: u64, size: PageSize) {
        for (array, entries) in self.arrays.iter().zip(&mut self.entries) {
            let (set, tag) = Self::place(array, va, size);
            entries.insert(set, array.ways_for(size), tag);
        }
    }
}

/// The data caches, by line.
struct Memory {
    levels: Vec<(Entries, Ways, u32)>,
    beyond: u32,
}

impl Memory {
    fn new(geometry: &Geometry) -> Self {
        let level = |cache: &super::geometry::DataCache| {
            let sets = cache.bytes / 64 / u64::from(cache.ways);
            // Caches are not what the error bar is about.
            let entries = Entries::new(sets, cache.ways, Replacement::Lru);
            (entries, Ways::first(cache.ways), cache.cycles)
        };
        Self {
            levels: geometry.data.iter().map(level).collect(),
            beyond: geometry.memory_cycles,
        }
    }

    /// Cycles of a load, and whether it went to memory. The line is in every level afterwards.
    fn load(&mut self, address: u64) -> (u64, bool) {
        let line = address / 64;
        let mut found = None;
        for (entries, ways, cycles) in &mut self.levels {
            if entries.touch(line, *ways, line) {
                found = Some(*cycles);
                break;
            }
        }
        (found.unwrap_or(self.beyond).into(), found.is_none())
    }
}

/// Page-walk caches: entries that lead to tables of level 1, 2 and 3.
struct WalkCache([(Entries, Ways); 3]);

impl WalkCache {
    fn new(geometry: &Geometry, replacement: Replacement) -> Self {
        let caches = geometry.walk_caches;
        Self([caches.level2, caches.level3, caches.level4].map(|entries| {
            (
                Entries::new(1, entries, replacement),
                Ways::first(entries.min(1) * entries),
            )
        }))
    }

    /// The level at which a walk to a leaf of level `leaf` begins: at the table of that level.
    fn begin(&mut self, va: u64, leaf: usize) -> usize {
        for level in leaf..4 {
            let (entries, ways) = &mut self.0[level - 1];
            if entries.look_up(0, *ways, va >> (12 + 9 * level)) {
                return level;
            }
        }
        4
    }

    /// Notes the entries that a walk from `begin` down to `leaf` went through.
    fn fill(&mut self, va: u64, begin: usize, leaf: usize) {
        for level in leaf..begin {
            let (entries, ways) = &mut self.0[level - 1];
            entries.insert(0, *ways, va >> (12 + 9 * level));
        }
    }
}

/// The second stage of an outer hypervisor, for which guest-physical is host-physical, with tables beyond all RAM.
struct Outer {
    size: PageSize,
    translations: (Entries, Ways),
    walk_cache: WalkCache,
}

/// Where the outer hypervisor's tables are: one area for each level.
const OUTER_TABLES: u64 = 1 << 52;

/// A core that translates.
pub struct Model {
    geometry: &'static Geometry,
    loads: Tlb,
    stores: Option<Tlb>,
    second: Tlb,
    walk_cache: WalkCache,
    outer: Option<Outer>,
    memory: Memory,
    counts: Counts,
}

impl Model {
    /// A core with nothing cached.
    pub fn new(geometry: &'static Geometry, replacement: Replacement, dimensions: Dimensions) -> Self {
        let outer = match dimensions {
            Dimensions::One => None,
            Dimensions::Two(size) => Some(Outer {
                size,
                translations: (
                    Entries::new(1, geometry.walk_caches.nested, replacement),
                    Ways::first(geometry.walk_caches.nested),
                ),
                walk_cache: WalkCache::new(geometry, replacement),
            }),
        };
        Self {
            geometry,
            loads: Tlb::new(geometry.loads, replacement),
            stores: geometry.stores.map(|arrays| Tlb::new(arrays, replacement)),
            second: Tlb::new(geometry.second, replacement),
            walk_cache: WalkCache::new(geometry, replacement),
            outer,
            memory: Memory::new(geometry),
            counts: Counts::default(),
        }
    }

    /// What was counted since the start, or since [`Model::restart`].
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Counts from 0 again; what is cached stays.
    pub fn restart(&mut self) {
        self.counts = Counts::default();
    }

    /// One load or store at `va`, whose line is at `pa`.
    ///
    /// # Errors
    /// Nothing is mapped there; then it was not counted.
    pub fn access(&mut self, mapping: &Mapping, va: u64, pa: u64, store: bool) -> Result<(), NotMapped> {
        let path = mapping.path(va).ok_or(NotMapped { va })?;
        let size = self.entry_size(&path);
        self.counts.accesses += 1;
        let first = match &mut self.stores {
            Some(stores) if store => stores,
            _ => &mut self.loads,
        };
        if !first.look_up(va, size) {
            self.counts.misses += 1;
            first.insert(va, size);
            if self.second.look_up(va, size) {
                self.counts.cycles += u64::from(self.geometry.second_cycles);
            } else {
                self.walk(va, pa, &path);
                self.second.insert(va, size);
            }
        }
        self.memory.load(pa);
        Ok(())
    }

    /// What one TLB entry covers.
    fn entry_size(&self, path: &Path) -> PageSize {
        let size = match path.size {
            PageSize::K16 if !self.geometry.coalesces => PageSize::K4,
            size => size,
        };
        match &self.outer {
            // Four pages in one entry also need four translations that follow each other in the second stage; a large leaf there has them.
            Some(outer) => size.min(outer.size),
            None => size,
        }
    }

    fn walk(&mut self, va: u64, pa: u64, path: &Path) {
        self.counts.walks += 1;
        let leaf = path.level();
        self.counts.walks_by_size[leaf - 1] += 1;
        let begin = self.walk_cache.begin(va, leaf);
        for level in (leaf..=begin).rev() {
            let entry = path.tables[level - 1] + 8 * (va >> (3 + 9 * level) & 511);
            self.translate_once_more(entry);
            self.load(entry);
        }
        self.walk_cache.fill(va, begin, leaf);
        self.translate_once_more(pa);
    }

    /// With an outer hypervisor: its translation of a guest-physical address.
    fn translate_once_more(&mut self, at: u64) {
        let Some(outer) = &mut self.outer else { return };
        let (entries, ways) = &mut outer.translations;
        if entries.touch(0, *ways, at >> outer.size.shift()) {
            return;
        }
        let leaf = match outer.size {
            PageSize::K4 | PageSize::K16 => 1,
            PageSize::M2 => 2,
            PageSize::G1 => 3,
        };
        let begin = outer.walk_cache.begin(at, leaf);
        outer.walk_cache.fill(at, begin, leaf);
        for level in (leaf..=begin).rev() {
            let area = OUTER_TABLES | (level as u64) << 48;
            self.load(area + 8 * (at >> (3 + 9 * level)));
        }
    }

    fn load(&mut self, address: u64) {
        let (cycles, from_memory) = self.memory.load(address);
        self.counts.loads += 1;
        self.counts.loads_from_memory += u64::from(from_memory);
        self.counts.cycles += cycles;
    }
}

#[cfg(test)]
mod tests;
