//! A small RAM for tests, with a table writer of its own.

use std::collections::BTreeMap;

use crate::address::{M2, Pa};
use crate::entry::{Format, LeafSize};
use crate::walk::{PhysicalRead, Tables};

/// Present.
pub const P: u64 = 1;
/// Writable.
pub const W: u64 = 2;
/// User.
pub const U: u64 = 4;
/// No-execute.
pub const NX: u64 = 1 << 63;

/// Sparse RAM; tables are taken from 1 MiB up, the root is the first.
pub struct TestRam {
    words: BTreeMap<u64, u64>,
    pub bytes: u64,
    next_table: u64,
    pub format: Format,
}

impl PhysicalRead for TestRam {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        assert_eq!(pa.get() % 8, 0);
        (pa.get() < self.bytes).then(|| self.words.get(&pa.get()).copied().unwrap_or(0))
    }
}

impl TestRam {
    pub fn new() -> Self {
        Self::with_format(Format::host(false, 40))
    }

    pub fn with_format(format: Format) -> Self {
        Self {
            words: BTreeMap::new(),
            bytes: 64 << 30,
            next_table: 0x10_1000,
            format,
        }
    }

    pub fn root(&self) -> u64 {
        0x10_0000
    }

    pub fn tables(&self) -> Tables<'_, Self> {
        Tables::new(self, self.format, self.root())
    }

    pub fn words(&self, pa: u64) -> u64 {
        self.words.get(&pa).copied().unwrap_or(0)
    }

    pub fn write(&mut self, pa: u64, word: u64) {
        self.words.insert(pa, word);
    }

    /// Where the entry for `va` at `level` is; makes the tables above it.
    pub fn entry_at(&mut self, va: u64, level: u8) -> u64 {
        let mut table = self.root();
        let mut at_level = self.format.levels();
        loop {
            let entry_at = table + 8 * (va >> (12 + 9 * u32::from(at_level - 1)) & 511);
            if at_level == level {
                return entry_at;
            }
            let entry = self.words.get(&entry_at).copied().unwrap_or(0);
            table = if entry & P == 0 {
                let table = self.next_table;
                self.next_table += 0x1000;
                self.write(entry_at, table | P | W | U);
                table
            } else {
                assert!(at_level > 3 || entry & 0x80 == 0, "a leaf is in the way");
                entry & 0x000f_ffff_ffff_f000
            };
            at_level -= 1;
        }
    }

    /// Writes the entry for `va` at `level` as it is given.
    pub fn write_leaf(&mut self, va: u64, level: u8, entry: u64) {
        let at = self.entry_at(va, level);
        self.write(at, entry);
    }

    pub fn map(&mut self, va: u64, pa: u64, size: LeafSize, flags: u64) {
        let (level, large) = match size {
            LeafSize::K4 => (1, 0),
            LeafSize::M2 => (2, 0x80),
            LeafSize::G1 => (3, 0x80),
        };
        self.write_leaf(va, level, pa | flags | large);
    }

    /// Splits the 1G leaf at `va` into 2M leaves with the same flags.
    pub fn split_gigabyte(&mut self, va: u64) {
        let at = self.entry_at(va, 3);
        let entry = self.words[&at];
        let (pa, flags) = (entry & 0x000f_ffff_c000_0000, entry & (0xfff | 1 << 63) & !0x80);
        self.write(at, 0);
        for region in 0..512 {
            self.map(va + region * M2, pa + region * M2, LeafSize::M2, flags);
        }
    }
}
