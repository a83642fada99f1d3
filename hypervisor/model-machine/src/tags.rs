//! Who wrote each frame last: what the rules about scrubbing are judged by.

use std::collections::{BTreeMap, BTreeSet};

use memory::address::{ENTRIES, Pfn, REGION_ORDER};

/// Who wrote a frame last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writer {
    /// Firmware, a boot loader, an earlier system: what RAM holds at power-on.
    Unknown,
    /// The host, for itself.
    Host,
    /// A guest, or the host into a guest's private memory through a window.
    Guest,
    /// A guest, at its shared alias: the host may read it.
    Shared,
    /// Nobody since it was zeroed as a whole.
    Zeroed,
}

/// The frames of an aligned 2 MiB.
enum Region {
    All(Writer),
    Each(Box<[Writer; ENTRIES]>),
}

impl Region {
    fn get(&self, index: usize) -> Writer {
        match self {
            Self::All(writer) => *writer,
            Self::Each(writers) => writers[index],
        }
    }
}

/// The writers of all frames.
#[derive(Default)]
pub(crate) struct Tags {
    regions: BTreeMap<u64, Region>,
    /// Regions in which some frame may be a guest's.
    secret: BTreeSet<u64>,
}

impl Tags {
    pub(crate) fn get(&self, pfn: Pfn) -> Writer {
        self.regions
            .get(&pfn.region_number())
            .map_or(Writer::Unknown, |region| region.get(pfn.get() as usize % ENTRIES))
    }

    /// The writer of a whole region, if it is one.
    pub(crate) fn of_region(&self, pfn: Pfn) -> Option<Writer> {
        match self.regions.get(&pfn.region_number()) {
            None => Some(Writer::Unknown),
            Some(Region::All(writer)) => Some(*writer),
            Some(Region::Each(_)) => None,
        }
    }

    pub(crate) fn set(&mut self, pfn: Pfn, writer: Writer) {
        let region = self
            .regions
            .entry(pfn.region_number())
            .or_insert(Region::All(Writer::Unknown));
        if let Region::All(all) = region {
            if *all == writer {
                return;
            }
            *region = Region::Each(Box::new([*all; ENTRIES]));
        }
        if let Region::Each(writers) = region {
            writers[pfn.get() as usize % ENTRIES] = writer;
        }
        if writer == Writer::Guest {
            self.secret.insert(pfn.region_number());
        }
    }

    /// Sets all frames of the region that begins with a frame.
    pub(crate) fn set_region(&mut self, first: Pfn, writer: Writer) {
        self.regions.insert(first.region_number(), Region::All(writer));
        if writer == Writer::Guest {
            self.secret.insert(first.region_number());
        } else {
            self.secret.remove(&first.region_number());
        }
    }

    /// The first frame in an extent that a guest wrote last.
    pub(crate) fn secret_in(&self, start: u64, bytes: u64) -> Option<Pfn> {
        let (first, end) = (start >> 12, (start + bytes) >> 12);
        self.secret
            .range(first >> REGION_ORDER..=(end - 1) >> REGION_ORDER)
            .flat_map(|region| region << REGION_ORDER..(region + 1) << REGION_ORDER)
            .filter(|frame| (first..end).contains(frame))
            .map(Pfn::new)
            .find(|pfn| self.get(*pfn) == Writer::Guest)
    }

    /// Forgets regions that hold nobody's secrets any more.
    pub(crate) fn settle(&mut self) {
        let regions = &self.regions;
        self.secret.retain(|region| match &regions[region] {
            Region::All(writer) => *writer == Writer::Guest,
            Region::Each(writers) => writers.contains(&Writer::Guest),
        });
    }
}
