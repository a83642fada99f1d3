//! One struct for each JSON line; `docs/report-schema.md` documents them.
//!
//! `S` is the type of text: `&str` where lines are written, `String` where they are read.

use serde::Serialize;

/// Version of the schema. It rises when a field changes its meaning or goes away; a new field alone does not raise it.
pub const SCHEMA: u32 = 1;

/// Any line but `phase`, which is written by [`crate::write_phase`] because its length depends on RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "a line is made, written and forgotten; there is no allocator to box one with"
)]
pub enum Event<S> {
    /// The first line.
    Start(Start<S>),
    /// The direct map at one moment.
    #[cfg(feature = "read")]
    Phase(Phase<S>),
    /// A guest ended.
    Guest(Guest<S>),
    /// A value that a guest reported.
    ReportValue(ReportValue<S>),
    /// The result of a check.
    Check(Check<S>),
    /// Memory by kind and size at one moment.
    View(View<S>),
    /// Something that happened to memory, when a trace was asked for.
    Trace(Trace<S>),
    /// Every counter, once at the end.
    Counters(Counters),
    /// The result of the benchmark.
    Bench(Bench<S>),
    /// What the stress did, in a test build.
    Stress(Stress),
    /// The performance counters of a CPU, and what they were found to be.
    Pmu(Pmu<S>),
    /// What one event was found to be.
    PmuEvent(PmuEvent<S>),
    /// What an event counted while the host worked.
    PmuCount(PmuCount<S>),
    /// What the probe for large TLB entries found.
    Probe(Probe<S>),
    /// How long loads took.
    Latency(Latency<S>),
    /// Something that was to be measured and was not.
    Skip(Skip<S>),
    /// The machine is about to be paused for a look from outside.
    Pause(Pause<S>),
    /// The last line.
    Verdict(Verdict<S>),
}

impl<S> Event<S> {
    /// The value of the field `event`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            #[cfg(feature = "read")]
            Self::Phase(_) => "phase",
            Self::Guest(_) => "guest",
            Self::ReportValue(_) => "report_value",
            Self::Check(_) => "check",
            Self::View(_) => "view",
            Self::Trace(_) => "trace",
            Self::Counters(_) => "counters",
            Self::Bench(_) => "bench",
            Self::Stress(_) => "stress",
            Self::Pmu(_) => "pmu",
            Self::PmuEvent(_) => "pmu_event",
            Self::PmuCount(_) => "pmu_count",
            Self::Probe(_) => "probe",
            Self::Latency(_) => "latency",
            Self::Skip(_) => "skip",
            Self::Pause(_) => "pause",
            Self::Verdict(_) => "verdict",
        }
    }
}

/// What runs, and on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Start<S> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of Lacuna.
    pub version: S,
    /// Commit it was built from.
    pub commit: S,
    /// The CPU.
    pub machine: Machine<S>,
    /// RAM in the memory map, rounded down to MiB.
    pub memory_mib: u64,
    /// CPUs that the firmware names.
    pub cpus_found: u32,
    /// CPUs that this run uses.
    pub cpus_used: u32,
    /// Seed of the guests' patterns and of every random choice.
    pub seed: u64,
    /// The command line as it was given.
    pub command_line: S,
}

/// What the CPU offers, as far as it changes what Lacuna does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Machine<S> {
    /// Brand string, or the vendor where there is none.
    pub cpu: S,
    /// Kind of second-stage tables: `npt`.
    pub second_stage: S,
    /// Whether the direct map may use 1G leaves.
    pub leaf_1g: bool,
    /// Whether the CPU saves the address of the next instruction at an exit.
    pub nrip_save: bool,
    /// Whether the CPU saves instruction bytes at an exit.
    pub decode_assists: bool,
    /// Whether the CPU can flush the translations of one ASID.
    pub flush_by_asid: bool,
    /// Address-space identifiers, the host's included.
    pub asids: u32,
    /// Bits of a physical address.
    pub physical_bits: u32,
}

/// Numbers of leaves by size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Leaves {
    /// 1G leaves (level 3).
    pub g1: u64,
    /// 2M leaves (level 2).
    pub m2: u64,
    /// 4K leaves (level 1).
    pub k4: u64,
}

/// A `phase` line but for its array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseHeader<S> {
    /// `boot`, `guests` or `after`.
    pub phase: S,
    /// Leaves of the whole direct map.
    pub leaves: Leaves,
    /// MiB hidden from the direct map.
    pub hidden_mib: u64,
}

/// A `phase` line as it is read.
#[cfg(feature = "read")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Phase<S> {
    /// `boot`, `guests` or `after`.
    pub phase: S,
    /// Leaves of the whole direct map.
    pub leaves: Leaves,
    /// MiB hidden from the direct map.
    pub hidden_mib: u64,
    /// The gigablocks that hold RAM, in order, equal neighbours joined.
    pub gigablocks: alloc::vec::Vec<crate::Gigablock>,
}

/// A guest has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Guest<S> {
    /// Name of its file in the archive.
    pub name: S,
    /// Its number in this boot, from 1.
    pub instance: u32,
    /// Its memory, all of it private.
    pub memory_mib: u64,
    /// How much of it was private and in second-stage leaves of 2 MiB or more when it ended, MiB.
    pub large_leaves_mib: u64,
    /// What its launch was measured as, 96 hexadecimal digits; empty when it was refused.
    pub measurement: S,
    /// How it ended, in the words of `expect=`: `exit:0`, `memory-fault`, ...
    pub ending: S,
    /// How it was expected to end.
    pub expected: S,
    /// Whether the ending is the expected one and nothing else went wrong with it.
    pub held: bool,
    /// What happened, in words; empty when there is nothing to add.
    pub detail: S,
    /// vCPUs that it started, the first included.
    pub vcpus: u32,
    /// Most of them that had a turn at the same time.
    pub at_once: u32,
    /// Turns that they had on CPUs.
    pub turns: u64,
    /// Exits from guest to host.
    pub exits: u64,
    /// Hypercalls among them.
    pub hypercalls: u64,
    /// Turns on a CPU that came right after another guest's turn there.
    pub alternations: u64,
    /// Turns on another CPU than the one before.
    pub moves: u64,
    /// Turns that another CPU ended by a kick while the guest ran.
    pub kicks: u64,
    /// Time on a CPU in microseconds.
    pub cpu_us: u64,
}

/// A guest reported a value (hypercall 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct ReportValue<S> {
    /// Name of the guest's file in the archive.
    pub guest: S,
    /// The guest's number.
    pub instance: u32,
    /// What the value is, up to 8 ASCII characters chosen by the guest.
    pub name: S,
    /// The value.
    pub value: u64,
}

/// A check was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Check<S> {
    /// Which.
    pub name: S,
    /// Whether it held.
    pub held: bool,
    /// What was looked at, or what was wrong.
    pub detail: S,
}

/// Memory by kind and size at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct View<S> {
    /// When: `boot`, `guests` or `after`.
    pub phase: S,
    /// What there is.
    pub memory: memory::view::View,
}

/// Something that happened to memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Trace<S> {
    /// The CPU that did it.
    pub cpu: u32,
    /// Its how-manieth event; those before the first that is written were dropped for want of room.
    pub number: u64,
    /// When, in ticks of that CPU's TSC.
    pub time: u64,
    /// What: `carve`, `hide`, `split`, `merge`, `flush` or `restore`.
    pub action: S,
    /// The first byte concerned; 0 for a flush.
    pub address: u64,
    /// How many bytes; for a flush those that it has hidden.
    pub bytes: u64,
}

/// Every counter. The first four have Linux' names, in which level 2 is 2M and level 3 is 1G: `direct_map_level2_splits` counts
/// 2M leaves split to 4K.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Counters {
    /// 2M leaves split to 4K.
    pub direct_map_level2_splits: u64,
    /// 1G leaves split to 2M.
    pub direct_map_level3_splits: u64,
    /// Tables of 4K leaves merged to one 2M leaf.
    pub direct_map_level2_collapses: u64,
    /// Tables of 2M leaves merged to one 1G leaf.
    pub direct_map_level3_collapses: u64,
    /// Acknowledged flush batches, over all CPUs.
    pub flushes: u64,
    /// CPUs that were interrupted to flush, summed over the flushes.
    pub cpus_interrupted: u64,
    /// Shootdown interrupts sent to a CPU that was in a guest when it was looked at: there must be none.
    pub interrupts_to_guests: u64,
    /// Shootdown interrupts that ended guest mode: the CPU was in the host when it was looked at, and entered a guest before the interrupt came.
    pub interrupts_met_in_guests: u64,
    /// CPUs that were only flagged, because they ran a guest or slept.
    pub cpus_flagged: u64,
    /// Other CPUs that needed neither.
    pub cpus_spared: u64,
    /// NMIs sent to get a CPU out of its guest.
    pub kicks: u64,
    /// INVLPGs of closing windows; none of them leaves its CPU.
    pub window_invlpgs: u64,
    /// Regions hidden.
    pub regions_hidden: u64,
    /// Regions restored.
    pub regions_restored: u64,
    /// Gigablocks hidden by one entry; their regions count above, too.
    pub gigablocks_hidden: u64,
    /// 4K pages hidden one by one, because no whole region was free.
    pub pages_hidden: u64,
    /// 4K pages put back.
    pub pages_restored: u64,
    /// Entries of the direct map written.
    pub direct_map_writes: u64,
    /// Merges not done because an entry was absent.
    pub merges_blocked_hole: u64,
    /// Merges not done because an entry led to smaller leaves.
    pub merges_blocked_smaller_leaves: u64,
    /// Merges not done because the entries did not map one aligned piece of memory.
    pub merges_blocked_address: u64,
    /// Merges not done because the entries differed in rights, memory type or a software bit.
    pub merges_blocked_attributes: u64,
    /// Regions that came from the cache: without a flush.
    pub cache_hits: u64,
    /// Cached regions given back to the host because memory was low, or at the end.
    pub regions_shrunk: u64,
    /// Extents below 2 MiB that the pool handed out.
    pub pool_allocations: u64,
    /// Extents below 2 MiB that it took back.
    pub pool_frees: u64,
    /// Frames out of use for good because they could not be made safe.
    pub frames_quarantined: u64,
    /// 2M leaves of guests' tables split to 4K: because of the erratum iTLB multihit, or because a part of them was shared.
    pub second_stage_splits: u64,
    /// 2M leaves of guests' tables that came back because all 512 pages were private again.
    pub second_stage_collapses: u64,
    /// Those that did not come back because the frames are not one region.
    pub promotions_blocked_address: u64,
    /// Those that did not come back because of the erratum iTLB multihit.
    pub promotions_blocked_executable: u64,
    /// 4K pages that guests shared with the host.
    pub pages_shared: u64,
    /// 4K pages that became private again.
    pub pages_unshared: u64,
    /// 4K pages that guests accepted.
    pub pages_accepted: u64,
    /// 4K pages that guests shared in place: the hidden frames themselves.
    pub pages_shared_in_place: u64,
    /// 4K pages that were shared in place and are the guest's alone again.
    pub pages_unshared_in_place: u64,
    /// Regions of 2 MiB that guests gave back to the host.
    pub regions_given_back: u64,
    /// Regions of 2 MiB that guests took again, or that they got for pages that are private again.
    pub regions_taken_again: u64,
    /// Hidden 4K frames that were kept for pages that guests share or have given back, and were taken because memory was low.
    pub kept_frames_taken: u64,
    /// Hidden 4K frames that such pages got later, one by one.
    pub frames_supplied: u64,
    /// Flushes of a living guest's translations, for changes of its memory.
    pub guest_flushes: u64,
    /// CPUs that were kicked out of the guest for them.
    pub guest_cpus_kicked: u64,
    /// CPUs that had run that guest and were outside of it: they flush when they enter it again.
    pub guest_cpus_flagged: u64,
    /// Other CPUs: they have never run that guest, or had flushed already.
    pub guest_cpus_spared: u64,
    /// Bytes overwritten with zeros before someone else could see them.
    pub bytes_scrubbed: u64,
    /// TSC ticks of taking memory from the host, hiding it and flushing.
    pub ticks_hide: u64,
    /// TSC ticks of zeroing memory, before a guest or after it.
    pub ticks_scrub: u64,
    /// TSC ticks of making and filling second-stage tables.
    pub ticks_map: u64,
    /// TSC ticks of teardown but for the zeroing.
    pub ticks_restore: u64,
    /// TSC ticks of writing images and launch areas into guests, through windows.
    pub ticks_load: u64,
    /// Bytes written then.
    pub bytes_loaded: u64,
    /// TSC ticks of measuring them.
    pub ticks_measure: u64,
    /// Bytes of the pages measured.
    pub bytes_measured: u64,
    /// TSC ticks from the hypervisor's first instructions to the first turn of the first guest; 0 when none had a turn.
    pub ticks_to_first_guest: u64,
}

/// What giving and taking back private memory once did cost. Ticks are those of the TSC: instructions under QEMU's `-icount`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Bench<S> {
    /// How: `grouped`, `linux-fresh`, `linux-aged`, `scattered`.
    pub policy: S,
    /// Pages of 4 KiB.
    pub pages: u64,
    /// Ticks for taking memory from the host, hiding it, and flushing; splits, reserve and frame records included.
    pub hide: u64,
    /// Ticks for making and filling second-stage tables.
    pub map: u64,
    /// Ticks for zeroing before the guest.
    pub scrub_before: u64,
    /// Ticks for writing an image into the memory, through windows; 0 where none was loaded.
    pub load: u64,
    /// Bytes of that image; 0 where none was loaded.
    pub bytes_loaded: u64,
    /// Window INVLPGs of loading it.
    pub load_invlpgs: u64,
    /// Ticks for the teardown but for the zeroing.
    pub restore: u64,
    /// Ticks for zeroing after the guest.
    pub scrub_after: u64,
    /// Flushes of the launch.
    pub launch_flushes: u64,
    /// Flushes of the teardown.
    pub teardown_flushes: u64,
    /// CPUs that both interrupted: they were in the host.
    pub cpus_interrupted: u64,
    /// CPUs that both flagged: they were asleep.
    pub cpus_flagged: u64,
    /// Other CPUs that needed neither.
    pub cpus_spared: u64,
    /// Window INVLPGs of the launch.
    pub launch_invlpgs: u64,
    /// Window INVLPGs of the teardown.
    pub teardown_invlpgs: u64,
    /// 2M leaves split to 4K by the launch.
    pub level2_splits: u64,
    /// 1G leaves split to 2M by the launch.
    pub level3_splits: u64,
    /// Tables merged to 1G leaves by the teardown.
    pub level3_collapses: u64,
    /// Leaves of the direct map before.
    pub before: Leaves,
    /// Leaves while all of the memory is hidden.
    pub peak: Leaves,
    /// Leaves after the teardown.
    pub after: Leaves,
}

/// What the stress did, once all is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Stress {
    /// CPUs that took part.
    pub cpus: u32,
    /// Operations of all of them.
    pub operations: u64,
    /// Times that all CPUs stopped for a check of everything while operations went on.
    pub stops: u64,
    /// Stops at which no guest lived.
    pub stops_without_guests: u64,
    /// What did not hold, in all.
    pub failures: u64,
    /// Frames asked of the CPU's magazine.
    pub take_frame: u64,
    /// Extents of any size asked of the pool.
    pub take: u64,
    /// Extents of at least a region asked of the pool.
    pub take_large: u64,
    /// Extents below a region asked for while no whole region was free.
    pub take_pieces: u64,
    /// Extents given back.
    pub give: u64,
    /// Extents given to another CPU, or taken from one.
    pub exchange: u64,
    /// Extents looked at and written again.
    pub rewrite: u64,
    /// Extents of ordinary memory asked for.
    pub host_take: u64,
    /// Extents of ordinary memory given back.
    pub host_give: u64,
    /// Times that cached regions were given back to the host.
    pub shrink: u64,
    /// Times that the pool's cache was emptied.
    pub drain: u64,
    /// Times that the size of the cache changed.
    pub cache: u64,
    /// Times that the shrinker's watermarks changed.
    pub watermarks: u64,
    /// Times that a CPU asked for what is in all magazines.
    pub ask: u64,
    /// Of these, those that got all of it within the time that one waits.
    pub asked_in_full: u64,
    /// Requests that were not met: the bound on what is held, or no memory.
    pub refused: u64,
    /// Extents given back by another CPU than had taken them.
    pub given_elsewhere: u64,
    /// Frames taken from magazines and put into them.
    pub magazine_operations: u64,
    /// Takes of the memory subsystem's lock for them.
    pub magazine_locks: u64,
    /// Frames that magazines gave back because another CPU had asked.
    pub magazine_returned: u64,
    /// CPUs in guest mode at the same time, at most, as other CPUs saw it.
    pub most_in_guests: u32,
    /// Interrupts that were to be sent for shootdowns.
    pub interrupts_sent: u64,
    /// Those that a handler has taken.
    pub interrupts_taken: u64,
    /// NMIs that were taken for kicks.
    pub kicks_taken: u64,
}

impl Stress {
    /// The operations by kind, with their names.
    pub const fn kinds(&self) -> [(&'static str, u64); 14] {
        [
            ("take_frame", self.take_frame),
            ("take", self.take),
            ("take_large", self.take_large),
            ("take_pieces", self.take_pieces),
            ("give", self.give),
            ("exchange", self.exchange),
            ("rewrite", self.rewrite),
            ("host_take", self.host_take),
            ("host_give", self.host_give),
            ("shrink", self.shrink),
            ("drain", self.drain),
            ("cache", self.cache),
            ("watermarks", self.watermarks),
            ("ask", self.ask),
        ]
    }
}

/// The performance counters of a CPU, as they were found at one moment (`measure=tlb`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Pmu<S> {
    /// When: `boot`, `guests` or `after`.
    pub phase: S,
    /// Which CPU.
    pub cpu: u32,
    /// The core whose events are known, or `unknown`.
    pub core: S,
    /// How counters are reached; empty when there are none.
    pub interface: S,
    /// Counters that nobody else uses.
    pub counters: u32,
    /// Bits of a counter by CPUID.
    pub width: u32,
    /// Whether the counters themselves leave out what guests do. Else a window has no VM entry, and that is all.
    pub host_only: bool,
    /// `absent`, `dead` or `live`; the last when at least one event is.
    pub state: S,
    /// Why not live; empty when it is.
    pub reason: S,
}

/// What one event was found to be, by trying it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct PmuEvent<S> {
    /// When.
    pub phase: S,
    /// Which CPU.
    pub cpu: u32,
    /// What it counts.
    pub metric: S,
    /// Its event register's value.
    pub select: u64,
    /// `dead` or `live`.
    pub state: S,
    /// Why not live; empty when it is.
    pub reason: S,
}

/// What an event counted while the host worked, in one pass over all loads of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct PmuCount<S> {
    /// When.
    pub phase: S,
    /// Which CPU.
    pub cpu: u32,
    /// The work.
    pub workload: S,
    /// What was counted.
    pub metric: S,
    /// Loads of the work.
    pub loads: u64,
    /// What came of them.
    pub count: u64,
    /// What the probe said of TLB entries: `large`, `4k`, or `unknown` where time means nothing.
    pub entries: S,
}

/// What the probe for large TLB entries found: loads of the same lines of the data cache, from few pages of 4K and from many, all in one 2M leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Probe<S> {
    /// When.
    pub phase: S,
    /// Which CPU.
    pub cpu: u32,
    /// TSC ticks of 1000 loads over seven pages of 4K.
    pub few: u64,
    /// The same over 448.
    pub many: u64,
    /// `large`: an entry of the TLB covers 2M or more; `4k`: it does not, so an outer hypervisor backs us by 4K.
    pub entries: S,
}

/// How long dependent loads took, in many short windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Latency<S> {
    /// When.
    pub phase: S,
    /// Which CPU.
    pub cpu: u32,
    /// The work.
    pub workload: S,
    /// Loads of a window.
    pub loads: u64,
    /// Windows.
    pub windows: u64,
    /// TSC ticks of 1000 loads that a tenth of the windows stayed below.
    pub p10: u64,
    /// A quarter.
    pub p25: u64,
    /// Half.
    pub median: u64,
    /// TSC ticks in a millisecond.
    pub tsc_khz: u64,
    /// What the probe said of TLB entries: `large` or `4k`.
    pub entries: S,
}

/// Something that was to be measured and was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Skip<S> {
    /// When.
    pub phase: S,
    /// What: `pmu`, `latency`, or one workload of them, such as `latency objects-near`.
    pub what: S,
    /// Why.
    pub reason: S,
}

/// The machine pauses next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Pause<S> {
    /// The phase that can be looked at: `boot`, `guests` or `after`.
    pub phase: S,
}

/// How the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything held.
    Pass,
    /// Something did not hold.
    Fail,
    /// The hypervisor found one of its own invariants broken.
    Panic,
    /// This machine or configuration cannot run.
    Refused,
}

/// The verdict on the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
pub struct Verdict<S> {
    /// How it ended.
    pub verdict: Outcome,
    /// Why, and what to do; empty after a pass.
    pub reason: S,
}
