//! One CPU: what it has cached, and whether it runs a guest.
//!
//! Beside what the machine works out from the journal, a CPU has caches that work as real ones do, so that plain tests read and write
//! through translations as old as hardware may use: the oldest thing remembered is what counts.

use std::collections::BTreeMap;

use audit::Leaf;
use memory::address::{Hpa, Hva, Pfn};
use memory::tlb::shootdown::Cpu as Member;

use crate::journal::Time;
use crate::ram::Ram;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
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
    global: bool,
}

/// What a CPU does, as far as translations go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is not started: it has none.
    Absent,
    /// It has loaded its tables, and uses nothing of them but what never changes.
    Starting,
    /// It uses them.
    Host,
    /// It runs a guest or sleeps: it uses none, but may walk tables.
    Away,
}

/// A CPU.
pub(crate) struct Cpu {
    pub(crate) root: Pfn,
    /// Translations by (start of the page, log2 of its size).
    pages: BTreeMap<(u64, u32), Translation>,
    /// Tables by (start of the range that the table translates, log2 of that range): the paging-structure caches.
    tables: BTreeMap<(u64, u32), u64>,
    pub(crate) stage: Stage,
    /// The CPU in the shootdown protocol.
    member: Member<'static>,
    /// When it really flushed last.
    pub(crate) flushed: Time,
    /// Addresses whose translations were dropped since, and when.
    pub(crate) invalidated: Vec<(u64, Time)>,
    /// Global translations that may have been cached before that flush: writing CR3 leaves them (SDM vol. 3A, 4.10.4.1).
    pub(crate) globals: Vec<Leaf>,
}

fn start(at: Hva, shift: u32) -> u64 {
    at.get() >> shift << shift
}

impl Cpu {
    pub(crate) fn new(root: Pfn, member: Member<'static>, now: Time) -> Self {
        Self {
            root,
            pages: BTreeMap::new(),
            tables: BTreeMap::new(),
            stage: Stage::Absent,
            member,
            flushed: now,
            invalidated: Vec::new(),
            globals: Vec::new(),
        }
    }

    /// Whether it can't use a host translation before it has flushed: it is away and will find that it owes a flush, or it is starting, which
    /// ends with one.
    pub(crate) fn is_held(&self) -> bool {
        match self.stage {
            Stage::Absent | Stage::Starting => true,
            Stage::Host => false,
            Stage::Away => self.member.owes_flush(),
        }
    }

    /// Whether it may have read tables at all.
    pub(crate) fn may_walk(&self) -> bool {
        self.stage != Stage::Absent
    }

    /// What a write of CR3 does: everything but global translations goes.
    pub(crate) fn flush(&mut self, now: Time) {
        self.pages.retain(|_, page| page.global);
        self.tables.clear();
        self.flushed = now;
        self.invalidated.clear();
    }

    /// What INVLPG does: every translation of the page, and all paging-structure entries (SDM vol. 3A, 4.10.4.1). What may be used still
    /// is worked out without the latter.
    pub(crate) fn invalidate(&mut self, at: Hva, now: Time) {
        self.pages.retain(|&(page, shift), _| page != start(at, shift));
        self.tables.clear();
        self.invalidated.retain(|(page, _)| *page != at.get());
        self.invalidated.push((at.get(), now));
        self.globals.retain(|leaf| !covers(leaf, at.get()));
    }

    /// Whether a translation that was in the tables until `until` was dropped by itself since.
    pub(crate) fn has_dropped(&self, leaf: &Leaf, until: Time) -> bool {
        self.invalidated
            .iter()
            .any(|(at, when)| until <= *when && covers(leaf, *at))
    }

    /// Whether an address that was translated is so by a page of 4K.
    pub(crate) fn uses_small_page(&self, at: Hva) -> bool {
        self.pages.contains_key(&(start(at, 12), 12))
    }

    /// Translates as hardware may: from the oldest thing that it remembers.
    pub(crate) fn translate(&mut self, ram: &Ram, at: Hva, write: bool) -> Result<Hpa, Fault> {
        assert_eq!(self.stage, Stage::Host, "a CPU used a host translation");
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
                    global: entry & GLOBAL != 0,
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

fn covers(leaf: &Leaf, at: u64) -> bool {
    at.wrapping_sub(leaf.va.get()) < leaf.size.bytes()
}

fn finish(page: Translation, at: Hva, shift: u32, write: bool) -> Result<Hpa, Fault> {
    if write && !page.writable {
        return Err(Fault { at, protection: true });
    }
    Ok(Hpa::new(page.hpa + (at.get() & ((1 << shift) - 1))))
}
