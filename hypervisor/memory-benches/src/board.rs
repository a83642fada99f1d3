//! The memory subsystem, booted on the machine the way the hypervisor does it.

use memory::HostMemory;
use memory::address::{Hpa, Level, Pfn};
use memory::frame::FrameTable;
use memory::frame::GuestId;
use memory::frame::records::RecordsLayout;
use memory::guest::{GuestFlushed, GuestMemory, LaunchError, SecondStageKind};
use memory::memory_map::{FrameRange, MemoryMap, RawEntry};
use memory::paging::TableBuilder;
use memory::window::Windows;

use crate::machine::NativeMachine;

/// What is in use at boot: 8 MiB from 1 MiB on, for tables.
const IN_USE: FrameRange = FrameRange {
    start: Pfn::new(0x100),
    end: Pfn::new(0x900),
};

/// A machine and its memory.
pub struct Board<'m> {
    /// The machine.
    pub machine: NativeMachine,
    /// The memory subsystem.
    pub memory: HostMemory<'m>,
    /// The windows of its first CPU.
    pub windows: Windows,
    next_guest: u16,
}

/// Another CPU, for a thread of its own.
pub struct OtherCpu {
    /// The machine as it sees it.
    pub machine: NativeMachine,
    /// Its windows.
    pub windows: Windows,
}

// SAFETY: windows are not `Send` because they belong to one CPU. Here a thread is a CPU: it gets the windows with the machine that looks
// them up, before the first is opened.
unsafe impl Send for OtherCpu {}

/// Storage for the frame records of a machine with so many bytes of RAM.
pub fn storage(bytes: u64) -> Vec<u64> {
    // Zeroed by the system when it is touched, which it mostly is not.
    vec![0; RecordsLayout::new(&map(bytes)).storage_words()]
}

/// The frame records of such a machine alone.
pub fn frames(bytes: u64, storage: &mut [u64]) -> FrameTable<'_> {
    match FrameTable::new(&map(bytes), &[IN_USE], storage) {
        Ok(frames) => frames,
        Err(error) => panic!("the storage was made for this map: {error:?}"),
    }
}

fn map(bytes: u64) -> MemoryMap {
    let ram = RawEntry {
        start: Hpa::new(0),
        bytes,
        ram: true,
    };
    match MemoryMap::new([ram].into_iter()) {
        Ok(map) => map,
        Err(error) => panic!("a machine needs RAM: {error}"),
    }
}

impl<'m> Board<'m> {
    /// Boots a machine with so many bytes of RAM, the direct map in leaves of 1G; `storage` is [`storage`] for as many.
    ///
    /// # Panics
    /// When the system has no room for it.
    pub fn boot(bytes: u64, storage: &'m mut [u64]) -> Self {
        Self::with_others(bytes, storage, 0).0
    }

    /// The same with so many more CPUs.
    ///
    /// # Panics
    /// When the system has no room for it.
    pub fn with_others(bytes: u64, storage: &'m mut [u64], others: u32) -> (Self, Vec<OtherCpu>) {
        let machine = match NativeMachine::new(bytes, 1 + others) {
            Ok(machine) => machine,
            Err(error) => panic!("a mapping of {bytes} bytes: {error}"),
        };
        let mut tables = (IN_USE.start.get()..IN_USE.end.get()).map(Pfn::new);
        let built = TableBuilder::new(&machine, Level::L3, || tables.next()).and_then(|mut builder| {
            builder.map_ram(&map(bytes))?;
            let cpus: Result<Vec<_>, _> = (0..=others).map(|_| Windows::for_cpu(&mut builder)).collect();
            Ok((builder.root(), cpus?))
        });
        let (shared_root, cpus) = match built {
            Ok(built) => built,
            Err(error) => panic!("the machine's tables: {error:?}"),
        };
        let mut cpus = (0..).zip(cpus).map(|(number, (root, windows))| {
            let machine = machine.seen_by(number);
            machine.set_root(root);
            OtherCpu { machine, windows }
        });
        let Some(OtherCpu { machine, windows }) = cpus.next() else {
            panic!("a machine has a CPU")
        };
        let others = cpus.collect();
        let board = Self {
            memory: HostMemory::new(&machine, frames(bytes, storage), shared_root),
            machine,
            windows,
            next_guest: 1,
        };
        (board, others)
    }

    /// Launches a guest with nested tables.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn launch(&mut self, bytes: u64) -> Result<GuestMemory, LaunchError> {
        let id = loop {
            self.next_guest = self.next_guest.wrapping_add(1);
            if let Some(id) = GuestId::new(self.next_guest) {
                break id;
            }
        };
        let hiding = self
            .memory
            .launch(&self.machine, SecondStageKind::Nested, id, bytes)?;
        let launching = hiding.wait(&self.machine);
        Ok(launching.finish(&mut self.memory, &self.machine, &mut self.windows))
    }

    /// Takes a guest's memory back.
    pub fn teardown(&mut self, guest: GuestMemory) {
        let id = guest.id();
        let teardown = guest.revoke(&self.machine).reclaim(GuestFlushed::new(id));
        let restored = teardown.finish(&mut self.memory, &self.machine, &mut self.windows);
        restored
            .wait(&self.machine)
            .release(&mut self.memory, &self.machine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zeroing::Zeroing;
    use memory::address::Gpa;

    const GIB: u64 = 1 << 30;

    /// The machine does what a machine must: what a guest leaves behind is gone, and its memory is back.
    #[test]
    fn a_guest_comes_and_goes_and_finds_zeros() {
        let mut storage = storage(4 * GIB);
        let mut board = Board::boot(4 * GIB, &mut storage);
        board.machine.zeroing.set(Some(Zeroing::Bytes));
        let free = board.memory.frames.free_frames();
        for _ in 0..2 {
            let mut guest = board.launch(8 << 20).unwrap();
            let Board {
                machine,
                memory,
                windows,
                ..
            } = &mut board;
            let mut word = [1; 8];
            for at in [0, (2 << 20) - 4, (8 << 20) - 8] {
                guest
                    .read(machine, &memory.frames, windows, Gpa::new(at), &mut word)
                    .unwrap();
                assert_eq!(word, [0; 8]);
                guest
                    .write(machine, &memory.frames, windows, Gpa::new(at), &[0xa5; 8])
                    .unwrap();
                guest
                    .read(machine, &memory.frames, windows, Gpa::new(at), &mut word)
                    .unwrap();
                assert_eq!(word, [0xa5; 8]);
            }
            board.teardown(guest);
        }
        let stats = board.memory.stats();
        assert_eq!(
            (stats.level3_splits, stats.level3_collapses, stats.flushes),
            (2, 2, 4)
        );
        assert_eq!(board.memory.frames.free_frames(), free);
    }
}
