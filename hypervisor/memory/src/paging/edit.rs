//! Changing live tables: the single place where their entries are written.

use core::sync::atomic::Ordering;

use crate::address::{ENTRIES, Hva, Level, Pfn};
use crate::frame::records::FrameTable;
use crate::frame::table_frame::TableFrame;
use crate::machine::{Machine, TableAt};

use super::format::{Decoded, Format};
use super::mark::Mark;

/// One entry of a live table.
pub(crate) struct Slot<'a, M: Machine> {
    machine: &'a M,
    table: TableAt,
    index: usize,
    level: Level,
}

/// Why the 512 entries of a table are not merged into one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MergeBlocked {
    /// There is no table.
    NoTable,
    /// One of them is absent.
    Hole,
    /// One of them leads to a table.
    SmallerLeaves,
    /// They do not map one aligned piece of memory in order.
    Address,
    /// They differ in more than the accessed and dirty bits: in access rights, memory type, or a software bit.
    Attributes,
}

/// Where a walk ended.
pub(crate) enum Found<'a, M: Machine> {
    /// At the entry of the level that was asked for.
    Slot(Slot<'a, M>),
    /// At a larger leaf above it.
    Leaf,
    /// At an absent entry above it.
    Absent,
}

/// Walks from `root` (level 4) towards the entry of level `level` that translates `at`.
pub(crate) fn find<'a, F: Format, M: Machine>(
    machine: &'a M,
    root: Pfn,
    at: Hva,
    level: Level,
) -> Found<'a, M> {
    let (mut table, mut current) = (root, Level::L4);
    loop {
        let slot = Slot::of(machine, table, at.index(current as u8), current);
        let Some(below) = current.below().filter(|_| current > level) else {
            return Found::Slot(slot);
        };
        match slot.decode::<F>() {
            Decoded::Absent => return Found::Absent,
            Decoded::Leaf(..) => return Found::Leaf,
            Decoded::Table(next) => (table, current) = (next, below),
        }
    }
}

impl<'a, M: Machine> Slot<'a, M> {
    /// An entry of a table that the caller knows, by its number, modulo 512.
    pub(crate) fn of(machine: &'a M, table: Pfn, index: usize, level: Level) -> Self {
        Self {
            machine,
            table: TableAt::new(table),
            index: index % ENTRIES,
            level,
        }
    }

    /// An entry of a level-1 table that this one leads to.
    pub(crate) fn below(&self, table: Pfn, index: usize) -> Self {
        Self::of(self.machine, table, index, Level::L1)
    }

    /// Reads the entry.
    fn read(&self) -> u64 {
        self.machine.table(self.table)[self.index].load(Ordering::Acquire)
    }

    /// What the entry says.
    pub(crate) fn decode<F: Format>(&self) -> Decoded<F::Attributes> {
        F::decode(self.level, self.read())
    }

    /// Writes the entry.
    fn write(&self, value: u64) {
        self.machine.write_entry(self.table, self.index, value);
    }

    /// Removes a translation or a table. The caller owes a flush before what it led to is used for anything else.
    pub(crate) fn clear(&self) {
        self.write(0);
    }

    /// Whether the entry is this leaf, but for the accessed and dirty bits.
    pub(crate) fn says<F: Format>(&self, pfn: Pfn, attributes: F::Attributes) -> bool {
        let entry = self.read();
        F::leaf(self.level, pfn, attributes).is_some_and(|leaf| (entry ^ leaf) & !F::ACCESSED_DIRTY == 0)
    }

    /// Writes a leaf over an absent entry; nothing to flush, absence is not cached (SDM vol. 3A, 4.10.2.3; APM vol. 2, 5.5.2).
    /// False, and nothing written, when the entry is not absent or the frame is not aligned to the level.
    #[must_use]
    pub(crate) fn fill<F: Format>(&self, pfn: Pfn, attributes: F::Attributes) -> bool {
        let absent = matches!(self.decode::<F>(), Decoded::Absent);
        match F::leaf(self.level, pfn, attributes) {
            Some(entry) if absent => {
                self.write(entry);
                true
            }
            _ => false,
        }
    }

    /// Gives a leaf other attributes, which must permit no less: then nothing has to be flushed, since a CPU that trips over what it has
    /// cached looks again (SDM vol. 3C, 29.4.3.1, and vol. 3A, 4.10.4.2). False, and nothing written, when there is no leaf.
    #[must_use]
    pub(crate) fn permit<F: Format>(&self, attributes: F::Attributes) -> bool {
        let Decoded::Leaf(pfn, _) = self.decode::<F>() else {
            return false;
        };
        match F::leaf(self.level, pfn, attributes) {
            Some(entry) => {
                self.write(entry);
                true
            }
            None => false,
        }
    }

    /// Turns a bit of the entry over; `forget` makes every CPU forget the entry while it is absent.
    #[cfg(feature = "test-interface")]
    pub(crate) fn toggle(&self, bit: u64, forget: impl FnOnce()) {
        let entry = self.read();
        self.clear();
        forget();
        self.write(entry ^ bit);
    }

    /// Makes the entry absent, with a note of the frame behind it. Where it was present, the caller owes a flush as for
    /// [`Slot::clear`]. Only in a second stage.
    pub(crate) fn mark(&self, mark: Mark, pfn: Pfn) {
        self.write(mark.entry(pfn));
    }

    /// What [`Slot::mark`] left here.
    pub(crate) fn marked(&self) -> Option<(Mark, Pfn)> {
        Mark::read(self.read())
    }

    /// Replaces a mark by a table of 512 marks that say the same: absent before and after, so nothing is owed. Returns the table.
    pub(crate) fn split_mark<F: Format>(
        &self,
        frames: &mut FrameTable<'_>,
        (mark, pfn): (Mark, Pfn),
        table: TableFrame,
    ) -> Option<Pfn> {
        // Marks stand for 2 MiB or for a page.
        if self.level != Level::L2 {
            return None;
        }
        for (frame, index) in (0..).zip(0..ENTRIES) {
            let entry = mark.entry(pfn.add(frame));
            self.machine.write_entry(TableAt::new(table.pfn()), index, entry);
        }
        let table = table.link(frames, 0);
        self.write(F::table(table));
        Some(table)
    }

    /// Links a table, whose contents are complete, over an absent entry.
    pub(crate) fn link<F: Format>(&self, table: Pfn) {
        self.write(F::table(table));
    }

    /// Replaces a leaf by a table of 512 leaves that say the same. Only the page size changes, so translations cached before stay right
    /// and nothing has to be flushed for it. Returns the table.
    pub(crate) fn split<F: Format>(
        &self,
        frames: &mut FrameTable<'_>,
        leaf: (Pfn, F::Attributes),
        table: TableFrame,
    ) -> Option<Pfn> {
        let below = self.level.below()?;
        let (pfn, attributes) = leaf;
        let first = F::leaf(below, pfn, attributes)?;
        for (i, index) in (0..).zip(0..ENTRIES) {
            self.machine
                .write_entry(TableAt::new(table.pfn()), index, first + i * below.bytes());
        }
        let table = table.link(frames, ENTRIES as u16);
        self.write(F::table(table));
        Some(table)
    }

    /// Replaces a table by one leaf if its 512 entries agree in everything but the accessed and dirty bits, which are or-ed together.
    /// The table is returned; CPUs may still walk it until the next flush.
    ///
    /// # Errors
    /// What is in the way; then nothing was changed.
    pub(crate) fn merge<F: Format>(&self) -> Result<TableFrame, MergeBlocked> {
        let (Some(below), Decoded::Table(table)) = (self.level.below(), self.decode::<F>()) else {
            return Err(MergeBlocked::NoTable);
        };
        let entries = self.machine.table(TableAt::new(table));
        let first = entries[0].load(Ordering::Acquire);
        let (pfn, attributes) = match F::decode(below, first) {
            Decoded::Leaf(pfn, attributes) => (pfn, attributes),
            Decoded::Table(_) => return Err(MergeBlocked::SmallerLeaves),
            Decoded::Absent => return Err(MergeBlocked::Hole),
        };
        // The frame must be aligned to the large leaf, so the addresses of the others only fill bits that are zero in the first.
        let leaf = F::leaf(self.level, pfn, attributes).ok_or(MergeBlocked::Address)?;
        // The frame number stands at bit 12 in every layout; below the size of the leaves there are attributes.
        let address = ((1 << 52) - 1) & !(below.bytes() - 1);
        let mut accessed_dirty = 0;
        for (i, entry) in (0..).zip(entries) {
            let entry = entry.load(Ordering::Acquire);
            let differs = (entry ^ (first + i * below.bytes())) & !F::ACCESSED_DIRTY;
            if differs != 0 {
                return Err(match F::decode(below, entry) {
                    Decoded::Absent => MergeBlocked::Hole,
                    Decoded::Table(_) => MergeBlocked::SmallerLeaves,
                    Decoded::Leaf(..) if differs & !address != 0 => MergeBlocked::Attributes,
                    Decoded::Leaf(..) => MergeBlocked::Address,
                });
            }
            accessed_dirty |= entry & F::ACCESSED_DIRTY;
        }
        self.write(leaf | accessed_dirty);
        Ok(TableFrame::unlinked(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::paging::format::{Attributes, LongMode};

    /// A machine, a table that leads to a full table of 2M leaves at gigablock 1, and that table.
    fn full_table() -> (&'static Fake, Pfn, Pfn) {
        let (machine, ..) = Fake::boot();
        let (upper, lower) = (Pfn::new(0x800), Pfn::new(0x801));
        for index in 0..ENTRIES {
            let slot = Slot::of(machine, lower, index, Level::L2);
            assert!(slot.fill::<LongMode>(Pfn::new((1 << 18) + (index as u64) * 512), Attributes::DATA));
        }
        Slot::of(machine, upper, 5, Level::L3).link::<LongMode>(lower);
        (machine, upper, lower)
    }

    #[test]
    fn entries_that_agree_merge_and_their_accessed_and_dirty_bits_are_kept() {
        let (machine, upper, lower) = full_table();
        // Only one entry is accessed and dirty, and not the first.
        for (index, entry) in machine.frame(lower).iter().enumerate() {
            if index != 7 {
                entry.fetch_and(!0x60, Ordering::Relaxed);
            }
        }
        let slot = Slot::of(machine, upper, 5, Level::L3);
        assert_eq!(slot.merge::<LongMode>().map(|table| table.pfn()), Ok(lower));
        assert_eq!(
            slot.decode::<LongMode>(),
            Decoded::Leaf(Pfn::new(1 << 18), Attributes::DATA)
        );
    }

    #[test]
    fn entries_that_disagree_in_anything_do_not_merge() {
        type Damage = (fn(u64) -> u64, MergeBlocked);
        let damage: [Damage; 6] = [
            (|_| 0, MergeBlocked::Hole),
            (|entry| entry & !0x80, MergeBlocked::SmallerLeaves),
            (|entry| entry & !2, MergeBlocked::Attributes),
            (|entry| entry | 1 << 8, MergeBlocked::Attributes),
            (|entry| entry ^ 1 << 12, MergeBlocked::Attributes),
            (|entry| entry + (2 << 20), MergeBlocked::Address),
        ];
        for (harm, reason) in damage {
            for index in [0, 1, 511] {
                let (machine, upper, lower) = full_table();
                let entry = &machine.frame(lower)[index];
                entry.store(harm(entry.load(Ordering::Relaxed)), Ordering::Relaxed);
                let slot = Slot::of(machine, upper, 5, Level::L3);
                assert_eq!(slot.merge::<LongMode>().map(|table| table.pfn()), Err(reason));
                assert_eq!(
                    slot.decode::<LongMode>(),
                    Decoded::Table(lower),
                    "changed although it failed"
                );
            }
        }
    }

    #[test]
    fn a_leaf_is_written_over_an_absent_entry_only() {
        let (machine, upper, lower) = full_table();
        for (table, level) in [(lower, Level::L2), (upper, Level::L3)] {
            let slot = Slot::of(machine, table, 5, level);
            let before = slot.read();
            assert!(!slot.fill::<LongMode>(Pfn::new(0), Attributes::DATA));
            assert_eq!(slot.read(), before);
            slot.clear();
            assert!(slot.fill::<LongMode>(Pfn::new(0), Attributes::DATA));
        }
    }
}
