//! A machine with guests and host allocations, driven by [`Op`]s: what the proofs run. After each step the whole state is judged.
//!
//! A launch and a teardown are advanced step by step, so that those of several guests run into each other, each step on any CPU that
//! has its windows (`life`); meanwhile guests and host use their memory (`uses`) and guests share some of it (`change`), hidden memory is taken from
//! the pool and given back (`pool`), and the host takes memory for itself (`host`).

mod change;
mod host;
mod life;
mod pool;
mod uses;

use memory::HostMemory;
use memory::address::Gpa;
use memory::frame::{GuestId, HostFrames};
use memory::guest::{
    Flushed, GuestMemory, Hiding, Launching, Preparing, Restored, Revoked, SecondStageKind, Teardown,
};
use memory::region::Magazine;
use memory::window::Windows;

use crate::board::Booted;
use crate::check::{Rule, Violation};
use crate::hardware::ModelCpu;
use crate::machine::ModelMachine;
use crate::op::Op;
use crate::snapshot::Snapshot;

/// How far a guest is.
enum Stage {
    Preparing(Preparing),
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
    /// What must be in its memory.
    known: change::Known,
}

/// The machine and everything on it.
pub struct World<'m> {
    machine: &'m ModelMachine,
    memory: HostMemory<'m>,
    windows: Vec<Windows>,
    guests: Vec<Guest>,
    held: Vec<HostFrames>,
    /// Hidden memory on its way into the pool.
    growing: Vec<pool::Growth>,
    /// Hidden memory that somebody holds.
    private: Vec<pool::Private>,
    /// The magazine of each CPU.
    magazines: Vec<Magazine>,
    /// Everything that was free, while the host hoards.
    hoard: Option<Vec<HostFrames>>,
    next_id: u16,
    boot: Snapshot,
    /// Launches and changes that were refused.
    pub refused: u64,
    /// Changes of guests' memory that were done.
    pub changed: u64,
    /// Launches that were granted.
    pub launched: u64,
    /// Frames taken that were kept for guests' pages.
    pub kept_taken: u64,
    /// The change that is under way has made a magazine get more frames.
    restocked: bool,
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
            growing: Vec::new(),
            private: Vec::new(),
            magazines: (0..machine.cpus()).map(|_| Magazine::new()).collect(),
            hoard: None,
            next_id: 1,
            refused: 0,
            changed: 0,
            launched: 0,
            kept_taken: 0,
            restocked: false,
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
            Op::Prepare { regions, kind } => self.prepare(regions, kind),
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
            Op::Cancel { cpu, guest } => {
                let is_launch = |stage: &Stage| matches!(stage, Stage::Preparing(_) | Stage::Launching(_));
                if let Some(guest) = self.choose(guest, is_launch) {
                    self.cancel(cpu, guest);
                }
            }
            Op::GuestWrite { guest, at } => self.guest_write(guest, at)?,
            Op::HostWrite {
                cpu,
                guest,
                at,
                bytes,
            } => self.host_write(cpu, guest, at, bytes)?,
            Op::Change {
                cpu,
                guest,
                change,
                at,
                pages,
                steps,
            } => self.change(cpu, guest, (change, at, pages), steps)?,
            Op::TakeBack {
                cpu,
                guest,
                which,
                steps,
            } => self.take_back(cpu, guest, which, steps)?,
            Op::TakeKept { cpu, guest, which } => self.take_kept(cpu, guest, which)?,
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
            Op::Grow { cpu, order } => self.grow(cpu, order)?,
            Op::AdvanceGrowth { cpu, which, steps } => {
                for _ in 0..steps {
                    self.advance_growth(cpu, which)?;
                }
            }
            Op::TakePrivate { cpu, order } => self.take_private(cpu, order)?,
            Op::UsePrivate { which } => self.use_private(which),
            Op::FreePrivate { cpu, which } => self.free_private(cpu, which),
            Op::TakeFrame { cpu } => self.take_frame(cpu)?,
            Op::PutFrame { cpu, which } => self.put_frame(cpu, which),
            Op::TrimMagazine { cpu, keep } => self.trim_magazine(cpu, keep),
            Op::SetCache { regions } => self.memory.set_cache(regions),
            Op::Shrink { cpu, regions } => {
                let cpu = self.cpu(cpu);
                self.memory.shrink(&cpu, regions);
            }
            Op::Drain { cpu } => self.drain(cpu)?,
            Op::LargeLeaves { allowed } => self.memory.allow_large_guest_leaves(allowed),
            Op::Hoard => {
                self.hoard.get_or_insert_default();
                self.take_all();
            }
            Op::Relent => self.relent(),
            Op::Announce { cpu } => self.machine.cpu(cpu % self.machine.cpus()).announce(),
            Op::Enter { cpu } => self.cpu(cpu).enter_guest(),
            Op::Sleep { cpu } => self.cpu(cpu).sleep(),
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
        self.end_pool()?;
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
        self.drain(0)?;
        self.judge()?;
        let now = self.snapshot();
        // Nobody else writes entries here, so a table whose count is full merges.
        let blocked = self.memory.stats().merges_blocked.total();
        let difference = self.boot.trace(&now).or_else(|| {
            let (said, seen) = (self.memory.stats().bytes_scrubbed, self.machine.zeroed());
            (said != seen).then(|| format!("{seen} bytes were zeroed, {said} are counted"))
        });
        let difference = difference.or_else(|| {
            let (taken, given) = (
                self.memory.stats().pool_allocations,
                self.memory.stats().pool_frees,
            );
            (taken != given).then(|| format!("{taken} extents of the pool were taken, {given} given back"))
        });
        if let Some(difference) =
            difference.or((blocked > 0).then(|| format!("{blocked} merges were tried in vain")))
        {
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
        let mut found = self.machine.check(&self.memory.frames);
        found.extend(self.machine.check_counters(&self.memory.stats()));
        judged(found)
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

    /// Whether the shrinker has given cached regions back since. It does so before memory is refused, which is not the refusal's own doing: the
    /// same request, made again, changes nothing.
    fn has_shrunk(&self, before: &Snapshot) -> bool {
        before.regions_shrunk() != self.memory.stats().regions_shrunk
    }

    /// A CPU, in the host.
    fn cpu(&self, number: usize) -> ModelCpu<'m> {
        let cpu = self.machine.cpu(number % self.machine.cpus());
        cpu.come();
        cpu
    }

    fn choose(&self, number: usize, fits: impl Fn(&Stage) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..self.guests.len())
            .filter(|index| fits(&self.guests[*index].stage))
            .collect();
        fitting.get(number % fitting.len().max(1)).copied()
    }

    /// Guests in any stage.
    pub fn guests(&self) -> usize {
        self.guests.len()
    }
}

fn judged(found: Vec<Violation>) -> Result<(), Vec<Violation>> {
    if found.is_empty() { Ok(()) } else { Err(found) }
}
