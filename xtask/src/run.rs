//! `cargo xtask run`: everything from an empty machine to a verdict.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::archive::{self, Guest};
use crate::build::{self, Flavor};
use crate::cli;
use crate::emulator::{self, Record, Watch, file};
use crate::folder::{Folder, RUNS};
use crate::keyboard::Typed;
use crate::machine::{Kind, Machine, Ram};
use crate::medium::Boot;
use crate::perf::Stat;
use crate::preflight::{self, Choice, Host};
use crate::verdict::Outcome;
use crate::{Failure, gdb, guests, nested, report, setup, symbolise, workspace};

/// How many of the last lines of the serial log are shown after a failure.
const TAIL: usize = 25;
/// The most RAM for the hypervisor on nested-intel.
const MOST_ON_BOCHS: u64 = 1 << 30;

/// Does the whole run and returns its outcome.
///
/// # Errors
/// Something before the machine starts, or with the emulator itself.
pub fn run(flags: &cli::Run) -> Result<Outcome, Failure> {
    run_under(flags, None)
}

/// The same under `perf stat`, and shows what it counted.
///
/// # Errors
/// As for [`run`], or perf has left nothing.
pub fn counted(flags: &cli::Run, stat: &Stat) -> Result<Outcome, Failure> {
    run_under(flags, Some(stat))
}

fn run_under(flags: &cli::Run, stat: Option<&Stat>) -> Result<Outcome, Failure> {
    if flags.dry_run {
        println!("{}", dry_run(flags).map_err(Failure::Usage)?);
        return Ok(Outcome::Pass);
    }
    // What was typed is looked at before anything takes time.
    outlined(flags).map_err(Failure::Usage)?;
    let choice = preflight::choose(flags.machine.kind(), &Host::ask())?;
    fits(flags, choice.kind).map_err(Failure::Usage)?;
    setup::everything()?;
    setup::machine(choice.kind, flags.boot)?;
    let built = build::build(Flavor::Plain)?;
    let guests = guests::choose(&built.guests, &flags.guests, &flags.own).map_err(Failure::Usage)?;
    let seed = guests::random_seed();
    let line = guests::command_line(&guests, seed, &flags.appended()).map_err(Failure::Usage)?;

    let mut folder = Folder::create(&workspace::root())?;
    archive::write(&folder.file(file::ARCHIVE), &guests)?;
    let machine = machine(flags, &choice, &built.hypervisor, line, folder.path())?;
    announce(flags, &choice, &guests, &machine, &nested::set_up(choice.kind)?);
    eprintln!("seed: {seed:#x} (the same run again: --cmdline seed={seed:#x})\n");
    let mut nothing = |_: &str, _: &str| Ok(());
    let limit = flags.limit(choice.kind);
    let watch = Watch {
        limit,
        show: true,
        visitor: &mut nothing,
        typed: if flags.takes_commands() {
            Typed::Ours
        } else {
            Typed::Nothing
        },
    };
    let prefix = stat.map_or(Vec::new(), |stat| stat.prefix(folder.path()));
    let record = emulator::run_under(&prefix, machine, &folder, watch).inspect_err(|_| {
        folder.keep();
        eprintln!("kept: {}", folder.path().display());
    })?;
    if let Some(to) = &flags.json {
        let bytes = fs::read(folder.file(file::JSON)).context("read the report")?;
        fs::write(to, report::without_firmware(&bytes))
            .with_context(|| format!("copy the report to {}", to.display()))?;
    }
    if record.outcome != Outcome::Pass || flags.verbose {
        folder.keep();
    }
    if let Some(stat) = stat {
        stat.show(folder.path()).inspect_err(|_| folder.keep())?;
    }
    conclude(&record, &built.hypervisor, flags.verbose, &folder);
    Ok(record.outcome)
}

/// Whether the machine can do what the flags ask of it.
fn fits(flags: &cli::Run, kind: Kind) -> Result<()> {
    if kind == Kind::Bochs && flags.gdb {
        bail!("Bochs, as the distributions build it, takes no debugger: use --machine tcg with --gdb");
    }
    if kind.is_nested() && flags.gdb {
        bail!("level 1 has no network for a debugger: use --machine tcg with --gdb");
    }
    if kind.is_nested()
        && flags
            .cmdline
            .split_whitespace()
            .any(|word| word.starts_with("pause="))
    {
        bail!("nobody could end a pause inside level 1: leave out pause=, or use --machine tcg");
    }
    if kind.is_nested() && flags.takes_commands() {
        bail!("level 1 hands nothing on that is typed: leave out --console, or use --machine tcg");
    }
    if kind.is_nested()
        && flags
            .cmdline
            .split_whitespace()
            .any(|word| word.starts_with("measure="))
    {
        bail!(
            "level 1 is emulated, which the hypervisor cannot know, so its times would mean nothing: leave out measure="
        );
    }
    if kind.is_nested() && flags.boot == Boot::Uefi {
        // tcg-accel-ops.c, tcg_handle_interrupt: `assertion failed: (qemu_mutex_iothread_locked())`, with QEMU 7.2.22.
        bail!(
            "QEMU's emulation ends with a failed assertion when level 1 runs UEFI: use --boot iso, or --machine tcg with --boot uefi"
        );
    }
    if kind == Kind::NestedIntel && flags.memory(kind) > MOST_ON_BOCHS {
        bail!(
            "Bochs is too slow for level 1 with so much memory: at most --memory 1G, or use --machine nested-amd"
        );
    }
    if kind == Kind::Bochs && flags.boot == Boot::Uefi {
        bail!("Bochs has a BIOS only: use --boot iso, or --machine tcg with --boot uefi");
    }
    Ok(())
}

fn machine(
    flags: &cli::Run,
    choice: &Choice,
    image: &Path,
    command_line: String,
    folder: &Path,
) -> Result<Machine> {
    Ok(Machine {
        kind: choice.kind,
        boot: flags.boot,
        memory: flags.memory(choice.kind),
        smp: flags.smp,
        cpu_flags: "",
        counted: false,
        threads: false,
        ram: Ram::Anonymous,
        image: image.to_owned(),
        archive: Some(folder.join(file::ARCHIVE)),
        command_line,
        json: folder.join(file::JSON),
        monitor: None,
        debugger: flags.gdb.then(gdb::free_port).transpose()?,
    })
}

/// What can be known without building: the command line, the names of guests that are not built yet and so come without their
/// launch texts, and where the image will be.
struct Outlined {
    line: String,
    unread: Vec<String>,
    image: PathBuf,
}

/// Reads the flags as far as that is possible without building anything.
fn outlined(flags: &cli::Run) -> Result<Outlined> {
    let outline = workspace::outline()?;
    let mut unread = Vec::new();
    let bundled = outline.guests.iter().map(|name| {
        let path = outline.built.join(name);
        if path.is_file() {
            return Guest::open(path);
        }
        unread.push(name.clone());
        Ok(Guest {
            name: name.clone(),
            path,
            launch: boot_config::Launch::default(),
        })
    });
    let bundled = bundled.collect::<Result<Vec<_>>>()?;
    let chosen = guests::choose(&bundled, &flags.guests, &flags.own)?;
    unread.retain(|name| chosen.iter().any(|guest| guest.name == *name));
    let line = guests::command_line(&chosen, guests::random_seed(), &flags.appended())?;
    Ok(Outlined {
        line,
        unread,
        image: outline.built.join(build::IMAGE),
    })
}

/// The emulator's command line, without installing or building anything.
fn dry_run(flags: &cli::Run) -> Result<String> {
    let outlined = outlined(flags)?;
    if !outlined.unread.is_empty() {
        eprintln!(
            "note: not built yet, so without their launch texts: {}",
            outlined.unread.join(", ")
        );
    }
    let choice = preflight::choose(flags.machine.kind(), &Host::ask())?;
    eprintln!("machine: {} ({})", choice.kind.name(), choice.why);
    let folder = workspace::root().join(RUNS).join("dry-run");
    Ok(machine(flags, &choice, &outlined.image, outlined.line, &folder)?.shell_line())
}

/// Says what is about to run; `level_1` is what level 1 is made of.
fn announce(flags: &cli::Run, choice: &Choice, guests: &[Guest], machine: &Machine, level_1: &str) {
    eprintln!("machine: {} ({})", choice.kind.name(), choice.why);
    if !level_1.is_empty() {
        eprintln!("{level_1}");
    }
    eprintln!(
        "guests: {}",
        guests
            .iter()
            .map(|guest| guest.spec().to_string())
            .collect::<Vec<_>>()
            .join("  ")
    );
    if flags.verbose {
        eprintln!("command line: {}", machine.command_line);
        eprintln!("emulator: {}", machine.shell_line());
        if machine.kind.is_nested() {
            eprintln!("level 1 starts: {}", nested::level_2(machine).shell_line());
        }
    }
    if let Some(port) = machine.debugger {
        eprintln!("halted before the first instruction, without a time limit; attach with\n");
        eprintln!("    {}\n", gdb::attach_command(&machine.image, port));
        eprintln!(
            "Hardware breakpoints (`hbreak NAME`) work before the image is in place. Ctrl-C here ends the machine."
        );
    }
}

/// Says how it ended; after a failure the reason first, then what helps to find it.
fn conclude(record: &Record, image: &Path, verbose: bool, folder: &Folder) {
    let seconds = record.took.as_secs_f64();
    if record.outcome == Outcome::Pass {
        eprintln!("run: PASS, {seconds:.1} s");
        if verbose {
            eprintln!("kept: {}", folder.path().display());
        }
        return;
    }
    eprintln!("\nrun: {}, after {seconds:.1} s", record.outcome);
    explain(record, image, folder);
}

/// The backtrace, the end of the serial log and the kept folder.
pub fn explain(record: &Record, image: &Path, folder: &Folder) {
    let frames = symbolise::explain(record, image);
    if !frames.is_empty() {
        eprintln!("backtrace, the innermost first:");
        frames.iter().for_each(|frame| eprintln!("  {frame}"));
    }
    let lines: Vec<_> = record.text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
    if !tail.is_empty() {
        eprintln!("the end of the serial log:");
        let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
        tail.iter().for_each(|line| eprintln!("  | {}", clean(line)));
    }
    eprintln!(
        "kept: {} (command line, serial log, report, archive)",
        folder.path().display()
    );
}
