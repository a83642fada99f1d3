//! Raises exceptions and catches them with an interrupt table of its own: those that the CPU gives a guest, and those that the
//! hypervisor gives it in place of an instruction that guests do not have.
#![no_std]
#![no_main]

use core::arch::x86_64::__cpuid;
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use guest_tests::hypercall::exit;
use guest_tests::registers::system::{enable_xsave, fault_registers};
use guest_tests::{LaunchInfo, launch, main, println};

launch!("memory=4M");
main!(run);

const DIVIDE: u64 = 0;
const DEBUG: u64 = 1;
const BREAKPOINT: u64 = 3;
const UNDEFINED: u64 = 6;
const PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
/// No exception came.
const NONE: u64 = u64::MAX;
/// DR6: a debug register was touched; a single step.
const ACCESS_DETECTED: u64 = 1 << 13;
const SINGLE_STEP: u64 = 1 << 14;

/// 32 gates of two words (Intel SDM vol. 3A, 6.14.1).
static GATES: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
/// Where a handler goes on; what it found: vector, error code, and the instruction pointer that was pushed.
static RESUME: AtomicU64 = AtomicU64::new(0);
static VECTOR: AtomicU64 = AtomicU64::new(NONE);
static ERROR: AtomicU64 = AtomicU64::new(NONE);
static PUSHED: AtomicU64 = AtomicU64::new(0);

/// Makes handlers: a vector each, and where the CPU pushes no error code, a zero for it.
macro_rules! handlers {
    ($($name:ident = $vector:literal, $error:literal;)*) => {
        $(
            /// # Safety
            /// Only for the interrupt table.
            #[unsafe(naked)]
            unsafe extern "sysv64" fn $name() {
                naked_asm!($error, concat!("push ", $vector), "jmp {}", sym common)
            }
        )*
        const HANDLERS: &[(usize, unsafe extern "sysv64" fn())] = &[$(($vector, $name)),*];
    };
}
handlers! {
    divide = 0, "push 0";
    debug = 1, "push 0";
    breakpoint = 3, "push 0";
    undefined = 6, "push 0";
    double = 8, "";
    protection = 13, "";
    page_fault = 14, "";
}

/// Notes what came and goes on at [`RESUME`], with no single step.
///
/// # Safety
/// Only for the handlers, which leave the vector on top of the CPU's frame.
#[unsafe(naked)]
unsafe extern "sysv64" fn common() {
    naked_asm!(
        "push rax",
        "mov rax, [rsp + 8]",
        "mov [rip + {vector}], rax",
        "mov rax, [rsp + 16]",
        "mov [rip + {error}], rax",
        "mov rax, [rsp + 24]",
        "mov [rip + {pushed}], rax",
        "mov rax, [rip + {resume}]",
        "mov [rsp + 24], rax",
        "and qword ptr [rsp + 40], ~0x100",
        "pop rax",
        "add rsp, 16",
        "iretq",
        vector = sym VECTOR,
        error = sym ERROR,
        pushed = sym PUSHED,
        resume = sym RESUME,
    )
}

/// Runs instructions, which may use RAX, RCX and RDX and the stack. Says what exception came, and whether it was `at` the last
/// instruction or after it: a fault or a trap.
macro_rules! attempt {
    ($($setup:literal,)* => $last:literal, $rax:expr, $rcx:expr) => {{
        VECTOR.store(NONE, Ordering::Relaxed);
        let (last, after): (u64, u64);
        // SAFETY: the last instruction raises an exception, after which all goes on behind it, or does what the caller wants; the
        // registers are given up.
        unsafe {
            asm!(
                "lea {after}, [rip + 3f]",
                "mov [rip + {resume}], {after}",
                "lea {last}, [rip + 2f]",
                "push rbx",
                $($setup,)*
                "2:",
                $last,
                "3:",
                "pop rbx",
                resume = sym RESUME,
                after = out(reg) after,
                last = out(reg) last,
                inout("rax") $rax => _,
                inout("rcx") $rcx => _,
                inout("rdx") 0_u64 => _,
            );
        }
        Caught { last, after }
    }};
}

/// Where the instruction was.
struct Caught {
    last: u64,
    after: u64,
}

impl Caught {
    fn is(&self, what: &str, vector: u64, error: u64, trap: bool) {
        let found = (
            VECTOR.load(Ordering::Relaxed),
            ERROR.load(Ordering::Relaxed),
            PUSHED.load(Ordering::Relaxed),
        );
        let wanted = (vector, error, if trap { self.after } else { self.last });
        if found != wanted {
            println!("{what}: vector, error code, address are {found:#x?}, should be {wanted:#x?}");
            exit(1);
        }
    }

    fn fault(&self, what: &str, vector: u64) {
        self.is(what, vector, 0, false);
    }

    fn trap(&self, what: &str, vector: u64) {
        self.is(what, vector, 0, true);
    }
}

fn run(_: &LaunchInfo) {
    load_table();
    let intel = __cpuid(0).ebx == u32::from_le_bytes(*b"Genu");

    attempt!(=> "ud2", 0_u64, 0_u64).fault("UD2", UNDEFINED);
    attempt!(=> "int3", 0_u64, 0_u64).trap("INT3", BREAKPOINT);
    attempt!(=> "div ecx", 1_u64, 0_u64).fault("a division by zero", DIVIDE);
    attempt!(=> "mov rax, [rcx]", 0_u64, 1_u64 << 45).fault("an unmapped address", PAGE_FAULT);
    check("CR2 has the address", fault_registers()[0] == 1 << 45);

    // What guests do not have.
    attempt!(=> "monitor", 0_u64, 0_u64).fault("MONITOR", UNDEFINED);
    attempt!(=> "mwait", 0_u64, 0_u64).fault("MWAIT", UNDEFINED);
    no_virtualization();
    attempt!(=> "rdpmc", 0_u64, 0_u64).fault("RDPMC", PROTECTION);

    // Values that control registers do not take.
    attempt!("mov rax, cr0", "btr rax, 31", => "mov cr0, rax", 0_u64, 0_u64)
        .fault("paging off in 64-bit code", PROTECTION);
    attempt!("mov rax, cr0", "bts rax, 29", => "mov cr0, rax", 0_u64, 0_u64)
        .fault("CR0.NW without CD", PROTECTION);
    // EFER, with a reserved bit.
    attempt!(=> "wrmsr", 0xffff_u64, 0xc000_0080_u64).fault("a bad EFER", PROTECTION);
    if enable_xsave() {
        attempt!(=> "xsetbv", 0_u64, 0_u64).fault("XCR0 without x87", PROTECTION);
    }

    // Single steps, over an instruction that the CPU does and one that the hypervisor does.
    let step = |caught: Caught, what| {
        caught.trap(what, DEBUG);
        check("DR6.BS is set", fault_registers()[1] & SINGLE_STEP != 0);
        clear_status();
    };
    step(
        attempt!("pushfq", "or qword ptr [rsp], 0x100", "popfq", => "nop", 0_u64, 0_u64),
        "a step over NOP",
    );
    step(
        attempt!("pushfq", "or qword ptr [rsp], 0x100", "popfq", => "cpuid", 0_u64, 0_u64),
        "a step over CPUID",
    );
    // General detect: DR7.GD is cleared by the #DB.
    attempt!("mov rax, dr7", "bts rax, 13", "mov dr7, rax", => "mov dr0, rcx", 0_u64, 0_u64)
        .fault("a touch of DR0 under DR7.GD", DEBUG);
    check("DR6.BD is set", fault_registers()[1] & ACCESS_DETECTED != 0);
    check("DR7.GD is clear", fault_registers()[2] & ACCESS_DETECTED == 0);
    clear_status();

    if intel {
        only_on_intel();
    }
    println!("exceptions come as they should");
}

/// Guests do not nest: the instructions of SVM and of VMX are undefined, but for VMMCALL and VMCALL, of which one is the hypercall.
fn no_virtualization() {
    macro_rules! undefined {
        ($($instruction:literal),* $(,)?) => {
            $(attempt!(=> $instruction, 0_u64, 0_u64).fault($instruction, UNDEFINED);)*
        };
    }
    // APM vol. 3, chapter 4.
    undefined!(
        "vmrun rax",
        "vmload rax",
        "vmsave rax",
        "stgi",
        "clgi",
        "skinit eax",
        "invlpga rax, ecx"
    );
    // SDM vol. 3C, chapter 31; memory operands lie on the stack, which the CPU does not come to read or write.
    undefined!(
        "vmxon [rsp]",
        "vmxoff",
        "vmclear [rsp]",
        "vmptrld [rsp]",
        "vmptrst [rsp]",
        "vmread rax, rcx",
        "vmwrite rax, rcx",
        "vmlaunch",
        "vmresume",
        "vmfunc",
        "invept rax, [rsp]",
        "invvpid rax, [rsp]",
    );
}

/// What QEMU's emulation of AMD's CPUs does not do (measured with 7.2): it does not intercept RDTSCP, hangs on a bad CR4, and knows neither
/// breakpoints nor INT1 in guests.
fn only_on_intel() {
    attempt!(=> "rdtscp", 0_u64, 0_u64).fault("RDTSCP", UNDEFINED);
    // VMXE, MCE and PCIDE are not offered.
    attempt!("mov rax, cr4", "bts rax, 13", => "mov cr4, rax", 0_u64, 0_u64).fault("CR4.VMXE", PROTECTION);
    attempt!("mov rax, cr4", "bts rax, 6", => "mov cr4, rax", 0_u64, 0_u64).fault("CR4.MCE", PROTECTION);
    attempt!("mov rax, cr4", "bts rax, 17", => "mov cr4, rax", 0_u64, 0_u64).fault("CR4.PCIDE", PROTECTION);
    attempt!(=> "mov cr8, rax", 16_u64, 0_u64).fault("CR8 above 15", PROTECTION);
    attempt!(=> ".byte 0xf1", 0_u64, 0_u64).trap("INT1", DEBUG);
    clear_status();
    // A breakpoint on execution in DR0, by DR7.G0.
    attempt!("lea rax, [rip + 2f]", "mov dr0, rax", "mov eax, 0x402", "mov dr7, rax", => "nop", 0_u64, 0_u64)
        .fault("a breakpoint", DEBUG);
    check("DR6.B0 is set", fault_registers()[1] & 1 != 0);
    // SAFETY: no breakpoint.
    unsafe { asm!("mov dr7, {}", in(reg) 0x400_u64, options(nomem, nostack)) };
    clear_status();
}

/// No event in DR6.
fn clear_status() {
    // SAFETY: DR6 only reports.
    unsafe { asm!("mov dr6, {}", in(reg) 0xffff_0ff0_u64, options(nomem, nostack)) };
}

fn check(what: &str, holds: bool) {
    if !holds {
        println!("not so: {what} (CR2, DR6, DR7: {:#x?})", fault_registers());
        exit(1);
    }
}

/// Fills the interrupt table and makes the CPU use it.
fn load_table() {
    /// Interrupt gate, present, privilege level 0; code segment 08H.
    const GATE: u64 = 0x8e00 << 32 | 0x08 << 16;
    for (vector, handler) in HANDLERS {
        let at = *handler as usize as u64;
        let low = at & 0xffff | GATE | (at >> 16 & 0xffff) << 48;
        GATES[2 * vector].store(low, Ordering::Relaxed);
        GATES[2 * vector + 1].store(at >> 32, Ordering::Relaxed);
    }
    /// What LIDT reads.
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer {
        limit: size_of_val(&GATES) as u16 - 1,
        base: GATES.as_ptr().addr() as u64,
    };
    // SAFETY: the table is complete for the exceptions that are raised here, and stays.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}
