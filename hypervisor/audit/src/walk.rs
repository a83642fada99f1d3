//! Walking the tables: every table and leaf in address order, with an error that names the place when something is malformed.

use core::fmt;
use core::iter::FusedIterator;

use crate::address::{K4, Pa, Va};
use crate::entry::{Entry, Format, Leaf, LeafSize, Rights};

/// How the walker sees physical memory.
pub trait PhysicalRead {
    /// The little-endian word at `pa`, or `None` where there is no RAM. `pa` is a multiple of 8.
    fn read_u64(&self, pa: Pa) -> Option<u64>;
}

/// A malformed place in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The table lies where no RAM is.
    TableOutsideMemory {
        /// First address that the table would translate.
        va: Va,
        /// The table's level.
        level: u8,
        /// The word that could not be read.
        at: Pa,
    },
    /// A present entry has bits set that must be zero.
    ReservedBits {
        /// First address that the entry translates.
        va: Va,
        /// The entry's level.
        level: u8,
        /// Where the entry is.
        at: Pa,
        /// The entry.
        entry: u64,
        /// Those of its bits that must be zero.
        reserved: u64,
    },
    /// An entry names a table that is being walked already.
    Loop {
        /// First address that the entry translates.
        va: Va,
        /// The entry's level.
        level: u8,
        /// Where the entry is.
        at: Pa,
        /// The table that it names.
        table: Pa,
    },
    /// More tables than the caller's limit: most likely not a root table.
    TooManyTables {
        /// The limit.
        limit: u64,
    },
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableOutsideMemory { va, level, at } => {
                write!(
                    f,
                    "the level {level} table for {va} is read at {at}, where there is no RAM: check the root address"
                )
            }
            Self::ReservedBits {
                va,
                level,
                at,
                entry,
                reserved,
            } => write!(
                f,
                "the level {level} entry at {at} (for {va}) is {entry:#x}: bits {reserved:#x} must be zero there"
            ),
            Self::Loop { va, level, at, table } => {
                write!(
                    f,
                    "the level {level} entry at {at} (for {va}) leads back to the table {table} above it"
                )
            }
            Self::TooManyTables { limit } => {
                write!(
                    f,
                    "more than {limit} tables: check the root address, or raise the limit"
                )
            }
        }
    }
}

impl core::error::Error for WalkError {}

/// Numbers of leaves by size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafCounts {
    /// 1G leaves.
    pub g1: u64,
    /// 2M leaves.
    pub m2: u64,
    /// 4K leaves.
    pub k4: u64,
}

impl LeafCounts {
    /// Counts one leaf.
    pub fn add(&mut self, size: LeafSize) {
        match size {
            LeafSize::G1 => self.g1 += 1,
            LeafSize::M2 => self.m2 += 1,
            LeafSize::K4 => self.k4 += 1,
        }
    }

    /// Bytes that the leaves map.
    pub fn bytes(&self) -> u64 {
        self.g1 * LeafSize::G1.bytes() + self.m2 * LeafSize::M2.bytes() + self.k4 * LeafSize::K4.bytes()
    }
}

/// What a whole walk met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Leaves by size.
    pub leaves: LeafCounts,
    /// Tables visited, the root included. A table reached twice counts twice.
    pub tables: u64,
}

/// Tables that a walk visits at most unless [`Tables::with_table_limit`] says otherwise: 16 GiB of tables, enough for 8 TiB in 4K leaves.
const TABLE_LIMIT: u64 = 1 << 22;

/// A root table, its format, and the memory it stands in.
#[derive(Debug)]
pub struct Tables<'m, M: ?Sized> {
    memory: &'m M,
    format: Format,
    root: Pa,
    table_limit: u64,
}

impl<M: ?Sized> Clone for Tables<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: ?Sized> Copy for Tables<'_, M> {}

impl<'m, M: PhysicalRead + ?Sized> Tables<'m, M> {
    /// Tables under the root that `cr3` (or a nested CR3) names; its low 12 bits and bits 63:52 do not count.
    pub fn new(memory: &'m M, format: Format, cr3: u64) -> Self {
        Self {
            memory,
            format,
            root: format.root(cr3),
            table_limit: TABLE_LIMIT,
        }
    }

    /// Stops with [`WalkError::TooManyTables`] after this many tables. RAM bytes / 4096 can never be too small for tables that
    /// share no sub-tables.
    pub fn with_table_limit(mut self, limit: u64) -> Self {
        self.table_limit = limit;
        self
    }

    /// The format walked.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The root table.
    pub fn root(&self) -> Pa {
        self.root
    }

    /// Every table and leaf in address order.
    pub fn walk(&self) -> Walk<'m, M> {
        Walk::new(*self, 0, u64::MAX)
    }

    /// Every table and leaf that translates an address from `first` to `last`, both inclusive.
    /// Nothing when the two lie on different sides of the gap between canonical addresses.
    pub fn walk_range(&self, first: Va, last: Va) -> Walk<'m, M> {
        Walk::new(*self, self.format.linear(first), self.format.linear(last))
    }

    /// Every leaf in address order.
    pub fn leaves(&self) -> Leaves<'m, M> {
        Leaves(self.walk())
    }

    /// Every leaf that translates an address from `first` to `last`, both inclusive.
    pub fn leaves_in(&self, first: Va, last: Va) -> Leaves<'m, M> {
        Leaves(self.walk_range(first, last))
    }

    /// Calls `visit` for every leaf in address order and counts.
    ///
    /// # Errors
    /// The first malformed place; leaves before it have been visited.
    pub fn for_each_leaf(&self, mut visit: impl FnMut(Leaf)) -> Result<Stats, WalkError> {
        let mut stats = Stats::default();
        for step in self.walk() {
            match step? {
                Visit::Table { .. } => stats.tables += 1,
                Visit::Leaf(leaf) => {
                    stats.leaves.add(leaf.size);
                    visit(leaf);
                }
            }
        }
        Ok(stats)
    }

    /// Counts tables and leaves.
    ///
    /// # Errors
    /// The first malformed place.
    pub fn count(&self) -> Result<Stats, WalkError> {
        self.for_each_leaf(|_| ())
    }

    /// The leaf that translates `va` and the physical address that it gives, or `None` when nothing is mapped there
    /// (an address that is not canonical included).
    ///
    /// # Errors
    /// A malformed place on the way down.
    pub fn translate(&self, va: Va) -> Result<Option<(Leaf, Pa)>, WalkError> {
        if self.format.address(self.format.linear(va)) != va {
            return Ok(None);
        }
        match self.leaves_in(va, va).next() {
            None => Ok(None),
            Some(Err(error)) => Err(error),
            Some(Ok(leaf)) => {
                let offset = va.get().wrapping_sub(leaf.va.get());
                Ok(Some((leaf, Pa::new(leaf.pa.get() + offset))))
            }
        }
    }
}

/// A step of a [`Walk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// A table, before what it holds.
    Table {
        /// First address that it translates.
        va: Va,
        /// Its level: the root has 4 or 5, the last 1.
        level: u8,
        /// Where it is.
        pa: Pa,
    },
    /// A leaf.
    Leaf(Leaf),
}

/// A table on the path from the root.
#[derive(Clone, Copy)]
struct Cursor {
    table: Pa,
    /// First address that it translates, without sign bits.
    linear: u64,
    /// Next entry to look at, up to 512.
    next: u64,
    rights: Rights,
}

/// Iterator over tables and leaves in address order; ends after the first error.
pub struct Walk<'m, M: ?Sized> {
    tables: Tables<'m, M>,
    first: u64,
    last: u64,
    /// The path from the root: `path[0]` is the root. Five levels are the most there are.
    path: [Cursor; 5],
    /// Tables on the path; 0 when the walk is over.
    depth: usize,
    visited: u64,
}

impl<'m, M: PhysicalRead + ?Sized> Walk<'m, M> {
    fn new(tables: Tables<'m, M>, first: u64, last: u64) -> Self {
        let root = Cursor {
            table: tables.root,
            linear: 0,
            next: 0,
            rights: Rights::ALL,
        };
        let depth = usize::from(first <= last);
        Self {
            tables,
            first,
            last,
            path: [root; 5],
            depth,
            visited: 0,
        }
    }

    fn level(&self) -> u8 {
        // `depth` is 1 to 5 here and never more than the format's levels, because level 1 entries are leaves.
        self.tables.format.levels() + 1 - self.depth as u8
    }

    fn announce(&mut self) -> Result<Visit, WalkError> {
        let cursor = self.path[self.depth - 1];
        if self.visited == self.tables.table_limit {
            return Err(WalkError::TooManyTables {
                limit: self.tables.table_limit,
            });
        }
        self.visited += 1;
        Ok(Visit::Table {
            va: self.tables.format.address(cursor.linear),
            level: self.level(),
            pa: cursor.table,
        })
    }

    fn step(&mut self) -> Option<Result<Visit, WalkError>> {
        if self.visited == 0 && self.depth == 1 {
            return Some(self.announce());
        }
        while self.depth > 0 {
            let level = self.level();
            let span = K4 << (9 * u32::from(level - 1));
            let Cursor {
                table,
                linear,
                next,
                rights,
            } = self.path[self.depth - 1];
            let start = linear + next * span;
            if next == 512 || start > self.last {
                self.depth -= 1;
                continue;
            }
            self.path[self.depth - 1].next += 1;
            if start + (span - 1) < self.first {
                // Every entry before the one that holds `first` is skipped at once.
                self.path[self.depth - 1].next = ((self.first - linear) / span).min(512);
                continue;
            }
            let at = Pa::new(table.get() + 8 * next);
            let format = self.tables.format;
            let va = format.address(start);
            let Some(entry) = self.tables.memory.read_u64(at) else {
                return Some(Err(WalkError::TableOutsideMemory {
                    va: format.address(linear),
                    level,
                    at,
                }));
            };
            let rights = format.through(rights, entry);
            let child = match format.decode(level, va, entry) {
                Entry::Absent => continue,
                Entry::Malformed { reserved } => {
                    return Some(Err(WalkError::ReservedBits {
                        va,
                        level,
                        at,
                        entry,
                        reserved,
                    }));
                }
                Entry::Leaf(_) => {
                    return Some(Ok(Visit::Leaf(Leaf::new(format, va, level, entry, rights))));
                }
                Entry::Table(child) => child,
            };
            if self.path[..self.depth].iter().any(|cursor| cursor.table == child) {
                return Some(Err(WalkError::Loop {
                    va,
                    level,
                    at,
                    table: child,
                }));
            }
            self.path[self.depth] = Cursor {
                table: child,
                linear: start,
                next: 0,
                rights,
            };
            self.depth += 1;
            return Some(self.announce());
        }
        None
    }
}

impl<M: PhysicalRead + ?Sized> Iterator for Walk<'_, M> {
    type Item = Result<Visit, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if matches!(step, Some(Err(_))) {
            self.depth = 0;
        }
        step
    }
}

impl<M: PhysicalRead + ?Sized> FusedIterator for Walk<'_, M> {}

/// Iterator over leaves in address order; ends after the first error.
pub struct Leaves<'m, M: ?Sized>(Walk<'m, M>);

impl<M: PhysicalRead + ?Sized> Iterator for Leaves<'_, M> {
    type Item = Result<Leaf, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.next()? {
                Ok(Visit::Table { .. }) => (),
                Ok(Visit::Leaf(leaf)) => return Some(Ok(leaf)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<M: PhysicalRead + ?Sized> FusedIterator for Leaves<'_, M> {}

#[cfg(test)]
mod tests;
