//! A CPU of one test on one thread: it notes what the shootdown protocol asks of it, and does what the test says while it waits.

use std::cell::{Cell, RefCell};
use std::fmt::Display;

use memory::tlb::shootdown::{
    Cpu, CpuIndex, CpuLine, Kicker, Outstanding, Processor, Shootdown, StillInside,
};

/// How often it waits before the test has failed.
const MOST: u64 = 10;

/// A CPU that waits for others to flush ([`Outstanding`]) or to leave a guest ([`StillInside`]).
pub struct Scripted<'a, W> {
    /// Flushes of its own.
    pub flushes: Cell<u32>,
    /// Whom it interrupted or kicked, by number.
    pub signals: RefCell<Vec<u32>>,
    /// What it was told each time it waited.
    pub polls: RefCell<Vec<W>>,
    meanwhile: &'a dyn Fn(&W),
}

impl<'a, W: Copy + Display> Scripted<'a, W> {
    /// One that calls `meanwhile` each time it waits.
    pub fn new(meanwhile: &'a dyn Fn(&W)) -> Self {
        Self {
            flushes: Cell::new(0),
            signals: RefCell::default(),
            polls: RefCell::default(),
            meanwhile,
        }
    }

    /// One that never has to wait.
    pub fn prompt() -> Self {
        Self::new(&|waiting| panic!("{waiting}"))
    }

    fn flushed(&self) {
        self.flushes.set(self.flushes.get() + 1);
    }

    fn waits(&self, polls: u64, waiting: &W) {
        self.polls.borrow_mut().push(*waiting);
        assert!(polls < MOST, "{waiting}");
        (self.meanwhile)(waiting);
    }
}

impl Processor for Scripted<'_, Outstanding> {
    fn flush(&self) {
        self.flushed();
    }

    fn interrupt(&self, cpu: CpuIndex) {
        self.signals.borrow_mut().push(cpu.get());
    }

    fn pause(&self, outstanding: &Outstanding) {
        self.waits(outstanding.polls, outstanding);
    }
}

impl Processor for Scripted<'_, StillInside> {
    fn flush(&self) {
        self.flushed();
    }

    fn interrupt(&self, cpu: CpuIndex) {
        panic!("{cpu} was interrupted, not kicked");
    }

    fn pause(&self, outstanding: &Outstanding) {
        panic!("{outstanding}");
    }
}

impl Kicker for Scripted<'_, StillInside> {
    fn kick(&self, cpu: CpuIndex) {
        self.signals.borrow_mut().push(cpu.get());
    }

    fn pause_outside(&self, inside: &StillInside) {
        self.waits(inside.polls, inside);
    }
}

/// The lines of so many CPUs.
pub fn lines(count: usize) -> Vec<CpuLine> {
    (0..count).map(|_| CpuLine::new()).collect()
}

/// A CPU that has joined.
///
/// # Panics
/// When there is none of this number, or it has joined before.
pub fn started<'c>(all: &'c Shootdown<'c>, index: u32) -> Cpu<'c> {
    let cpu = all.cpu(CpuIndex::new(index)).unwrap();
    assert!(cpu.announce());
    cpu.join(&Scripted::<Outstanding>::prompt()).unwrap();
    cpu
}
