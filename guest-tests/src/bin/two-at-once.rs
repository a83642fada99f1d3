//! Two of these live at the same time. Each fills its memory and all its registers with its own pattern, lets the other run, and checks
//! that everything is still its own: by yielding, and by running long enough to be interrupted.
#![no_std]
#![no_main]

use guest_tests::hypercall::{exit, report};
use guest_tests::memory::Extent;
use guest_tests::registers::system::{self, System};
use guest_tests::registers::vector::{self, Vectors, Width};
use guest_tests::registers::{Source, general};
use guest_tests::{LaunchInfo, Pattern, launch, main, memory, println};

launch!("memory=16M,count=2");
main!(run);

/// A register did not hold what this guest had put there.
const REGISTER_CHANGED: u64 = 1;
/// A word of memory did not hold what this guest had put there.
const MEMORY_CHANGED: u64 = 2;
/// A word of memory was one that another guest writes.
const FOUND_OTHER: u64 = 3;

/// Yields: at least 100 alternations are asked for.
const YIELDS: u64 = 128;
/// Stretches without a yield, and the length of each in ticks of the TSC: more than ten milliseconds at 4 GHz.
const STRETCHES: u64 = 6;
const STRETCH_TICKS: u64 = 50_000_000;
/// Distance of the words that are looked at after each alternation, and in the end.
const SAMPLE: usize = 1032;
const ALL: usize = 8;

struct Guest<'a> {
    pattern: &'a Pattern,
    instance: u32,
    width: Width,
}

fn run(info: &LaunchInfo) {
    let pattern = Pattern::new(info.seed);
    let guest = Guest {
        pattern: &pattern,
        instance: info.instance,
        width: vector::enable_widest(),
    };
    for part in memory::free_parts() {
        part.fill(&pattern, info.instance);
    }

    let mut parts = memory::free_parts();
    for round in 0..YIELDS {
        guest.hold_registers(round, general::yield_with);
        // A part a round; after the last one, from the start.
        let part = parts.next().or_else(|| {
            parts = memory::free_parts();
            parts.next()
        });
        if let Some(part) = part {
            guest.check(&part, SAMPLE);
        }
    }
    for round in 0..STRETCHES {
        let until = system::tsc() + STRETCH_TICKS;
        guest.hold_registers(YIELDS + round, |source| general::wait_with(source, until));
    }
    for part in memory::free_parts() {
        guest.check(&part, ALL);
    }

    println!(
        "{YIELDS} yields and {STRETCHES} long stretches with registers of width {:?}: all my own",
        guest.width
    );
    report("yields", YIELDS);
}

impl Guest<'_> {
    /// Fills all registers with words of this round, gives up the CPU through `let_others_run`, and checks them.
    fn hold_registers(
        &self,
        round: u64,
        let_others_run: impl FnOnce(&Source<'_>) -> Option<general::Changed>,
    ) {
        let source = Source::new(self.pattern, self.instance, round);
        let (system, vectors) = (System::of(&source), Vectors::of(&source, self.width));
        system.load();
        vectors.load(self.width);

        let changed = let_others_run(&source);

        let found_vectors = Vectors::store(self.width);
        let found_system = System::store();
        let changed = changed
            .map(|changed| (general::NAMES[changed.index], changed.found))
            .or_else(|| found_vectors.difference(&vectors))
            .or_else(|| found_system.difference(&system));
        if let Some((name, found)) = changed {
            println!("round {round}: {name} came back as {found:#x}");
            self.tell_writer(found);
            exit(REGISTER_CHANGED);
        }
    }

    fn check(&self, part: &Extent, step: usize) {
        if let Some(difference) = part.first_foreign(self.pattern, self.instance, step) {
            println!("memory at {:#x} holds {:#018x}", difference.gpa, difference.found);
            exit(if self.tell_writer(difference.found) {
                FOUND_OTHER
            } else {
                MEMORY_CHANGED
            });
        }
    }

    /// Says whose word it is; `true` if another guest's.
    fn tell_writer(&self, word: u64) -> bool {
        match self.pattern.locate(word) {
            Some((instance, gpa)) => {
                println!("that is what guest {instance} writes at {gpa:#x}");
                instance != self.instance
            }
            None => false,
        }
    }
}
