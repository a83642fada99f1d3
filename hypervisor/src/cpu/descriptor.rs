//! The descriptor tables: GDT, TSS and IDT, one set for each CPU.
//!
//! The GDT is the first thing in [`CpuTables`], so GDTR leads from anywhere, an NMI included, to the CPU's own record: SVM and VMX
//! restore GDTR's base on every exit from a guest (APM vol. 2, 15.6; SDM vol. 3C, 27.5.2), which does not hold for the GS base under SVM.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memory::address::{Hpa, Hva};
use spin::Once;
use x86::Ring;
use x86::bits64::segmentation::{Descriptor64, load_cs};
use x86::bits64::task::TaskStateSegment;
use x86::dtables::{DescriptorTablePointer, lgdt, lidt, sgdt};
use x86::segmentation::{
    BuildDescriptor, DescriptorBuilder, GateDescriptorBuilder, SegmentSelector, load_ds, load_es, load_ss,
};
use x86::task::load_tr;

use super::apic::LocalApic;
use super::guest_mode::GuestMode;
use super::stack::{IstStacks, Stack};
use super::{exception, registers};
use crate::boot::image;

/// Selector of the 64-bit code segment.
pub const CODE_SELECTOR: u16 = 0x08;
/// Selector of the data segment.
pub const DATA_SELECTOR: u16 = 0x10;
/// Selector of the task state segment.
pub const TASK_SELECTOR: u16 = 0x18;

/// 64-bit code, present, accessed (SDM vol. 3A, 3.4.5; the CPU would write the accessed bit if it were clear).
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
/// Data, present, writable, accessed.
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

/// Places in the interrupt stack table, counted from 1 as in a gate (SDM vol. 3A, 6.14.5).
const IST_FAULT: u8 = 1;
const IST_NMI: u8 = 2;
const IST_MACHINE_CHECK: u8 = 3;
const IST_DOUBLE_FAULT: u8 = 4;

/// The tables of one CPU, and what its exception handlers need to know about it.
///
/// Page-aligned so that neither GDT nor TSS crosses a page. It must be mapped in every top-level table, at one place.
#[repr(C, align(4096))]
pub struct CpuTables {
    /// Null, code, data, and the two words of the task state segment.
    gdt: [u64; 5],
    tss: TaskStateSegment,
    idt: [Descriptor64; 256],
    ist: Option<IstStacks>,
    number: u32,
    main: Once<Stack>,
    apic: Once<LocalApic>,
    apic_id: AtomicU32,
    /// Its top-level table, once it has its own.
    root: AtomicU64,
    ticks: AtomicU64,
    /// Not 0: the CPU is to leave its guest, and not to enter one.
    request: AtomicU32,
    /// NMIs that other CPUs have sent to get it out of a guest, and how many of them its handler knows of. Two that come close together may
    /// be one to the CPU.
    kicks_sent: AtomicU64,
    kicks_seen: AtomicU64,
    /// Its times in guest mode, and whose interrupts came then.
    guest_mode: GuestMode,
    /// A [`Parked`].
    parked: AtomicU32,
    /// The ranks of the locks that it holds, a bit each; kept in debug builds.
    held: AtomicU32,
}

/// Whether a CPU works on nothing, and will not before it has looked whether all are stopped (`guests::stop`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Parked {
    /// It works on something.
    No,
    /// There is nothing to do for it.
    Resting,
    /// All are stopped, and it waits until they go on.
    Waiting,
}

/// First bytes of a CPU's tables.
#[derive(Clone, Copy, Debug)]
pub struct TableBases {
    /// The GDT.
    pub gdt: Hva,
    /// The IDT.
    pub idt: Hva,
    /// The task state segment.
    pub task: Hva,
}

impl CpuTables {
    /// Tables that nothing is in yet.
    /// `number` is the CPU's; the boot CPU's is 0.
    pub const fn new(number: u32) -> Self {
        Self {
            gdt: [0; 5],
            tss: TaskStateSegment::new(),
            idt: [Descriptor64::NULL; 256],
            ist: None,
            number,
            main: Once::new(),
            apic: Once::new(),
            apic_id: AtomicU32::new(0),
            root: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            request: AtomicU32::new(0),
            kicks_sent: AtomicU64::new(0),
            kicks_seen: AtomicU64::new(0),
            guest_mode: GuestMode::new(),
            parked: AtomicU32::new(Parked::Resting as u32),
            held: AtomicU32::new(0),
        }
    }

    /// Fills the tables and makes this CPU use them. Interrupts stay as they are; let them in only after the local APIC is set up.
    ///
    /// It may run again with other tables, for instance once there are stacks with guard pages; counters and the local APIC start
    /// anew then.
    pub fn load(&'static mut self, stacks: IstStacks) -> &'static Self {
        self.tss = TaskStateSegment::new();
        for (ist, stack) in [
            (IST_FAULT, stacks.fault),
            (IST_NMI, stacks.nmi),
            (IST_MACHINE_CHECK, stacks.machine_check),
            (IST_DOUBLE_FAULT, stacks.double_fault),
        ] {
            self.tss.set_ist(usize::from(ist) - 1, stack.top().get());
        }
        // No I/O permission map: its offset lies beyond the limit (SDM vol. 1, 19.5.2).
        self.tss.iomap_base = size_of::<TaskStateSegment>() as u16;
        self.ist = Some(stacks);

        let [task_low, task_high] = task_descriptor(&raw const self.tss);
        self.gdt = [0, CODE_DESCRIPTOR, DATA_DESCRIPTOR, task_low, task_high];
        for (vector, gate) in (0u8..=255).zip(self.idt.iter_mut()) {
            *gate = interrupt_gate(exception::stub(vector), ist_for(vector));
        }

        registers::with_interrupts_masked(|| {
            let gdt = DescriptorTablePointer::new(&self.gdt);
            let idt = DescriptorTablePointer::new(&self.idt);
            // SAFETY: the tables are complete and live for ever; the selectors name present descriptors of the right types; the task
            // state segment is available, as LTR wants, because its descriptor is new. The stubs handle every vector. LTR's
            // write of the busy bit happens while `self` is still exclusively ours.
            unsafe {
                lgdt(&gdt);
                load_cs(SegmentSelector::from_raw(CODE_SELECTOR));
                load_ss(SegmentSelector::from_raw(DATA_SELECTOR));
                load_ds(SegmentSelector::from_raw(DATA_SELECTOR));
                load_es(SegmentSelector::from_raw(DATA_SELECTOR));
                load_tr(SegmentSelector::from_raw(TASK_SELECTOR));
                lidt(&idt);
            }
        });
        self
    }

    /// The tables this CPU uses; `None` while it still uses the entry code's.
    pub fn current() -> Option<&'static Self> {
        let mut pointer: DescriptorTablePointer<u64> = DescriptorTablePointer::default();
        // SAFETY: SGDT stores ten bytes where we say.
        unsafe { sgdt(&mut pointer) };
        let base = pointer.base;
        if base.addr() as u64 == image::boot_gdt_address().get() {
            return None;
        }
        let tables = core::ptr::with_exposed_provenance::<Self>(base.addr());
        // SAFETY: besides the entry code only `load` sets GDTR, to the start of a `CpuTables` that lives for ever and is only shared
        // from then on; `gdt` stands at offset 0.
        Some(unsafe { &*tables })
    }

    /// Where the tables are, for what loads them again.
    pub fn bases(&self) -> TableBases {
        let at = |address: usize| Hva::new(address as u64);
        TableBases {
            gdt: at((&raw const self.gdt).addr()),
            idt: at((&raw const self.idt).addr()),
            task: at((&raw const self.tss).addr()),
        }
    }

    /// Tells which stack the CPU ordinarily runs on, so that backtraces may follow it. Only the first call counts.
    pub fn set_main_stack(&self, stack: Stack) {
        self.main.call_once(|| stack);
    }

    /// Gives the handlers the local APIC, which they need for end-of-interrupt. Only the first call counts.
    pub fn set_apic(&self, apic: LocalApic) {
        self.apic_id.store(apic.id(), Ordering::Relaxed);
        self.apic.call_once(|| apic);
    }

    /// The local APIC, once it was given.
    pub fn apic(&self) -> Option<&LocalApic> {
        self.apic.get()
    }

    /// The CPU's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Timer interrupts so far.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Its local APIC's id, for others that send it something.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Notes the top-level table that this CPU uses, which must be the one that it stays with. To be called on the CPU itself.
    pub fn note_root(&self) {
        self.root.store(registers::read_cr3(), Ordering::Relaxed);
    }

    /// The top-level table that the CPU uses.
    pub fn root(&self) -> Hpa {
        Hpa::new(self.root.load(Ordering::Relaxed))
    }

    /// Asks the CPU to leave its guest and to look around. Others call it; `presence::kick` does the rest.
    pub fn request(&self) {
        // Release: what it is to find was written before.
        self.request.store(1, Ordering::Release);
    }

    /// Whether it was asked.
    pub fn is_requested(&self) -> bool {
        self.request.load(Ordering::Acquire) != 0
    }

    /// Takes the request, if there is one; the CPU looks around after this.
    pub fn take_request(&self) {
        self.request.swap(0, Ordering::AcqRel);
    }

    /// The request word, for the world switch.
    pub fn request_word(&self) -> *const u32 {
        self.request.as_ptr()
    }

    /// Another CPU sends it an NMI.
    pub fn count_kick(&self) {
        self.kicks_sent.fetch_add(1, Ordering::AcqRel);
    }

    /// Kicks sent to it so far.
    pub fn kicks(&self) -> u64 {
        self.kicks_sent.load(Ordering::Acquire)
    }

    /// Whether an NMI that has come is a kick.
    pub(super) fn take_kick(&self) -> bool {
        let sent = self.kicks_sent.load(Ordering::Acquire);
        self.kicks_seen.swap(sent, Ordering::AcqRel) != sent
    }

    /// Its times in guest mode.
    pub fn guest_mode(&self) -> &GuestMode {
        &self.guest_mode
    }

    /// Whether it works on nothing.
    pub fn parked(&self) -> Parked {
        match self.parked.load(Ordering::Acquire) {
            0 => Parked::No,
            1 => Parked::Resting,
            _ => Parked::Waiting,
        }
    }

    /// Says whether it works on nothing.
    pub fn set_parked(&self, parked: Parked) {
        // Release: what it worked on was done before.
        self.parked.store(parked as u32, Ordering::Release);
    }

    /// The ranks of the locks that it holds.
    pub fn held(&self) -> &AtomicU32 {
        &self.held
    }

    pub(super) fn count_tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// The known stack that holds `bytes` bytes at `address`.
    pub fn stack_of(&self, address: Hva, bytes: u64) -> Option<Stack> {
        let ist = self
            .ist
            .as_ref()
            .map(|ist| [ist.fault, ist.nmi, ist.machine_check, ist.double_fault]);
        let main = self.main.get().copied();
        ist.into_iter()
            .flatten()
            .chain(main)
            .find(|stack| stack.contains(address, bytes))
    }
}

/// The 16-byte descriptor of an available 64-bit task state segment (SDM vol. 3A, 7.2.3).
fn task_descriptor(tss: *const TaskStateSegment) -> [u64; 2] {
    let base = tss.addr() as u64;
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    let low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

fn interrupt_gate(entry: Hva, ist: u8) -> Descriptor64 {
    let code = SegmentSelector::from_raw(CODE_SELECTOR);
    <DescriptorBuilder as GateDescriptorBuilder<u64>>::interrupt_descriptor(code, entry.get())
        .dpl(Ring::Ring0)
        .present()
        .ist(ist)
        .finish()
}

/// Exceptions run on stacks of their own, so that a fault says what it was even when the stack is what is wrong. Interrupts
/// run on the stack they find.
fn ist_for(vector: u8) -> u8 {
    match vector {
        x86::irq::NONMASKABLE_INTERRUPT_VECTOR => IST_NMI,
        x86::irq::DOUBLE_FAULT_VECTOR => IST_DOUBLE_FAULT,
        x86::irq::MACHINE_CHECK_VECTOR => IST_MACHINE_CHECK,
        0..exception::EXCEPTIONS => IST_FAULT,
        _ => 0,
    }
}
