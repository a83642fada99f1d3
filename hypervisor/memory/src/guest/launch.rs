//! Giving a new guest its memory.

use core::fmt;

use crate::address::{Gfn, Level};
use crate::direct_map::HideCause;
use crate::frame::allocator::OutOfMemory;
use crate::frame::list::{Clean, RegionList};
use crate::frame::state::GuestId;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::window::Windows;

use super::GuestMemory;
use super::second_stage::{MAX_BYTES, SecondStage, tables_for};

/// Why a guest got no memory. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The size is 0 or not a multiple of 2 MiB.
    BadSize(u64),
    /// The size exceeds what one guest's tables cover.
    TooLarge(u64),
    /// Regions or tables are missing.
    OutOfMemory(OutOfMemory),
    /// A region cannot be hidden.
    Hide(HideCause),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadSize(bytes) => {
                write!(
                    f,
                    "guest memory of {bytes} bytes: it must be a multiple of 2 MiB and not 0"
                )
            }
            Self::TooLarge(bytes) => {
                write!(
                    f,
                    "guest memory of {} MiB: at most {} MiB are supported",
                    bytes >> 20,
                    MAX_BYTES >> 20
                )
            }
            Self::OutOfMemory(error) => error.fmt(f),
            Self::Hide(cause) => cause.fmt(f),
        }
    }
}

impl HostMemory<'_> {
    /// Gives a guest `bytes` bytes of private memory, zeroed, hidden from every CPU of the host by one flush.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub fn launch<M: Machine>(
        &mut self,
        machine: &M,
        windows: &mut Windows,
        id: GuestId,
        bytes: u64,
    ) -> Result<GuestMemory, LaunchError> {
        if bytes == 0 || !bytes.is_multiple_of(Level::L2.bytes()) {
            return Err(LaunchError::BadSize(bytes));
        }
        if bytes > MAX_BYTES {
            return Err(LaunchError::TooLarge(bytes));
        }
        // Everything that can fail: regions, second-stage tables, tables for splitting.
        let regions = self
            .frames
            .carve(bytes / Level::L2.bytes())
            .map_err(LaunchError::OutOfMemory)?;
        let mut reserve = match self.frames.reserve_tables(machine, tables_for(bytes)) {
            Ok(reserve) => reserve,
            Err(error) => {
                self.frames.uncarve(regions);
                return Err(LaunchError::OutOfMemory(error));
            }
        };
        let batch = match self
            .direct_map
            .hide(machine, &mut self.frames, &mut self.stats, regions)
        {
            Ok(batch) => batch,
            Err(error) => {
                self.frames.uncarve(error.regions);
                while let Some(table) = reserve.pop(&self.frames) {
                    self.frames.free_table(table);
                }
                return Err(LaunchError::Hide(error.cause));
            }
        };
        // From here on nothing can fail.
        let mut dirty = self
            .flusher
            .flush(machine, &mut self.frames, &mut self.stats, batch);
        let mut clean = RegionList::new();
        while let Some(region) = dirty.pop(&self.frames) {
            let region = self.scrub(machine, windows, region);
            clean.push(&mut self.frames, region);
        }
        let tables = SecondStage::new(machine, &mut self.frames, &mut reserve, bytes);
        let Some(tables) = tables else {
            panic!("broken invariant: too few second-stage tables were reserved")
        };
        Ok(self.populate(machine, id, bytes, tables, clean))
    }

    fn populate<M: Machine>(
        &mut self,
        machine: &M,
        id: GuestId,
        bytes: u64,
        tables: SecondStage,
        mut clean: RegionList<Clean>,
    ) -> GuestMemory {
        let mut guest = GuestMemory {
            id,
            bytes,
            tables,
            regions: RegionList::new(),
        };
        let mut gfn = Gfn::default();
        while let Some(region) = clean.pop(&self.frames) {
            let region = region.assign(&mut self.frames, id, gfn);
            let mapped = guest.tables.map(machine, &self.frames, id, region.pfn());
            assert!(
                mapped,
                "broken invariant: guest frame {gfn} of a new guest is mapped already"
            );
            guest.regions.push(&mut self.frames, region);
            gfn = gfn.add(Level::L2.frames());
        }
        guest
    }
}
