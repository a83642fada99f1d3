//! The real machine as the memory subsystem and the independent walker see it.

use core::arch::asm;
use core::fmt;

use audit::{Pa, PhysicalRead};
use memory::address::{Hva, PAGE_SIZE, Pfn};
use memory::layout::{DIRECT_MAP_BASE, DIRECT_MAP_BYTES};
use memory::machine::{Machine, Table, TableAt, WindowSpan};
use memory::tlb::shootdown::{Cpu, CpuIndex, Kicker, Outstanding, Processor, StillInside};
use memory::trace::Tracer;

use crate::cpu::descriptor::CpuTables;
use crate::cpu::exception::SHOOTDOWN_VECTOR;
use crate::cpu::tlb;
use crate::{lock, presence, println, tracing};

/// Polls after which an acknowledgement that is outstanding is reported for the first time: a choice, some tenths of a second (PAUSE takes
/// 40 to 140 cycles; Intel's Optimization Reference Manual, 2.7.4). Each report after it takes twice as many.
const FIRST_REPORT: u64 = 1 << 23;
/// How many times as many polls a CPU gets before it counts as lost, some tens of seconds: without its flush nothing can be hidden any more.
const PATIENCE: u64 = 64;

/// [`FIRST_REPORT`]; less where no answer can come, so that the test need not wait.
fn first_report() -> u64 {
    #[cfg(feature = "test-hooks")]
    if crate::hooks::is_set(boot_config::Hook::NoInterrupt) {
        return 1 << 14;
    }
    FIRST_REPORT
}

/// This machine, from the CPU that asks.
#[derive(Clone, Copy, Debug)]
pub struct Hardware;

impl Machine for Hardware {
    fn table(&self, at: TableAt) -> &Table {
        let at = DIRECT_MAP_BASE.get() + at.pfn().hpa().get();
        let table = core::ptr::with_exposed_provenance::<Table>(at as usize);
        // SAFETY: only `memory` makes a `TableAt`, of frames that are tables. They are RAM and never hidden, so the direct map shows them,
        // aligned to 4 KiB, for as long as any table exists; nobody has a reference to their bytes. Entries are atomics, so hardware and
        // other CPUs may write them meanwhile.
        unsafe { &*table }
    }

    fn clear(&self, at: TableAt) {
        let at = DIRECT_MAP_BASE.get() + at.pfn().hpa().get();
        // SAFETY: only `memory` makes a `TableAt`, of a frame in the direct map that is, or is about to be, a table, and nobody uses
        // this one yet.
        unsafe { fill_with_zeros(at, PAGE_SIZE) };
    }

    fn zero(&self, span: WindowSpan) {
        // SAFETY: only an open window of this CPU makes a `WindowSpan` (or `memory`, of a frame that it has just taken), so the bytes are
        // mapped writable and nobody has a reference to them. It is made of whole pages.
        unsafe { fill_with_zeros(span.start().get(), span.bytes() as u64) };
    }

    fn copy_in(&self, span: WindowSpan, data: &[u8]) {
        let to = core::ptr::with_exposed_provenance_mut::<u8>(span.start().get() as usize);
        // SAFETY: as for `zero`; `data` is the image's or the direct map's and does not overlap a window.
        unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len().min(span.bytes())) };
    }

    fn copy_out(&self, span: WindowSpan, data: &mut [u8]) {
        // A guest may write there meanwhile, so the compiler must know nothing of what is read: each byte is read once.
        // SAFETY: as for `copy_in`; the direction flag is clear, as in `fill_with_zeros`.
        unsafe {
            asm!(
                "rep movsb",
                inout("rsi") span.start().get() => _,
                inout("rdi") data.as_mut_ptr() => _,
                inout("rcx") data.len().min(span.bytes()) => _,
                options(nostack, preserves_flags)
            );
        }
    }

    fn invalidate(&self, at: Hva) {
        tlb::invlpg(at);
    }

    fn now(&self) -> u64 {
        crate::cpu::timer::tsc()
    }

    fn tracer(&self) -> Option<&dyn Tracer> {
        tracing::tracer()
    }

    fn cpu(&self) -> Cpu<'_> {
        match presence::this_cpu() {
            Some(cpu) => cpu,
            None => panic!("broken invariant: this CPU has no line in the shootdown protocol"),
        }
    }
}

impl Processor for Hardware {
    fn flush(&self) {
        tlb::flush();
    }

    fn looks_at(&self, cpu: CpuIndex) {
        if let (Some(own), Some(other)) = (CpuTables::current(), presence::tables(cpu.get())) {
            own.guest_mode().look_at(other.guest_mode());
        }
    }

    fn interrupt(&self, cpu: CpuIndex) {
        let own = CpuTables::current();
        let apic = own.and_then(CpuTables::apic);
        let (Some(own), Some(apic), Some(target)) = (own, apic, presence::tables(cpu.get())) else {
            panic!("broken invariant: {cpu} was to be interrupted, but can't be")
        };
        own.guest_mode().interrupt(target.guest_mode());
        #[cfg(feature = "test-hooks")]
        crate::hooks::stress::signals::interrupt_sent();
        #[cfg(feature = "test-hooks")]
        if crate::hooks::is_set(boot_config::Hook::NoInterrupt) {
            return;
        }
        apic.send(target.apic_id(), SHOOTDOWN_VECTOR);
    }

    fn may_wait(&self) {
        lock::none_is_held();
    }

    fn pause(&self, outstanding: &Outstanding) {
        wait_a_moment(outstanding.polls, outstanding);
    }
}

impl Kicker for Hardware {
    fn kick(&self, cpu: CpuIndex) {
        match presence::tables(cpu.get()) {
            Some(target) => presence::kick(target),
            None => panic!("broken invariant: {cpu} was to be kicked, but can't be"),
        }
    }

    fn pause_outside(&self, inside: &StillInside) {
        wait_a_moment(inside.polls, inside);
    }
}

/// A poll of something that another CPU owes; says so when it takes long.
///
/// # Panics
/// When it takes tens of seconds.
fn wait_a_moment(polls: u64, outstanding: &dyn fmt::Display) {
    core::hint::spin_loop();
    if polls >= first_report() && polls.is_power_of_two() {
        println!("{outstanding}");
        assert!(
            polls < first_report() * PATIENCE,
            "broken invariant: {outstanding}"
        );
    }
}

/// Physical memory for the walker: RAM below the end of the direct map.
#[derive(Clone, Copy, Debug)]
pub struct WalkerView {
    /// One past the last byte of RAM.
    end: u64,
}

impl WalkerView {
    /// A view of RAM up to `end`.
    pub const fn new(end: Pfn) -> Self {
        Self {
            end: end.get() * PAGE_SIZE,
        }
    }
}

impl PhysicalRead for WalkerView {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        if !pa.get().is_multiple_of(8) || pa.get() >= self.end.min(DIRECT_MAP_BYTES) {
            return None;
        }
        let word = core::ptr::with_exposed_provenance::<u64>((DIRECT_MAP_BASE.get() + pa.get()) as usize);
        // SAFETY: the walker reads words of tables only. If a damaged table leads it elsewhere, the address still lies in the
        // direct map's area: at worst a page fault, which is reported as such. A volatile read asks nothing of who writes there.
        Some(unsafe { word.read_volatile() })
    }
}

/// Fills `bytes` bytes, a multiple of 8, with zeros.
///
/// # Safety
/// They must be mapped writable, and nobody have a reference to them.
pub unsafe fn fill_with_zeros(at: u64, bytes: u64) {
    // SAFETY: the caller vouches for the bytes. The direction flag is clear, as the ABI wants: the entry code, every exit from a guest (which
    // restores the host's RFLAGS) and every exception stub see to that.
    unsafe {
        asm!(
            "rep stosq",
            inout("rdi") at => _,
            inout("rcx") bytes / 8 => _,
            in("rax") 0_u64,
            options(nostack, preserves_flags)
        );
    }
}
