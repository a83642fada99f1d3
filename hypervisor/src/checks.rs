//! What the independent walker (`audit`) finds, at boot, while guests live, after every death and at the end.
//!
//! The walker shares no code with the mapper. What is private comes from the living guests and the pool (`private`). The host's tables must reach none
//! of it; a guest's second-stage tables must map its own part, and at the addresses that the records of those frames name.

mod private;

use core::fmt;

use audit::{
    BootCheck, BootRecord, DirectMap, ExpectedGuest, Extent, Format, Pa, PrivateExtent, Record, RegionState,
    Tables, Va, check_records, check_second_stage, check_unreachable,
};
use memory::address::{Hpa, Level, PAGE_SIZE, Pfn};
use memory::frame::{FrameState, OutOfMemory};
use memory::guest::{GuestMemory, SecondStageKind};
use memory::layout::{DIRECT_MAP_BASE, DIRECT_MAP_BYTES};
use memory::memory_map::MemoryMap;
use report::{BlockState, Leaves, Span};

use crate::frames::{leak_slice, with_memory};
use crate::hardware::{Hardware, WalkerView};
use crate::presence;

pub use private::PrivateError;
use private::gather;

/// The memory of the guests that live, while all CPUs are stopped.
pub trait Memories {
    /// Shows that of one after the other.
    fn each(&self, visit: &mut dyn FnMut(&GuestMemory));
}

/// Why no record of the boot could be made.
#[derive(Debug)]
pub enum ChecksError {
    /// No memory for the record.
    OutOfMemory(OutOfMemory),
    /// RAM does not fit the walker's idea of a direct map.
    Layout(audit::LayoutError),
    /// The direct map is wrong from the start.
    Capture(audit::CaptureError),
}

impl fmt::Display for ChecksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory(error) => error.fmt(f),
            Self::Layout(error) => error.fmt(f),
            Self::Capture(error) => error.fmt(f),
        }
    }
}

/// Why the direct map cannot be shown.
#[derive(Debug)]
pub enum LookError {
    /// It is not known what is private.
    Private(PrivateError),
    /// The direct map is wrong.
    DirectMap(audit::BootViolation),
}

impl fmt::Display for LookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private(error) => error.fmt(f),
            Self::DirectMap(error) => error.fmt(f),
        }
    }
}

/// What is checked, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Subject {
    /// No host address translates to a private frame.
    Hidden,
    /// Each guest's second-stage tables map its own frames, each once but for those that it can't reach at the moment, and what it shares,
    /// which is not private, at the address that the frame's record names, and nothing else.
    SecondStage,
    /// Where no hole is, the direct map is what it was at boot; where one is, its neighbours are 2M leaves.
    DirectMap,
    /// All frames are free again.
    FreeFrames,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hidden, Self::SecondStage, Self::DirectMap, Self::FreeFrames];

    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden-means-hidden",
            Self::SecondStage => "one-owner",
            Self::DirectMap => "direct-map",
            Self::FreeFrames => "free-frames",
        }
    }

    /// What it says when it holds.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Hidden => "no host address translates to a private frame",
            Self::SecondStage => {
                "each guest's tables map its own frames, each once, and what it shares, as recorded"
            }
            Self::DirectMap => "every gigablock without a hole is the boot's, leaf for leaf",
            Self::FreeFrames => "every frame that was free at boot is free again",
        }
    }
}

/// How often a check was made and held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Made.
    pub made: u64,
    /// Held.
    pub held: u64,
}

/// The walker with what it remembers of the boot.
pub struct Checks {
    view: WalkerView,
    host: Format,
    second_stage: Format,
    root: Pfn,
    end: Pfn,
    record: BootRecord<'static>,
    private: &'static mut [PrivateExtent],
    free_at_boot: u64,
    tallies: [Tally; Subject::ALL.len()],
}

impl Checks {
    /// Records the direct map and the number of free frames as they are now. `root` is the CPU's top-level table,
    /// `kind` the layout of the guests' tables.
    ///
    /// # Errors
    /// See [`ChecksError`].
    pub fn new(
        map: &MemoryMap,
        root: Pfn,
        physical_bits: u8,
        kind: SecondStageKind,
    ) -> Result<Self, ChecksError> {
        let second_stage = match kind {
            SecondStageKind::Nested => Format::nested(false, physical_bits.into()),
            SecondStageKind::Extended | SecondStageKind::ExtendedSplit => {
                Format::extended(false, physical_bits.into())
            }
        };
        let ranges = map.ranges();
        let nothing = Extent {
            start: Pa::new(0),
            end: Pa::new(0),
        };
        let ram = leak_slice(ranges.len(), nothing).map_err(ChecksError::OutOfMemory)?;
        for (extent, range) in ram.iter_mut().zip(ranges) {
            *extent = Extent {
                start: Pa::new(range.start.hpa().get()),
                end: Pa::new(range.end.hpa().get()),
            };
        }
        let end = ranges.last().map_or(Pfn::new(0), |range| range.end);
        let view = WalkerView::new(end);
        let host = Format::host(false, physical_bits.into());
        let direct_map = DirectMap::new(Va::new(DIRECT_MAP_BASE.get()), DIRECT_MAP_BYTES, ram)
            .map_err(ChecksError::Layout)?;
        let slots = direct_map.slots();
        let words = leak_slice(slots, 0).map_err(ChecksError::OutOfMemory)?;
        let none = PrivateExtent {
            start: Pa::new(0),
            end: Pa::new(0),
            owner: 0,
        };
        // Regions, and room for single pages: of guests launched into the last free memory, and where every other page of 2 MiB has lost the frame
        // that was kept for it. An eighth of RAM may be like that, up to 256 MiB; a choice.
        let frames = with_memory(|memory| memory.frames.frames());
        let singles = (frames / 16).clamp(8 * 512, 1 << 16) as usize;
        let private = leak_slice(slots + singles, none).map_err(ChecksError::OutOfMemory)?;
        let tables = Tables::new(&view, host, root.hpa().get());
        let record = BootRecord::capture(direct_map, &tables, words).map_err(ChecksError::Capture)?;
        Ok(Self {
            view,
            host,
            second_stage,
            root,
            end,
            record,
            private,
            free_at_boot: with_memory(|memory| memory.frames.free_frames()),
            tallies: [Tally::default(); Subject::ALL.len()],
        })
    }

    /// What is free now is what is to be free at the end. To be called when everything that stays for good has been taken.
    pub fn count_free(&mut self) {
        self.free_at_boot = with_memory(|memory| memory.frames.free_frames());
    }

    /// The tally of one subject.
    pub fn tally(&self, subject: Subject) -> Tally {
        self.tallies[subject as usize]
    }

    /// Everything that can be checked while these guests live. `failed` hears of each check that does not hold.
    pub fn run(&mut self, guests: &dyn Memories, mut failed: impl FnMut(Subject, &dyn fmt::Display)) {
        let private = gather(self.private, guests);
        let mut tallies = self.tallies;
        let mut note = |subject: Subject, error: Option<&dyn fmt::Display>| {
            let tally = &mut tallies[subject as usize];
            tally.made += 1;
            match error {
                None => tally.held += 1,
                Some(error) => failed(subject, error),
            }
        };
        let private = match private {
            Ok(private) => private,
            Err(error) => {
                note(Subject::SecondStage, Some(&error));
                self.tallies = tallies;
                return;
            }
        };
        let host = Tables::new(&self.view, self.host, self.root.hpa().get());
        let hidden = check_unreachable(&host, &private);
        note(
            Subject::Hidden,
            hidden.as_ref().err().map(|error| error as &dyn fmt::Display),
        );
        // The other CPUs' top-level tables differ in their window slots only; believing that is not checking it.
        for cpu in presence::tables_of_all() {
            if cpu.root().pfn() != self.root {
                let tables = Tables::new(&self.view, self.host, cpu.root().get());
                let hidden = check_unreachable(&tables, &private);
                note(
                    Subject::Hidden,
                    hidden.as_ref().err().map(|error| error as &dyn fmt::Display),
                );
            }
        }
        guests.each(&mut |guest| {
            let tables = Tables::new(&self.view, self.second_stage, guest.second_stage().get());
            let owner = guest.id().get().into();
            // The records only once the tables are known to lie where they may be read.
            let shared_from = 1 << guest.shared_bit();
            let extent = |(pfn, frames): (Pfn, u64)| {
                let start = pfn.hpa().get();
                (Pa::new(start), Pa::new(start + frames * PAGE_SIZE))
            };
            let expected = ExpectedGuest {
                owner,
                shared_from: Va::new(shared_from),
                unreachable: guest.unreachable(&Hardware).map(extent),
                in_place: guest.shared_in_place(&Hardware).map(extent),
            };
            match check_second_stage(&tables, &private, expected) {
                Err(error) => note(Subject::SecondStage, Some(&error)),
                Ok(_) => match check_records(&tables, owner, |pa, gpa| record_of(pa, gpa, shared_from)) {
                    Err(error) => note(Subject::SecondStage, Some(&error)),
                    Ok(()) => note(Subject::SecondStage, None),
                },
            }
        });
        let map = self.record.check(&host, &private);
        note(
            Subject::DirectMap,
            map.as_ref().err().map(|error| error as &dyn fmt::Display),
        );
        self.tallies = tallies;
    }

    /// At the end, with no guest left: all frames that were free at boot are free.
    pub fn free_frames(&mut self, mut failed: impl FnMut(Subject, &dyn fmt::Display)) {
        let now = with_memory(|memory| memory.frames.free_frames());
        let tally = &mut self.tallies[Subject::FreeFrames as usize];
        tally.made += 1;
        if now == self.free_at_boot {
            tally.held += 1;
        } else {
            let lost = format_args!("{now} frames are free, {} were at boot", self.free_at_boot);
            failed(Subject::FreeFrames, &lost);
        }
    }

    /// Leaves and holes of the direct map at the moment, and `visit` with every block of it.
    ///
    /// # Errors
    /// What is wrong with the direct map or with the lists of what is private.
    pub fn look<R>(
        &mut self,
        guests: &dyn Memories,
        visit: impl FnOnce(BootCheck, &mut dyn Iterator<Item = Span>) -> R,
    ) -> Result<R, LookError> {
        let private = gather(self.private, guests).map_err(LookError::Private)?;
        let host = Tables::new(&self.view, self.host, self.root.hpa().get());
        let found = self.record.check(&host, &private).map_err(LookError::DirectMap)?;
        let mut spans = self
            .record
            .direct_map()
            .scan(&host)
            .map_while(Result::ok)
            .map(|region| {
                let end = Pa::new(region.pa.get() + Level::L2.bytes());
                let state = block_of(region.state, private.overlap(region.pa, end).is_some());
                Span::block(region.pa.get() / Level::L2.bytes(), state)
            });
        Ok(visit(found, &mut spans))
    }

    /// How each block of the direct map is mapped at the moment. What is not mapped is taken for a hole: nothing is checked here.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        let host = Tables::new(&self.view, self.host, self.root.hpa().get());
        let regions = self.record.direct_map().scan(&host).map_while(Result::ok);
        regions.map(|region| Span::block(region.pa.get() / Level::L2.bytes(), block_of(region.state, true)))
    }

    /// Leaves of the direct map at the moment.
    ///
    /// # Errors
    /// What is malformed.
    pub fn leaves(&self) -> Result<Leaves, audit::ScanError> {
        let host = Tables::new(&self.view, self.host, self.root.hpa().get());
        self.record
            .direct_map()
            .scan(&host)
            .try_fold(Leaves::default(), |sum, region| {
                let found = region?.leaves();
                Ok(Leaves {
                    g1: sum.g1 + found.g1,
                    m2: sum.m2 + found.m2,
                    k4: sum.k4 + found.k4,
                })
            })
    }

    /// The size of the leaf through which the direct map reaches a frame; `None` when none does, or the tables are malformed.
    #[cfg(feature = "test-hooks")]
    pub fn leaf(&self, pfn: Pfn) -> Option<u64> {
        let host = Tables::new(&self.view, self.host, self.root.hpa().get());
        let at = memory::layout::direct(pfn.hpa())?;
        let (leaf, _) = host.translate(Va::new(at.get())).ok()??;
        Some(leaf.size.bytes())
    }

    /// End of RAM in 2 MiB blocks, rounded up.
    pub fn blocks(&self) -> u64 {
        self.end.hpa().get().div_ceil(Level::L2.bytes())
    }
}

/// What a block is; `private`: what is not mapped should not be.
fn block_of(state: RegionState, private: bool) -> BlockState {
    match state {
        RegionState::In1G(_) => BlockState::In1G,
        RegionState::Leaf2M(_) => BlockState::Leaf2M,
        RegionState::Small4K { leaves, .. } => BlockState::Small4K { leaves },
        RegionState::Absent if private => BlockState::Hole,
        RegionState::Absent => BlockState::Missing,
    }
}

/// What the record of a frame says of its owner; what is shared stands at the alias that begins at `shared_from`.
fn record_of(pa: Pa, gpa: Va, shared_from: u64) -> Option<Record> {
    let (owner, gpa) = match with_memory(|memory| memory.frames.state(Hpa::new(pa.get()).pfn())) {
        // Of one page, at either alias: which one it must be is a matter of what is shared in place.
        FrameState::Private { owner, gfn, .. } => (owner, gfn.gpa().get() | gpa.get() & shared_from),
        FrameState::Shared { owner, gfn } => (owner, gfn.gpa().get() | shared_from),
        _ => return None,
    };
    Some(Record {
        owner: owner.get().into(),
        gpa: Va::new(gpa),
    })
}
