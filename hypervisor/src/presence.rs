//! This CPU among all CPUs: the shootdown protocol on the real machine (`memory::tlb::shootdown`), sleep, and kicks.
//!
//! What stands here runs before a CPU has flushed, so it touches only what is mapped for good: the image, the CPUs' lines and descriptor
//! tables.
//!
//! A *kick* gets a CPU out of its guest, whatever the guest does: an NMI ends guest mode even where interrupts are off. Whoever kicks has
//! written what the CPU is to see; the CPU looks at its request word before each entry, and nothing is lost between the two:
//!
//! ```text
//!  kicker                                CPU on its way into a guest
//!  request := 1                          mode := guest
//!  fence                                 fence
//!  read mode: in a guest? send NMI       read request: set? don't enter
//! ```
//!
//! In every order either the CPU sees the request, or the kicker sees it in the guest and sends the NMI. That NMI may come after the look at
//! the request and before the entry. SVM holds it back until the guest runs: the look stands after CLGI. Under VMX the host's handler
//! takes it, and then the entry must not happen: the handler makes the interrupted switch go on where it gives up
//! (`virt::vmx::abandon_entry`).

use core::arch::asm;
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use memory::tlb::shootdown::{Cpu, CpuIndex, CpuLine, GuestTlb, Inside, LastFlush, Mode, Shootdown};
use spin::Once;

use crate::bring_up::cpu_area;
use crate::cpu::descriptor::CpuTables;
use crate::cpu::exception::WAKE_VECTOR;
use crate::cpu::guest_mode::GuestMode;
use crate::cpu::registers;
use crate::hardware::Hardware;
use crate::virt::{EntryHooks, GuestModeHooks};

static PROTOCOL: Once<Shootdown<'static>> = Once::new();

/// Puts the protocol in place, and lets the boot CPU take part in it, once it is on the tables that it stays on.
///
/// # Panics
/// When it is in place already.
pub fn install(lines: &'static [CpuLine]) {
    PROTOCOL.call_once(|| Shootdown::new(lines));
    let joined = this_cpu().is_some_and(|cpu| cpu.announce() && cpu.join(&Hardware).is_ok());
    assert!(joined, "broken invariant: the boot CPU has joined already");
}

/// A CPU in the protocol; `None` when it has no line.
pub fn cpu(number: u32) -> Option<Cpu<'static>> {
    PROTOCOL.get()?.cpu(CpuIndex::new(number))
}

/// This CPU in the protocol; `None` before [`install`], and while the entry code's tables are in use.
pub fn this_cpu() -> Option<Cpu<'static>> {
    cpu(CpuTables::current()?.number())
}

/// What a CPU does; `None` when it has no line.
pub fn mode(number: u32) -> Option<Mode> {
    PROTOCOL.get()?.mode(CpuIndex::new(number))
}

/// Whether a CPU takes part.
fn takes_part(number: u32) -> bool {
    matches!(mode(number), Some(Mode::Host | Mode::Guest | Mode::Asleep))
}

/// The descriptor tables of a CPU that takes part.
pub fn tables(number: u32) -> Option<&'static CpuTables> {
    if !takes_part(number) {
        return None;
    }
    // SAFETY: a CPU takes part once it has made its tables.
    unsafe { cpu_area::tables_of(number) }
}

/// All CPUs that take part.
pub fn tables_of_all() -> impl Iterator<Item = &'static CpuTables> {
    (0..)
        .map_while(|number| mode(number).map(|_| number))
        .filter_map(tables)
}

/// All CPUs that take part, but for the one with this number.
pub fn others(number: u32) -> impl Iterator<Item = &'static CpuTables> {
    tables_of_all().filter(move |other| other.number() != number)
}

/// Answers requests for a shootdown that came meanwhile: for loops that wait with interrupts masked.
pub fn catch_up() {
    if let Some(cpu) = this_cpu().filter(|cpu| takes_part(cpu.index().get())) {
        cpu.catch_up(&Hardware);
    }
}

/// Runs `work`, an interrupt's handler, as in the host: before anything else this CPU flushes, if it owes a flush. A CPU that takes no part
/// yet flushes in any case.
pub fn visit(work: impl FnOnce()) {
    let cpu = this_cpu().filter(|cpu| takes_part(cpu.index().get()));
    match cpu.zip(CpuTables::current()) {
        Some((cpu, tables)) => tables.guest_mode().while_visited(|| {
            let _visit = cpu.visit(&Hardware);
            work();
        }),
        None => {
            crate::cpu::tlb::flush();
            work();
        }
    }
}

/// The handler of a shootdown's interrupt.
pub fn answer() {
    #[cfg(feature = "test-hooks")]
    crate::hooks::stress::signals::interrupt_taken();
    if let Some(tables) = CpuTables::current() {
        tables.guest_mode().interrupted();
    }
    if let Some(cpu) = this_cpu() {
        cpu.answer(&Hardware);
    }
}

/// Halts this CPU until an interrupt comes. Interrupts are masked before and after; one that came before wakes it at once.
pub fn doze() {
    registers::mask_interrupts();
    let Some(cpu) = this_cpu() else {
        registers::halt_for_ever()
    };
    cpu.sleep();
    // SAFETY: the descriptor tables are loaded since the CPU has joined; nothing is locked here. STI takes effect after the HLT has
    // begun, so no interrupt comes between the two (SDM vol. 2B, STI; APM vol. 3, STI). Handlers begin with `visit`.
    unsafe { asm!("sti", "hlt", "cli") };
    cpu.back(&Hardware);
}

/// Wakes a CPU that dozes.
pub fn wake(number: u32) {
    let apic = CpuTables::current().and_then(CpuTables::apic);
    if let (Some(apic), Some(target)) = (apic, tables(number)) {
        apic.send(target.apic_id(), WAKE_VECTOR);
    }
}

/// Gets a CPU out of its guest, if it is in one, and keeps it from entering one before it has looked at its requests
/// ([`CpuTables::take_request`]).
pub fn kick(target: &CpuTables) {
    target.request();
    // Before the mode is read: see the drawing above.
    fence(Ordering::SeqCst);
    if mode(target.number()) == Some(Mode::Guest)
        && let Some(apic) = CpuTables::current().and_then(CpuTables::apic)
    {
        target.count_kick();
        #[cfg(feature = "test-hooks")]
        if crate::hooks::is_set(boot_config::Hook::NoKick) {
            return;
        }
        apic.send_nmi(target.apic_id());
    }
}

/// Kicks so far, of all CPUs.
pub fn kicks() -> u64 {
    tables_of_all().map(CpuTables::kicks).sum()
}

/// Shootdown interrupts of all CPUs that concern guests: those sent to a CPU that was in one when it was looked at, of which there must be none,
/// and those that ended guest mode, because the CPU had entered a guest since.
pub fn interrupts_in_guests() -> (u64, u64) {
    let all = || tables_of_all().map(CpuTables::guest_mode);
    (
        all().map(GuestMode::misdirected).sum(),
        all().map(GuestMode::met).sum(),
    )
}

/// This CPU as others see it while it runs a vCPU: its mode, around guest mode, and for which change of the guest's second stage it has flushed.
pub struct Presence<'g> {
    guest: &'g GuestTlb,
    last: Cell<LastFlush>,
    inside: Cell<Option<Inside<'static>>>,
}

impl<'g> Presence<'g> {
    /// That of a CPU which is to run a vCPU of this guest, last flushed then.
    pub fn new(guest: &'g GuestTlb, last: LastFlush) -> Self {
        Self {
            guest,
            last: Cell::new(last),
            inside: Cell::new(None),
        }
    }

    /// When the vCPU was flushed last.
    pub fn last_flush(&self) -> LastFlush {
        self.last.get()
    }
}

impl EntryHooks for Presence<'_> {
    fn before_entry(&self) -> bool {
        let Some(cpu) = this_cpu() else {
            panic!("broken invariant: a guest runs on a CPU without a line in the shootdown protocol")
        };
        let inside = self.guest.enter(cpu, self.last.get());
        let flush = inside.must_flush();
        self.inside.set(Some(inside));
        flush
    }

    fn after_entry(&self, entered: bool) {
        if let Some(inside) = self.inside.take() {
            let mut last = self.last.get();
            inside.leave(&mut last, entered);
            self.last.set(last);
        }
    }

    fn let_interrupt_in(&self) {
        // SAFETY: guests run only after the descriptor tables are loaded; nothing is locked around an entry.
        let handle = || unsafe { registers::let_interrupts_in() };
        match CpuTables::current() {
            Some(tables) => tables.guest_mode().while_ended(handle),
            None => handle(),
        }
    }
}

impl GuestModeHooks for Presence<'_> {
    fn before_guest_mode(&self) {
        if let Some(cpu) = this_cpu() {
            cpu.enter_guest();
        }
        if let Some(tables) = CpuTables::current() {
            tables.guest_mode().enter();
        }
        // Before the request word is read, in the world switch: see the drawing above.
        fence(Ordering::SeqCst);
    }

    fn request_word(&self) -> *const u32 {
        static NONE: AtomicU32 = AtomicU32::new(0);
        CpuTables::current().map_or(NONE.as_ptr(), CpuTables::request_word)
    }

    fn after_guest_mode(&self) {
        if let Some(tables) = CpuTables::current() {
            tables.guest_mode().leave();
        }
        if let Some(cpu) = this_cpu() {
            cpu.back(&Hardware);
        }
    }
}
