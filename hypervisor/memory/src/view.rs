//! The state of memory at a glance, in the manner of Linux' `/proc/buddyinfo` and `/proc/pagetypeinfo`: how many extents of each size
//! there are of each kind, and how full the regions are that small extents share.

use core::fmt;

use crate::frame::FrameTable;
use crate::frame::state::FrameState;
use crate::host::HostMemory;

/// Sizes of extents: orders 0 (4 KiB) to 18 (1 GiB).
pub const ORDERS: usize = crate::address::GIGABLOCK_ORDER as usize + 1;

/// Extents of one kind: how many of each order.
pub type ByOrder = [u64; ORDERS];

/// What memory is made of at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct View {
    /// Free ordinary memory.
    pub host_free: ByOrder,
    /// Ordinary memory in use, tables and what guests share among it; what was in use at boot is not counted.
    pub host_used: ByOrder,
    /// Hidden, zeroed, free for small requests.
    pub pool_free: ByOrder,
    /// Hidden and no guest's: in the cache, in a magazine, with a user of its own, or on its way.
    pub hidden: ByOrder,
    /// Guests'.
    pub private: ByOrder,
    /// Out of use for good.
    pub quarantined: ByOrder,
    /// Hidden regions that small extents share, by how much of them is used: up to a quarter, a half, three quarters, less than all, all.
    pub shared_regions: [u64; 5],
    /// Blocks of host memory of which pieces are hidden: no whole region was free.
    pub torn_blocks: u64,
    /// Empty hidden regions kept for reuse.
    pub cached_regions: u64,
    /// Regions out of the direct map.
    pub holes: u64,
    /// Gigablocks that have lost the 1G leaf of the boot.
    pub broken_gigablocks: u64,
    /// Table frames that wait for a flush.
    pub waiting_tables: u64,
}

impl HostMemory<'_> {
    /// Looks at every block, and at every frame of those whose frames differ: for reports, not for every day.
    pub fn view(&self) -> View {
        let (holes, broken_gigablocks) = self.frames.holes();
        let mut view = View {
            cached_regions: self.pool().cached_regions(),
            holes,
            broken_gigablocks,
            waiting_tables: self.waiting_tables(),
            ..View::default()
        };
        view.count(&self.frames);
        view
    }
}

impl View {
    fn count(&mut self, frames: &FrameTable<'_>) {
        frames.each_extent(|_, state| {
            let (kind, order) = match state {
                FrameState::Free { order } => (&mut self.host_free, order),
                FrameState::Host { order } => (&mut self.host_used, order),
                FrameState::Table { .. } | FrameState::TableListed { .. } | FrameState::Shared { .. } => {
                    (&mut self.host_used, 0)
                }
                FrameState::PoolFree { order } => (&mut self.pool_free, order),
                FrameState::Carved { order }
                | FrameState::Unmapped { order }
                | FrameState::Hidden { order } => (&mut self.hidden, order),
                FrameState::Private { order, .. } => (&mut self.private, order),
                FrameState::Quarantined { order } => (&mut self.quarantined, order),
                FrameState::Absent
                | FrameState::Reserved
                | FrameState::Tail
                | FrameState::Mixed
                | FrameState::Pooled => return,
            };
            if let Some(count) = kind.get_mut(usize::from(order)) {
                *count += 1;
            }
        });
        frames.each_shared_block(|used, pooled| {
            if !pooled {
                self.torn_blocks += 1;
            } else if let Some(count) = self.shared_regions.get_mut(quarter(used)) {
                *count += 1;
            }
        });
    }

    /// The kinds with their names, in the order of the fields.
    pub fn kinds(&self) -> [(&'static str, &ByOrder); 6] {
        [
            ("host free", &self.host_free),
            ("host used", &self.host_used),
            ("pool free", &self.pool_free),
            ("hidden", &self.hidden),
            ("private", &self.private),
            ("quarantine", &self.quarantined),
        ]
    }
}

/// Which part of [`View::shared_regions`] a region with so many used frames belongs to.
fn quarter(used: u16) -> usize {
    match used {
        0..=128 => 0,
        129..=256 => 1,
        257..=384 => 2,
        385..=511 => 3,
        _ => 4,
    }
}

/// The name of the size of an extent.
struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = match self.0 {
            order @ 0..8 => (4 << order, 'K'),
            order @ 8..18 => (1 << (order - 8), 'M'),
            order => (1_u64 << (order - 18), 'G'),
        };
        f.pad_integral(
            true,
            "",
            heapless::format!(8; "{count}{unit}")
                .as_deref()
                .unwrap_or_default(),
        )
    }
}

impl fmt::Display for View {
    /// A table of the sizes that there are, and the rest in lines below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "extents")?;
        for (name, _) in self.kinds() {
            write!(f, "{name:>12}")?;
        }
        for order in 0..ORDERS {
            if self.kinds().iter().all(|(_, counts)| counts[order] == 0) {
                continue;
            }
            write!(f, "\n{:>7}", Size(order))?;
            for (_, counts) in self.kinds() {
                match counts[order] {
                    0 => write!(f, "{:>12}", "-")?,
                    count => write!(f, "{count:>12}")?,
                }
            }
        }
        let [first, second, third, fourth, full] = self.shared_regions;
        write!(
            f,
            "\nregions shared by small extents, by use: {first} to 1/4, {second} to 1/2, {third} to 3/4, {fourth} above, {full} full"
        )?;
        write!(
            f,
            "\nregions hidden: {} ({} cached); gigablocks broken: {}; host blocks torn: {}; tables waiting for a flush: {}",
            self.holes, self.cached_regions, self.broken_gigablocks, self.torn_blocks, self.waiting_tables
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn the_table_names_sizes_and_leaves_out_empty_rows() {
        let mut view = View::default();
        view.host_free[0] = 3;
        view.private[9] = 12;
        view.private[18] = 1;
        view.shared_regions = [1, 0, 0, 0, 2];
        let text = view.to_string();
        let mut lines = text.lines();
        assert_eq!(
            lines
                .next()
                .unwrap()
                .split_whitespace()
                .collect::<std::vec::Vec<_>>(),
            [
                "extents",
                "host",
                "free",
                "host",
                "used",
                "pool",
                "free",
                "hidden",
                "private",
                "quarantine"
            ]
        );
        let row = |line: &str| {
            line.split_whitespace()
                .map(ToString::to_string)
                .collect::<std::vec::Vec<_>>()
        };
        assert_eq!(row(lines.next().unwrap()), ["4K", "3", "-", "-", "-", "-", "-"]);
        assert_eq!(row(lines.next().unwrap()), ["2M", "-", "-", "-", "-", "12", "-"]);
        assert_eq!(row(lines.next().unwrap()), ["1G", "-", "-", "-", "-", "1", "-"]);
        assert!(
            lines
                .next()
                .unwrap()
                .ends_with("1 to 1/4, 0 to 1/2, 0 to 3/4, 0 above, 2 full")
        );
    }

    #[test]
    fn sizes_are_named_by_their_units() {
        for (order, name) in [
            (0, "4K"),
            (7, "512K"),
            (8, "1M"),
            (17, "512M"),
            (18, "1G"),
            (20, "4G"),
        ] {
            assert_eq!(Size(order).to_string(), name);
        }
    }

    #[test]
    fn quarters_end_where_they_say() {
        assert_eq!(
            [1, 128, 129, 256, 257, 384, 385, 511, 512].map(quarter),
            [0, 0, 1, 1, 2, 2, 3, 3, 4]
        );
    }
}
