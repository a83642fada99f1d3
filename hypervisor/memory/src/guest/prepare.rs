//! Everything of a launch that comes before its flush: take from the cache, carve, take tables, check; then build the second stage, and hide.
//!
//! It goes in steps, each a gigablock's worth of regions or less, and others may use the memory subsystem between any two. What a launch has
//! taken is its own, so what one step has seen still holds in the next. Until the last extent is checked the launch can be refused,
//! gives back what it has, step by step too, and has changed no mapping. From then on nothing can fail. All that is hidden, however much,
//! travels in one batch.

use crate::address::{ENTRIES, GIGABLOCK_ORDER, Level};
use crate::direct_map::{Checked, HideCause, Lock};
use crate::frame::extent::Clean;
use crate::frame::extent_list::ExtentList;
use crate::frame::state::GuestId;
use crate::frame::table_frame::TableList;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::region::Carving;
use crate::tlb::FlushBatch;

use super::launch::{Hiding, LaunchError};
use super::second_stage::{MAX_BYTES, SecondStage, SecondStageKind, Shape};

/// Regions that are taken in one step: a gigablock's worth.
const REGIONS_AT_ONCE: u64 = 512;
/// Tables that are taken, and zeroed, in one step: as much memory as one region has.
const TABLES_AT_ONCE: u64 = 512;

/// How far a launch is.
#[derive(Debug)]
#[must_use]
#[expect(
    clippy::large_enum_variant,
    reason = "there is no heap, and each value is taken apart at once"
)]
pub enum Prepared {
    /// There is more to do: [`Preparing::step`].
    More(Preparing),
    /// Everything is out of the direct map; its flush is to be waited for.
    Hidden(Hiding),
    /// There will be no guest. All that was taken is back, and no mapping was changed.
    Refused(LaunchError),
}

/// A launch whose memory is not out of the direct map yet, or not all of it.
#[derive(Debug)]
#[must_use = "memory that a launch has taken comes back only through its steps"]
pub struct Preparing {
    id: GuestId,
    kind: SecondStageKind,
    bytes: u64,
    phase: Phase,
    cached: ExtentList<Clean>,
    carving: Carving,
    checked: Checked,
    tables: TableList,
}

/// What the next step does.
#[derive(Debug)]
enum Phase {
    /// Takes whole regions.
    Take,
    /// Takes second-stage tables.
    Tables(Shape),
    /// Takes smaller extents, where whole regions are missing.
    Pieces(Shape),
    /// Looks whether what was carved can be hidden, and takes the tables for that.
    Check(Shape),
    /// Links the second-stage tables.
    Build(Shape, SecondStage),
    /// Takes what was carved out of the direct map.
    Hide(Shape, SecondStage, FlushBatch),
    /// Gives back what was taken.
    Refuse(LaunchError),
}

impl Preparing {
    /// Gives the launch up while that changes no mapping: the steps that follow give back what was taken, and end in [`Prepared::Refused`] with
    /// [`LaunchError::Cancelled`]. A launch that has passed its last check goes on instead: its steps lead to [`Prepared::Hidden`], and
    /// [`Launching::cancel`](super::Launching::cancel) is the way back from there.
    pub fn cancel(mut self) -> Self {
        self.phase = match self.phase {
            Phase::Take | Phase::Tables(_) | Phase::Pieces(_) | Phase::Check(_) => {
                Phase::Refuse(LaunchError::Cancelled)
            }
            late @ (Phase::Build(..) | Phase::Hide(..) | Phase::Refuse(_)) => late,
        };
        self
    }

    /// One step.
    pub fn step<M: Machine>(mut self, memory: &mut HostMemory<'_>, machine: &M) -> Prepared {
        let start = machine.now();
        let spent = |memory: &mut HostMemory<'_>| memory.costs.hide += machine.now().wrapping_sub(start);
        self.phase = match self.phase {
            Phase::Take => self.take(memory, machine),
            Phase::Tables(shape) => self.take_tables(memory, machine, shape),
            Phase::Pieces(shape) => self.take_pieces(memory, shape),
            Phase::Check(shape) => self.check(memory, machine, shape),
            Phase::Build(shape, mut stage) => {
                let more = stage.link_some(machine, &mut memory.frames, &shape);
                memory.costs.map += machine.now().wrapping_sub(start);
                self.phase = if more {
                    Phase::Build(shape, stage)
                } else {
                    Phase::Hide(shape, stage, FlushBatch::new())
                };
                return Prepared::More(self);
            }
            Phase::Hide(shape, stage, mut batch) => {
                if memory.hide_some(machine, &mut self.checked, &mut batch) {
                    self.phase = Phase::Hide(shape, stage, batch);
                    spent(memory);
                    return Prepared::More(self);
                }
                let posted = memory.post(machine, batch);
                spent(memory);
                return Prepared::Hidden(Hiding::new(self.id, &shape, stage, posted, self.cached));
            }
            Phase::Refuse(error) => {
                if !self.give_back_some(memory) {
                    return Prepared::Refused(error);
                }
                Phase::Refuse(error)
            }
        };
        spent(memory);
        Prepared::More(self)
    }

    /// Takes some regions from the cache, or from the host when that has no more.
    fn take<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M) -> Phase {
        let wanted = self.bytes / Level::L2.bytes();
        let left = wanted - self.cached.frames() / 512 - self.carving.regions();
        if left > 0 {
            let cached = memory.take_cached(machine, left.min(REGIONS_AT_ONCE));
            if !cached.is_empty() {
                self.cached.append(&mut memory.frames, cached);
                return Phase::Take;
            }
            if memory.frames.carve_some(left, &mut self.carving) {
                return Phase::Take;
            }
        }
        let spare = memory.spare_frames();
        if left * 512 > spare {
            let error = memory.frames.out_of_memory(wanted * 512);
            return Phase::Refuse(LaunchError::OutOfMemory(error));
        }
        Phase::Tables(Shape {
            bytes: self.bytes,
            gigablocks: self.gigablocks(memory),
            patched: left,
            shared_bit: memory.shared_bit,
        })
    }

    /// GiB that will be mapped by 1G leaves.
    fn gigablocks(&self, memory: &HostMemory<'_>) -> u64 {
        if !memory.large_guest_leaves || self.kind.splits() {
            return 0;
        }
        // They come first on their lists.
        let is_gigablock = |extent: &(_, u8)| extent.1 == GIGABLOCK_ORDER;
        let cached = self.cached.extents(&memory.frames).take_while(is_gigablock);
        let carved = self.carving.extents.extents(&memory.frames);
        (cached.count() + carved.take_while(is_gigablock).count()) as u64
    }

    fn take_tables<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M, shape: Shape) -> Phase {
        let left = shape.tables(self.kind) - self.tables.len();
        if left == 0 {
            return Phase::Pieces(shape);
        }
        match memory.frames.reserve_tables(machine, left.min(TABLES_AT_ONCE)) {
            Ok(tables) => {
                self.tables.append(&mut memory.frames, tables);
                Phase::Tables(shape)
            }
            Err(error) => Phase::Refuse(LaunchError::OutOfMemory(error)),
        }
    }

    fn take_pieces(&mut self, memory: &mut HostMemory<'_>, shape: Shape) -> Phase {
        let had = (self.cached.frames() + self.carving.extents.frames()) / 512;
        let left = self.bytes / Level::L2.bytes() - had;
        if left == 0 {
            return Phase::Check(shape);
        }
        // 2 MiB of them, so what is on the lists stays whole regions' worth.
        match memory.frames.carve_pieces(512) {
            Ok(pieces) => {
                self.carving.extents.append(&mut memory.frames, pieces);
                Phase::Pieces(shape)
            }
            Err(error) => Phase::Refuse(LaunchError::OutOfMemory(error)),
        }
    }

    fn check<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M, shape: Shape) -> Phase {
        let carved = &mut self.carving.extents;
        match memory.check_some(machine, carved, &mut self.checked) {
            Ok(true) => return Phase::Check(shape),
            Ok(false) => {}
            Err(cause) => {
                return Phase::Refuse(match cause {
                    HideCause::OutOfMemory(error) => LaunchError::OutOfMemory(error),
                    other => LaunchError::Hide(other),
                });
            }
        }
        // From here on nothing can fail.
        let tables = core::mem::take(&mut self.tables);
        match SecondStage::new(machine, self.kind, &mut memory.frames, tables, shape) {
            Some(stage) => Phase::Build(shape, stage),
            None => panic!("broken invariant: too few second-stage tables were reserved"),
        }
    }

    /// Gives back some of what was taken; whether there was any.
    fn give_back_some(&mut self, memory: &mut HostMemory<'_>) -> bool {
        let extents = [&mut self.carving.extents, &mut self.checked.extents];
        extents.into_iter().any(|list| memory.uncarve_some(list))
            || memory.put_back_some(&mut self.cached)
            || memory
                .frames
                .free_some_tables(&mut self.checked.reserve, TABLES_AT_ONCE)
                > 0
            || memory.frames.free_some_tables(&mut self.tables, TABLES_AT_ONCE) > 0
    }
}

impl HostMemory<'_> {
    /// Begins to take `bytes` bytes of memory for a guest. The rest comes in steps, [`Preparing::step`], and for what the cache does not have costs one flush,
    /// whatever the size. When there are not enough whole regions, the rest is made of smaller extents, as long as
    /// free memory stays above the low watermark. `kind` is the layout of the tables that will lead the guest to it.
    ///
    /// # Errors
    /// [`LaunchError::BadSize`] and [`LaunchError::TooLarge`]; more may come up in the steps.
    pub fn prepare(&self, kind: SecondStageKind, id: GuestId, bytes: u64) -> Result<Preparing, LaunchError> {
        self.prepare_with(Lock::Released, kind, id, bytes)
    }

    fn prepare_with(
        &self,
        lock: Lock,
        kind: SecondStageKind,
        id: GuestId,
        bytes: u64,
    ) -> Result<Preparing, LaunchError> {
        if bytes == 0 || !bytes.is_multiple_of(Level::L2.bytes()) {
            return Err(LaunchError::BadSize(bytes));
        }
        let limit = MAX_BYTES.min(1 << self.shared_bit);
        if bytes > limit {
            return Err(LaunchError::TooLarge { bytes, limit });
        }
        Ok(Preparing {
            id,
            kind,
            bytes,
            phase: Phase::Take,
            cached: ExtentList::new(),
            carving: Carving::default(),
            checked: Checked::new(lock),
            tables: TableList::new(),
        })
    }

    /// Does all steps of [`HostMemory::prepare`] at once, with all of memory in its hands: whoever shares that with other CPUs takes the steps one by one.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub fn launch<M: Machine>(
        &mut self,
        machine: &M,
        kind: SecondStageKind,
        id: GuestId,
        bytes: u64,
    ) -> Result<Hiding, LaunchError> {
        let mut preparing = self.prepare_with(Lock::Kept, kind, id, bytes)?;
        loop {
            match preparing.step(self, machine) {
                Prepared::More(rest) => preparing = rest,
                Prepared::Hidden(hiding) => return Ok(hiding),
                Prepared::Refused(error) => return Err(error),
            }
        }
    }
}

// Zeroing so many tables is zeroing one region.
const _: () = assert!(TABLES_AT_ONCE * Level::L1.bytes() == Level::L2.bytes());
const _: () = assert!(REGIONS_AT_ONCE == ENTRIES as u64);
