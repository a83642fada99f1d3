//! The report: text on COM1 for people, JSON lines on COM2 for programs.
//!
//! The workers and `main` tell the [`Reporter`] what happens, in order; it prints what is of interest at once, keeps counts and the
//! picture's strips, and writes the summary at the end. [`start`] says what runs and on what; [`json`] writes the lines, the verdict last.

pub mod json;
pub mod start;

use core::fmt;

use boot_config::{Ending, Expected, Phase};
use guest_image::Digest;
use heapless::{String, Vec};
use memory::address::Level;
use report::{Counters, Event, Leaves, PhaseColumn, PhaseHeader, Picture, Summary};

use crate::checks::{Checks, Memories, Subject};
use crate::console::{TextPort, pause};
use crate::cpu::timer;
use crate::frames::with_memory;
use crate::guests::{Counts, Loading};
use crate::measure::Measurer;
use crate::{presence, println};

/// A moment that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The direct map is built, nothing is hidden.
    Boot,
    /// The first guest has ended, none has been taken down.
    Guests,
    /// All guests are gone.
    After,
}

impl Moment {
    const fn phase(self) -> Phase {
        match self {
            Self::Boot => Phase::Boot,
            Self::Guests => Phase::Guests,
            Self::After => Phase::After,
        }
    }
}

/// How one guest ended.
pub struct GuestResult<'a> {
    /// Its file.
    pub name: &'a str,
    /// Its number in this boot.
    pub instance: u32,
    /// Its memory.
    pub memory_bytes: u64,
    /// How much of it was in leaves of 2 MiB or more when it ended.
    pub large_leaves_bytes: u64,
    /// What its launch was measured as; `None` when it was refused.
    pub measurement: Option<Digest>,
    /// How it ended.
    pub ending: Ending,
    /// How it was expected to.
    pub expected: Expected,
    /// What happened, if there is more to say.
    pub detail: Option<&'a dyn fmt::Display>,
    /// vCPUs that it started.
    pub vcpus: u32,
    /// Most of them that had a turn at the same time.
    pub at_once: u32,
    /// Turns that they had.
    pub turns: u64,
    /// What they did besides.
    pub counts: Counts,
    /// CPU time.
    pub cpu_us: u64,
}

/// Why the run failed: the first thing that did not hold, as much of it as fits.
pub type Reason = String<200>;

/// The report in the making.
pub struct Reporter<'a> {
    config: &'a boot_config::Config<'a>,
    picture: Picture<'static>,
    columns: Vec<PhaseColumn<'static>, 3>,
    memory_mib: u64,
    guests: u64,
    guests_held: u64,
    most_at_once: u64,
    failures: u64,
    first_failure: Reason,
    /// TSC ticks from the hypervisor's start to the first guest's first turn.
    ticks_to_first_guest: Option<u64>,
    loading: Loading,
    measurer: Option<Measurer>,
}

impl<'a> Reporter<'a> {
    /// A report about a machine with RAM up to `blocks` 2 MiB blocks, that measures with this.
    pub fn new(
        config: &'a boot_config::Config<'a>,
        blocks: u64,
        memory_mib: u64,
        measurer: Option<Measurer>,
    ) -> Self {
        Self {
            config,
            picture: Picture::new(blocks),
            columns: Vec::new(),
            memory_mib,
            guests: 0,
            guests_held: 0,
            most_at_once: 0,
            failures: 0,
            first_failure: String::new(),
            ticks_to_first_guest: None,
            loading: Loading::default(),
            measurer,
        }
    }

    /// Looks at the direct map: checks, picture, JSON, and the pause if one is asked for.
    pub fn moment(&mut self, moment: Moment, checks: &mut Checks, guests: &dyn Memories) {
        checks.run(guests, |subject, error| self.check_failed(subject, error));
        let name = moment.phase().name();
        let picture = &mut self.picture;
        let seen = checks.look(guests, |found, spans| {
            let leaves = Leaves {
                g1: found.leaves.g1,
                m2: found.leaves.m2,
                k4: found.leaves.k4,
            };
            // Three strips are not too many for a picture.
            let _ = picture.add(name, spans);
            (leaves, (found.holes * Level::L2.bytes()) >> 20)
        });
        match seen {
            Ok((leaves, hidden_mib)) => {
                // Three columns fit.
                let _ = self.columns.push(PhaseColumn {
                    name,
                    leaves,
                    hidden_mib,
                });
                let header = PhaseHeader {
                    phase: name,
                    leaves,
                    hidden_mib,
                };
                // A second scan: the lines are written while it runs, and nothing changes in between.
                let _ = checks.look(guests, |_, spans| json::phase(&header, spans));
            }
            Err(error) => self.check_failed(Subject::DirectMap, &error),
        }
        if let Some(measurer) = &mut self.measurer {
            measurer.moment(moment.phase(), checks.spans());
        }
        let view = with_memory(|memory| memory.view());
        if self.config.view {
            println!("memory at the moment `{name}`:\n{view}\n");
        }
        json::event(&Event::View(report::View {
            phase: name,
            memory: view,
        }));
        #[cfg(feature = "test-hooks")]
        if moment == Moment::Guests
            && let Some(hook) = self.config.test
            && crate::hooks::commit(hook, guests)
        {
            self.fail(format_args!("the deliberate fault {hook} was not caught"));
        }
        if self.config.pauses.contains(moment.phase()) {
            json::event(&Event::Pause(report::Pause { phase: name }));
            if let Err(error) = pause::pause() {
                self.fail(format_args!("{error}"));
            }
        }
    }

    /// A guest was launched.
    pub fn launched(
        &mut self,
        who: &dyn fmt::Display,
        bytes: u64,
        measurement: Option<Digest>,
        loading: Loading,
    ) {
        self.loading.ticks += loading.ticks;
        self.loading.bytes += loading.bytes;
        self.loading.measure_ticks += loading.measure_ticks;
        self.loading.measured_bytes += loading.measured_bytes;
        if !self.config.quiet {
            println!("launched {who} with {} MiB", bytes >> 20);
            if let Some(measurement) = measurement {
                println!("  measured as {measurement}");
            }
        }
    }

    /// A guest is about to run. Only the first time counts.
    pub fn turn_begins(&mut self) {
        self.ticks_to_first_guest
            .get_or_insert_with(timer::ticks_since_entry);
    }

    /// So many live.
    pub fn most_at_once(&mut self, alive: u64) {
        self.most_at_once = self.most_at_once.max(alive);
    }

    /// A guest reported a value.
    pub fn value(&self, who: &crate::guests::Label<'_>, name: &str, value: u64) {
        json::event(&Event::ReportValue(report::ReportValue {
            guest: who.0,
            instance: who.1,
            name,
            value,
        }));
        if !self.config.quiet {
            println!("  {who} | {name} = {value}");
        }
    }

    /// A guest ended.
    pub fn guest(&mut self, result: &GuestResult<'_>) {
        let held = result.expected.holds(result.ending);
        self.guests += 1;
        self.guests_held += u64::from(held);
        let mut ending = String::<32>::new();
        let mut expected = String::<32>::new();
        let mut detail = String::<256>::new();
        let mut measurement = String::<{ 2 * Digest::BYTES }>::new();
        if let Some(digest) = result.measurement {
            let _ = fmt::write(&mut measurement, format_args!("{digest}"));
        }
        let _ = fmt::write(&mut ending, format_args!("{}", result.ending));
        let _ = fmt::write(&mut expected, format_args!("{}", result.expected));
        if let Some(text) = result.detail {
            let _ = fmt::write(&mut detail, format_args!("{text}"));
        }
        json::event(&Event::Guest(report::Guest {
            name: result.name,
            instance: result.instance,
            memory_mib: result.memory_bytes >> 20,
            large_leaves_mib: result.large_leaves_bytes >> 20,
            measurement: &measurement,
            ending: &ending,
            expected: &expected,
            held,
            detail: &detail,
            vcpus: result.vcpus,
            at_once: result.at_once,
            turns: result.turns,
            exits: result.counts.exits,
            hypercalls: result.counts.hypercalls,
            alternations: result.counts.alternations,
            moves: result.counts.moves,
            kicks: result.counts.kicks,
            cpu_us: result.cpu_us,
        }));
        let separator = if detail.is_empty() { "" } else { ": " };
        if !held {
            println!(
                "{}#{} ended by {ending}{separator}{detail}; expected was {expected}",
                result.name, result.instance
            );
            self.fail(format_args!(
                "{}#{} ended by {ending}, expected was {expected}{separator}{detail}",
                result.name, result.instance
            ));
            return;
        }
        if self.config.quiet {
            return;
        }
        match result.ending {
            Ending::Destroyed => println!("{}#{} was destroyed {detail}", result.name, result.instance),
            _ => println!(
                "{}#{} ended by {ending}, as expected{separator}{detail}",
                result.name, result.instance
            ),
        }
    }

    /// A check did not hold.
    pub fn check_failed(&mut self, subject: Subject, error: &dyn fmt::Display) {
        println!("CHECK FAILED: {}: {error}", subject.name());
        self.fail(format_args!("{}: {error}", subject.name()));
    }

    /// The stress has found something that must not be.
    #[cfg(feature = "test-hooks")]
    pub fn stress_failed(&mut self, reason: fmt::Arguments<'_>) {
        println!("STRESS FAILED: {reason}");
        self.fail(format_args!("stress: {reason}"));
    }

    fn fail(&mut self, reason: fmt::Arguments<'_>) {
        self.failures += 1;
        if self.first_failure.is_empty() {
            // What does not fit is cut; the full text was printed.
            let _ = fmt::write(&mut self.first_failure, reason);
        }
    }

    /// Writes the summary. The reason, when something did not hold.
    /// `invalidations` is how many windows were closed.
    pub fn finish(&mut self, checks: &mut Checks, invalidations: u64) -> Option<Reason> {
        checks.free_frames(|subject, error| self.check_failed(subject, error));
        let (mut made, mut held) = (0, 0);
        for subject in Subject::ALL {
            let tally = checks.tally(subject);
            made += tally.made;
            held += tally.held;
            let mut detail = String::<160>::new();
            let _ = fmt::write(
                &mut detail,
                format_args!(
                    "held {} of {} times: {}",
                    tally.held,
                    tally.made,
                    subject.meaning()
                ),
            );
            let held = tally.held == tally.made;
            // Without a guest there was nothing of its to check.
            if tally.made == 0 && self.most_at_once > 0 {
                self.fail(format_args!("{} was never checked", subject.name()));
            }
            json::event(&Event::Check(report::Check {
                name: subject.name(),
                held,
                detail: &detail,
            }));
        }
        crate::tracing::write();
        let counters = counters(
            invalidations,
            self.ticks_to_first_guest.unwrap_or(0),
            self.loading,
        );
        json::event(&Event::Counters(counters));
        println!();
        let summary = Summary {
            memory_mib: self.memory_mib,
            guests: self.guests,
            guests_held: self.guests_held,
            most_at_once: self.most_at_once,
            checks: made,
            checks_held: held,
            phases: &self.columns,
            counters,
        };
        // The port takes everything.
        let _ = report::write_summary(&summary, &mut TextPort);
        println!();
        let _ = self.picture.write(&mut TextPort);
        println!();
        if counters.interrupts_to_guests > 0 {
            self.fail(format_args!(
                "{} CPUs were interrupted for a shootdown while they were in a guest",
                counters.interrupts_to_guests
            ));
        }
        if self.guests == 0 {
            self.fail(format_args!("no guest ran"));
        }
        (self.failures > 0).then(|| self.first_failure.clone())
    }
}

fn counters(window_invlpgs: u64, ticks_to_first_guest: u64, loading: Loading) -> Counters {
    let (stats, costs) = with_memory(|memory| (memory.stats(), memory.costs()));
    let (interrupts_to_guests, interrupts_met_in_guests) = presence::interrupts_in_guests();
    Counters {
        direct_map_level2_splits: stats.level2_splits,
        direct_map_level3_splits: stats.level3_splits,
        direct_map_level2_collapses: stats.level2_collapses,
        direct_map_level3_collapses: stats.level3_collapses,
        flushes: stats.flushes,
        cpus_interrupted: stats.cpus_interrupted,
        interrupts_to_guests,
        interrupts_met_in_guests,
        cpus_flagged: stats.cpus_flagged,
        cpus_spared: stats.cpus_spared,
        kicks: presence::kicks(),
        window_invlpgs,
        regions_hidden: stats.regions_hidden,
        regions_restored: stats.regions_restored,
        gigablocks_hidden: stats.gigablocks_hidden,
        pages_hidden: stats.pages_hidden,
        pages_restored: stats.pages_restored,
        direct_map_writes: stats.direct_map_writes,
        merges_blocked_hole: stats.merges_blocked.hole,
        merges_blocked_smaller_leaves: stats.merges_blocked.smaller_leaves,
        merges_blocked_address: stats.merges_blocked.address,
        merges_blocked_attributes: stats.merges_blocked.attributes,
        cache_hits: stats.cache_hits,
        regions_shrunk: stats.regions_shrunk,
        pool_allocations: stats.pool_allocations,
        pool_frees: stats.pool_frees,
        frames_quarantined: stats.frames_quarantined,
        second_stage_splits: stats.second_stage_splits,
        second_stage_collapses: stats.second_stage_collapses,
        promotions_blocked_address: stats.promotions_blocked.address,
        promotions_blocked_executable: stats.promotions_blocked.executable,
        pages_shared: stats.pages_shared,
        pages_unshared: stats.pages_unshared,
        pages_accepted: stats.pages_accepted,
        pages_shared_in_place: stats.pages_shared_in_place,
        pages_unshared_in_place: stats.pages_unshared_in_place,
        regions_given_back: stats.regions_given_back,
        regions_taken_again: stats.regions_taken_again,
        kept_frames_taken: stats.kept_frames_taken,
        frames_supplied: stats.frames_supplied,
        guest_flushes: stats.guest_flushes,
        guest_cpus_kicked: stats.guest_cpus_kicked,
        guest_cpus_flagged: stats.guest_cpus_flagged,
        guest_cpus_spared: stats.guest_cpus_spared,
        bytes_scrubbed: stats.bytes_scrubbed,
        ticks_hide: costs.hide,
        ticks_scrub: costs.scrub,
        ticks_map: costs.map,
        ticks_restore: costs.restore,
        ticks_load: loading.ticks,
        bytes_loaded: loading.bytes,
        ticks_measure: loading.measure_ticks,
        bytes_measured: loading.measured_bytes,
        ticks_to_first_guest,
    }
}
