//! The behaviours of the pool of hidden memory, tried in the booted hypervisor.

use memory::HostMemory;
use memory::address::Pfn;
use memory::window::Windows;
use pool_behaviours::{Outcome, Place, all, try_one};
use report::{Check, Event};

use crate::checks::Checks;
use crate::frames::with_memory;
use crate::hardware::Hardware;
use crate::lock::while_others_rest;
use crate::println;
use crate::reporting::json;

/// This machine, with the windows of the CPU that tries.
struct Here<'c> {
    windows: &'c mut Windows,
    checks: &'c Checks,
}

impl Place for Here<'_> {
    type Machine = Hardware;

    fn machine(&self) -> Hardware {
        Hardware
    }

    fn with<R>(&mut self, work: impl FnOnce(&mut HostMemory<'_>, &mut Windows) -> R) -> R {
        // A change that only tests make is flushed at once; the other CPUs doze until there are guests.
        with_memory(|memory| while_others_rest(|| work(memory, self.windows)))
    }

    fn leaf(&self, pfn: Pfn) -> Option<u64> {
        self.checks.leaf(pfn)
    }

    fn leaves(&self) -> [u64; 3] {
        match self.checks.leaves() {
            Ok(found) => [found.g1, found.m2, found.k4],
            // No count of leaves is that: every comparison fails.
            Err(_) => [u64::MAX; 3],
        }
    }
}

/// Tries every behaviour and reports each. Returns how many did not hold.
pub fn try_all(windows: &mut Windows, checks: &Checks) -> u64 {
    let mut here = Here { windows, checks };
    let (mut held, mut skipped, mut failed) = (0, 0, 0);
    for behaviour in all() {
        let name = behaviour.name;
        match try_one(&behaviour, &mut here) {
            Ok(Outcome::Held) => {
                held += 1;
                println!("held: {name}");
                note(name, true, "held");
            }
            Ok(Outcome::Skipped(reason)) => {
                skipped += 1;
                println!("SKIP: {name} ({reason})");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED: {name}: {error}");
                note(name, false, "see the text");
            }
        }
    }
    println!("behaviours of the pool: {held} held, {skipped} skipped, {failed} failed");
    failed
}

fn note(name: &'static str, held: bool, detail: &'static str) {
    json::event(&Event::Check(Check { name, held, detail }));
}
