//! The benchmark: private memory of a given size, given and taken back once, by one of the policies, and what that cost.
//!
//! It starts with nothing hidden and every 1G leaf whole. Gigablocks that have no 1G leaf at boot are set aside first, for every policy
//! alike: holes there would be free. Costs are in ticks of the TSC, which under QEMU's `-icount` are instructions; a flush
//! then costs one, so flushes stand beside them.
//!
//! Between giving and taking back, `grouped` loads an image that fills the memory, the way a guest's image is loaded. The others have no
//! windows, so for them there is nothing to measure: with Linux' secret memory the program copies into its own mapping.

use core::fmt;

use boot_config::{Config, Phase, Policy};
use memory::HostMemory;
use memory::address::{Gpa, Level, PAGE_SIZE, REGION_ORDER};
use memory::frame::{GuestId, OutOfMemory};
use memory::guest::{GuestFlushed, GuestMemory, LaunchError, NotGuestMemory, SecondStageKind};
use memory::stats::{Costs, Stats};
use memory::window::Windows;
use report::{Bench, Event, Leaves};

use crate::checks::Checks;
use crate::cpu::timer;
use crate::frames::{Frames, with_memory};
use crate::guests::backing::{private_memory, take_back, write};
use crate::hardware::Hardware;
use crate::lock::while_others_rest;
use crate::measure::Measurer;
use crate::println;
use crate::reporting::json;

/// Linux' figure for memory among unmovable neighbours: 3.4 times the minimum of leaves split (measured under churn with
/// neighbours that cannot move; docs/performance.md). So one frame in 3.4 is free.
const AGED_FREE: (u64, u64) = (10, 34);
/// Frames left free beside the guest's in the scattered case: for tables, one for each 2M leaf that is split.
const SCATTERED_SPARE: u64 = 4096;

/// Why there is no result.
#[derive(Debug)]
pub enum BenchError {
    /// Not enough memory of the kind that the policy needs.
    OutOfMemory(OutOfMemory),
    /// The grouped policy's own error.
    Launch(LaunchError),
    /// The image does not fit the memory that was made for it.
    Load(NotGuestMemory),
    /// The direct map is wrong.
    DirectMap(audit::ScanError),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory(error) => error.fmt(f),
            Self::Launch(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::DirectMap(error) => error.fmt(f),
        }
    }
}

/// Everything that is counted, at one moment.
#[derive(Clone, Copy)]
struct Reading {
    stats: Stats,
    costs: Costs,
    invlpgs: u64,
    leaves: Leaves,
}

fn read(windows: &Windows, checks: &Checks) -> Result<Reading, BenchError> {
    let (stats, costs) = with_memory(|memory| (memory.stats(), memory.costs()));
    let leaves = checks.leaves().map_err(BenchError::DirectMap)?;
    Ok(Reading {
        stats,
        costs,
        invlpgs: windows.invalidations(),
        leaves,
    })
}

/// Runs the benchmark and reports it.
///
/// # Errors
/// See [`BenchError`].
pub fn run(
    config: &Config<'_>,
    bytes: u64,
    windows: &mut Windows,
    checks: &Checks,
    mut measurer: Option<Measurer>,
) -> Result<(), BenchError> {
    let mut measure = |phase| {
        if let Some(measurer) = &mut measurer {
            measurer.moment(phase, checks.spans());
        }
    };
    let pages = bytes / PAGE_SIZE;
    let Some(id) = GuestId::new(1) else { return Ok(()) };
    with_memory(|memory| prepare(memory, config, pages))?;
    measure(Phase::Boot);
    let before = read(windows, checks)?;
    let (peak, loaded, after) = match config.policy {
        Policy::Grouped => {
            #[cfg(feature = "test-hooks")]
            crate::hooks::mark::mark(crate::hooks::mark::Mark::Launch);
            let guest = private_memory(SecondStageKind::Nested, windows, id, bytes, &mut || true);
            #[cfg(feature = "test-hooks")]
            crate::hooks::mark::mark(crate::hooks::mark::Mark::Launched);
            let mut guest = guest.map_err(BenchError::Launch)?;
            let peak = read(windows, checks);
            measure(Phase::Guests);
            let ticks = load(&mut guest, windows);
            let loaded = read(windows, checks);
            #[cfg(feature = "test-hooks")]
            crate::hooks::mark::mark(crate::hooks::mark::Mark::Teardown);
            // No CPU ever ran under these tables.
            take_back(guest, GuestFlushed::new(id), windows, &mut || ());
            #[cfg(feature = "test-hooks")]
            crate::hooks::mark::mark(crate::hooks::mark::Mark::TornDown);
            let after = read(windows, checks)?;
            (peak?, Some((ticks?, loaded?)), after)
        }
        Policy::LinuxFresh | Policy::LinuxAged | Policy::Scattered => {
            #[cfg(feature = "test-hooks")]
            crate::hooks::mark::mark(crate::hooks::mark::Mark::Launch);
            // Page by page, with a flush each, under the lock: no other CPU works.
            let paged = with_memory(|memory| while_others_rest(|| memory.launch_paged(&Hardware, id, pages)));
            #[cfg(feature = "test-hooks")]
            crate::hooks::mark::mark(crate::hooks::mark::Mark::Launched);
            let paged = paged.map_err(BenchError::OutOfMemory)?;
            let peak = read(windows, checks);
            measure(Phase::Guests);
            #[cfg(feature = "test-hooks")]
            crate::hooks::mark::mark(crate::hooks::mark::Mark::Teardown);
            with_memory(|memory| while_others_rest(|| memory.teardown_paged(&Hardware, paged)));
            #[cfg(feature = "test-hooks")]
            crate::hooks::mark::mark(crate::hooks::mark::Mark::TornDown);
            (peak?, None, read(windows, checks)?)
        }
    };
    measure(Phase::After);
    report(config.policy, pages, &before, &peak, loaded, &after);
    Ok(())
}

/// Loads an image that fills the guest's memory, and returns the ticks that took. All of it comes from the same 2 MiB: in this unit it does not
/// matter from where a byte is read, and an image of the full size would take the memory away that is to be measured.
fn load(guest: &mut GuestMemory, windows: &mut Windows) -> Result<u64, BenchError> {
    let region = Level::L2.bytes();
    let source = Frames::zeroed(REGION_ORDER).map_err(BenchError::OutOfMemory)?;
    // SAFETY: the frames are ours, initialised, in the direct map for as long as `source` lives, and nobody writes them.
    let image = unsafe { core::slice::from_raw_parts(source.as_ptr(), source.bytes()) };
    let start = timer::tsc();
    for at in (0..guest.bytes()).step_by(region as usize) {
        let piece = image.get(..(guest.bytes() - at).min(region) as usize);
        write(guest, windows, Gpa::new(at), piece.unwrap_or_default()).map_err(BenchError::Load)?;
    }
    Ok(timer::tsc() - start)
}

/// Sets aside what would make holes free, and ages memory as the policy wants it.
fn prepare(memory: &mut HostMemory<'static>, config: &Config<'_>, pages: u64) -> Result<(), BenchError> {
    let frames = &mut memory.frames;
    // They stay in the direct map, and nobody has them any more.
    let _ = frames.carve_without_1g_leaf();
    let mut random = oorandom::Rand64::new(config.seed.into());
    let (free, of) = match config.policy {
        Policy::Grouped | Policy::LinuxFresh => return Ok(()),
        Policy::LinuxAged => AGED_FREE,
        Policy::Scattered => (pages + SCATTERED_SPARE, frames.free_frames().max(1)),
    };
    // As much memory as leaves the guest's pages, and some for tables, when all but one share of it is in use.
    let count = match config.policy {
        Policy::Scattered => frames.free_frames(),
        _ => (pages + pages / 64) * of / free,
    };
    frames.age(count, || random.rand_range(0..of) >= free);
    Ok(())
}

fn report(
    policy: Policy,
    pages: u64,
    before: &Reading,
    peak: &Reading,
    loaded: Option<(u64, Reading)>,
    after: &Reading,
) {
    let (ticks, bytes) = loaded.map_or((0, 0), |(ticks, _)| (ticks, pages * PAGE_SIZE));
    let full = loaded.map_or(*peak, |(_, full)| full);
    let launch = |value: fn(&Reading) -> u64| value(peak) - value(before);
    let teardown = |value: fn(&Reading) -> u64| value(after) - value(&full);
    let both = |value: fn(&Stats) -> u64| {
        let (launch, full) = (value(&peak.stats) - value(&before.stats), value(&full.stats));
        launch + value(&after.stats) - full
    };
    let bench = Bench {
        policy: policy.name(),
        pages,
        hide: launch(|reading| reading.costs.hide),
        map: launch(|reading| reading.costs.map),
        scrub_before: launch(|reading| reading.costs.scrub),
        load: ticks,
        bytes_loaded: bytes,
        load_invlpgs: full.invlpgs - peak.invlpgs,
        restore: teardown(|reading| reading.costs.restore),
        scrub_after: teardown(|reading| reading.costs.scrub),
        launch_flushes: launch(|reading| reading.stats.flushes),
        teardown_flushes: teardown(|reading| reading.stats.flushes),
        cpus_interrupted: both(|stats| stats.cpus_interrupted),
        cpus_flagged: both(|stats| stats.cpus_flagged),
        cpus_spared: both(|stats| stats.cpus_spared),
        launch_invlpgs: launch(|reading| reading.invlpgs),
        teardown_invlpgs: teardown(|reading| reading.invlpgs),
        level2_splits: launch(|reading| reading.stats.level2_splits),
        level3_splits: launch(|reading| reading.stats.level3_splits),
        level3_collapses: teardown(|reading| reading.stats.level3_collapses),
        before: before.leaves,
        peak: peak.leaves,
        after: after.leaves,
    };
    json::event(&Event::Bench(bench.clone()));
    let each = |ticks: u64| Each(ticks, pages);
    println!(
        "policy {}, {} MiB, {pages} pages of 4K; ticks of the TSC for each page:",
        policy.name(),
        pages >> 8
    );
    println!(
        "  take and hide {:>10}   flushes {:>8}",
        each(bench.hide),
        bench.launch_flushes
    );
    println!(
        "  map           {:>10}   window INVLPGs {}",
        each(bench.map),
        bench.launch_invlpgs
    );
    println!("  zero before   {:>10}", each(bench.scrub_before));
    if bench.bytes_loaded > 0 {
        println!(
            "  load an image {:>10}   window INVLPGs {}",
            Each(bench.load, bench.bytes_loaded / PAGE_SIZE),
            bench.load_invlpgs
        );
    }
    println!(
        "  restore       {:>10}   flushes {:>8}",
        each(bench.restore),
        bench.teardown_flushes
    );
    println!(
        "  zero after    {:>10}   window INVLPGs {}",
        each(bench.scrub_after),
        bench.teardown_invlpgs
    );
    for (name, leaves) in [
        ("before", bench.before),
        ("peak", bench.peak),
        ("after", bench.after),
    ] {
        println!(
            "  leaves {name:<7} 1G {:>4}   2M {:>6}   4K {:>7}",
            leaves.g1, leaves.m2, leaves.k4
        );
    }
}

/// Ticks for each page, with two decimals.
struct Each(u64, u64);

impl fmt::Display for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = self.0 * 100 / self.1.max(1);
        let mut text = heapless::String::<24>::new();
        fmt::write(
            &mut text,
            format_args!("{}.{:02}", hundredths / 100, hundredths % 100),
        )?;
        f.pad(&text)
    }
}

// A region holds whole pages.
const _: () = assert!(Level::L2.bytes().is_multiple_of(PAGE_SIZE));
