//! What the host's own accesses cost (`measure=tlb`): counters and latency, at each moment of a run.
//!
//! At boot ([`Measurer::new`]) a sixteenth of the free memory becomes the host's own, in regions, and is written to, so that whoever is below us backs it. It
//! stays the host's, so no moment hides it, and all moments load from the same addresses: those of the crate `workloads`, which the
//! model in `tools` uses, too. Pages that lie near hidden memory are known only once there is such; their list is made at the moment
//! `guests` and used again at `after`. Every access is a load that waits for the one before, whatever the work would do there.
//!
//! At a moment ([`Measurer::moment`]), on one CPU while all others rest: `counters` tries the events and counts the live ones, `chase` times loads in short
//! windows with interrupts masked, and the probe for large TLB entries says what their figures stand for. Where time means nothing there
//! are no figures but a reason. No window has a VM entry.

mod chase;
mod counters;

use boot_config::{Config, Hook, Phase};
use memory::address::{Hpa, Level, PAGE_SIZE, Pfn, REGION_ORDER};
use memory::frame::{FrameState, OutOfMemory};
use memory::layout::direct;
use report::{BlockState, Event, Latency, Skip, Span};
use workloads::{Block, Entries, Extent, Near, Probe, Quantiles, Ram, Stream, Workload, mix, why_no_time};

use crate::boot::image;
use crate::console;
use crate::cpu::descriptor::CpuTables;
use crate::frames::{leak_slice, with_memory};
use crate::println;
use crate::reporting::json;

/// The share of free memory that is taken, and the most regions: 64 GiB.
const SHARE: u64 = 16;
const MOST_REGIONS: u64 = 32 * 1024;
/// The most where no figures come of it: an emulator's RAM is another's.
const FEW_REGIONS: u64 = 16;
/// Loads of a workload before its addresses begin again: more than any second level has entries.
const LOADS: usize = 64 * 1024;
/// Windows, and loads in each: some microseconds.
const WINDOWS: usize = 2000;
const WINDOW: usize = 256;
/// The part of both that is enough to show that it runs.
const TRIED_PART: usize = 16;
/// Windows of each of the probe's lists; each is one traversal.
const PROBE_WINDOWS: usize = WINDOWS / TRIED_PART;
/// Leaves of the direct map by size, any one of each, for whoever must miss.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyLeaf {
    m2: Option<Hpa>,
    g1: Option<Hpa>,
}

/// Everything for measuring.
pub struct Measurer {
    /// The host's own pages, ascending.
    own: &'static [Extent],
    /// Pieces near hidden memory; none before the moment `guests`.
    near: &'static [Extent],
    /// Room for them, until they are found.
    room: Option<&'static mut [Extent]>,
    /// Addresses in the direct map, in the order in which they are loaded from.
    list: &'static mut [u64],
    /// The same for `objects-near`, kept from the moment `guests` on, and whether it is filled.
    near_list: &'static mut [u64],
    near_is_known: bool,
    ticks: &'static mut [u32],
    seed: u64,
    tsc_khz: u64,
    /// Why time means nothing here.
    no_time: Option<&'static str>,
    /// Figures are taken all the same, and withheld.
    anyway: bool,
    leaf: AnyLeaf,
}

impl Measurer {
    /// Takes memory for it.
    ///
    /// # Errors
    /// There is not even one region, or no room for the lists.
    pub fn new(config: &Config<'_>, tsc_hz: u64) -> Result<Self, OutOfMemory> {
        let nothing = Extent {
            start: Pfn::new(0),
            frames: 0,
        };
        let (free, frames) = with_memory(|memory| (memory.frames.free_regions(), memory.frames.frames()));
        let no_time = no_time();
        let most = if no_time.is_some() {
            FEW_REGIONS
        } else {
            MOST_REGIONS
        };
        let wanted = (free / SHARE).clamp(1, most);
        let own = leak_slice(wanted as usize, nothing)?;
        let mut taken = 0;
        for extent in own.iter_mut() {
            // For good: what is the host's is never hidden.
            match with_memory(|memory| memory.frames.allocate(REGION_ORDER)) {
                Ok(frames) => {
                    *extent = Extent {
                        start: frames.pfn(),
                        frames: 1 << REGION_ORDER,
                    };
                    taken += 1;
                }
                Err(error) if taken == 0 => return Err(error),
                Err(_) => break,
            }
        }
        let own = own.get_mut(..taken).unwrap_or_default();
        own.sort_unstable_by_key(|extent| extent.start);
        for extent in own.iter() {
            (0..extent.frames).for_each(|frame| chase::touch(extent.start.add(frame)));
        }
        let anyway = cfg!(feature = "test-hooks") && config.test == Some(Hook::MeasureAnyway);
        // Each page that is new to an emulator costs it dearly.
        let part = if anyway { TRIED_PART } else { 1 };
        // At most every other block is a hole.
        let blocks = (frames >> REGION_ORDER) as usize;
        Ok(Self {
            own,
            near: &[],
            room: Some(leak_slice(blocks / 2 + 2, nothing)?),
            list: leak_slice(LOADS / part, 0)?,
            near_list: leak_slice(LOADS / part, 0)?,
            near_is_known: false,
            ticks: leak_slice(WINDOWS / part, 0)?,
            seed: config.seed,
            tsc_khz: tsc_hz / 1000,
            no_time,
            anyway,
            leaf: AnyLeaf::default(),
        })
    }

    /// Notes what the direct map looks like.
    fn see(&mut self, phase: Phase, spans: impl Iterator<Item = Span>) {
        self.leaf = AnyLeaf::default();
        let mut near = (phase == Phase::Guests)
            .then(|| self.room.take())
            .flatten()
            .map(Near::new);
        // Blocks with a part of the image, which is read-only in places.
        let image = image::sections().map(|section| {
            let first = section.hpa().get() / Level::L2.bytes();
            first..=(section.hpa().get() + section.bytes()) / Level::L2.bytes()
        });
        for span in spans {
            let at = Hpa::new(span.first * Level::L2.bytes());
            let block = match span.state {
                BlockState::Leaf2M => {
                    self.leaf.m2.get_or_insert(at);
                    Block::Leaf
                }
                BlockState::In1G => {
                    self.leaf.g1.get_or_insert(at);
                    Block::Other
                }
                BlockState::Hole => Block::Hole,
                BlockState::NotRam | BlockState::Small4K { .. } | BlockState::Missing => Block::Other,
            };
            let has_image = image
                .iter()
                .any(|blocks| span.first <= *blocks.end() && span.first + span.blocks > *blocks.start());
            if let Some(near) = near.as_mut()
                && !(block == Block::Leaf && has_image)
            {
                near.add(span.first, span.blocks, block);
            }
        }
        if let Some(near) = near {
            self.near = near.finish();
        }
    }

    /// Measures, while the direct map looks like this. All other CPUs must rest.
    pub fn moment(&mut self, phase: Phase, spans: impl Iterator<Item = Span>) {
        self.see(phase, spans);
        let cpu = CpuTables::current().map_or(0, CpuTables::number);
        let place = Place {
            phase: phase.name(),
            cpu,
        };
        println!("measured at the moment `{}` on CPU {cpu}:", place.phase);
        let timed = self.no_time.is_none() || self.anyway;
        let entries = if timed { self.probe(place) } else { None };
        if let Some(reason) = self.no_time {
            place.skip("latency", reason);
            if self.anyway {
                println!("  timed all the same, and withheld");
            }
        }
        let mut counters = counters::Counters::open(place, self.leaf, self.own);
        if !timed && !counters.any() {
            println!();
            return;
        }
        // Another order at each moment: what comes first is not always after the same.
        let first = mix(self.seed, phase as u64) as usize;
        let workloads = Workload::ALL.len();
        let order = Workload::ALL.into_iter().cycle().skip(first % workloads);
        for workload in order.take(workloads) {
            if let Err(reason) = self.list_of(workload) {
                place.skip_workload("latency", workload, reason);
                if counters.any() {
                    place.skip_workload("pmu", workload, reason);
                }
                continue;
            }
            match workload.why_no_chase() {
                Some(reason) if timed => place.skip_workload("latency", workload, reason),
                None if timed => self.latency(place, workload, entries),
                _ => {}
            }
            let list = self.list(workload);
            counters.count(place, workload, entries, || chase::follow(list), list.len());
        }
        println!();
    }

    /// Makes the list of addresses.
    fn list_of(&mut self, workload: Workload) -> Result<(), &'static str> {
        let near = workload == Workload::ObjectsNear;
        if near && self.near_is_known {
            return Ok(());
        }
        if near && self.room.is_some() {
            return Err("which memory will lie next to what is hidden is known only when guests live");
        }
        if near && self.near.is_empty() {
            return Err("no memory of the host's lies in a gigablock with hidden memory");
        }
        let ground = Ram::new(self.own, if near { self.near } else { &[] }, is_hosts);
        let Some(ground) = ground else {
            return Err("the host has no memory of its own for it");
        };
        let list = if near {
            &mut *self.near_list
        } else {
            &mut *self.list
        };
        for (address, access) in list.iter_mut().zip(Stream::new(&ground, workload, self.seed)) {
            // Ours were touched at boot.
            if near {
                chase::touch(access.at.pfn());
            }
            *address = direct(access.at).map_or(0, |at| at.get());
        }
        // All of them are RAM, so none is beyond.
        if list.contains(&0) {
            return Err("an address lies beyond the direct map");
        }
        self.near_is_known |= near;
        Ok(())
    }

    /// The list of a workload that [`Self::list_of`] has made.
    fn list(&self, workload: Workload) -> &[u64] {
        if workload == Workload::ObjectsNear {
            self.near_list
        } else {
            self.list
        }
    }

    /// Times the list in windows.
    fn latency(&mut self, place: Place, workload: Workload, entries: Option<Entries>) {
        // Two traversals before anything counts.
        let list = if workload == Workload::ObjectsNear {
            &*self.near_list
        } else {
            &*self.list
        };
        chase::follow(list);
        chase::follow(list);
        let windows = list.chunks_exact(WINDOW).cycle();
        for (ticks, window) in self.ticks.iter_mut().zip(windows) {
            *ticks = chase::time(window);
        }
        let Some(quantiles) = Quantiles::of(self.ticks, WINDOW as u64) else {
            return;
        };
        if self.no_time.is_some() {
            let windows = self.ticks.len();
            println!("  {:<14} {windows} windows of {WINDOW} loads", workload.name());
            return;
        }
        let Quantiles { p10, p25, median } = quantiles;
        println!(
            "  {:<14} ticks for 1000 loads: p10 {p10:>7}  p25 {p25:>7}  median {median:>7}",
            workload.name()
        );
        json::event(&Event::Latency(Latency {
            phase: place.phase,
            cpu: place.cpu,
            workload: workload.name(),
            loads: WINDOW as u64,
            windows: self.ticks.len() as u64,
            p10,
            p25,
            median,
            tsc_khz: self.tsc_khz,
            entries: name_of(entries),
        }));
    }

    /// Tells whether TLB entries are large. `None` where time means nothing.
    fn probe(&mut self, place: Place) -> Option<Entries> {
        let (probe, block) = (Probe::new(self.seed), self.own.first()?.start.hpa().get());
        let at = |place: u64| direct(Hpa::new(block + place)).map_or(0, |at| at.get());
        let (few, many) = (probe.few().map(at), probe.many().map(at));
        let mut p10 = |list: &[u64]| {
            let ticks = self.ticks.get_mut(..PROBE_WINDOWS)?;
            chase::follow(list);
            chase::follow(list);
            ticks.iter_mut().for_each(|ticks| *ticks = chase::time(list));
            Some(Quantiles::of(ticks, list.len() as u64)?.p10)
        };
        let (few, many) = (p10(&few)?, p10(&many)?);
        if self.no_time.is_some() {
            println!("  probe          {PROBE_WINDOWS} windows of each list");
            return None;
        }
        let entries = Probe::judge(few, many);
        println!(
            "  TLB entries are {}: ticks for 1000 loads {few} over 7 pages of 4K, {many} over 448",
            match entries {
                Entries::Large => "large",
                Entries::Small => "4K: an outer hypervisor backs this machine so",
            }
        );
        json::event(&Event::Probe(report::Probe {
            phase: place.phase,
            cpu: place.cpu,
            few,
            many,
            entries: entries.name(),
        }));
        Some(entries)
    }
}

/// When and where a figure is taken.
#[derive(Clone, Copy, Debug)]
struct Place {
    phase: &'static str,
    cpu: u32,
}

impl Place {
    /// Says that something is not measured.
    fn skip(self, what: &str, reason: &str) {
        println!("  SKIP {what}: {reason}");
        json::event(&Event::Skip(Skip {
            phase: self.phase,
            what,
            reason,
        }));
    }

    fn skip_workload(self, what: &str, workload: Workload, reason: &str) {
        let mut text = heapless::String::<40>::new();
        // The names are short.
        let _ = core::fmt::write(&mut text, format_args!("{what} {}", workload.name()));
        self.skip(&text, reason);
    }
}

fn name_of(entries: Option<Entries>) -> &'static str {
    entries.map_or("unknown", Entries::name)
}

/// Whether a page is in the direct map because the host has it, or nobody.
fn is_hosts(page: Pfn) -> bool {
    let state = with_memory(|memory| memory.frames.state(page));
    matches!(state, FrameState::Host { .. } | FrameState::Free { .. })
}

/// Why time means nothing on this machine.
fn no_time() -> Option<&'static str> {
    /// Leaf 1, ECX: a hypervisor is below (APM vol. 3, E.3.2; reserved for this by Intel); leaf 4000_0000H: who it is.
    const HAS_HYPERVISOR: u32 = 1 << 31;
    let leaf = |number: u32| raw_cpuid::cpuid!(number);
    let signature = (leaf(1).ecx & HAS_HYPERVISOR != 0).then(|| {
        let leaf = leaf(0x4000_0000);
        let words = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
        let mut bytes = [0; 12];
        for (to, from) in bytes.iter_mut().zip(words.as_flattened()) {
            *to = *from;
        }
        bytes
    });
    why_no_time(signature, console::is_bochs())
}

// A window is a part of the list.
const _: () = assert!((LOADS / TRIED_PART).is_multiple_of(WINDOW));
const _: () = assert!(Level::L2.bytes() == PAGE_SIZE << REGION_ORDER);
