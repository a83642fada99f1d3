//! A machine with guests and host allocations, driven by [`Op`]s: what the proofs run. After each step the whole state is judged.
//!
//! A launch and a teardown are advanced step by step, so that those of several guests run into each other, each step on any CPU that
//! has its windows.

use std::collections::BTreeMap;

use memory::HostMemory;
use memory::address::Gpa;
use memory::frame::allocator::MAX_ORDER;
use memory::frame::{GuestId, HostFrames};
use memory::guest::{
    Flushed, GuestFlushed, GuestMemory, Hiding, LaunchError, Launching, Restored, Revoked, SecondStageKind,
    Teardown,
};
use memory::layout::direct;
use memory::window::Windows;

use crate::board::Booted;
use crate::check::{Rule, Violation};
use crate::machine::{ModelCpu, ModelMachine};
use crate::snapshot::Snapshot;

/// Something that is done to the machine. Numbers choose among what there is, by remainder; where there is nothing to choose, nothing is done.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Starts to launch a guest.
    Launch {
        /// On which CPU.
        cpu: usize,
        /// Its size.
        regions: u64,
        /// The layout of its tables.
        kind: SecondStageKind,
    },
    /// Goes on with a launch or a teardown.
    Advance {
        /// On which CPU.
        cpu: usize,
        /// Whose.
        guest: usize,
        /// By how many steps.
        steps: usize,
    },
    /// A guest dies: its tables are cut.
    Die {
        /// On which CPU.
        cpu: usize,
        /// Which.
        guest: usize,
    },
    /// A guest writes into its memory.
    GuestWrite {
        /// Which.
        guest: usize,
        /// Where.
        at: u64,
    },
    /// The host writes into a guest's memory and reads it back.
    HostWrite {
        /// On which CPU.
        cpu: usize,
        /// Whose memory.
        guest: usize,
        /// Where.
        at: u64,
        /// How many bytes.
        bytes: usize,
    },
    /// A guest fetches an instruction.
    Fetch {
        /// On which CPU.
        cpu: usize,
        /// Which guest.
        guest: usize,
        /// Where.
        at: u64,
    },
    /// The host takes memory for itself, and uses it.
    Allocate {
        /// On which CPU.
        cpu: usize,
        /// log2 of the frames.
        order: u8,
    },
    /// The host frees some of it.
    Free {
        /// Which extent.
        which: usize,
    },
    /// The host takes regions and thinks better of it.
    Carve {
        /// How many.
        regions: u64,
    },
    /// The host takes all memory that is free, and goes on doing so until it relents: every allocation fails.
    Hoard,
    /// The host gives back what it hoarded.
    Relent,
    /// A CPU goes to run a guest.
    Enter {
        /// Which CPU.
        cpu: usize,
    },
    /// A CPU comes back.
    Leave {
        /// Which CPU.
        cpu: usize,
    },
    /// An NMI comes.
    Nmi {
        /// To which CPU.
        cpu: usize,
    },
}

/// How far a guest is.
enum Stage {
    Hiding(Hiding),
    Launching(Launching),
    Alive(GuestMemory),
    Revoked(Revoked),
    Teardown(Teardown),
    Restored(Restored),
    Flushed(Flushed),
}

struct Guest {
    id: GuestId,
    kind: SecondStageKind,
    bytes: u64,
    stage: Stage,
    /// What it, or the host for it, has written, by address.
    written: BTreeMap<u64, u64>,
}

/// The machine and everything on it.
pub struct World<'m> {
    machine: &'m ModelMachine,
    memory: HostMemory<'m>,
    windows: Vec<Windows>,
    guests: Vec<Guest>,
    held: Vec<HostFrames>,
    /// Everything that was free, while the host hoards.
    hoard: Option<Vec<HostFrames>>,
    next_id: u16,
    boot: Snapshot,
    /// Launches that were refused.
    pub refused: u64,
    /// Launches that were granted.
    pub launched: u64,
}

impl<'m> World<'m> {
    /// A machine at boot.
    pub fn new((machine, booted): (&'m ModelMachine, Booted<'m>)) -> Self {
        let Booted { memory, windows } = booted;
        Self {
            boot: Snapshot::of(machine, &memory),
            machine,
            memory,
            windows,
            guests: Vec::new(),
            held: Vec::new(),
            hoard: None,
            next_id: 1,
            refused: 0,
            launched: 0,
        }
    }

    /// The memory subsystem.
    pub fn memory(&mut self) -> &mut HostMemory<'m> {
        &mut self.memory
    }

    /// The whole state.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.machine, &self.memory)
    }

    /// Does one thing and judges the state after each step of it.
    ///
    /// # Errors
    /// The rules that were broken.
    pub fn apply(&mut self, op: Op) -> Result<(), Vec<Violation>> {
        match op {
            Op::Launch { cpu, regions, kind } => self.launch(cpu, regions, kind)?,
            Op::Advance { cpu, guest, steps } => {
                for _ in 0..steps {
                    if let Some(guest) = self.choose(guest, |stage| !matches!(stage, Stage::Alive(_))) {
                        self.advance(cpu, guest)?;
                    }
                }
            }
            Op::Die { cpu, guest } => {
                if let Some(guest) = self.choose(guest, |stage| matches!(stage, Stage::Alive(_))) {
                    self.advance(cpu, guest)?;
                }
            }
            Op::GuestWrite { guest, at } => self.guest_write(guest, at)?,
            Op::HostWrite {
                cpu,
                guest,
                at,
                bytes,
            } => self.host_write(cpu, guest, at, bytes)?,
            Op::Fetch { cpu, guest, at } => {
                let cpu = self.cpu(cpu);
                if let Some(index) = self.choose(guest, |stage| matches!(stage, Stage::Alive(_))) {
                    let guest = &mut self.guests[index];
                    if let Stage::Alive(memory) = &mut guest.stage {
                        memory.allow_fetch(&mut self.memory, &cpu, Gpa::new(at % guest.bytes));
                    }
                }
            }
            Op::Allocate { cpu, order } => self.allocate(cpu, order)?,
            Op::Free { which } => {
                if !self.held.is_empty() {
                    let extent = self.held.swap_remove(which % self.held.len());
                    self.memory.frames.free(extent);
                }
            }
            Op::Carve { regions } => {
                let before = self.snapshot();
                if let Ok(regions) = self.memory.frames.carve(regions) {
                    self.memory.frames.uncarve(regions);
                }
                self.unchanged(&before, "regions were carved and given back")?;
            }
            Op::Hoard => {
                self.hoard.get_or_insert_default();
                self.take_all();
            }
            Op::Relent => self.relent(),
            Op::Enter { cpu } => self.cpu(cpu).enter_guest(),
            Op::Leave { cpu } => {
                self.cpu(cpu);
            }
            Op::Nmi { cpu } => {
                let mut found = Vec::new();
                let cpu = self.machine.cpu(cpu % self.machine.cpus());
                cpu.nmi(|| found = self.machine.check(&self.memory.frames));
                judged(found)?;
            }
        }
        self.judge()
    }

    /// Everything ends: guests die, the host frees what it has, all CPUs come back; then everything must be as at boot.
    ///
    /// # Errors
    /// The rules that were broken.
    pub fn end(mut self) -> Result<(), Vec<Violation>> {
        while !self.guests.is_empty() {
            self.advance(0, 0)?;
        }
        self.relent();
        for extent in self.held.drain(..) {
            self.memory.frames.free(extent);
        }
        for index in 0..self.machine.cpus() {
            self.cpu(index);
        }
        // One more round, which every CPU answers, releases what waited for those that were away.
        self.launch(0, 1, SecondStageKind::Nested)?;
        while !self.guests.is_empty() {
            self.advance(0, 0)?;
        }
        self.judge()?;
        let now = self.snapshot();
        if let Some(difference) = self.boot.trace(&now) {
            return Err(vec![Violation {
                rule: Rule::GivingBackNeverFails,
                what: format!("after the last guest: {difference}"),
            }]);
        }
        Ok(())
    }

    /// Judges the state.
    ///
    /// # Errors
    /// The rules that were broken.
    pub fn judge(&self) -> Result<(), Vec<Violation>> {
        judged(self.machine.check(&self.memory.frames))
    }

    fn unchanged(&self, before: &Snapshot, after: &str) -> Result<(), Vec<Violation>> {
        match before.difference(&self.snapshot()) {
            None => Ok(()),
            Some(difference) => Err(vec![Violation {
                rule: Rule::RefusedChangesNothing,
                what: format!("after {after}: {difference}"),
            }]),
        }
    }

    /// A CPU, in the host.
    fn cpu(&self, number: usize) -> ModelCpu<'m> {
        let cpu = self.machine.cpu(number % self.machine.cpus());
        if cpu.is_in_guest() {
            cpu.leave_guest();
        }
        cpu
    }

    fn choose(&self, number: usize, fits: impl Fn(&Stage) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..self.guests.len())
            .filter(|index| fits(&self.guests[*index].stage))
            .collect();
        fitting.get(number % fitting.len().max(1)).copied()
    }

    fn launch(&mut self, cpu: usize, regions: u64, kind: SecondStageKind) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let id = GuestId::new(self.next_id).unwrap();
        let before = self.snapshot();
        match self.memory.launch(&cpu, kind, id, regions << 21) {
            Ok(hiding) => {
                self.launched += 1;
                self.next_id += 1;
                self.guests.push(Guest {
                    id,
                    kind,
                    bytes: regions << 21,
                    stage: Stage::Hiding(hiding),
                    written: BTreeMap::new(),
                });
                Ok(())
            }
            Err(LaunchError::OutOfMemory(_) | LaunchError::Hide(_)) => {
                self.refused += 1;
                self.unchanged(&before, "a launch was refused")
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// One step in the life of a guest.
    fn advance(&mut self, cpu: usize, index: usize) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let windows = &mut self.windows[cpu.index()];
        let memory = &mut self.memory;
        let Guest {
            id,
            kind,
            bytes,
            stage,
            written,
        } = self.guests.swap_remove(index);
        let next = match stage {
            Stage::Hiding(hiding) => Some(Stage::Launching(hiding.wait(&cpu))),
            Stage::Launching(mut launching) => {
                if launching.step(memory, &cpu, windows) {
                    Some(Stage::Launching(launching))
                } else {
                    let guest = launching.finish(memory, &cpu, windows);
                    assert_eq!(guest.bytes(), bytes);
                    self.machine.guest_begins(id, kind.into(), guest.second_stage());
                    Some(Stage::Alive(guest))
                }
            }
            Stage::Alive(guest) => Some(Stage::Revoked(guest.revoke(&cpu))),
            Stage::Revoked(revoked) => {
                self.machine.guest_flushed(id);
                Some(Stage::Teardown(revoked.reclaim(GuestFlushed::new(id))))
            }
            Stage::Teardown(mut teardown) => {
                if teardown.step(memory, &cpu, windows) {
                    Some(Stage::Teardown(teardown))
                } else {
                    self.machine.guest_ends(id);
                    Some(Stage::Restored(teardown.finish(memory, &cpu, windows)))
                }
            }
            Stage::Restored(restored) => Some(Stage::Flushed(restored.wait(&cpu))),
            Stage::Flushed(flushed) => {
                flushed.release(memory, &cpu);
                None
            }
        };
        if let Some(stage) = next {
            self.guests.push(Guest {
                id,
                kind,
                bytes,
                stage,
                written,
            });
            let last = self.guests.len() - 1;
            self.guests.swap(index, last);
        }
        // What a teardown gives back is gone before its next step.
        self.take_all();
        self.judge()
    }

    /// While the host hoards: leaves nothing.
    fn take_all(&mut self) {
        if let Some(hoard) = &mut self.hoard {
            for order in (0..=MAX_ORDER).rev() {
                while let Ok(extent) = self.memory.frames.allocate(order) {
                    hoard.push(extent);
                }
            }
            assert_eq!(self.memory.frames.free_frames(), 0);
        }
    }

    fn relent(&mut self) {
        for extent in self.hoard.take().into_iter().flatten() {
            self.memory.frames.free(extent);
        }
    }

    fn guest_write(&mut self, guest: usize, at: u64) -> Result<(), Vec<Violation>> {
        let Some(index) = self.choose(guest, |stage| matches!(stage, Stage::Alive(_))) else {
            return Ok(());
        };
        let guest = &mut self.guests[index];
        let at = (at % guest.bytes) & !7;
        let value = 0x5ec2_e700_0000_0000 | u64::from(guest.id.get()) << 32 | at >> 3;
        guest.written.insert(at, value);
        if self.machine.guest_store(guest.id, Gpa::new(at), value) {
            return Ok(());
        }
        let what = format!("guest {} has lost its memory at {at:#x}", guest.id);
        judged(vec![Violation {
            rule: Rule::OneOwner,
            what,
        }])
    }

    fn host_write(&mut self, cpu: usize, guest: usize, at: u64, bytes: usize) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let Some(index) = self.choose(guest, |stage| matches!(stage, Stage::Alive(_))) else {
            return Ok(());
        };
        let windows = &mut self.windows[cpu.index()];
        let Guest {
            id,
            bytes: size,
            stage,
            written,
            ..
        } = &mut self.guests[index];
        let Stage::Alive(guest) = stage else { return Ok(()) };
        let words = (bytes / 8).max(1) as u64;
        let at = (at % (*size - 8 * words + 1)) & !7;
        let mut data = Vec::new();
        for word in 0..words {
            let value = 0x1dad_ed00_0000_0000 | u64::from(id.get()) << 32 | word;
            written.insert(at + 8 * word, value);
            data.extend(value.to_le_bytes());
        }
        let frames = &self.memory.frames;
        guest.write(&cpu, frames, windows, Gpa::new(at), &data).unwrap();
        // Everything that was ever written to this guest is there, and nothing else nearby.
        for (at, value) in written {
            let mut word = [0; 8];
            guest
                .read(&cpu, frames, windows, Gpa::new(*at), &mut word)
                .unwrap();
            if u64::from_le_bytes(word) != *value {
                let what = format!("guest {id} reads {word:x?} at {at:#x}, {value:#x} was written");
                return Err(vec![Violation {
                    rule: Rule::OneOwner,
                    what,
                }]);
            }
        }
        Ok(())
    }

    fn allocate(&mut self, cpu: usize, order: u8) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let before = self.snapshot();
        let Ok(extent) = self.memory.frames.allocate(order) else {
            return self.unchanged(&before, "an allocation was refused");
        };
        let (first, frames) = (extent.pfn(), 1_u64 << order);
        self.machine.used_by_host(first, frames);
        for pfn in [first, first.add(frames - 1)] {
            let at = direct(pfn.hpa()).unwrap();
            let value = !pfn.get();
            if cpu.store(at, value).is_err() || cpu.load(at) != Ok(value) {
                let what = format!("the host can't use {}, which it allocated", pfn.hpa());
                return Err(vec![Violation {
                    rule: Rule::DirectMapShape,
                    what,
                }]);
            }
        }
        self.held.push(extent);
        Ok(())
    }

    /// Leaves so many whole regions and so many single frames free: the next allocation of a frame fails after as many, once the regions
    /// are taken. What was free otherwise stays with the host until the end. False when there are too few regions.
    pub fn leave(&mut self, regions: u64, frames: u64) -> bool {
        let Ok(kept) = self.memory.frames.carve(regions) else {
            return false;
        };
        let mut singles = Vec::new();
        for order in (0..=MAX_ORDER).rev() {
            while let Ok(extent) = self.memory.frames.allocate(order) {
                self.held.push(extent);
                // One block in single frames is enough to give some back.
                while singles.len() < 512
                    && let Ok(extent) = self.memory.frames.allocate(0)
                {
                    singles.push(extent);
                }
            }
        }
        for extent in singles.drain(..frames as usize) {
            self.memory.frames.free(extent);
        }
        self.held.append(&mut singles);
        self.memory.frames.uncarve(kept);
        let free = (
            self.memory.frames.free_regions(),
            self.memory.frames.free_frames(),
        );
        assert_eq!(free, (regions, 512 * regions + frames));
        true
    }

    /// Guests in any stage.
    pub fn guests(&self) -> usize {
        self.guests.len()
    }
}

fn judged(found: Vec<Violation>) -> Result<(), Vec<Violation>> {
    if found.is_empty() { Ok(()) } else { Err(found) }
}
