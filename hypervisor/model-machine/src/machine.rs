//! RAM and CPUs behind `memory`'s trait.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use memory::address::{ENTRIES, Gpa, Hpa, Hva, Level, PAGE_SIZE, Pfn};
use memory::frame::GuestId;
use memory::layout::WINDOW_BASE;
use memory::machine::{Machine, Table, TableAt, WindowSpan};
use memory::memory_map::FrameRange;
use memory::tlb::shootdown::{Cpu as Member, CpuIndex, CpuLine, Outstanding, Processor, Shootdown};

use crate::check::{Rule, Violation};
use crate::cpu::{Cpu, Fault};
use crate::guests::{GuestTree, TableKind};
use crate::journal::{Journal, Time};
use crate::places::Places;
use crate::ram::{Ram, word};
use crate::reach::{Node, Walker, host_format};
use crate::tags::{Tags, Writer};

/// RAM and CPUs.
pub struct ModelMachine {
    ram: Ram,
    state: Mutex<State>,
    shared_root: Pfn,
    shootdown: &'static Shootdown<'static>,
}

/// Everything but the RAM.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) guests: Vec<GuestTree>,
    pub(crate) journal: Journal,
    pub(crate) tags: Tags,
    pub(crate) places: Places,
    /// What guests may reach: start to length and guest. Too much in it does no harm.
    pub(crate) reached_by_guests: BTreeMap<u64, (u64, u16)>,
    /// The CPU that filled each window entry last.
    pub(crate) opened: BTreeMap<u64, usize>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) stores: u64,
}

/// One CPU of a model machine: what [`Machine`] is for.
#[derive(Clone, Copy)]
pub struct ModelCpu<'a> {
    machine: &'a ModelMachine,
    index: usize,
}

impl State {
    /// The walker over host tables.
    pub(crate) fn host<'a>(&'a self, ram: &'a Ram) -> Walker<'a> {
        Walker {
            ram,
            journal: &self.journal,
            format: host_format(),
        }
    }

    /// The walker over second-stage tables of a kind.
    pub(crate) fn second_stage<'a>(&'a self, ram: &'a Ram, kind: TableKind) -> Walker<'a> {
        Walker {
            ram,
            journal: &self.journal,
            format: kind.format(),
        }
    }

    /// Notes that a rule was broken.
    pub(crate) fn broken(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, what });
    }

    /// When the CPU, and when the CPU or guest, that flushed least recently did so.
    fn oldest_flush(&self) -> (Time, Time) {
        let now = self.journal.now();
        let host = self.cpus.iter().map(|cpu| cpu.flushed).min().unwrap_or(now);
        let guest = self.guests.iter().map(|guest| guest.flushed).min().unwrap_or(now);
        (host, host.min(guest))
    }

    fn trim(&mut self) {
        let (host, all) = self.oldest_flush();
        self.journal.trim(host, all, &self.places.of_guests());
    }
}

impl ModelMachine {
    /// A machine whose tables are still to be made.
    pub(crate) fn new(ranges: &[FrameRange]) -> Self {
        Self {
            ram: Ram::new(ranges),
            state: Mutex::default(),
            shared_root: Pfn::default(),
            shootdown: Box::leak(Box::new(Shootdown::new(&[]))),
        }
    }

    /// The CPUs start, each with its own top-level table.
    pub(crate) fn begin(&mut self, shared_root: Pfn, roots: &[Pfn]) {
        self.shared_root = shared_root;
        // Never freed, a few hundred bytes: the protocol borrows its parts.
        let lines: Vec<CpuLine> = roots.iter().map(|_| CpuLine::new()).collect();
        self.shootdown = Box::leak(Box::new(Shootdown::new(lines.leak())));
        {
            let mut state = self.state();
            state.journal.begin();
            let now = state.journal.now();
            state.cpus = (0..)
                .zip(roots)
                .map(|(index, root)| Cpu::new(*root, self.member(index), now))
                .collect();
            state.place_all(&self.ram, shared_root);
        }
        for index in 0..roots.len() {
            let cpu = self.cpu(index);
            let joined = cpu.cpu().announce().then(|| cpu.cpu().join(&cpu));
            assert_eq!(joined, Some(Ok(())), "the model's CPU {index}");
        }
    }

    /// One of the CPUs.
    pub fn cpu(&self, index: usize) -> ModelCpu<'_> {
        ModelCpu { machine: self, index }
    }

    /// How many CPUs there are.
    pub fn cpus(&self) -> usize {
        self.state().cpus.len()
    }

    /// The RAM, as an outside observer sees it.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The top-level table that every CPU's was copied from.
    pub fn shared_root(&self) -> Pfn {
        self.shared_root
    }

    /// Stores to tables so far.
    pub fn stores(&self) -> u64 {
        self.state().stores
    }

    /// Takes what was found wrong in stores and accesses since the last time.
    pub fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.state().violations)
    }

    /// Who wrote a frame last.
    pub fn writer(&self, pfn: Pfn) -> Writer {
        self.state().tags.get(pfn)
    }

    /// A CPU in the shootdown protocol.
    fn member(&self, index: usize) -> Member<'static> {
        let shootdown = self.shootdown;
        shootdown.cpu(CpuIndex::new(index as u32)).unwrap()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// The host uses memory that it has allocated: its contents are the host's from now on.
    pub fn used_by_host(&self, first: Pfn, frames: u64) {
        let mut state = self.state();
        for frame in 0..frames {
            state.tags.set(first.add(frame), Writer::Host);
        }
    }

    /// A guest may run from now on, under these tables.
    pub fn guest_begins(&self, guest: GuestId, kind: TableKind, root: Hpa) {
        let mut state = self.state();
        let flushed = state.journal.now();
        state.guests.push(GuestTree {
            number: guest.get(),
            kind,
            root: root.pfn(),
            flushed,
            stopped: false,
        });
        state.place_guest(&self.ram, guest.get());
    }

    /// A guest has stopped for good, and every CPU has dropped its translations.
    pub fn guest_flushed(&self, guest: GuestId) {
        let mut state = self.state();
        let now = state.journal.now();
        for tree in &mut state.guests {
            if tree.number == guest.get() {
                (tree.flushed, tree.stopped) = (now, true);
            }
        }
        state
            .reached_by_guests
            .retain(|_, (_, number)| *number != guest.get());
    }

    /// A guest's tables are no longer anybody's.
    pub fn guest_ends(&self, guest: GuestId) {
        self.state().guests.retain(|tree| tree.number != guest.get());
    }

    /// A guest writes eight bytes (aligned), through every translation that it may still have; hardware marks the entries. False when it has none.
    pub fn guest_store(&self, guest: GuestId, at: Gpa, value: u64) -> bool {
        let mut state = self.state();
        let Some(tree) = state
            .guests
            .iter()
            .find(|tree| tree.number == guest.get() && !tree.stopped)
            .copied()
        else {
            return false;
        };
        let mut found = Vec::new();
        let walker = state.second_stage(&self.ram, tree.kind);
        walker.walk(tree.root, tree.flushed, (at.get(), at.get()), &mut |node| {
            if let Node::Leaf(reached) = node {
                found.push(reached);
            }
        });
        let (accessed, dirty) = tree.kind.accessed_dirty();
        for reached in &found {
            let hpa = Hpa::new(reached.leaf.pa.get() + (at.get() - reached.leaf.va.get()));
            self.ram.store(hpa, value);
            state.tags.set(hpa.pfn(), Writer::Guest);
            if reached.current {
                let entry = self.ram.load(reached.at);
                self.ram.store(reached.at, entry | accessed | dirty);
            }
        }
        !found.is_empty()
    }
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
        Ok(self.machine.ram.load(hpa))
    }

    /// Writes eight bytes (aligned) by way of this CPU's caches.
    ///
    /// # Errors
    /// A page fault.
    pub fn store(&self, at: Hva, value: u64) -> Result<(), Fault> {
        let hpa = self.translate(at, true)?;
        self.machine.ram.store(hpa, value);
        self.machine.state().tags.set(hpa.pfn(), Writer::Host);
        Ok(())
    }

    fn translate(&self, at: Hva, write: bool) -> Result<Hpa, Fault> {
        self.machine.state().cpus[self.index].translate(&self.machine.ram, at, write)
    }

    /// Whether it runs a guest.
    pub fn is_in_guest(&self) -> bool {
        self.machine.state().cpus[self.index].in_guest
    }

    /// Starts running a guest: from now on a shootdown does not disturb this CPU.
    pub fn enter_guest(&self) {
        self.cpu().enter_guest();
        self.machine.state().cpus[self.index].in_guest = true;
    }

    /// Back from the guest: the CPU may use whatever it has cached, unless the protocol makes it flush.
    pub fn leave_guest(&self) {
        self.machine.state().cpus[self.index].in_guest = false;
        self.cpu().back(self);
    }

    /// An NMI comes: whatever the CPU does, it is in the host while `handler` runs.
    pub fn nmi(&self, handler: impl FnOnce()) {
        let before = std::mem::take(&mut self.machine.state().cpus[self.index].in_guest);
        let cpu = self.cpu();
        let visit = cpu.visit(self);
        handler();
        drop(visit);
        self.machine.state().cpus[self.index].in_guest = before;
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
        let old = self.machine.ram.load(at);
        self.machine.ram.store(at, value);
        state.stores += 1;
        state.journal.store(at, old, value);
        state.tags.set(at.pfn(), Writer::Host);
        state.stored(&self.machine.ram, self.index, at, old, value);
    }

    fn note_bytes(&self, frame: Pfn, writer: Writer) {
        let mut state = self.machine.state();
        state.tags.set(frame, writer);
        state.overwritten(&self.machine.ram, frame, 1);
    }

    /// Zeroes the 2 MiB at an address if one translation covers them; else false.
    fn zero_region(&self, at: Hva) -> bool {
        let last = Hva::new(at.get() + (Level::L2.bytes() - PAGE_SIZE));
        let (Ok(first), Ok(last)) = (self.translate(at, true), self.translate(last, true)) else {
            return false;
        };
        let whole =
            first.is_aligned(Level::L2.bytes()) && last.get() - first.get() == Level::L2.bytes() - PAGE_SIZE;
        if whole {
            self.machine.ram.clear_region(first.pfn());
            let mut state = self.machine.state();
            state.tags.set_region(first.pfn(), Writer::Zeroed);
            state.overwritten(&self.machine.ram, first.pfn(), Level::L2.frames());
        }
        whole
    }
}

impl Machine for ModelCpu<'_> {
    fn table(&self, at: TableAt) -> &Table {
        self.machine.ram.table(at.pfn())
    }

    fn write_entry(&self, at: TableAt, index: usize, value: u64) {
        let entry = at.pfn().hpa().get() + 8 * (index % ENTRIES) as u64;
        self.note_store(Hpa::new(entry), value);
    }

    fn clear(&self, at: TableAt) {
        {
            let mut state = self.machine.state();
            state.tags.set(at.pfn(), Writer::Host);
            state.overwritten(&self.machine.ram, at.pfn(), 1);
        }
        for index in 0..ENTRIES as u64 {
            let entry = Hpa::new(at.pfn().hpa().get() + 8 * index);
            if self.machine.ram.load(entry) != 0 {
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
                    self.machine.ram.clear(hpa.pfn());
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
            let mut word = self.machine.ram.load(hpa).to_le_bytes();
            word[bytes].copy_from_slice(&data[of_data]);
            self.machine.ram.store(hpa, u64::from_le_bytes(word));
            self.note_bytes(hpa.pfn(), writer);
        });
    }

    fn copy_out(&self, span: WindowSpan, data: &mut [u8]) {
        self.each_word(span, false, |hpa, bytes, of_data| {
            let word = self.machine.ram.load(hpa).to_le_bytes();
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
        state.flush_cpu(&self.machine.ram, self.index);
        state.trim();
    }

    /// Taken at once.
    fn interrupt(&self, cpu: CpuIndex) {
        let other = self.machine.cpu(cpu.get() as usize);
        other.cpu().answer(&other);
    }

    fn pause(&self, outstanding: &Outstanding) {
        panic!("nobody else runs, so it would never come: {outstanding}")
    }
}

/// Whether an address lies in the windows' slot.
pub(crate) fn is_window(at: Hva) -> bool {
    at.index(4) == WINDOW_BASE.index(4)
}

/// The index of an entry in its table.
pub(crate) fn index_of(at: Hpa) -> usize {
    word(at)
}
