//! Every behaviour on the model machine, with 1G leaves and without; all rules are judged after each.
#![cfg(test)]

use audit::{Format, Pa, PhysicalRead, Tables, Va};
use memory::HostMemory;
use memory::address::{Hpa, Level, Pfn};
use memory::layout::{DIRECT_MAP_BASE, DIRECT_MAP_BYTES, direct};
use memory::window::Windows;
use model_machine::{Board, Booted, ModelCpu, ModelMachine};
use pool_behaviours::{Outcome, Place, all, try_one};

#[path = "model/interface.rs"]
mod interface;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

struct Model<'m> {
    machine: &'m ModelMachine,
    memory: HostMemory<'m>,
    windows: Vec<Windows>,
}

/// RAM as the walker reads it.
struct Ram<'m>(&'m ModelMachine);

impl PhysicalRead for Ram<'_> {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        Some(self.0.ram().load(Hpa::new(pa.get())))
    }
}

impl Model<'_> {
    fn look<R>(&self, look: impl FnOnce(&Tables<'_, Ram<'_>>) -> R) -> R {
        let ram = Ram(self.machine);
        let root = self.machine.shared_root().hpa().get();
        look(&Tables::new(&ram, Format::host(false, 52), root))
    }
}

impl<'m> Place for Model<'m> {
    type Machine = ModelCpu<'m>;

    fn machine(&self) -> Self::Machine {
        self.machine.cpu(0)
    }

    fn with<R>(&mut self, work: impl FnOnce(&mut HostMemory<'_>, &mut Windows) -> R) -> R {
        work(&mut self.memory, &mut self.windows[0])
    }

    fn leaf(&self, pfn: Pfn) -> Option<u64> {
        let at = Va::new(direct(pfn.hpa()).unwrap().get());
        self.look(|tables| tables.translate(at).unwrap().map(|(leaf, _)| leaf.size.bytes()))
    }

    fn leaves(&self) -> [u64; 3] {
        let (first, last) = (
            DIRECT_MAP_BASE.get(),
            DIRECT_MAP_BASE.get() + DIRECT_MAP_BYTES - 1,
        );
        let mut counts = [0; 3];
        self.look(|tables| {
            for leaf in tables.leaves_in(Va::new(first), Va::new(last)) {
                counts[match leaf.unwrap().size.bytes() {
                    GIB => 0,
                    0x20_0000 => 1,
                    _ => 2,
                }] += 1;
            }
        });
        counts
    }
}

/// Each behaviour by itself, on a machine of its own.
fn run(ram: &[(u64, u64)], largest: Level) -> Vec<(&'static str, Outcome)> {
    let count = all::<Model<'_>>().len();
    (0..count).map(|number| run_one(ram, largest, number)).collect()
}

fn run_one(ram: &[(u64, u64)], largest: Level, number: usize) -> (&'static str, Outcome) {
    // One CPU: nothing makes another forget a global translation, which merging is tried with.
    let mut board = Board::new(ram, 1, largest);
    let (machine, Booted { memory, windows }) = board.boot();
    let mut model = Model {
        machine,
        memory,
        windows,
    };
    let behaviour = &all()[number];
    let outcome = match try_one(behaviour, &mut model) {
        Ok(outcome) => outcome,
        Err(failed) => panic!("{}: {failed}", behaviour.name),
    };
    let broken = machine.check(&model.memory.frames);
    assert!(broken.is_empty(), "{}: {}", behaviour.name, broken[0]);
    (behaviour.name, outcome)
}

#[test]
fn with_1g_leaves_every_behaviour_holds() {
    for (name, outcome) in run(&[(0, 3 * GIB)], Level::L3) {
        assert_eq!(outcome, Outcome::Held, "{name}");
    }
}

#[test]
fn without_1g_leaves_every_behaviour_holds() {
    for (name, outcome) in run(&[(0, 3 * GIB)], Level::L2) {
        assert_eq!(outcome, Outcome::Held, "{name}");
    }
}

#[test]
fn on_a_small_machine_only_the_gigablock_is_skipped() {
    for (name, outcome) in run(&[(0, 256 * MIB)], Level::L3) {
        assert_eq!(
            outcome != Outcome::Held,
            name.starts_with("a gigablock"),
            "{name}"
        );
    }
}
