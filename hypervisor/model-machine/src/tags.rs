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
    /// Nobody since it was zeroed as a whole.
    Zeroed,
}

/// The writers of all frames.
#[derive(Default)]
pub(crate) struct Tags {
    regions: BTreeMap<u64, Box<[Writer; ENTRIES]>>,
    /// Regions in which some frame may be a guest's.
    secret: BTreeSet<u64>,
}

impl Tags {
    pub(crate) fn get(&self, pfn: Pfn) -> Writer {
        self.regions
            .get(&pfn.region_number())
            .map_or(Writer::Unknown, |region| region[pfn.get() as usize % ENTRIES])
    }

    pub(crate) fn set(&mut self, pfn: Pfn, writer: Writer) {
        let region = self
            .regions
            .entry(pfn.region_number())
            .or_insert_with(|| Box::new([Writer::Unknown; ENTRIES]));
        region[pfn.get() as usize % ENTRIES] = writer;
        if writer == Writer::Guest {
            self.secret.insert(pfn.region_number());
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
        self.secret
            .retain(|region| regions[region].contains(&Writer::Guest));
    }
}
