//! Looking at extents before they are hidden: whether the direct map shows each as ordinary data, and tables for the leaves that will be split.
//!
//! What was looked at can be hidden without a way to fail, also when the memory subsystem was let go in between: the extents are their
//! owner's, so nobody else changes what the direct map says of them. What others may change is the *size* of the leaves that say it. Two
//! guests' regions in one gigablock, of which one launches and the other ends:
//!
//! ```text
//!            CPU 0                                  CPU 1
//! checks region A: there is a table
//!                                     restores region B, the last hole there
//!                                     merges the table into a 1G leaf
//! hides region A: splits the 1G leaf
//! ```
//!
//! So where the lock is released in between, a table is taken for each leaf that there could be by then.

use crate::address::{GIGABLOCK_ORDER, Pfn, REGION_ORDER};
use crate::frame::extent::Carved;
use crate::frame::extent_list::ExtentList;
use crate::frame::records::FrameTable;
use crate::frame::table_frame::TableList;
use crate::machine::Machine;
use crate::paging::format::{Attributes, Decoded, LongMode};

use super::hide::{HideCause, pages, regions};
use super::{Action, DirectMap, first_level, second_level, trace};

/// Regions, or frames of smaller extents, that are looked at or hidden in one step: a gigablock's worth. An extent that does not fit any
/// more is still done, so twice as much at most. With some 200 instructions a region (measured on TCG) that is less than zeroing 2 MiB takes.
const AT_ONCE: u64 = 512;

/// Whether the memory subsystem stays locked from the look at an extent until it is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// It does: tables are needed only for the leaves that there are.
    Kept,
    /// It does not.
    Released,
}

/// Extents that can be hidden without a way to fail, and the tables for that.
#[derive(Debug)]
#[must_use = "extents that were checked are hidden or given back"]
pub(crate) struct Checked {
    lock: Lock,
    pub(crate) extents: ExtentList<Carved>,
    pub(crate) reserve: TableList,
    /// The gigablock and the region for whose split there is a table.
    gigablock: Option<u64>,
    region: Option<u64>,
}

impl Checked {
    /// No extents yet.
    pub(crate) const fn new(lock: Lock) -> Self {
        Self {
            lock,
            extents: ExtentList::new(),
            reserve: TableList::new(),
            gigablock: None,
            region: None,
        }
    }

    /// Gives everything up: the extents, still in the direct map, and the tables.
    pub(crate) fn give_up(self) -> (ExtentList<Carved>, TableList) {
        (self.extents, self.reserve)
    }

    /// Whether a table has to be taken for the 1G leaf around an extent of whole regions or less, now that it is known whether there is one.
    fn splits_gigablock(&mut self, frames: &FrameTable<'_>, extent: (Pfn, u8), leaf: bool) -> bool {
        let (pfn, order) = extent;
        let number = pfn.gigablock_number();
        if order == GIGABLOCK_ORDER || self.gigablock == Some(number) {
            return false;
        }
        self.gigablock = Some(number);
        let whole_at_boot = || {
            let index = frames.gigablock_of(pfn);
            index.is_none_or(|index| frames.gigablock(index).whole_at_boot())
        };
        leaf || self.lock == Lock::Released && whole_at_boot()
    }

    /// The same for the 2M leaf around a smaller extent.
    fn splits_region(&mut self, pfn: Pfn, leaf: bool) -> bool {
        let number = pfn.region_number();
        let first = self.region.replace(number) != Some(number);
        first && (leaf || self.lock == Lock::Released)
    }
}

/// Moves extents from the front of a list to the end of another, a step's worth.
pub(super) fn take_some(
    frames: &mut FrameTable<'_>,
    from: &mut ExtentList<Carved>,
    mut visit: impl FnMut(&mut FrameTable<'_>, (Pfn, u8)) -> Result<(), HideCause>,
) -> (ExtentList<Carved>, Result<(), HideCause>) {
    let mut taken = ExtentList::new();
    let mut units = 0;
    while units < AT_ONCE
        && let Some((pfn, order)) = from.peek(frames)
    {
        if let Err(cause) = visit(frames, (pfn, order)) {
            return (taken, Err(cause));
        }
        from.move_first(frames, &mut taken);
        units += 1 << order.checked_sub(REGION_ORDER).unwrap_or(order);
    }
    (taken, Ok(()))
}

impl DirectMap {
    /// Looks at some of the extents, and takes a table for each leaf that hiding them will split. Whether there are more.
    ///
    /// # Errors
    /// When a table frame is missing or an extent is not mapped as it should be. What was taken until then stays where it is, the extent on
    /// its list.
    pub(crate) fn check_some<M: Machine>(
        &self,
        machine: &M,
        frames: &mut FrameTable<'_>,
        extents: &mut ExtentList<Carved>,
        checked: &mut Checked,
    ) -> Result<bool, HideCause> {
        // The gigablock in turn, and its table if it has one: looked up once for all extents in it.
        let mut seen = None;
        let (taken, result) = take_some(frames, extents, |frames, (pfn, order)| {
            trace(machine, Action::Carve, pfn, order);
            let wanted = self.look(machine, frames, checked, &mut seen, (pfn, order))?;
            // A split writes every entry, so these need no zeroing.
            let tables = frames
                .reserve_frames(wanted, |_| {})
                .map_err(HideCause::OutOfMemory)?;
            checked.reserve.append(frames, tables);
            Ok(())
        });
        checked.extents.append(frames, taken);
        result.map(|()| !extents.is_empty())
    }

    /// Looks at one extent: how many tables hiding it takes.
    fn look<M: Machine>(
        &self,
        machine: &M,
        frames: &FrameTable<'_>,
        checked: &mut Checked,
        seen: &mut Option<(u64, Option<Pfn>)>,
        (pfn, order): (Pfn, u8),
    ) -> Result<u64, HideCause> {
        let number = pfn.gigablock_number();
        let table = match seen.filter(|(same, _)| *same == number) {
            Some((_, table)) => table,
            None => {
                let slot = self.third_level(machine, pfn).ok_or(HideCause::NotALeaf(pfn))?;
                // Restore writes data leaves again: only what is one now may go.
                let start = Pfn::new(number << GIGABLOCK_ORDER);
                match slot.decode::<LongMode>() {
                    Decoded::Table(table) => Some(table),
                    Decoded::Leaf(..) if slot.says::<LongMode>(start, Attributes::DATA) => None,
                    Decoded::Leaf(..) | Decoded::Absent => return Err(HideCause::NotALeaf(pfn)),
                }
            }
        };
        *seen = Some((number, table));
        let mut wanted = u64::from(checked.splits_gigablock(frames, (pfn, order), table.is_none()));
        if order < REGION_ORDER {
            let leaf = match table {
                None => true,
                Some(table) => !is_in_small_leaves(machine, table, (pfn, order))?,
            };
            wanted += u64::from(checked.splits_region(pfn, leaf));
        } else if let Some(table) = table {
            for region in regions(pfn, order) {
                if !second_level(machine, table, region).says::<LongMode>(region, Attributes::DATA) {
                    return Err(HideCause::NotALeaf(region));
                }
            }
        }
        Ok(wanted)
    }
}

/// Whether a piece is mapped by small leaves already; false when the 2M leaf around it has to be split.
fn is_in_small_leaves<M: Machine>(machine: &M, table: Pfn, piece: (Pfn, u8)) -> Result<bool, HideCause> {
    let (pfn, order) = piece;
    let slot = second_level(machine, table, pfn);
    let start = Pfn::new(pfn.region_number() << REGION_ORDER);
    match slot.decode::<LongMode>() {
        Decoded::Leaf(..) if slot.says::<LongMode>(start, Attributes::DATA) => Ok(false),
        Decoded::Leaf(..) | Decoded::Absent => Err(HideCause::NotALeaf(pfn)),
        Decoded::Table(low) => match pages(pfn, order)
            .find(|page| !first_level(machine, low, *page).says::<LongMode>(*page, Attributes::DATA))
        {
            Some(page) => Err(HideCause::NotALeaf(page)),
            None => Ok(true),
        },
    }
}
