use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::select::{HOST_ONLY, Select, Vendor};

/// How the mock goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Well,
    /// Bochs: advertised, and every access faults.
    Faulting,
    /// QEMU's emulation: reads 0, swallows writes.
    Swallowing,
    /// KVM: the event is filtered, or its pinned event lost contention.
    Silent,
    /// KVM: contention is lost after the first window.
    Stopping,
    /// Counts cycles, whatever was asked for.
    FreeRunning,
    /// KVM on AMD: bits 63:36, 21 and 19 vanish.
    Masking,
    /// Reading the event register works, reading the counter faults.
    HalfFaulting,
}

/// Events so far, shared by the work that makes them happen and the counter that sees them.
#[derive(Clone, Default)]
struct World {
    happened: Rc<Cell<u64>>,
    time: Rc<Cell<u64>>,
}

struct Mock {
    manner: Manner,
    world: World,
    select: u64,
    /// The count when it was last written, and what had happened then.
    written: (u64, u64),
    reads: u32,
}

impl Mock {
    fn new(manner: Manner, world: &World) -> Self {
        Self {
            manner,
            world: world.clone(),
            select: 0,
            written: (0, 0),
            reads: 0,
        }
    }

    fn seen(&self) -> u64 {
        match self.manner {
            Manner::FreeRunning => self.world.time.get(),
            Manner::Silent => 0,
            Manner::Stopping if self.reads > 2 => self.written.1,
            _ => self.world.happened.get(),
        }
    }
}

impl Counter for Mock {
    fn write_select(&mut self, value: u64) -> Result<(), Fault> {
        match self.manner {
            Manner::Faulting => return Err(Fault),
            Manner::Swallowing => {}
            Manner::Masking => self.select = value & !(u64::MAX << 36 | 1 << 21 | 1 << 19),
            _ => self.select = value,
        }
        Ok(())
    }

    fn read_select(&mut self) -> Result<u64, Fault> {
        match self.manner {
            Manner::Faulting => Err(Fault),
            _ => Ok(self.select),
        }
    }

    fn write_count(&mut self, value: u64) -> Result<(), Fault> {
        match self.manner {
            Manner::Faulting => return Err(Fault),
            Manner::Swallowing => {}
            _ => self.written = (value, self.seen()),
        }
        Ok(())
    }

    fn read_count(&mut self) -> Result<u64, Fault> {
        self.reads += 1;
        match self.manner {
            Manner::Faulting | Manner::HalfFaulting => Err(Fault),
            Manner::Swallowing => Ok(0),
            // Off: it keeps what it has.
            _ if self.select == 0 => Ok(self.written.0),
            _ => Ok(self.written.0 + self.seen() - self.written.1),
        }
    }
}

struct Misses(World);

impl Work for Misses {
    fn provoke(&mut self, _: Metric) {
        self.0.happened.set(self.0.happened.get() + 1010);
        self.0.time.set(self.0.time.get() + 100_000);
    }

    fn idle(&mut self, _: Metric) {
        self.0.happened.set(self.0.happened.get() + 3);
        self.0.time.set(self.0.time.get() + 100_000);
    }

    fn expected(&self, _: Metric) -> u64 {
        1000
    }
}

fn tried(manner: Manner) -> (Liveness, u64) {
    let world = World::default();
    let mut mock = Mock::new(manner, &world);
    let found = try_event(
        &mut mock,
        Select::new(0x12, 0x0e).ring_0(Vendor::Intel),
        48,
        Metric::LoadWalks,
        &mut Misses(world),
    );
    (found, mock.select)
}

#[test]
fn each_way_to_misbehave_is_told() {
    for (manner, expected) in [
        (Manner::Well, Liveness::Live),
        (Manner::Masking, Liveness::Live),
        (Manner::Faulting, Liveness::Dead(Death::Faults)),
        (Manner::HalfFaulting, Liveness::Dead(Death::Faults)),
        (Manner::Swallowing, Liveness::Dead(Death::WritesAreLost)),
        (Manner::Silent, Liveness::Dead(Death::Silent)),
        (Manner::Stopping, Liveness::Dead(Death::Stopped)),
        (Manner::FreeRunning, Liveness::Dead(Death::CountsIdle)),
    ] {
        assert_eq!(
            tried(manner),
            (expected, 0),
            "{manner:?}: and it is off afterwards"
        );
    }
}

#[test]
fn bits_that_vanish_are_noticed() {
    let world = World::default();
    let host_only = Select::new(0x45, 0xf0).ring_0(Vendor::Amd) | HOST_ONLY;
    let keeps = |manner| super::keeps(&mut Mock::new(manner, &world), host_only);
    assert_eq!(keeps(Manner::Well), Ok(true));
    assert_eq!(keeps(Manner::Masking), Ok(false));
    assert_eq!(keeps(Manner::Swallowing), Ok(false));
    assert_eq!(keeps(Manner::Faulting), Err(Fault));
}
