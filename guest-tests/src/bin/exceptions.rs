//! Raises exceptions and catches them: those that the CPU gives a guest, and those that the
//! hypervisor gives it in place of an instruction that guests do not have.
#![no_std]
#![no_main]

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use guest_tests::exceptions::vector::{BREAKPOINT, DEBUG, DIVIDE, PAGE_FAULT, PROTECTION, UNDEFINED};
use guest_tests::exceptions::{Attempt, catch};
use guest_tests::hypercall::exit;
use guest_tests::registers::system::{enable_xsave, fault_registers};
use guest_tests::{LaunchInfo, attempt, launch, main, println};

launch!("memory=4M");
main!(run);

/// DR6: a debug register was touched; a single step.
const ACCESS_DETECTED: u64 = 1 << 13;
const SINGLE_STEP: u64 = 1 << 14;

fn run(_: &LaunchInfo) {
    catch();
    let intel = __cpuid(0).ebx == u32::from_le_bytes(*b"Genu");

    attempt!(=> "ud2", 0, 0).fault("UD2", UNDEFINED);
    attempt!(=> "int3", 0, 0).trap("INT3", BREAKPOINT);
    attempt!(=> "div ecx", 1, 0).fault("a division by zero", DIVIDE);
    attempt!(=> "mov rax, [rcx]", 0, 1 << 45).fault("an unmapped address", PAGE_FAULT);
    check("CR2 has the address", fault_registers()[0] == 1 << 45);

    // What guests do not have.
    attempt!(=> "monitor", 0, 0).fault("MONITOR", UNDEFINED);
    attempt!(=> "mwait", 0, 0).fault("MWAIT", UNDEFINED);
    no_virtualization();
    attempt!(=> "rdpmc", 0, 0).fault("RDPMC", PROTECTION);

    // Values that control registers do not take.
    attempt!("mov rax, cr0", "btr rax, 31", => "mov cr0, rax", 0, 0)
        .fault("paging off in 64-bit code", PROTECTION);
    attempt!("mov rax, cr0", "bts rax, 29", => "mov cr0, rax", 0, 0).fault("CR0.NW without CD", PROTECTION);
    // VMXE, MCE and PCIDE are not offered.
    attempt!("mov rax, cr4", "bts rax, 13", => "mov cr4, rax", 0, 0).fault("CR4.VMXE", PROTECTION);
    attempt!("mov rax, cr4", "bts rax, 6", => "mov cr4, rax", 0, 0).fault("CR4.MCE", PROTECTION);
    attempt!("mov rax, cr4", "bts rax, 17", => "mov cr4, rax", 0, 0).fault("CR4.PCIDE", PROTECTION);
    // EFER, with a reserved bit.
    attempt!(=> "wrmsr", 0xffff, 0xc000_0080).fault("a bad EFER", PROTECTION);
    if enable_xsave() {
        attempt!(=> "xsetbv", 0, 0).fault("XCR0 without x87", PROTECTION);
    }

    // Single steps, over an instruction that the CPU does and one that the hypervisor does.
    let step = |caught: Attempt, what| {
        caught.trap(what, DEBUG);
        check("DR6.BS is set", fault_registers()[1] & SINGLE_STEP != 0);
        clear_status();
    };
    step(
        attempt!("pushfq", "or qword ptr [rsp], 0x100", "popfq", => "nop", 0, 0),
        "a step over NOP",
    );
    step(
        attempt!("pushfq", "or qword ptr [rsp], 0x100", "popfq", => "cpuid", 0, 0),
        "a step over CPUID",
    );
    // General detect: DR7.GD is cleared by the #DB.
    attempt!("mov rax, dr7", "bts rax, 13", "mov dr7, rax", => "mov dr0, rcx", 0, 0)
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
            $(attempt!(=> $instruction, 0, 0).fault($instruction, UNDEFINED);)*
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
        "invlpga rax, ecx",
        // SNP and its kin: PVALIDATE, RMPADJUST, RMPUPDATE, PSMASH; INVLPGB, TLBSYNC; MONITORX, MWAITX; RDPRU.
        ".byte 0xf2, 0x0f, 0x01, 0xff",
        ".byte 0xf3, 0x0f, 0x01, 0xfe",
        ".byte 0xf2, 0x0f, 0x01, 0xfe",
        ".byte 0xf3, 0x0f, 0x01, 0xff",
        ".byte 0x0f, 0x01, 0xfe",
        ".byte 0x0f, 0x01, 0xff",
        ".byte 0x0f, 0x01, 0xfa",
        ".byte 0x0f, 0x01, 0xfb",
        ".byte 0x0f, 0x01, 0xfd",
        // System management, which the guest is not in.
        "rsm"
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
        // TDCALL, SEAMCALL, SEAMRET, SEAMOPS; GETSEC; ENCLS, ENCLU, ENCLV; PCONFIG; INVPCID, XSAVES; ENQCMDS.
        ".byte 0x66, 0x0f, 0x01, 0xcc",
        ".byte 0x66, 0x0f, 0x01, 0xcf",
        ".byte 0x66, 0x0f, 0x01, 0xcd",
        ".byte 0x66, 0x0f, 0x01, 0xce",
        ".byte 0x0f, 0x37",
        ".byte 0x0f, 0x01, 0xcf",
        ".byte 0x0f, 0x01, 0xd7",
        ".byte 0x0f, 0x01, 0xc0",
        ".byte 0x0f, 0x01, 0xc5",
        "invpcid rax, [rsp]",
        "xsaves [rsp]",
        ".byte 0xf3, 0x0f, 0x38, 0xf8, 0x04, 0x24",
    );
    // The hypercall of the other vendor's CPUs. Where KVM is below, it may put the right instruction in its place (its quirk
    // KVM_X86_QUIRK_FIX_HYPERCALL_INSN; seen with nested-amd): then it is a call of number 0, which there is not.
    let other = if __cpuid(0).ebx == u32::from_le_bytes(*b"Genu") {
        attempt!(=> "vmmcall", 0, 0)
    } else {
        attempt!(=> "vmcall", 0, 0)
    };
    if other.exception.is_some() {
        other.fault("the other vendor's hypercall", UNDEFINED);
    }
}

/// What QEMU's emulation of AMD's CPUs does not do (measured with 7.2): it does not intercept RDTSCP, takes TPAUSE and UMWAIT for something
/// else, takes any CR8, and knows neither breakpoints nor INT1 in guests.
fn only_on_intel() {
    attempt!(=> "rdtscp", 0, 0).fault("RDTSCP", UNDEFINED);
    attempt!(=> ".byte 0x66, 0x0f, 0xae, 0xf0", 0, 0).fault("TPAUSE", UNDEFINED);
    attempt!(=> ".byte 0xf2, 0x0f, 0xae, 0xf0", 0, 0).fault("UMWAIT", UNDEFINED);
    attempt!(=> "mov cr8, rax", 16, 0).fault("CR8 above 15", PROTECTION);
    attempt!(=> ".byte 0xf1", 0, 0).trap("INT1", DEBUG);
    clear_status();
    // A breakpoint on execution in DR0, by DR7.G0.
    attempt!("lea rax, [rip + 2f]", "mov dr0, rax", "mov eax, 0x402", "mov dr7, rax", => "nop", 0, 0)
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
