//! One CPU as `memory` drives it and tests use it.

use std::ops::Range;

use memory::address::{ENTRIES, Hpa, Hva, Level, PAGE_SIZE, Pfn};
use memory::layout::WINDOW_BASE;
use memory::machine::{Machine, Table, TableAt, WindowSpan};
use memory::tlb::shootdown::{Cpu as Member, CpuIndex, Kicker, Outstanding, Processor, StillInside};

use crate::cpu::{Fault, Stage};
use crate::machine::ModelMachine;
use crate::tags::Writer;

/// One CPU of a model machine: what [`Machine`] is for.
#[derive(Clone, Copy)]
pub struct ModelCpu<'a> {
    pub(crate) machine: &'a ModelMachine,
    pub(crate) index: usize,
}

impl ModelCpu<'_> {
    /// Which CPU this is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Reads eight bytes (aligned) by way of this CPU's caches.
    ///
    /// # Errors
    /// A page fault.
    pub fn load(&self, at: Hva) -> Result<u64, Fault> {
        let hpa = self.translate(at, false)?;
        Ok(self.machine.ram().load(hpa))
    }

    /// Writes eight bytes (aligned) by way of this CPU's caches.
    ///
    /// # Errors
    /// A page fault.
    pub fn store(&self, at: Hva, value: u64) -> Result<(), Fault> {
        let hpa = self.translate(at, true)?;
        self.machine.ram().store(hpa, value);
        self.machine.state().tags.set(hpa.pfn(), Writer::Host);
        Ok(())
    }

    fn translate(&self, at: Hva, write: bool) -> Result<Hpa, Fault> {
        self.machine.state().cpus[self.index].translate(self.machine.ram(), at, write)
    }

    /// Whether it is in the host, and uses its translations.
    pub fn is_in_host(&self) -> bool {
        self.stage() == Stage::Host
    }

    fn stage(&self) -> Stage {
        self.machine.state().cpus[self.index].stage
    }

    fn set_stage(&self, stage: Stage) {
        self.machine.state().cpus[self.index].stage = stage;
    }

    /// Starts the CPU, if it is not: it loads its tables, and may walk them from now on.
    ///
    /// # Panics
    /// When the protocol does not let it.
    pub fn announce(&self) {
        if self.stage() == Stage::Absent {
            assert!(self.cpu().announce(), "CPU {} cannot be announced", self.index);
            let mut state = self.machine.state();
            let now = state.journal.now();
            state.cpus[self.index].stage = Stage::Starting;
            state.cpus[self.index].flushed = now;
        }
    }

    /// Brings the CPU into the host, wherever it is: started, back from a guest, awake.
    ///
    /// # Panics
    /// When the protocol does not let it.
    pub fn come(&self) {
        self.announce();
        match self.stage() {
            Stage::Starting => {
                // It counts as in the host from the first moment on: that its flush comes first is the protocol's affair.
                self.set_stage(Stage::Host);
                assert_eq!(self.cpu().join(self), Ok(()), "CPU {}", self.index);
            }
            Stage::Away => self.leave_guest(),
            Stage::Host | Stage::Absent => {}
        }
    }

    /// Starts running a guest: from now on a shootdown does not disturb this CPU.
    pub fn enter_guest(&self) {
        self.cpu().enter_guest();
        self.set_stage(Stage::Away);
    }

    /// Goes to sleep: as [`Self::enter_guest`].
    pub fn sleep(&self) {
        self.cpu().sleep();
        self.set_stage(Stage::Away);
    }

    /// Back from the guest, or awake: the CPU may use whatever it has cached, unless the protocol makes it flush.
    pub fn leave_guest(&self) {
        let interrupted = {
            let mut state = self.machine.state();
            state.cpus[self.index].stage = Stage::Host;
            let before = state.interrupted.len();
            state.interrupted.retain(|index| *index != self.index);
            before != state.interrupted.len()
        };
        self.cpu().back(self);
        if interrupted {
            self.cpu().answer(self);
        }
    }

    /// An NMI comes: whatever the CPU does, it is in the host while `handler` runs. A CPU that is not started takes none.
    pub fn nmi(&self, handler: impl FnOnce()) {
        let before = self.stage();
        if matches!(before, Stage::Absent | Stage::Starting) {
            return;
        }
        self.set_stage(Stage::Host);
        let cpu = self.cpu();
        let visit = cpu.visit(self);
        handler();
        drop(visit);
        self.set_stage(before);
    }

    /// Visits the words of RAM that a span touches: where each is, and which of its bytes are which bytes of the span.
    fn each_word(
        &self,
        span: WindowSpan,
        write: bool,
        mut visit: impl FnMut(Hpa, Range<usize>, Range<usize>),
    ) {
        let mut done = 0;
        while done < span.bytes() {
            let at = Hva::new(span.start().get() + done as u64);
            let first = (at.get() % 8) as usize;
            let count = (8 - first).min(span.bytes() - done);
            match self.translate(at, write) {
                Ok(hpa) => visit(hpa.align_down(8), first..first + count, done..done + count),
                Err(fault) => panic!("the host faulted at a window: {fault:?}"),
            }
            done += count;
        }
    }

    pub(crate) fn note_store(&self, at: Hpa, value: u64) {
        let mut state = self.machine.state();
        let old = self.machine.ram().load(at);
        self.machine.ram().store(at, value);
        state.stores += 1;
        state.journal.store(at, old, value);
        state.tags.set(at.pfn(), Writer::Host);
        state.stored(self.machine.ram(), self.index, at, old, value);
    }

    fn note_bytes(&self, frame: Pfn, writer: Writer) {
        let mut state = self.machine.state();
        state.tags.set(frame, writer);
        state.overwritten_as_bytes(self.machine.ram(), frame, 1);
    }

    /// Zeroes the 2 MiB at an address if one translation covers them; else false.
    fn zero_region(&self, at: Hva) -> bool {
        let Ok(first) = self.translate(at, true) else {
            return false;
        };
        let small = self.machine.state().cpus[self.index].uses_small_page(at);
        let whole = !small && first.is_aligned(Level::L2.bytes());
        if whole {
            self.machine.ram().clear_region(first.pfn());
            let mut state = self.machine.state();
            // What the host zeroes in the direct map is its own.
            if is_window(at) {
                state.tally.zeroed(Level::L2.bytes());
            }
            state.tags.set_region(first.pfn(), Writer::Zeroed);
            state.overwritten_as_bytes(self.machine.ram(), first.pfn(), Level::L2.frames());
        }
        whole
    }
}

impl Machine for ModelCpu<'_> {
    fn table(&self, at: TableAt) -> &Table {
        self.machine.ram().table(at.pfn())
    }

    fn write_entry(&self, at: TableAt, index: usize, value: u64) {
        let entry = at.pfn().hpa().get() + 8 * (index % ENTRIES) as u64;
        self.note_store(Hpa::new(entry), value);
    }

    fn clear(&self, at: TableAt) {
        {
            let mut state = self.machine.state();
            state.tags.set(at.pfn(), Writer::Host);
            state.overwritten(self.machine.ram(), at.pfn(), 1);
        }
        for index in 0..ENTRIES as u64 {
            let entry = Hpa::new(at.pfn().hpa().get() + 8 * index);
            if self.machine.ram().load(entry) != 0 {
                self.note_store(entry, 0);
            }
        }
    }

    fn zero(&self, span: WindowSpan) {
        if span.bytes() as u64 == Level::L2.bytes() && self.zero_region(span.start()) {
            return;
        }
        for page in (0..span.bytes()).step_by(4096) {
            let at = Hva::new(span.start().get() + page as u64);
            match self.translate(at, true) {
                Ok(hpa) => {
                    self.machine.ram().clear(hpa.pfn());
                    // What the host zeroes in the direct map is its own.
                    if is_window(at) {
                        self.machine.state().tally.zeroed(PAGE_SIZE);
                    }
                    self.note_bytes(hpa.pfn(), Writer::Zeroed);
                }
                Err(fault) => panic!("the host faulted at a window: {fault:?}"),
            }
        }
    }

    fn copy_in(&self, span: WindowSpan, data: &[u8]) {
        let writer = if is_window(span.start()) {
            Writer::Guest
        } else {
            Writer::Host
        };
        self.each_word(span, true, |hpa, bytes, of_data| {
            let mut word = self.machine.ram().load(hpa).to_le_bytes();
            word[bytes].copy_from_slice(&data[of_data]);
            self.machine.ram().store(hpa, u64::from_le_bytes(word));
            self.note_bytes(hpa.pfn(), writer);
        });
    }

    fn copy_out(&self, span: WindowSpan, data: &mut [u8]) {
        self.each_word(span, false, |hpa, bytes, of_data| {
            let word = self.machine.ram().load(hpa).to_le_bytes();
            data[of_data].copy_from_slice(&word[bytes]);
        });
    }

    fn invalidate(&self, at: Hva) {
        let mut state = self.machine.state();
        let now = state.journal.now();
        state.cpus[self.index].invalidate(at, now);
        state.forget_window(self.index, at);
    }

    fn now(&self) -> u64 {
        0
    }

    fn cpu(&self) -> Member<'_> {
        self.machine.member(self.index)
    }
}

impl Processor for ModelCpu<'_> {
    fn flush(&self) {
        let mut state = self.machine.state();
        state.flush_cpu(self.machine.ram(), self.index);
        state.trim();
    }

    /// Comes as late as it can: when the one who sent it waits for its answer, or when the other comes back from a guest.
    fn interrupt(&self, cpu: CpuIndex) {
        self.machine.state().interrupted.push(cpu.get() as usize);
    }

    fn pause(&self, outstanding: &Outstanding) {
        let Some(other) = self.machine.state().interrupted.pop() else {
            panic!("nobody was interrupted, so it would never come: {outstanding}")
        };
        let other = self.machine.cpu(other);
        other.cpu().answer(&other);
    }
}

impl Kicker for ModelCpu<'_> {
    fn kick(&self, cpu: CpuIndex) {
        panic!("{cpu} is kicked, but no CPU of the model is inside a guest by that protocol")
    }

    fn pause_outside(&self, inside: &StillInside) {
        panic!("that would never come: {inside}")
    }
}

/// Whether an address lies in the windows' slot.
pub(crate) fn is_window(at: Hva) -> bool {
    at.index(4) == WINDOW_BASE.index(4)
}
