//! One machine with its memory, for tests of the pool and of what uses it: each operation is followed by a look at all rules.

use memory::HostMemory;
use memory::address::{Level, Pfn};
use memory::frame::extent::{Clean, Extent};
use memory::frame::{GuestId, HostFrames};
use memory::guest::{GuestFlushed, GuestMemory, SecondStageKind};
use memory::layout::direct;
use memory::region::{Magazine, PrivateError, Watermarks};
use memory::stats::Stats;
use memory::window::Windows;

mod guests;

use crate::board::{Board, Booted};
use crate::hardware::ModelCpu;
use crate::machine::ModelMachine;
use crate::snapshot::Snapshot;

/// The order of a gigablock.
pub const GIGABLOCK: u8 = 18;
/// The order of a region.
pub const REGION: u8 = 9;

/// A machine, its memory, and what it was at boot.
pub struct Bench<'m> {
    /// The machine.
    pub machine: &'m ModelMachine,
    /// CPU 0, which does everything.
    pub cpu: ModelCpu<'m>,
    /// Its memory.
    pub memory: HostMemory<'m>,
    /// The windows of each CPU.
    pub windows: Vec<Windows>,
    /// CPU 0's single hidden frames.
    pub magazine: Magazine,
    /// All state at boot, and how many frames were free.
    pub boot: (Snapshot, u64),
}

impl<'m> Bench<'m> {
    /// Boots a board.
    pub fn new(board: &'m mut Board) -> Self {
        let (machine, Booted { memory, windows }) = board.boot();
        Self {
            machine,
            cpu: machine.cpu(0),
            boot: (Snapshot::of(machine, &memory), memory.frames.free_frames()),
            memory,
            windows,
            magazine: Magazine::new(),
        }
    }

    /// All state now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.machine, &self.memory)
    }

    /// Regions that are hidden.
    pub fn holes(&self) -> u64 {
        self.memory.frames.holes().0
    }

    /// Hidden memory from the pool.
    ///
    /// # Errors
    /// There is not enough.
    pub fn allocate(&mut self, order: u8) -> Result<Extent<Clean>, PrivateError> {
        let extent = self
            .memory
            .allocate_private(&self.cpu, &mut self.windows[0], order);
        self.check();
        extent
    }

    /// Gives it back, as something that was used.
    pub fn free(&mut self, extent: Extent<Clean>) {
        self.memory
            .free_private(&self.cpu, &mut self.windows[0], extent.used());
        self.check();
    }

    /// All rules of the design hold.
    ///
    /// # Panics
    /// When one does not.
    pub fn check(&self) {
        let mut broken = self.machine.check(&self.memory.frames);
        broken.extend(self.machine.check_counters(&self.memory.stats()));
        assert!(broken.is_empty(), "{}", broken[0]);
    }

    /// No CPU can reach the extent.
    ///
    /// # Panics
    /// When one can.
    pub fn assert_hidden(&self, pfn: Pfn, order: u8) {
        for cpu in 0..self.machine.cpus() {
            for frame in [0, (1 << order) - 1] {
                let at = direct(pfn.add(frame).hpa()).unwrap();
                assert!(self.machine.cpu(cpu).load(at).is_err(), "{at} can be reached");
            }
        }
    }

    /// Empties the cache, and waits for what is pending.
    pub fn drain(&mut self) {
        let restored = self.memory.drain(&self.cpu);
        restored.wait(&self.cpu).release(&mut self.memory, &self.cpu);
        self.check();
    }

    /// Empties the magazine.
    pub fn drain_magazine(&mut self) {
        self.magazine
            .drain(&mut self.memory, &self.cpu, &mut self.windows[0]);
        self.check();
    }

    /// After a drain, of the magazine as well, all is as it was at boot, counters and contents aside.
    ///
    /// # Panics
    /// When something is not.
    pub fn assert_as_at_boot(&mut self) {
        self.drain_magazine();
        self.drain();
        if let Some(difference) = self.boot.0.difference(&self.snapshot()) {
            let harmless = difference.starts_with("counters") || difference.starts_with("contents");
            assert!(harmless, "{difference}");
        }
        assert_eq!(self.memory.frames.free_frames(), self.boot.1);
        assert_eq!(self.memory.frames.holes(), (0, 0));
        assert_eq!(self.memory.frames.pool_free_frames(), 0);
        // Nobody else writes entries here, so each merge was tried when its time had come.
        assert_eq!(self.memory.stats().merges_blocked.total(), 0);
    }

    /// A guest with this number: nested tables when it is even, extended ones when it is odd.
    ///
    /// # Panics
    /// When there is not enough memory.
    pub fn launch(&mut self, number: u16, bytes: u64) -> GuestMemory {
        let kind = if number.is_multiple_of(2) {
            SecondStageKind::Nested
        } else {
            SecondStageKind::Extended
        };
        self.launch_as(number, kind, bytes)
    }

    /// A guest with this number and this kind of tables.
    ///
    /// # Panics
    /// When there is not enough memory.
    pub fn launch_as(&mut self, number: u16, kind: SecondStageKind, bytes: u64) -> GuestMemory {
        let (memory, cpu) = (&mut self.memory, &self.cpu);
        let id = GuestId::new(number).unwrap();
        let hiding = memory.launch(cpu, kind, id, bytes).unwrap();
        let guest = hiding.wait(cpu).finish(memory, cpu, &mut self.windows[0]);
        self.machine.guest_begins(id, kind.into(), guest.second_stage());
        self.check();
        guest
    }

    /// The guest dies, to the end.
    pub fn teardown(&mut self, guest: GuestMemory) {
        let (memory, cpu) = (&mut self.memory, &self.cpu);
        let id = guest.id();
        let revoked = guest.revoke(cpu);
        self.machine.guest_flushed(id);
        let mut teardown = revoked.reclaim(GuestFlushed::new(id));
        while teardown.step(memory, cpu, &mut self.windows[0]) {}
        self.machine.guest_ends(id);
        let restored = teardown.finish(memory, cpu, &mut self.windows[0]);
        restored.wait(cpu).release(memory, cpu);
        self.check();
    }

    /// Takes host memory until no whole region is free, and gives single frames of it back so that `kept` of each 512 stay.
    ///
    /// # Panics
    /// When the allocator says something else than it has.
    pub fn fragment(&mut self, kept: usize) -> Vec<HostFrames> {
        let mut held = Vec::new();
        while self.memory.frames.free_regions() > 0 {
            held.push(self.memory.frames.allocate(0).unwrap());
        }
        while let Ok(frame) = self.memory.frames.allocate(0) {
            held.push(frame);
        }
        let mut rest = Vec::new();
        for frame in held {
            if (frame.pfn().get() % 512) < kept as u64 {
                rest.push(frame);
            } else {
                self.memory.frames.free(frame);
            }
        }
        self.memory.set_watermarks(Watermarks::default());
        assert_eq!(self.memory.frames.free_regions(), 0);
        rest
    }

    /// Takes all that is free, and sets the watermarks aside.
    pub fn take_all_of_the_host(&mut self) -> Vec<HostFrames> {
        self.memory.set_watermarks(Watermarks::default());
        let mut held = Vec::new();
        for order in [REGION, 0] {
            held.extend(std::iter::from_fn(|| self.memory.frames.allocate(order).ok()));
        }
        held
    }

    /// What has been counted.
    pub fn stats(&self) -> Stats {
        self.memory.stats()
    }
}

impl Bench<'static> {
    /// One CPU and RAM from 0 on, in the largest leaves; the board is never freed.
    pub fn of_ram(bytes: u64) -> Self {
        Self::new(Box::leak(Box::new(Board::new(&[(0, bytes)], 1, Level::L3))))
    }
}

/// 3 GiB, all in leaves of 1G, and two CPUs.
pub fn small_machine() -> Board {
    Board::new(&[(0, 3 << 30)], 2, Level::L3)
}
