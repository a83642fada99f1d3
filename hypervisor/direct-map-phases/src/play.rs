//! Playing a history by a policy, and looking at the direct map when it says so.

use anyhow::{Context, Result, anyhow, bail};
use memory::HostMemory;
use memory::address::{Gpa, Level, PAGE_SIZE, REGION_ORDER};
use memory::frame::extent::{Clean, Extent};
use memory::frame::{GuestId, HostFrames};
use memory::guest::{Change, GuestFlushed, GuestMemory, Progress, SecondStageKind};
use memory::layout::direct;
use memory::machine::Machine;
use memory::region::Magazine;
use memory::tlb::shootdown::GuestTlb;
use oorandom::Rand64;
use tools::pressure::{Phase, Policy};
use tools::tlb::mapping::{Cell, Mapping};

use memory::baseline::PagedMemory;

use crate::board::Board;
use crate::history::{Event, History};

/// Linux' figure for memory among unmovable neighbours: one frame in 3.4 is free (docs/performance.md).
const AGED: (u64, u64) = (10, 34);
/// Frames left free beside the guests' in the scattered case, at least, and one in so many of all: for tables, one for each 2M leaf that is split, which comes
/// to be all of them, and as many again for second stages and the host.
const SPARE: u64 = 1 << 16;
const SPARE_OF: u64 = 256;
/// Frames that are not aged then: the host's own extents are larger than a frame, and scattered frames are not.
const WHOLE: u64 = 1 << 18;

/// The direct map at one moment.
pub struct Moment {
    /// When.
    pub phase: Phase,
    /// Guests alive.
    pub guests: u64,
    /// Bytes of their memory, and with [`Policy::GroupedWhole`] of what is hidden beside it.
    pub hidden_bytes: u64,
    /// The direct map.
    pub map: Mapping,
}

/// log2 of the bytes of a region.
const REGION_SHIFT: u8 = REGION_ORDER + 12;

enum Guest {
    Grouped(Box<GuestMemory>),
    Paged(PagedMemory),
}

/// The largest leaves at boot under a policy.
fn largest(policy: Policy) -> Level {
    match policy {
        Policy::All4K => Level::L1,
        Policy::All2M => Level::L2,
        _ => Level::L3,
    }
}

/// A machine at boot, under a policy.
///
/// # Errors
/// See [`Board::new`].
pub fn board(policy: Policy, ram: u64) -> Result<Board> {
    Board::new(ram, largest(policy))
}

/// Plays all of a history.
///
/// # Errors
/// Memory ran out, or the walker found the direct map malformed.
pub fn play(policy: Policy, history: &History, board: &mut Board, seed: u64) -> Result<Vec<Moment>> {
    if policy.is_yardstick() {
        return Ok(vec![Moment {
            phase: Phase::Boot,
            guests: 0,
            hidden_bytes: 0,
            map: board.direct_map()?,
        }]);
    }
    let mut storage = board.storage();
    let mut memory = board.boot(&mut storage)?;
    prepare(policy, history, &mut memory, seed);
    let mut guests: Vec<Option<(u64, Guest)>> = (0..history.slots.0).map(|_| None).collect();
    let mut host: Vec<Option<HostFrames>> = (0..history.slots.1).map(|_| None).collect();
    let mut moments = Vec::new();
    let mut next_guest = 0_u16;
    for event in &history.events {
        match *event {
            Event::Take { slot, order } => {
                let taken = memory.allocate(&board.machine, order);
                host[slot] = Some(taken.map_err(|error| anyhow!("the host's own memory: {error}"))?);
            }
            Event::Give { slot } => host[slot]
                .take()
                .into_iter()
                .for_each(|frames| memory.frames.free(frames)),
            Event::Launch { slot, regions } => {
                next_guest = next_guest.checked_add(1).context("too many guests")?;
                let guest = launch(policy, &mut memory, board, next_guest, regions)?;
                guests[slot] = Some((regions, guest));
            }
            Event::Die { slot } => match guests[slot].take() {
                Some((_, guest)) => end(&mut memory, board, guest),
                None => bail!("no guest in slot {slot}"),
            },
            Event::Convert {
                slot,
                change,
                page,
                pages,
            } => match &mut guests[slot] {
                Some((_, Guest::Grouped(guest))) => convert(&mut memory, board, guest, change, page, pages)?,
                Some((_, Guest::Paged(_))) => {}
                None => bail!("no guest in slot {slot}"),
            },
            Event::Measure(Phase::Conversions) if !converts(policy) => {}
            Event::Measure(phase) => {
                let regions: u64 = guests.iter().flatten().map(|(regions, _)| regions).sum();
                let boot = moments.first().map(|boot: &Moment| &boot.map);
                let beside = match boot {
                    Some(boot) if policy == Policy::GroupedWhole && regions > 0 => {
                        fill(&mut memory, board, boot)
                    }
                    _ => Vec::new(),
                };
                moments.push(Moment {
                    phase,
                    guests: guests.iter().flatten().count() as u64,
                    hidden_bytes: (regions + beside.len() as u64) << REGION_SHIFT,
                    map: board.direct_map()?,
                });
                beside
                    .into_iter()
                    .for_each(|region| memory.give_back(&board.machine, region));
            }
        }
    }
    Ok(moments)
}

/// Hides the free regions of every gigablock that has lost its 1G leaf since the boot. Only measured moments need them: a guest that is launched afterwards gets the regions that it
/// would have got from among them, because those gigablocks come first.
fn fill(memory: &mut HostMemory<'_>, board: &mut Board, boot: &Mapping) -> Vec<Extent<Clean>> {
    let (machine, windows) = board.parts();
    let mut regions = Vec::new();
    loop {
        let splits = memory.stats().level3_splits;
        // Without memory there is nothing left to fill.
        let Ok(region) = memory.allocate_private(machine, windows, REGION_ORDER) else {
            break;
        };
        if memory.stats().level3_splits > splits {
            memory.give_back(machine, region);
            break;
        }
        regions.push(region);
    }
    // What had no 1G leaf at boot comes first, too, and has none to lose.
    let (kept, rest): (Vec<_>, Vec<_>) = regions
        .into_iter()
        .partition(|region| direct(region.pfn().hpa()).is_some_and(|at| boot.cell(at.get()) == Cell::In1G));
    rest.into_iter()
        .for_each(|region| memory.give_back(machine, region));
    kept
}

/// Ages free memory as the policy wants it.
fn prepare(policy: Policy, history: &History, memory: &mut HostMemory<'_>, seed: u64) {
    let mut random = Rand64::new(seed.into());
    match policy {
        Policy::GroupedNoMerge => memory.stop_merging(),
        Policy::LinuxAged => {
            let (free, of) = AGED;
            // Tables of second stages and splits come from what is free, too.
            let pages = history.peak_frames + history.peak_frames / 64;
            memory
                .frames
                .age(pages * of / free, || random.rand_range(0..of) >= free);
        }
        Policy::Scattered => {
            let count = memory.frames.free_frames().saturating_sub(WHOLE);
            let free = history.peak_frames + SPARE.max(memory.frames.free_frames() / SPARE_OF);
            memory.frames.age(count, || random.rand_range(0..count) >= free);
        }
        Policy::Grouped
        | Policy::GroupedWhole
        | Policy::LinuxFresh
        | Policy::All4K
        | Policy::All2M
        | Policy::All1G => {}
    }
}

fn launch(
    policy: Policy,
    memory: &mut HostMemory<'_>,
    board: &mut Board,
    number: u16,
    regions: u64,
) -> Result<Guest> {
    let id = GuestId::new(number).with_context(|| format!("{number} is no guest"))?;
    let bytes = regions << 21;
    let (machine, windows) = board.parts();
    match policy {
        Policy::Grouped | Policy::GroupedWhole | Policy::GroupedNoMerge => {
            let hiding = memory
                .launch(machine, SecondStageKind::Nested, id, bytes)
                .map_err(|error| anyhow!("guest {number}: {error}"))?;
            let guest = hiding.wait(machine).finish(memory, machine, windows);
            Ok(Guest::Grouped(Box::new(guest)))
        }
        _ => {
            let paged = memory.launch_paged(machine, id, bytes / PAGE_SIZE);
            Ok(Guest::Paged(
                paged.map_err(|error| anyhow!("guest {number}: {error}"))?,
            ))
        }
    }
}

/// Whether guests convert pages under a policy. What follows Linux' secret memory gives a page for good: that has no call to share one.
pub fn converts(policy: Policy) -> bool {
    matches!(
        policy,
        Policy::Grouped | Policy::GroupedWhole | Policy::GroupedNoMerge
    )
}

/// All of a conversion, its flush included.
fn convert(
    memory: &mut HostMemory<'_>,
    board: &mut Board,
    guest: &mut GuestMemory,
    change: Change,
    page: u64,
    pages: u64,
) -> Result<()> {
    let (machine, windows) = board.parts();
    let number = guest.id().get();
    let refused = |error| anyhow!("guest {number}: {change:?} of {pages} pages from {page} on: {error}");
    guest
        .begin(change, Gpa::new(page * PAGE_SIZE), pages * PAGE_SIZE)
        .map_err(refused)?;
    loop {
        // Nobody takes what is kept for its pages, so it draws no single frame.
        match guest.go_on(memory, machine, windows, &mut Magazine::new()) {
            Progress::More => {}
            Progress::Restock => bail!("guest {number} lacks a frame that was kept for it"),
            Progress::Hide => {
                if let Some(posted) = guest.hiding() {
                    let receipt = posted.wait(machine);
                    guest.hidden(memory, machine, receipt);
                }
            }
            Progress::Flush => {
                // No CPU ever ran in it, so none is kicked.
                let posted = GuestTlb::new(guest.id());
                guest.flushed(memory, posted.post(()).wait(machine.cpu(), machine));
            }
            Progress::Done(done) => return done.map_err(refused),
        }
    }
}

fn end(memory: &mut HostMemory<'_>, board: &mut Board, guest: Guest) {
    let (machine, windows) = board.parts();
    match guest {
        Guest::Grouped(guest) => {
            let id = guest.id();
            // No CPU ever ran under its tables.
            let teardown = guest.revoke(machine).reclaim(GuestFlushed::new(id));
            let restored = teardown.finish(memory, machine, windows);
            restored.wait(machine).release(memory, machine);
        }
        Guest::Paged(paged) => memory.teardown_paged(machine, paged),
    }
}
