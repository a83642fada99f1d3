//! One CPU's translation caches, and the walk that fills them.
//!
//! The walk is written from the manuals (SDM vol. 3A, 4.5 and 4.10) and shares nothing with `paging` but the address types, so that it
//! checks the tables rather than repeating their assumptions.

use std::collections::BTreeMap;

use crate::address::{Hpa, Hva, Pfn};

use super::ram::Ram;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A page fault in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address.
    pub at: Hva,
    /// Whether there was a translation that forbids the access.
    pub protection: bool,
}

#[derive(Clone, Copy)]
struct Translation {
    hpa: u64,
    writable: bool,
}

/// Everything that a CPU may remember of the tables until it is flushed.
pub(super) struct Caches {
    root: Pfn,
    /// Translations by (start of the page, log2 of its size).
    pages: BTreeMap<(u64, u32), Translation>,
    /// Tables by (start of the range that the table translates, log2 of that range): the paging-structure caches.
    tables: BTreeMap<(u64, u32), u64>,
    pub(super) in_guest: bool,
}

fn start(at: Hva, shift: u32) -> u64 {
    at.get() >> shift << shift
}

impl Caches {
    pub(super) fn new(root: Pfn) -> Self {
        Self {
            root,
            pages: BTreeMap::new(),
            tables: BTreeMap::new(),
            in_guest: false,
        }
    }

    pub(super) fn flush(&mut self) {
        self.pages.clear();
        self.tables.clear();
    }

    /// What INVLPG does: every translation of the page, and all paging-structure entries (SDM vol. 3A, 4.10.4.1).
    pub(super) fn invalidate(&mut self, at: Hva) {
        self.pages.retain(|&(page, shift), _| page != start(at, shift));
        self.tables.clear();
    }

    /// Translates as hardware may: from the oldest thing that it remembers.
    pub(super) fn translate(&mut self, ram: &Ram, at: Hva, write: bool) -> Result<Hpa, Fault> {
        assert!(!self.in_guest, "a CPU in guest mode used a host translation");
        for shift in [12, 21, 30] {
            if let Some(page) = self.pages.get(&(start(at, shift), shift)) {
                return finish(*page, at, shift, write);
            }
        }
        let (mut shift, mut table) = (39, self.root.hpa().get());
        for covered in [21, 30, 39] {
            if let Some(cached) = self.tables.get(&(start(at, covered), covered)) {
                (shift, table) = (covered - 9, *cached);
                break;
            }
        }
        let mut writable = true;
        loop {
            let index = at.get() >> shift & 511;
            let entry = ram.load(Hpa::new(table + 8 * index));
            if entry & PRESENT == 0 {
                return Err(Fault {
                    at,
                    protection: false,
                });
            }
            writable &= entry & WRITABLE != 0;
            if shift == 12 || (shift < 39 && entry & LARGE != 0) {
                let page = Translation {
                    hpa: entry & ADDRESS & !((1 << shift) - 1),
                    writable,
                };
                self.pages.insert((start(at, shift), shift), page);
                return finish(page, at, shift, write);
            }
            table = entry & ADDRESS;
            self.tables.insert((start(at, shift), shift), table);
            shift -= 9;
        }
    }
}

fn finish(page: Translation, at: Hva, shift: u32, write: bool) -> Result<Hpa, Fault> {
    if write && !page.writable {
        return Err(Fault { at, protection: true });
    }
    Ok(Hpa::new(page.hpa + (at.get() & ((1 << shift) - 1))))
}
