//! The host's own memory: taken, used, used up.

use memory::frame::allocator::MAX_ORDER;
use memory::layout::direct;

use super::World;
use crate::check::{Rule, Violation};

impl World<'_> {
    /// While the host hoards: leaves nothing.
    pub(super) fn take_all(&mut self) {
        if let Some(hoard) = &mut self.hoard {
            for order in (0..=MAX_ORDER).rev() {
                while let Ok(extent) = self.memory.frames.allocate(order) {
                    hoard.push(extent);
                }
            }
            assert_eq!(self.memory.frames.free_frames(), 0);
        }
    }

    pub(super) fn relent(&mut self) {
        for extent in self.hoard.take().into_iter().flatten() {
            self.memory.frames.free(extent);
        }
    }

    pub(super) fn allocate(&mut self, cpu: usize, order: u8) -> Result<(), Vec<Violation>> {
        let cpu = self.cpu(cpu);
        let before = self.snapshot();
        let Ok(extent) = self.memory.allocate(&cpu, order) else {
            if self.has_shrunk(&before) {
                return self.allocate(cpu.index(), order);
            }
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
}
