//! What a walk could have found since some time: every mix of present and overwritten entries that hardware could have read in the order of
//! a walk, upper entries first.
//!
//! A translation, or a paging-structure entry, that is cached was read at some moment since the last flush; what stands below it is read later
//! or at the same moment. So a path is possible if moments can be chosen that do not go back. The walk carries the earliest such moment.

use audit::{Entry, Format, Leaf, Pa, Va};
use memory::address::{ENTRIES, Hpa, Pfn};
use std::sync::atomic::Ordering;

use crate::journal::{Journal, Time, Word};
use crate::ram::Ram;

/// Bits of a physical address that the model's CPUs have: enough for the whole direct map (96 TiB), so that bits 51 to 48 are reserved.
pub(crate) const PHYSICAL_BITS: u32 = 48;
/// Bits of an address that four levels translate.
pub(crate) const LINEAR: u64 = (1 << 48) - 1;

/// The formats that the model walks.
pub(crate) const fn host_format() -> Format {
    Format::host(false, PHYSICAL_BITS)
}

/// The address that entries at `linear` translate: with its sign in host tables.
fn address(format: Format, linear: u64) -> Va {
    if format == host_format() && linear >> 47 != 0 {
        Va::new(linear | !LINEAR)
    } else {
        Va::new(linear)
    }
}

/// A translation that can be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    /// The translation.
    pub(crate) leaf: Leaf,
    /// Its entry.
    pub(crate) at: Hpa,
    /// When its entry was overwritten; the end of time if it still stands.
    pub(crate) until: Time,
    /// Whether the tables as they are now say so.
    pub(crate) current: bool,
}

impl Reached {
    /// The physical extent: first byte and length.
    pub(crate) fn extent(&self) -> (u64, u64) {
        (self.leaf.pa.get(), self.leaf.size.bytes())
    }
}

/// A step of a walk.
pub(crate) enum Node {
    /// A table that may be walked.
    Table {
        pfn: Pfn,
        level: u8,
        /// The first address that it translates, without sign.
        base: u64,
    },
    Leaf(Reached),
    /// An entry that no walk may meet.
    Bad {
        at: Hpa,
        level: u8,
        why: String,
    },
}

/// Tables as they are and were.
#[derive(Clone, Copy)]
pub(crate) struct Walker<'a> {
    pub(crate) ram: &'a Ram,
    pub(crate) journal: &'a Journal,
    pub(crate) format: Format,
}

/// Where a walk is.
#[derive(Clone, Copy)]
struct Cursor {
    pfn: Pfn,
    level: u8,
    base: u64,
    earliest: Time,
    current: bool,
}

/// A value of an entry that can have been read.
struct Value {
    value: u64,
    earliest: Time,
    until: Time,
    current: bool,
}

impl Walker<'_> {
    /// Visits everything that translates an address from `first` to `last` (inclusive, without sign) and can have been read after `since`.
    pub(crate) fn walk(
        &self,
        root: Pfn,
        since: Time,
        (first, last): (u64, u64),
        visit: &mut dyn FnMut(Node),
    ) {
        let root = Cursor {
            pfn: root,
            level: 4,
            base: 0,
            earliest: since,
            current: true,
        };
        self.table(root, (first & LINEAR, last & LINEAR), visit);
    }

    /// As [`Self::walk`], from a table in the middle of the tree, as it is now.
    pub(crate) fn walk_now(&self, pfn: Pfn, level: u8, base: u64, visit: &mut dyn FnMut(Node)) {
        let cursor = Cursor {
            pfn,
            level,
            base,
            earliest: self.journal.now(),
            current: true,
        };
        self.table(cursor, (0, LINEAR), visit);
    }

    fn table(&self, cursor: Cursor, span: (u64, u64), visit: &mut dyn FnMut(Node)) {
        let Cursor {
            pfn,
            level,
            base,
            current,
            ..
        } = cursor;
        if !self.ram.holds(pfn.hpa(), 4096) {
            visit(Node::Bad {
                at: pfn.hpa(),
                level,
                why: "a table where there is no RAM".into(),
            });
            return;
        }
        visit(Node::Table { pfn, level, base });
        let table = self.ram.touched(pfn);
        let history = self.journal.frame(pfn.get());
        if table.is_none() && history.is_none() {
            return;
        }
        let shift = 12 + 9 * u32::from(level - 1);
        let last = base + ((ENTRIES as u64) << shift) - 1;
        if span.0 > last || span.1 < base {
            return;
        }
        let first = (span.0.max(base) - base) >> shift;
        let end = (span.1.min(last) - base) >> shift;
        for index in first as usize..=end as usize {
            let linear = base + ((index as u64) << shift);
            let present = table.map_or(0, |table| table[index].load(Ordering::Relaxed));
            let word = history.map(|words| &words[index]);
            let since = word.map_or(0, |word| word.since);
            let value = Value {
                value: present,
                earliest: cursor.earliest.max(since),
                until: Time::MAX,
                current,
            };
            match word {
                Some(word) if !word.past.is_empty() || since != 0 => {
                    // Hardware sets accessed and dirty bits (5, 6, and in EPT 8, 9) by itself.
                    if since != 0 && (word.last ^ present) & !0x360 != 0 {
                        visit(Node::Bad {
                            at: Hpa::new(pfn.hpa().get() + 8 * index as u64),
                            level,
                            why: format!("{present:#x} was written past the machine over {:#x}", word.last),
                        });
                    }
                    for value in values(word, &cursor, value) {
                        self.entry(&cursor, index, linear, value, span, visit);
                    }
                }
                _ if present != 0 => self.entry(&cursor, index, linear, value, span, visit),
                _ => {}
            }
        }
    }

    fn entry(
        &self,
        cursor: &Cursor,
        index: usize,
        linear: u64,
        value: Value,
        span: (u64, u64),
        visit: &mut dyn FnMut(Node),
    ) {
        let at = Hpa::new(cursor.pfn.hpa().get() + 8 * index as u64);
        let va = address(self.format, linear);
        match self.format.decode(cursor.level, va, value.value) {
            Entry::Absent => {}
            Entry::Malformed { reserved } => visit(Node::Bad {
                at,
                level: cursor.level,
                why: format!("{:#x} has the reserved bits {reserved:#x}", value.value),
            }),
            Entry::Leaf(leaf) => visit(Node::Leaf(Reached {
                leaf,
                at,
                until: value.until,
                current: value.current,
            })),
            Entry::Table(below) => self.table(
                Cursor {
                    pfn: Hpa::new(below.get()).pfn(),
                    level: cursor.level - 1,
                    base: linear,
                    earliest: value.earliest,
                    current: value.current,
                },
                span,
                visit,
            ),
        }
    }

    /// What the entry of a table of this level says, by itself.
    pub(crate) fn decode(&self, level: u8, linear: u64, value: u64) -> Entry {
        self.format.decode(level, address(self.format, linear), value)
    }
}

/// What a walk may have read in an entry. It may read the same value at several times: the earliest counts for what lies below, the latest for
/// the leaf.
fn values(word: &Word, cursor: &Cursor, present: Value) -> Vec<Value> {
    let mut values = vec![present];
    for past in word.past.iter().filter(|past| past.to > cursor.earliest) {
        let earliest = cursor.earliest.max(past.from);
        match values.iter_mut().find(|value| value.value == past.value) {
            Some(known) => {
                known.earliest = known.earliest.min(earliest);
                known.until = known.until.max(past.to);
            }
            None => values.push(Value {
                value: past.value,
                earliest,
                until: past.to,
                current: false,
            }),
        }
    }
    values
}

/// The physical address as `audit` writes it.
pub(crate) fn hpa(pa: Pa) -> Hpa {
    Hpa::new(pa.get())
}
