//! The Lacuna hypervisor: bring-up, in the order things happen.
//!
//! 1. On the early tables ([`rust_entry`]): console, descriptor tables, CPU features, what the loader and the firmware say.
//! 2. [`bring_up`]: RAM, page tables of our own, a stack with a guard page.
//! 3. On our own tables ([`on_own_tables`]): frame records, timer, virtualization, the independent walker's record of the boot.
//! 4. [`guests`]: launch, run, take down; [`checks`] at every step; the report ([`reporting`]); the verdict. Or the benchmark (`bench`) instead.
#![no_std]
#![no_main]

mod bench;
mod boot;
mod bring_up;
mod checks;
mod console;
mod cpu;
mod describe;
mod frames;
mod guests;
mod hardware;
#[cfg(feature = "test-hooks")]
mod hooks;
mod lock;
mod magazines;
mod measure;
mod presence;
mod reporting;
mod shared;
mod tracing;
mod virt;

use boot_config::{Config, Hook};
use guest_image::Archive;
use memory::address::{Hpa, Hva, Level, Pfn};
use memory::window::Windows;
use spin::{Mutex, MutexGuard, Once};

use boot::acpi::Platform;
use boot::info::BootInfo;
use boot::{acpi, image};
use bring_up::cpu_area::{self, CpuArea};
use bring_up::newcomer::{Common, Control};
use bring_up::other_cpus::Starter;
use bring_up::ram::Ram;
use bring_up::tables::BootTables;
use bring_up::{archive, records, switch, tables};
use checks::Checks;
use console::ExitCode;
use cpu::apic::LocalApic;
use cpu::descriptor::CpuTables;
use cpu::fault_report::set_address_describer;
use cpu::features::{Features, Vendor};
use cpu::mtrr::Caching;
use cpu::stack::{IstStacks, Stack, StackMemory};
use cpu::timer::{self, Calibration, Clock};
use cpu::{apic as local_apic, mtrr, pic, registers};
use frames::FrameBox;
use guests::{Report, Worker, World, WorldError};
use measure::Measurer;
use reporting::{Moment, Reporter};
use virt::Backend;
use virt::svm::Svm;
use virt::vmx::Vmx;

/// Bytes of each exception stack on the early tables. A fault report takes 6,160 of them (measured in a release build: page fault,
/// with describer and JSON verdict).
const IST_STACK_BYTES: usize = 16 * 1024;
/// Number of the boot CPU.
const BOOT_CPU: u32 = 0;

static TABLES: Mutex<CpuTables> = Mutex::new(CpuTables::new(BOOT_CPU));
static STACKS: [Mutex<StackMemory<IST_STACK_BYTES>>; 4] = [const { Mutex::new(StackMemory::new()) }; 4];

/// Takes a static value for good. Each is taken once, at the start.
fn take<T>(value: &'static Mutex<T>) -> &'static mut T {
    MutexGuard::leak(value.lock())
}

fn take_stack(number: usize) -> Stack {
    take(&STACKS[number]).as_stack()
}

/// Ends the run: this machine or this configuration cannot do it, or a thing that was asked for is missing.
macro_rules! refuse {
    ($($argument:tt)*) => { console::finish(ExitCode::Refused, format_args!($($argument)*)) };
}

/// What is known when our own tables come into use.
struct Known {
    info: BootInfo,
    features: Features,
    platform: Option<Platform>,
    ram: Ram,
    /// A frame for the trampoline, where there are other CPUs.
    trampoline: Option<Pfn>,
    tables: BootTables,
    area: CpuArea,
}

/// Where the entry code leads: long mode, early tables, boot stack, interrupts masked.
// SAFETY: the name is this project's own and defined once.
#[unsafe(no_mangle)]
extern "C" fn rust_entry(magic: u32, at: u64) -> ! {
    timer::mark_entry();
    console::init();
    println!("Lacuna {} ({})", env!("CARGO_PKG_VERSION"), env!("LACUNA_COMMIT"));
    let stacks = IstStacks {
        fault: take_stack(0),
        nmi: take_stack(1),
        machine_check: take_stack(2),
        double_fault: take_stack(3),
    };
    take(&TABLES).load(stacks).set_main_stack(image::boot_stack());
    let features = Features::detect();
    registers::enable_protections(&features);

    // SAFETY: the early tables are active and nothing allocates memory yet.
    let info = match unsafe { boot::read(magic, Hpa::new(at)) } {
        Ok(info) => info,
        Err(error) => refuse!("{error}"),
    };
    // Told early: a mistake there should not wait for the rest.
    if let Err(error) = Config::parse(&info.command_line) {
        refuse!("{error}");
    }
    #[cfg(not(feature = "test-hooks"))]
    if let Ok(Config { test: Some(hook), .. }) = Config::parse(&info.command_line) {
        refuse!("test={hook} needs a test build: build the package hypervisor with --features test-hooks");
    }
    #[cfg(not(feature = "test-hooks"))]
    if let Ok(Config { stress: Some(_), .. }) = Config::parse(&info.command_line) {
        refuse!("stress= needs a test build: build the package hypervisor with --features test-hooks");
    }
    if !features.nx {
        refuse!("this CPU has no no-execute pages: run QEMU with `-cpu max` or `-cpu host`, not with nx=off");
    }
    let platform = match acpi::read(info.early_memory(), info.rsdp) {
        Ok(platform) => Some(platform),
        Err(error) => {
            println!("ACPI: {error}; going on with the boot CPU alone");
            None
        }
    };
    let apic = platform
        .as_ref()
        .map_or_else(local_apic::base_from_msr, |platform| platform.local_apic);

    let types = mtrr::read(&features);
    let mut ram = match Ram::new(&info, types.as_ref()) {
        Ok(ram) => ram,
        Err(error) => refuse!("{error}"),
    };
    let trampoline = if cpus_found(platform.as_ref()) > 1 {
        ram.take_trampoline()
            .map_err(|error| println!("{error}; going on with the boot CPU alone"))
            .ok()
    } else {
        None
    };
    let largest = if features.gigabyte_pages {
        Level::L3
    } else {
        Level::L2
    };
    let Some(area) = CpuArea::new(BOOT_CPU.into()) else {
        refuse!("there is no room for a CPU's stacks")
    };
    let cpus = cpus_found(platform.as_ref());
    let tables = match tables::build(&mut ram, largest, area, apic, cpus) {
        Ok(tables) => tables,
        Err(error) => refuse!("{error}"),
    };
    // SAFETY: the tables map the image as it is linked, stack included, and all RAM at its place.
    unsafe { switch::use_tables(tables.cpu_root) };
    // SAFETY: the area is mapped in the shared part of the tables, and this is the only use of its main stack.
    let stack = unsafe { area.main_stack() };
    let known = Known {
        info,
        features,
        platform,
        ram,
        trampoline,
        tables,
        area,
    };
    // SAFETY: the stack is mapped and unused.
    unsafe { switch::continue_on(stack, known, on_own_tables) }
}

/// Goes on with our own tables and a stack with a guard page.
extern "C" fn on_own_tables(known: *const Known) -> ! {
    // SAFETY: `continue_on` passes a value that waits on the boot stack and is read once.
    let Known {
        info,
        features,
        platform,
        mut ram,
        trampoline,
        tables,
        area,
    } = unsafe { known.read() };
    let BootTables {
        shared_root,
        cpu_root,
        windows,
        apic: apic_registers,
    } = tables;
    // SAFETY: the area is mapped for good, and this is the only use of its exception stacks and tables.
    let cpu = unsafe { area.make_tables().load(area.exception_stacks()) };
    // SAFETY: as above; it is the stack we are on.
    cpu.set_main_stack(unsafe { area.main_stack() });
    cpu.note_root();
    set_address_describer(describe::address);

    // SAFETY: the tables in use map the lines for as many, and this runs once.
    presence::install(unsafe { cpu_area::make_lines(cpus_found(platform.as_ref())) });
    // SAFETY: our own tables are in use since `rust_entry`, and this runs once.
    match unsafe { records::make(&mut ram, shared_root) } {
        Ok(memory) => frames::install(memory),
        Err(error) => refuse!("{error}"),
    }
    // All CPUs read both for the rest of the run.
    let info: &'static BootInfo = for_good(info);
    let config: &'static Config<'static> = match Config::parse(&info.command_line) {
        Ok(config) => for_good(config),
        Err(error) => refuse!("{error}"),
    };
    #[cfg(feature = "test-hooks")]
    if let Some(hook) = config.test {
        hooks::set(hook);
    }

    pic::mask();
    // SAFETY: the page is mapped uncacheable and writable for good, and this is the only `LocalApic` of this CPU.
    cpu.set_apic(unsafe { LocalApic::enable(&features, apic_registers) });
    let Some(apic) = cpu.apic() else {
        refuse!("the local APIC could not be set up")
    };
    let calibration = match timer::calibrate(apic) {
        Ok(calibration) => calibration,
        Err(error) => refuse!("{error}"),
    };

    let ready = Ready {
        info,
        features,
        platform,
        ram,
        trampoline,
        config,
        shared_root,
        cpu_root,
        windows,
        apic_registers,
        tables: cpu,
        apic,
        calibration,
    };
    match ready.features.vendor {
        Vendor::Intel => run_guests::<Vmx>(ready),
        Vendor::Amd | Vendor::Other => run_guests::<Svm>(ready),
    }
}

/// Puts a value where every CPU may use it for ever.
fn for_good<T>(value: T) -> &'static T {
    match FrameBox::new(value) {
        Ok(value) => value.leak(),
        Err(error) => refuse!("{error}"),
    }
}

/// What is known when guests can come.
struct Ready {
    info: &'static BootInfo,
    features: Features,
    platform: Option<Platform>,
    ram: Ram,
    trampoline: Option<Pfn>,
    config: &'static Config<'static>,
    shared_root: Pfn,
    cpu_root: Pfn,
    windows: Windows,
    apic_registers: Hva,
    tables: &'static CpuTables,
    apic: &'static LocalApic,
    calibration: Calibration,
}

/// Switches virtualization on, on every CPU, and runs everything that was asked for.
fn run_guests<B: Backend>(ready: Ready) -> ! {
    let Ready {
        info,
        features,
        platform,
        ram,
        trampoline,
        config,
        shared_root,
        cpu_root,
        windows,
        apic_registers,
        tables,
        apic,
        calibration,
    } = ready;
    let found = match B::detect() {
        Ok(found) => found,
        Err(error) => refuse!("{error}"),
    };
    let capabilities = B::capabilities(&found);
    let backend = match B::new(found) {
        Ok(backend) => backend,
        Err(error) => refuse!("{error}"),
    };
    let virtual_cpu = match backend.enable(BOOT_CPU) {
        Ok(virtual_cpu) => virtual_cpu,
        Err(error) => refuse!("{error}"),
    };
    let clock = Clock::new(calibration);
    let common: &'static Common<B> = for_good(Common {
        caching: Caching::read(&features),
        control: Control::read(),
        apic: apic_registers,
        features,
        backend,
        world: Once::new(),
    });
    let (features, backend) = (&common.features, &common.backend);
    let cpus_used = match (platform.as_ref(), trampoline) {
        (Some(platform), Some(page)) => {
            let starter = Starter {
                page,
                shared_root,
                common,
                apic,
                clock: &clock,
                forget_last: cfg!(feature = "test-hooks") && config.test == Some(Hook::SilentCpu),
            };
            // SAFETY: this is the boot CPU, the page was taken for this, and it happens once.
            unsafe { starter.start(platform) }
        }
        _ => 1,
    };
    let cpus = (cpus_found(platform.as_ref()), cpus_used);
    reporting::start::say(info, features, cpus, &ram, config, &capabilities);
    let kind = backend.second_stage();
    frames::with_memory(|memory| {
        memory.allow_large_guest_leaves(backend.large_guest_leaves());
        memory.set_guest_address_bits(vcpu_policy::cpuid::guest_address_bits(
            &raw_cpuid::CpuIdReaderNative,
        ));
        memory.set_cache(config.cache);
    });
    if let Err(error) = tracing::start(config.trace, cpus.0 as usize) {
        refuse!("the trace: {error}");
    }
    let checks = match Checks::new(&ram.map, cpu_root, features.physical_address_bits, kind) {
        Ok(checks) => checks,
        Err(error) => refuse!("{error}"),
    };
    let measurer = match config
        .measure
        .then(|| Measurer::new(config, calibration.tsc_hz))
        .transpose()
    {
        Ok(measurer) => measurer,
        Err(error) => refuse!("measure=tlb: {error}"),
    };
    if let Some(bytes) = config.bench {
        let mut windows = windows;
        match bench::run(config, bytes, &mut windows, &checks, measurer) {
            Ok(()) => console::finish(ExitCode::Pass, format_args!("")),
            Err(error) => refuse!("the benchmark: {error}"),
        }
    }
    #[cfg(feature = "test-hooks")]
    let mut windows = windows;
    #[cfg(feature = "test-hooks")]
    if config.test == Some(Hook::Pool) && hooks::pool::try_all(&mut windows, &checks) > 0 {
        console::finish(ExitCode::Fail, format_args!("the pool does not do what it must"));
    }
    #[cfg(feature = "test-hooks")]
    if config.test == Some(Hook::HostAccess)
        && hooks::host_access::try_all(backend.second_stage(), &mut windows) > 0
    {
        console::finish(
            ExitCode::Fail,
            format_args!("hidden memory was accessed, or a fault was not named"),
        );
    }
    let archive: &'static Archive<'static> = match archive::open(info, &ram) {
        Ok(archive) => for_good(archive),
        Err(error) => refuse!("{error}"),
    };
    let reporter = Reporter::new(config, checks.blocks(), ram.mib(), measurer);
    let report = Report { checks, reporter };
    let world = World::new(config, archive, backend, calibration, clock, cpus.0, report);
    let world: &'static World<B> = match world {
        Ok(world) => for_good(world),
        Err(WorldError::Missing(name)) => refuse!(
            "there is no guest `{name}` in the archive{}",
            archive::Instead { name, archive }
        ),
        Err(WorldError::OutOfMemory(error)) => refuse!("{error}"),
    };
    #[cfg(feature = "test-hooks")]
    if let Err(error) = hooks::stress::start(config, cpus.0) {
        refuse!("the stress: {error}");
    }
    world.look(|report, guests| {
        report.checks.count_free();
        report.reporter.moment(Moment::Boot, &mut report.checks, guests);
    });
    common.world.call_once(|| world);
    for other in presence::others(BOOT_CPU) {
        presence::wake(other.number());
    }
    let Some(mut worker) = Worker::new(world, virtual_cpu, windows, tables) else {
        refuse!("the local APIC could not be set up")
    };
    worker.run();
    match worker.finish() {
        None => console::finish(ExitCode::Pass, format_args!("")),
        Some(reason) => console::finish(ExitCode::Fail, format_args!("{reason}")),
    }
}

/// CPUs that the firmware lists as usable.
fn cpus_found(platform: Option<&Platform>) -> u32 {
    platform.map_or(1, |platform| {
        platform.cpus.iter().filter(|cpu| cpu.enabled).count() + platform.more_cpus
    }) as u32
}
