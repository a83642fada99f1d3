//! A direct map, or any other mapping, as the independent walker met it: leaves, and where the tables are that lead to them.

use std::collections::BTreeMap;
use std::fmt;

use audit::walk::Visit;
use audit::{LeafCounts, LeafSize, PhysicalRead, Tables, Va, WalkError};

use super::geometry::PageSize;
use crate::dump::LeafRecord;

/// A page table, by level: a table of level 4 has the entries for 512 GiB each.
const ROOT: usize = 3;

/// Why leaves make no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingError {
    /// The tables are malformed.
    Walk(WalkError),
    /// A leaf of a size that no table has.
    Size {
        /// Where it is seen.
        va: u64,
        /// Its size.
        bytes: u64,
    },
    /// A leaf is not aligned to its size, or lies where another is.
    Place {
        /// Where it is seen.
        va: u64,
    },
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Walk(error) => error.fmt(f),
            Self::Size { va, bytes } => {
                write!(
                    f,
                    "the leaf at {va:#x} has {bytes:#x} bytes, which is no size of a leaf"
                )
            }
            Self::Place { va } => {
                write!(
                    f,
                    "the leaf at {va:#x} is not aligned to its size, or lies over another"
                )
            }
        }
    }
}

impl std::error::Error for MappingError {}

/// How 2 MiB are mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Block {
    #[default]
    Absent,
    Leaf,
    /// The table's address, and a bit for each page that is there.
    Small(u64, Box<[u64; 8]>),
}

/// How 1 GiB is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Gigablock {
    Leaf,
    /// The table's address, and its entries.
    Table(u64, Vec<Block>),
}

/// Where a translation is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Size of the leaf.
    pub size: PageSize,
    /// Addresses of the tables from level 1 to level 4; below the leaf's level 0.
    pub tables: [u64; 4],
}

impl Path {
    /// The leaf's level: 1 for 4K.
    pub fn level(&self) -> usize {
        match self.size {
            PageSize::K4 | PageSize::K16 => 1,
            PageSize::M2 => 2,
            PageSize::G1 => 3,
        }
    }
}

/// What is seen of a 2M block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Part of a 1G leaf.
    In1G,
    /// A 2M leaf.
    Leaf2M,
    /// 4K leaves, and how many: 1 to 512.
    Small4K(u16),
    /// Nothing is mapped.
    Absent,
}

/// A mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    root: u64,
    /// Third-level tables by the bits 63:39 of what they translate.
    thirds: BTreeMap<u64, u64>,
    /// By the bits 63:30 of the address, from the first one on.
    first: u64,
    gigablocks: Vec<Option<Gigablock>>,
    counts: [u64; 3],
}

/// Where tables are that nobody has told: above all RAM, one after the other.
const UNKNOWN_TABLES: u64 = 1 << 51;

impl Mapping {
    /// Takes every table and leaf that translates an address from `first` to `last`, both inclusive.
    ///
    /// # Errors
    /// The tables are malformed.
    pub fn take<M: PhysicalRead + ?Sized>(
        tables: &Tables<'_, M>,
        first: Va,
        last: Va,
    ) -> Result<Self, MappingError> {
        let mut mapping = Self {
            root: tables.root().get(),
            ..Self::default()
        };
        // The tables on the way to the leaf in turn, by level.
        let mut way = [0; 4];
        for visit in tables.walk_range(first, last) {
            match visit.map_err(MappingError::Walk)? {
                Visit::Table { level, pa, .. } => {
                    if let Some(table) = way.get_mut(usize::from(level) - 1) {
                        *table = pa.get();
                    }
                }
                Visit::Leaf(leaf) => mapping.add(leaf.va.get(), leaf.size, way)?,
            }
        }
        Ok(mapping)
    }

    /// The same from a dump of the leaves alone. The tables get addresses above all RAM, in order.
    ///
    /// # Errors
    /// The leaves are not those of one mapping.
    pub fn from_leaves(leaves: &[LeafRecord]) -> Result<Self, MappingError> {
        let mut mapping = Self {
            root: UNKNOWN_TABLES,
            ..Self::default()
        };
        let mut next = UNKNOWN_TABLES;
        let mut way = [0, 0, 0, UNKNOWN_TABLES];
        // Addresses without what the table of that level translates.
        let mut covered = [u64::MAX; 3];
        for leaf in leaves {
            let size = [LeafSize::K4, LeafSize::M2, LeafSize::G1]
                .into_iter()
                .find(|size| size.bytes() == leaf.bytes)
                .ok_or(MappingError::Size {
                    va: leaf.va,
                    bytes: leaf.bytes,
                })?;
            for (level, (table, covered)) in way.iter_mut().zip(&mut covered).enumerate() {
                let span = leaf.va >> (12 + 9 * (level + 1));
                if *covered != span {
                    *covered = span;
                    next += 4096;
                    *table = next;
                }
            }
            mapping.add(leaf.va, size, way)?;
        }
        Ok(mapping)
    }

    fn add(&mut self, va: u64, size: LeafSize, way: [u64; 4]) -> Result<(), MappingError> {
        let wrong = MappingError::Place { va };
        if !va.is_multiple_of(size.bytes()) {
            return Err(wrong);
        }
        let number = va >> 30;
        if self.gigablocks.is_empty() {
            self.first = number;
        }
        let place = number.checked_sub(self.first).ok_or(wrong)? as usize;
        if place >= self.gigablocks.len() {
            self.gigablocks.resize(place + 1, None);
        }
        self.thirds.insert(va >> 39, way[2]);
        let gigablock = &mut self.gigablocks[place];
        if size == LeafSize::G1 {
            if gigablock.is_some() {
                return Err(wrong);
            }
            *gigablock = Some(Gigablock::Leaf);
            self.counts[2] += 1;
            return Ok(());
        }
        let gigablock = gigablock.get_or_insert_with(|| Gigablock::Table(way[1], vec![Block::Absent; 512]));
        let Gigablock::Table(_, blocks) = gigablock else {
            return Err(wrong);
        };
        let block = &mut blocks[(va >> 21) as usize % 512];
        if size == LeafSize::M2 {
            if *block != Block::Absent {
                return Err(wrong);
            }
            *block = Block::Leaf;
            self.counts[1] += 1;
            return Ok(());
        }
        if *block == Block::Absent {
            *block = Block::Small(way[0], Box::default());
        }
        let Block::Small(_, pages) = block else {
            return Err(wrong);
        };
        let page = (va >> 12) as usize % 512;
        if pages[page / 64] >> (page % 64) & 1 == 1 {
            return Err(wrong);
        }
        pages[page / 64] |= 1 << (page % 64);
        self.counts[0] += 1;
        Ok(())
    }

    /// Leaves by size.
    pub fn leaves(&self) -> LeafCounts {
        let [k4, m2, g1] = self.counts;
        LeafCounts { g1, m2, k4 }
    }

    fn gigablock(&self, va: u64) -> Option<&Gigablock> {
        let place = (va >> 30).checked_sub(self.first)?;
        self.gigablocks.get(usize::try_from(place).ok()?)?.as_ref()
    }

    /// The way to the leaf at an address; `None` where nothing is mapped.
    pub fn path(&self, va: u64) -> Option<Path> {
        let third = *self.thirds.get(&(va >> 39))?;
        let mut tables = [0, 0, third, self.root];
        debug_assert_eq!(tables[ROOT], self.root);
        let size = match self.gigablock(va)? {
            Gigablock::Leaf => PageSize::G1,
            Gigablock::Table(table, blocks) => {
                tables[1] = *table;
                match &blocks[(va >> 21) as usize % 512] {
                    Block::Absent => return None,
                    Block::Leaf => PageSize::M2,
                    Block::Small(table, pages) => {
                        tables[0] = *table;
                        let page = (va >> 12) as usize % 512;
                        let word = pages[page / 64];
                        if word >> (page % 64) & 1 == 0 {
                            return None;
                        }
                        if word >> ((page % 64) & !3) & 0xf == 0xf {
                            PageSize::K16
                        } else {
                            PageSize::K4
                        }
                    }
                }
            }
        };
        Some(Path { size, tables })
    }

    /// Whether something is mapped at an address.
    pub fn is_mapped(&self, va: u64) -> bool {
        self.path(va).is_some()
    }

    /// A bit for each 4K page that is mapped of the 2M block around an address, page 0 lowest in the first word.
    pub fn pages(&self, va: u64) -> [u64; 8] {
        match self.gigablock(va) {
            None => [0; 8],
            Some(Gigablock::Leaf) => [u64::MAX; 8],
            Some(Gigablock::Table(_, blocks)) => match &blocks[(va >> 21) as usize % 512] {
                Block::Absent => [0; 8],
                Block::Leaf => [u64::MAX; 8],
                Block::Small(_, pages) => **pages,
            },
        }
    }

    /// What is seen of the 2M block around an address.
    pub fn cell(&self, va: u64) -> Cell {
        match self.gigablock(va) {
            None => Cell::Absent,
            Some(Gigablock::Leaf) => Cell::In1G,
            Some(Gigablock::Table(_, blocks)) => match &blocks[(va >> 21) as usize % 512] {
                Block::Absent => Cell::Absent,
                Block::Leaf => Cell::Leaf2M,
                Block::Small(_, pages) => {
                    Cell::Small4K(pages.iter().map(|word| word.count_ones() as u16).sum())
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(va: u64, size: LeafSize) -> LeafRecord {
        LeafRecord {
            va,
            pa: va,
            bytes: size.bytes(),
            attributes: "rw-s----".into(),
            accessed: false,
            dirty: false,
        }
    }

    const BASE: u64 = 0xffff_8000_0000_0000;

    fn mixed() -> Vec<LeafRecord> {
        let mut leaves = vec![leaf(BASE, LeafSize::G1)];
        let second = BASE + (1 << 30);
        leaves.push(leaf(second, LeafSize::M2));
        for page in [0, 1, 2, 3, 5, 8, 9] {
            leaves.push(leaf(second + (2 << 20) + (page << 12), LeafSize::K4));
        }
        leaves
    }

    #[test]
    fn each_leaf_is_found_with_the_tables_that_lead_to_it() {
        let mapping = Mapping::from_leaves(&mixed()).unwrap();
        assert_eq!(mapping.leaves(), LeafCounts { g1: 1, m2: 1, k4: 7 });
        let at = |offset: u64| mapping.path(BASE + offset).map(|path| path.size);
        assert_eq!(at(12345), Some(PageSize::G1));
        assert_eq!(at((1 << 30) + 4096), Some(PageSize::M2));
        assert_eq!(at((1 << 30) + (2 << 20) + 0x3000), Some(PageSize::K16));
        assert_eq!(
            at((1 << 30) + (2 << 20) + 0x4000),
            None,
            "page 4 is not mapped, so 5 is alone"
        );
        assert_eq!(at((1 << 30) + (2 << 20) + 0x5000), Some(PageSize::K4));
        assert_eq!(
            at((1 << 30) + (2 << 20) + 0x8000),
            Some(PageSize::K4),
            "pages 10 and 11 are not mapped"
        );
        assert_eq!(at((1 << 30) + (4 << 20)), None);
        assert_eq!((at(2 << 30), mapping.path(0)), (None, None));
        let path = mapping.path(BASE + (1 << 30) + (2 << 20)).unwrap();
        let distinct: std::collections::BTreeSet<_> = path.tables.into_iter().collect();
        assert_eq!(distinct.len(), 4);
        assert!(distinct.iter().all(|table| table.is_multiple_of(4096)));
        assert_eq!(mapping.pages(BASE + (1 << 30) + (2 << 20))[0], 0b11_0010_1111);
        assert_eq!((mapping.pages(BASE), mapping.pages(0)), ([u64::MAX; 8], [0; 8]));
        assert_eq!(mapping.cell(BASE), Cell::In1G);
        assert_eq!(mapping.cell(BASE + (1 << 30)), Cell::Leaf2M);
        assert_eq!(mapping.cell(BASE + (1 << 30) + (2 << 20)), Cell::Small4K(7));
        assert_eq!(mapping.cell(BASE + (1 << 30) + (4 << 20)), Cell::Absent);
    }

    #[test]
    fn leaves_that_make_no_mapping_are_refused() {
        let refused = |change: fn(&mut Vec<LeafRecord>)| {
            let mut leaves = mixed();
            change(&mut leaves);
            Mapping::from_leaves(&leaves).unwrap_err()
        };
        let twice = refused(|leaves| leaves.push(leaf(BASE + (1 << 30), LeafSize::M2)));
        assert_eq!(twice, MappingError::Place { va: BASE + (1 << 30) });
        assert!(matches!(
            refused(|leaves| leaves.push(leaf(BASE + (2 << 20), LeafSize::M2))),
            MappingError::Place { .. }
        ));
        assert!(matches!(
            refused(|leaves| leaves.push(leaf(BASE + (2 << 30) + 4096, LeafSize::M2))),
            MappingError::Place { .. }
        ));
        assert!(matches!(
            refused(|leaves| leaves[1].bytes = 1 << 22),
            MappingError::Size { .. }
        ));
    }
}
