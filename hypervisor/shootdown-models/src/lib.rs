//! A small world in which loom runs the shootdown protocol of `memory`, the code that production uses, in every order of events that the
//! memory model allows. Built only with `RUSTFLAGS="--cfg loom"`: `cargo xtask test loom` does.
//!
//! [`World`] is the shared memory: one entry of the host's tables and the frame it leads to, one link to a table and that table, and the
//! protocol's lines. [`Processor`] is one CPU with what it has cached of both, *stale until flushed*. A frame that a CPU reads, a table that
//! it walks, are loom cells: whoever takes one for something else must come after every use of it, or loom fails the model. The
//! models are in `tests/`.
//!
//! [`guests`] is the same for the second-stage translations of guests.

pub mod guests;

use std::cell::Cell;
use std::rc::Rc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Mutex, MutexGuard};
use memory::tlb::atomics;
use memory::tlb::shootdown::{Cpu, CpuIndex, CpuLine, Generation, Outstanding, Request, Shootdown};

const _: () = assert!(
    atomics::MODELLED,
    "build with RUSTFLAGS=\"--cfg loom\", or run `cargo xtask test loom`"
);

/// CPUs of a world; a model has a thread for each, at most.
pub const CPUS: usize = 3;

/// Tries every order of events of a model with so many threads, in which threads are preempted a number of times in all, where they wait
/// for nobody: 2 times; with `LACUNA_LOOM=long` 3 times, or 5 if there are two threads. `LOOM_MAX_PREEMPTIONS` sets another number.
pub fn try_all(threads: usize, model: impl Fn() + Send + Sync + 'static) {
    try_between(2, if threads == 2 { 5 } else { 3 }, model);
}

/// The same with numbers of its own: `short` times, and `long` times with `LACUNA_LOOM=long`.
pub fn try_between(short: usize, long: usize, model: impl Fn() + Send + Sync + 'static) {
    let is_long = std::env::var_os("LACUNA_LOOM").is_some_and(|value| value == "long");
    try_with(if is_long { long } else { short }, model);
}

/// The same with a number of preemptions that the model is known to need.
pub fn try_with(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    // Steps of one run. A requester that waits for a CPU which never answers makes more.
    builder.max_branches = 3_000;
    builder.check(model);
}

/// Something that translations lead to: as long as `present`, hardware may find it; a CPU that has found it may use it until it is flushed.
struct Target {
    present: AtomicBool,
    content: UnsafeCell<()>,
}

impl Target {
    fn new() -> Self {
        Self {
            present: AtomicBool::new(true),
            content: UnsafeCell::new(()),
        }
    }

    fn used(&self) {
        self.content.with(|_| ());
    }

    fn taken(&self) {
        self.content.with_mut(|_| ());
    }
}

/// One more turn of a loop that waits for another thread. Where several threads wait like this, the orders of their turns have no end, so
/// from the third turn on loom goes on with one order only, in which every thread gets on.
pub fn pause(turn: u64) {
    if turn > 2 {
        loom::skip_branch();
    }
    loom::thread::yield_now();
}

/// What all CPUs share.
pub struct World {
    shootdown: Shootdown<'static>,
    /// Frames, through an entry each.
    frames: [Target; 2],
    /// A table, through the entry that links it.
    table: Target,
    /// Interrupts on their way.
    interrupts: [AtomicBool; CPUS],
    /// The lock of the memory subsystem, and the generation for which the table waits.
    waiting: Mutex<Option<Generation>>,
}

impl World {
    /// A world with CPUs that are not started. It is never freed: the protocol's lines are static in the hypervisor, too.
    pub fn new() -> &'static Self {
        let lines: &'static [CpuLine] = Box::leak((0..CPUS).map(|_| CpuLine::new()).collect());
        Box::leak(Box::new(Self {
            shootdown: Shootdown::new(lines),
            frames: [Target::new(), Target::new()],
            table: Target::new(),
            interrupts: Default::default(),
            waiting: Mutex::new(None),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Generation>> {
        match self.waiting.lock() {
            Ok(waiting) => waiting,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// A CPU that is not started.
    pub fn absent(&'static self, index: u32) -> Processor {
        Processor {
            world: self,
            index,
            frames: Default::default(),
            table: Cell::new(false),
            until_nmi: Cell::new(None),
        }
    }

    /// A CPU in the host.
    ///
    /// # Panics
    /// When it is started already.
    pub fn started(&'static self, index: u32) -> Processor {
        let processor = self.absent(index);
        let joined = processor
            .cpu()
            .announce()
            .then(|| processor.cpu().join(&processor));
        assert_eq!(joined, Some(Ok(())));
        processor
    }
}

/// A CPU: what it has cached of the tables, and when an NMI meets it.
pub struct Processor {
    world: &'static World,
    index: u32,
    /// Translations of the frames.
    frames: [Cell<bool>; 2],
    /// The link to the table, in its paging-structure cache.
    table: Cell<bool>,
    /// Interruptible points that this CPU still passes before an NMI comes; `None` when none comes, or none any more.
    until_nmi: Cell<Option<u32>>,
}

impl Processor {
    /// Its part in the protocol.
    pub fn cpu(&self) -> Cpu<'static> {
        match self.world.shootdown.cpu(CpuIndex::new(self.index)) {
            Some(cpu) => cpu,
            None => panic!("the world has no CPU {}", self.index),
        }
    }

    /// Looks everything up that it has not cached, as hardware may at any time on speculation.
    pub fn speculate(&self) {
        for (cached, frame) in self.frames.iter().zip(&self.world.frames) {
            cached.set(cached.get() || frame.present.load(Ordering::Relaxed));
        }
        self.table
            .set(self.table.get() || self.world.table.present.load(Ordering::Relaxed));
    }

    /// Walks the table if it knows the way, as hardware may at any time on speculation, whatever runs.
    pub fn walk(&self) {
        if self.table.get() {
            self.world.table.used();
        }
    }

    /// Host code reads the frame, by what the CPU has cached, or else by what the tables say. Nobody reads a hole.
    pub fn read(&self, frame: usize) {
        let cached = &self.frames[frame];
        cached.set(cached.get() || self.world.frames[frame].present.load(Ordering::Relaxed));
        if cached.get() {
            self.world.frames[frame].used();
        }
    }

    /// Takes an interrupt if one has come. Whether it had.
    pub fn take_interrupt(&self) -> bool {
        let came = self.world.interrupts[self.index as usize].swap(false, Ordering::AcqRel);
        if came {
            self.cpu().answer(self);
        }
        came
    }

    /// Hides a frame: clears the entry, asks, waits; then the frame is a guest's.
    pub fn hide(&self, frame: usize) {
        self.world.frames[frame].present.store(false, Ordering::Release);
        let request = self.cpu().request();
        self.cpu().wait(self, request);
        self.world.frames[frame].taken();
    }

    /// Unlinks the table, and asks, both under the lock.
    pub fn unlink(&self) -> Request {
        let mut waiting = self.world.lock();
        self.world.table.present.store(false, Ordering::Release);
        let request = self.cpu().request();
        *waiting = Some(request.generation());
        request
    }

    /// Frees the table if one waits and no CPU can walk it any more: then it is somebody else's. Whether it did.
    pub fn release(&self) -> bool {
        let mut waiting = self.world.lock();
        match *waiting {
            Some(generation) if self.world.shootdown.all_flushed(generation) => {
                *waiting = None;
                self.world.table.taken();
                true
            }
            _ => false,
        }
    }

    /// Lets one NMI meet this CPU, at the point with this number: see [`Self::point`].
    pub fn nmi_at(self: &Rc<Self>, point: u32) {
        self.until_nmi.set(Some(point));
        let cpu = Rc::clone(self);
        atomics::at_each_fence(move || cpu.point());
    }

    /// A point where an NMI may come. There is one before and after each fence and each flush of the protocol, too, so between any two
    /// steps that others can tell apart.
    pub fn point(&self) {
        match self.until_nmi.get() {
            Some(0) => {
                self.until_nmi.set(None);
                let visit = self.cpu().visit(self);
                self.read(0);
                drop(visit);
            }
            Some(further) => self.until_nmi.set(Some(further - 1)),
            None => {}
        }
    }

    /// Whether the NMI has come.
    pub fn nmi_came(&self) -> bool {
        self.until_nmi.get().is_none()
    }
}

impl memory::tlb::shootdown::Processor for Processor {
    fn flush(&self) {
        self.point();
        self.frames.iter().for_each(|frame| frame.set(false));
        self.table.set(false);
        self.point();
    }

    fn interrupt(&self, cpu: CpuIndex) {
        // A swap: loom may put a mere store before a swap that came before it, and the interrupt would be lost.
        self.world.interrupts[cpu.get() as usize].swap(true, Ordering::AcqRel);
    }

    fn pause(&self, outstanding: &Outstanding) {
        pause(outstanding.polls);
    }
}
