//! Another CPU reads memory while this one hides it: the shootdown must reach it. With its interrupt left out, the other CPU goes on reading
//! through an old translation, and this one waits for it.
//!
//! All CPUs but one are stopped: they wait in `guests::stop`, where [`errand`] is called.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use boot_config::Hook;
use memory::address::{Hva, Level};
use memory::frame::GuestId;
use memory::guest::SecondStageKind;
use memory::layout::direct;

use crate::cpu::descriptor::CpuTables;
use crate::cpu::registers;
use crate::frames::with_memory;
use crate::hardware::Hardware;
use crate::lock::while_others_rest;
use crate::{hooks, presence, println};

/// Regions that are hidden, and read.
const REGIONS: usize = 2;
/// Polls for what the other CPU does; a choice, some seconds.
const POLLS: u32 = 1 << 24;

/// Other CPUs are to read.
static CALLED: AtomicBool = AtomicBool::new(false);
/// One of them has read all regions, and goes on reading.
static READING: AtomicBool = AtomicBool::new(false);
/// The regions are out of the direct map, and the flush is asked for.
static HIDDEN: AtomicBool = AtomicBool::new(false);
/// Where the regions are in the direct map.
static AT: [AtomicU64; REGIONS] = [const { AtomicU64::new(0) }; REGIONS];

/// Hides memory while another CPU reads it. Returns when nothing came of it.
pub fn provoke() {
    // Taken and given back, the same regions are the next to be taken.
    let known = with_memory(|memory| {
        let regions = memory.frames.carve(REGIONS as u64).ok()?;
        let starts = regions
            .extents(&memory.frames)
            .flat_map(|(pfn, order)| (0..1 << order).step_by(512).map(move |offset| pfn.add(offset)));
        for (at, pfn) in AT.iter().zip(starts) {
            at.store(direct(pfn.hpa())?.get(), Ordering::Relaxed);
        }
        memory.frames.uncarve(regions);
        Some(())
    });
    let (Some(()), Some(id)) = (known, GuestId::new(u16::MAX)) else {
        return;
    };
    CALLED.store(true, Ordering::Release);
    // One that dozes wakes up, finds that all are stopped, and runs the errand.
    let number = CpuTables::current().map_or(0, CpuTables::number);
    for other in presence::others(number) {
        presence::wake(other.number());
    }
    if !wait_for(&READING) {
        println!("no other CPU reads");
        return;
    }
    let bytes = REGIONS as u64 * Level::L2.bytes();
    let hiding = with_memory(|memory| memory.launch(&Hardware, SecondStageKind::Nested, id, bytes));
    let Ok(hiding) = hiding else { return };
    HIDDEN.store(true, Ordering::Release);
    // Never finished: the run ends with the other CPU's fault, or with the report that it does not answer.
    // The others are stopped, and the errand takes no lock.
    core::mem::forget(while_others_rest(|| hiding.wait(&Hardware)));
    wait_for(&AtomicBool::new(false));
}

/// What a CPU that is stopped does: reads, if it is called to, with interrupts let in, for ever.
pub fn errand() {
    if !CALLED.load(Ordering::Acquire) {
        return;
    }
    // SAFETY: the descriptor tables are loaded, and nothing is locked by a CPU that is stopped.
    unsafe { registers::unmask_interrupts() };
    let mut said = false;
    loop {
        let hidden = HIDDEN.load(Ordering::Acquire);
        for at in &AT {
            super::touch(Hva::new(at.load(Ordering::Relaxed)), false);
        }
        if hidden && !said {
            said = true;
            let number = CpuTables::current().map_or(0, CpuTables::number);
            println!("CPU {number} still reads hidden memory, through an old translation");
            // With no interrupt to come that has shown what it can: whether the translation outlives what was just printed is up to the
            // emulator's TLB, and another question.
            while hooks::is_set(Hook::NoInterrupt) {
                core::hint::spin_loop();
            }
        }
        READING.store(true, Ordering::Release);
        core::hint::spin_loop();
    }
}

fn wait_for(flag: &AtomicBool) -> bool {
    for _ in 0..POLLS {
        if flag.load(Ordering::Acquire) {
            return true;
        }
        core::hint::spin_loop();
    }
    false
}
