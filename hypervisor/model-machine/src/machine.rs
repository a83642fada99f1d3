//! The machine as a whole, as tests use it.

use std::sync::{Mutex, MutexGuard};

use memory::address::{Gpa, Hpa, Level, Pfn};
use memory::frame::GuestId;
use memory::machine::Machine;
use memory::memory_map::FrameRange;
use memory::tlb::shootdown::{Cpu as Member, CpuIndex, CpuLine, GuestReceipt, GuestTlb, Shootdown};

use crate::check::Violation;
use crate::cpu::Cpu;
use crate::guests::{GuestTree, TableKind};
use crate::hardware::ModelCpu;
use crate::ram::Ram;
use crate::reach::Node;
use crate::state::State;
use crate::tags::Writer;

/// RAM and CPUs.
pub struct ModelMachine {
    ram: Ram,
    state: Mutex<State>,
    shared_root: Pfn,
    shootdown: &'static Shootdown<'static>,
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

    /// The tables are made; each CPU has a top-level one of its own, and none is started.
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
    pub(crate) fn member(&self, index: usize) -> Member<'static> {
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
        self.used_by(Writer::Host, first, frames);
    }

    /// Somebody's secrets are in hidden memory from now on.
    pub fn used_by_guest(&self, first: Pfn, frames: u64) {
        self.used_by(Writer::Guest, first, frames);
    }

    fn used_by(&self, writer: Writer, first: Pfn, frames: u64) {
        let mut state = self.state();
        let mut pfn = first;
        while pfn < first.add(frames) {
            let left = first.get() + frames - pfn.get();
            let region = pfn.is_aligned(Level::L2.frames()) && left >= Level::L2.frames();
            let count = if region { Level::L2.frames() } else { 1 };
            if region {
                state.tags.set_region(pfn, writer);
            } else {
                state.tags.set(pfn, writer);
            }
            pfn = pfn.add(count);
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

    /// Every CPU has dropped the translations of a guest that lives on: the receipt of a shootdown that found no CPU inside.
    pub fn translations_flushed(&self, guest: GuestId) -> GuestReceipt<()> {
        let mut state = self.state();
        let now = state.journal.now();
        for tree in &mut state.guests {
            if tree.number == guest.get() {
                tree.flushed = now;
            }
        }
        state
            .reached_by_guests
            .retain(|_, (_, number)| *number != guest.get());
        state.place_guest(&self.ram, guest.get());
        drop(state);
        let cpu = self.cpu(0);
        GuestTlb::new(guest).post(()).wait(cpu.cpu(), &cpu)
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
            // What is shared in place is no less hidden than what is private.
            let writer = if state.is_hidden_leaf(&self.ram, &reached.leaf) {
                Writer::Guest
            } else {
                Writer::Shared
            };
            state.tags.set(hpa.pfn(), writer);
            if reached.current {
                let entry = self.ram.load(reached.at);
                self.ram.store(reached.at, entry | accessed | dirty);
            }
        }
        !found.is_empty()
    }
}
