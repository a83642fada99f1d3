//! A guest: what its vCPUs share, on whichever CPUs they run.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use boot_config::{Ending, Launch};
use guest_image::{Digest, File};
use memory::address::Hpa;
use memory::frame::GuestId;
use memory::guest::{GuestFlushed, GuestMemory};
use memory::tlb::shootdown::GuestTlb;
use report::GuestText;

use crate::lock::{Lock, Rank};
use crate::println;
use crate::virt::{self, StartState, VcpuFlushed, VcpuPass, VcpuTally};

/// Most values that are reported for one guest: a guest that reports without end must not fill the log.
const MOST_VALUES: u64 = 1000;

/// Writing a guest's image and launch area into its memory, and measuring them there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loading {
    /// TSC ticks that it took.
    pub ticks: u64,
    /// Bytes written.
    pub bytes: u64,
    /// TSC ticks that measuring it took.
    pub measure_ticks: u64,
    /// Bytes of the pages measured.
    pub measured_bytes: u64,
}

/// A guest's name and number, as they stand in front of its lines.
pub struct Label<'a>(pub &'a str, pub u32);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.0, self.1)
    }
}

/// What vCPUs have done; that of a guest is the sum of those that are retired.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Exits from guest mode.
    pub exits: u64,
    /// Hypercalls made.
    pub hypercalls: u64,
    /// Turns that came right after another guest's turn on that CPU.
    pub alternations: u64,
    /// Turns on another CPU than the vCPU's turn before.
    pub moves: u64,
    /// Turns that another CPU ended by a kick.
    pub kicks: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.exits += other.exits;
        self.hypercalls += other.hypercalls;
        self.alternations += other.alternations;
        self.moves += other.moves;
        self.kicks += other.kicks;
    }
}

/// How a guest ended: the verdict of the vCPU that ended it, and what happened to that vCPU, if there is more to say.
type Verdict = (Ending, Option<virt::Ending>);

/// What is left of a guest whose vCPUs are all retired.
pub struct End {
    /// Its memory.
    pub memory: GuestMemory,
    /// How it ended.
    pub ending: Ending,
    /// What happened, if there is more to say.
    pub detail: Option<virt::Ending>,
    /// vCPUs that it had.
    pub vcpus: u32,
    /// What they did.
    pub counts: Counts,
}

/// Whether a value is shown that a guest reports.
pub enum Showing {
    /// It is.
    Shown,
    /// It is the first of those that are dropped.
    FirstDropped,
    /// It is dropped as well.
    Dropped,
}

/// There is no further vCPU: the guest has as many as it was launched for, or has ended.
pub struct NoVcpu;

/// A guest.
pub struct Guest {
    /// Its program.
    pub file: File<'static>,
    /// Its number in this boot, from 1.
    pub instance: u32,
    /// How it was launched.
    pub launch: Launch,
    /// Its number for the memory subsystem.
    pub id: GuestId,
    /// How its first vCPU started.
    pub start: StartState,
    /// What the CPUs' TLBs may hold of its second stage.
    pub tlb: GuestTlb,
    ended: AtomicBool,
    paused: AtomicBool,
    /// Turns that its vCPUs have had.
    turns: AtomicU64,
    /// vCPUs that have a turn, and the most that had at the same time.
    running: AtomicU32,
    at_once: AtomicU32,
    /// CPU time that its vCPUs have used, microseconds.
    used_us: AtomicU64,
    state: Lock<State>,
}

struct State {
    /// `None` before it is launched and once it is being taken down.
    memory: Option<GuestMemory>,
    /// `None` before it is launched.
    measurement: Option<Digest>,
    /// `None` once all are retired.
    vcpus: Option<VcpuTally>,
    /// Those that are.
    retired: u32,
    output: GuestText,
    values: u64,
    counts: Counts,
    verdict: Option<Verdict>,
}

impl Guest {
    /// A guest without memory, and the pass of its first vCPU.
    pub fn new(
        file: File<'static>,
        instance: u32,
        launch: Launch,
        id: GuestId,
        start: StartState,
    ) -> (Self, VcpuPass) {
        let mut vcpus = VcpuTally::new(id);
        let first = vcpus.admit();
        let guest = Self {
            file,
            instance,
            launch,
            id,
            start,
            tlb: GuestTlb::new(id),
            ended: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            running: AtomicU32::new(0),
            at_once: AtomicU32::new(0),
            used_us: AtomicU64::new(0),
            state: Lock::new(
                Rank::Guest,
                State {
                    memory: None,
                    measurement: None,
                    vcpus: Some(vcpus),
                    retired: 0,
                    output: GuestText::default(),
                    values: 0,
                    counts: Counts::default(),
                    verdict: None,
                },
            ),
        };
        (guest, first)
    }

    /// Gives it its memory and what that was measured as, before it runs.
    pub fn give(&self, memory: GuestMemory, measurement: Digest) {
        self.state.with(|state| {
            state.memory = Some(memory);
            state.measurement = Some(measurement);
        });
    }

    /// What its launch was measured as; `None` before that.
    pub fn measurement(&self) -> Option<Digest> {
        self.state.with(|state| state.measurement)
    }

    /// Its name and number.
    pub fn label(&self) -> Label<'_> {
        Label(self.file.name(), self.instance)
    }

    /// Admits a further vCPU.
    ///
    /// # Errors
    /// See [`NoVcpu`].
    pub fn admit(&self) -> Result<VcpuPass, NoVcpu> {
        self.state.with(|state| match &mut state.vcpus {
            Some(vcpus) if state.verdict.is_none() && vcpus.alive() < self.launch.vcpus => Ok(vcpus.admit()),
            _ => Err(NoVcpu),
        })
    }

    /// Takes back the pass of a vCPU that could not be made. Another one of this guest must be alive.
    pub fn dismiss(&self, pass: VcpuPass) {
        self.state.with(|state| {
            if let Some(vcpus) = &mut state.vcpus {
                vcpus.dismiss(pass);
            }
        });
    }

    /// The top-level table that translates its addresses; `None` once its memory is being taken down.
    pub fn second_stage(&self) -> Option<Hpa> {
        self.with_memory(|memory| memory.second_stage())
    }

    /// Whether it has ended. Its vCPUs are to be retired then.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether its vCPUs are to get no turn for now.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Pauses it, or ends the pause. False when that changes nothing. To be called while the run queues are locked, which hand the word on.
    pub fn set_paused(&self, paused: bool) -> bool {
        self.paused.swap(paused, Ordering::Relaxed) != paused
    }

    /// Ends it. True for the first who does: that verdict counts.
    pub fn end(&self, verdict: Verdict) -> bool {
        self.state.with(|state| {
            // Not the verdict tells: it is gone once the guest is taken down.
            let first = !self.ended.swap(true, Ordering::AcqRel);
            if first {
                state.verdict = Some(verdict);
            }
            first
        })
    }

    /// Notes that a vCPU is retired, and what it did. For the last one of a guest that has ended: the proof that its memory can be taken back.
    pub fn retired(&self, vcpu: VcpuFlushed, counts: &Counts) -> Option<GuestFlushed> {
        self.state.with(|state| {
            state.counts.add(counts);
            state.retired += 1;
            let mut vcpus = state.vcpus.take()?;
            vcpus.retired(vcpu);
            match vcpus.finish() {
                Ok(flushed) => Some(flushed),
                Err(vcpus) => {
                    state.vcpus = Some(vcpus);
                    None
                }
            }
        })
    }

    /// Takes what is left of it when all its vCPUs are retired, and prints the rest of its output.
    pub fn take_down(&self) -> Option<End> {
        self.state.with(|state| {
            state.output.finish(&self.label(), &mut |line| println!("{line}"));
            let (ending, detail) = state.verdict.take()?;
            Some(End {
                memory: state.memory.take()?,
                ending,
                detail,
                vcpus: state.retired,
                counts: state.counts,
            })
        })
    }

    /// A vCPU has a turn, while `turn` runs.
    pub fn in_turn<R>(&self, turn: impl FnOnce() -> R) -> R {
        self.turns.fetch_add(1, Ordering::Relaxed);
        let now = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.at_once.fetch_max(now, Ordering::Relaxed);
        let result = turn();
        self.running.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Turns that its vCPUs have had.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Most vCPUs that had a turn at the same time.
    pub fn at_once(&self) -> u32 {
        self.at_once.load(Ordering::Relaxed)
    }

    /// Runs `work` on its memory; `None` once it is being taken down.
    pub fn with_memory<R>(&self, work: impl FnOnce(&mut GuestMemory) -> R) -> Option<R> {
        self.state.with(|state| state.memory.as_mut().map(work))
    }

    /// Prints complete lines of what it says.
    pub fn print(&self, text: &[u8]) {
        self.state.with(|state| {
            state
                .output
                .write(&self.label(), text, &mut |line| println!("{line}"));
        });
    }

    /// It reports one value more.
    pub fn count_value(&self) -> Showing {
        self.state.with(|state| {
            state.values += 1;
            match state.values {
                ..=MOST_VALUES => Showing::Shown,
                value if value == MOST_VALUES + 1 => Showing::FirstDropped,
                _ => Showing::Dropped,
            }
        })
    }

    /// CPU time that is left of its limit, microseconds.
    pub fn left_us(&self) -> u64 {
        let limit = u64::try_from(self.launch.limit.as_micros()).unwrap_or(u64::MAX);
        limit.saturating_sub(self.used_us.load(Ordering::Relaxed))
    }

    /// Notes CPU time of one of its vCPUs, microseconds.
    pub fn use_up(&self, us: u64) {
        self.used_us.fetch_add(us, Ordering::Relaxed);
    }

    /// CPU time used, microseconds.
    pub fn used_us(&self) -> u64 {
        self.used_us.load(Ordering::Relaxed)
    }

    /// vCPUs that are not retired.
    #[cfg(feature = "test-hooks")]
    pub fn vcpus_alive(&self) -> u32 {
        self.state
            .with(|state| state.vcpus.as_ref().map_or(0, VcpuTally::alive))
    }
}
