//! The Lacuna hypervisor: bring-up, in the order things happen.
#![no_std]
#![no_main]

mod boot;
mod console;
mod cpu;

use memory::address::{Hpa, Hva};
use memory::layout::{DIRECT_MAP_BASE, IMAGE_BASE};
use spin::{Mutex, MutexGuard};

use boot::acpi::Platform;
use boot::info::BootInfo;
use boot::{acpi, image, pvh};
use console::ExitCode;
use cpu::apic::LocalApic;
use cpu::descriptor::CpuTables;
use cpu::features::Features;
use cpu::stack::{IstStacks, Stack, StackMemory};
use cpu::timer::{self, Clock, Timer};
use cpu::{apic as local_apic, pic, registers};

/// Bytes of each exception stack. A fault report was measured to take 1.9 KiB without a describer.
const IST_STACK_BYTES: usize = 16 * 1024;

static TABLES: Mutex<CpuTables> = Mutex::new(CpuTables::new());
static STACKS: [Mutex<StackMemory<IST_STACK_BYTES>>; 4] = [const { Mutex::new(StackMemory::new()) }; 4];

/// Takes a static value for good. Each is taken once, at the start.
fn take<T>(value: &'static Mutex<T>) -> &'static mut T {
    MutexGuard::leak(value.lock())
}

fn take_stack(number: usize) -> Stack {
    take(&STACKS[number]).as_stack()
}

/// Where the entry code leads: long mode, early tables, boot stack, interrupts masked.
// SAFETY: the name is this project's own and defined once.
#[unsafe(no_mangle)]
extern "C" fn rust_entry(start_info: u64) -> ! {
    console::init();
    println!("Lacuna {} ({})", env!("CARGO_PKG_VERSION"), env!("LACUNA_COMMIT"));

    let stacks = IstStacks {
        fault: take_stack(0),
        nmi: take_stack(1),
        machine_check: take_stack(2),
        double_fault: take_stack(3),
    };
    let cpu = take(&TABLES).load(stacks);
    cpu.set_main_stack(image::boot_stack());

    let features = Features::detect();
    let protections = registers::enable_protections(&features);
    println!(
        "CPU: {} ({:?}), protections: {protections}",
        features.brand, features.vendor
    );
    println!("{features:?}");
    for section in image::sections() {
        println!(
            "image {:6} at {} + {:#x}",
            section.name,
            section.hpa(),
            section.bytes()
        );
    }

    // SAFETY: the early tables are active and nothing allocates memory yet.
    let info = match unsafe { pvh::read(Hpa::new(start_info)) } {
        Ok(info) => info,
        Err(error) => console::finish(ExitCode::Refused, format_args!("{error}")),
    };
    show_boot_info(&info);
    let apic_base = match acpi::read(info.early_memory(), info.rsdp) {
        Ok(platform) => {
            show_platform(&platform);
            platform.local_apic
        }
        Err(error) => {
            println!("ACPI: {error}; going on with the boot CPU alone");
            local_apic::base_from_msr()
        }
    };

    pic::mask();
    let Some(registers) = DIRECT_MAP_BASE.checked_add(apic_base.get()) else {
        console::finish(
            ExitCode::Refused,
            format_args!("the local APIC's address makes no sense: {apic_base}"),
        )
    };
    show_timer(cpu, &features, registers);
    console::finish(ExitCode::Pass, format_args!(""))
}

fn show_boot_info(info: &BootInfo) {
    println!("loader {}, command line \"{}\"", info.loader, info.command_line);
    for range in info.firmware_map() {
        println!(
            "memory {:#014x} + {:#014x} {:?}",
            range.start.get(),
            range.bytes,
            range.kind
        );
    }
    for range in &info.keep {
        println!(
            "keep   {:#014x} + {:#014x} {}",
            range.start.get(),
            range.bytes,
            range.what
        );
    }
    println!(
        "module {:?}, rsdp {:?}, image at {IMAGE_BASE}",
        info.module, info.rsdp
    );
}

fn show_platform(platform: &Platform) {
    println!(
        "local APIC at {}, {} CPUs, {} more",
        platform.local_apic,
        platform.cpus.len(),
        platform.more_cpus
    );
    for cpu in &platform.cpus {
        println!(
            "  CPU with APIC id {}{}",
            cpu.apic_id,
            if cpu.enabled { "" } else { ", disabled" }
        );
    }
}

fn show_timer(cpu: &'static CpuTables, features: &Features, registers: Hva) {
    // SAFETY: the early direct map shows the APIC page, uncacheable by MTRR; this is the only user.
    cpu.set_apic(unsafe { LocalApic::enable(features, registers) });
    let Some(apic) = cpu.apic() else { return };
    println!("local APIC id {}, x2APIC: {}", apic.id(), apic.is_x2apic());
    let calibration = match timer::calibrate(apic) {
        Ok(calibration) => calibration,
        Err(error) => console::finish(ExitCode::Refused, format_args!("{error}")),
    };
    println!("{calibration:?}");
    let clock = Clock::new(calibration);
    let timer = Timer::new(apic, calibration);
    timer.start_slice(5_000);
    let start = clock.now_us();
    while cpu.ticks() == 0 && clock.now_us() < start + 1_000_000 {
        // SAFETY: the tables are loaded, and nothing is held.
        unsafe { registers::wait_for_interrupt() };
    }
    timer.stop();
    println!(
        "a slice of 5000 us took {} us, {} tick",
        clock.now_us() - start,
        cpu.ticks()
    );
}
