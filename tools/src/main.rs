//! `lacuna-inspect`: looks at the RAM file of an emulated machine.
//!
//! Ends with status 0 when nothing is wrong, 1 when something was found that must not be, 2 when it could not look.

mod cli;
mod print;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use audit::{Format, Tables, Va};
use clap::Parser;
use guest_abi::pattern::Pattern;
use tools::{
    Frames, Layout, LeafDump, RamFile, RamView, Registers, compare, find_vmcbs, find_vmcses, reachable,
    search, threads,
};

use crate::cli::{Cli, Forbidden, Place, Roots, Task};
use crate::print::Printer;

/// Something was found that must not be.
const FOUND: u8 = 1;
/// It could not look.
const ERROR: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut printer = Printer::new(cli.json);
    match run(&cli, &mut printer).and_then(|held| printer.flush().map(|()| held)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FOUND),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(ERROR)
        }
    }
}

/// Does the task; `false` when it found what must not be.
fn run(cli: &Cli, printer: &mut Printer) -> Result<bool> {
    match &cli.task {
        Task::Runs { ram, roots, range } => {
            let ram = open(ram)?;
            let view = ram.view();
            printer.runs(tables(&view, roots)?.leaves(), &range.inclusive()?)?;
        }
        Task::Leaves { ram, roots, range } => {
            let ram = open(ram)?;
            let view = ram.view();
            let range = range.inclusive()?;
            let dump = LeafDump::take(
                &tables(&view, roots)?,
                Va::new(*range.start()),
                Va::new(*range.end()),
            )?;
            printer.leaves(&dump)?;
        }
        Task::Count { ram, roots } => {
            let ram = open(ram)?;
            let view = ram.view();
            printer.count(&tables(&view, roots)?.count()?)?;
        }
        Task::Translate { ram, roots, address } => {
            let ram = open(ram)?;
            let view = ram.view();
            printer.translation(*address, tables(&view, roots)?.translate(Va::new(*address))?)?;
        }
        Task::Search { ram, seed } => {
            printer.hits(&search(&open(ram)?, &Pattern::new(*seed), threads())?)?;
        }
        Task::Vmcbs { ram } => printer.vmcbs(&find_vmcbs(&open(ram)?)?)?,
        Task::Vmcses { ram } => printer.vmcses(&find_vmcses(&open(ram)?)?)?,
        Task::Reach {
            ram,
            roots,
            forbidden,
        } => {
            let ram = open(ram)?;
            let view = ram.view();
            let frames = frames(&ram, &view, forbidden)?;
            if frames.is_empty() {
                bail!("there are no frames to check: nothing was found, or the list is empty");
            }
            let found = reachable(&tables(&view, roots)?, &frames)?;
            printer.reach(&frames, &found)?;
            return Ok(found.is_empty());
        }
        Task::Compare { before, after } => {
            let differences = compare(
                &read::<LeafDump>(before)?.leaves,
                &read::<LeafDump>(after)?.leaves,
            );
            printer.differences(&differences)?;
            return Ok(differences.is_empty());
        }
    }
    Ok(true)
}

fn open(place: &Place) -> Result<RamFile> {
    let layout = |bytes| match place.below_4g {
        Some(below) => Layout::with_below_4g(bytes, below),
        None => Layout::q35(bytes),
    };
    RamFile::open_with(&place.ram, layout).with_context(|| format!("RAM file {}", place.ram.display()))
}

fn tables<'v, 'r>(view: &'v RamView<'r>, roots: &Roots) -> Result<Tables<'v, RamView<'r>>> {
    let (cr3, format) = match (&roots.registers, roots.cr3) {
        (Some(file), _) => {
            let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let registers = Registers::parse(&text).with_context(|| {
                format!(
                    "{} has no CR3, CR4 and EFER: is it `info registers`, or `creg`?",
                    file.display()
                )
            })?;
            (registers.cr3, registers.format())
        }
        (None, Some(cr3)) if roots.nested => (cr3, Format::nested(roots.five_levels, 52)),
        (None, Some(cr3)) if roots.extended => (cr3, Format::extended(roots.five_levels, 52)),
        (None, Some(cr3)) => (cr3, Format::host(roots.five_levels, 52)),
        (None, None) => bail!("give --cr3 or --registers"),
    };
    Ok(Tables::new(view, format, cr3).with_table_limit(view.table_limit()))
}

fn frames(ram: &RamFile, view: &RamView<'_>, forbidden: &Forbidden) -> Result<Vec<Frames>> {
    let mut frames = Vec::new();
    if let Some(file) = &forbidden.frames {
        frames.extend(read::<Vec<Frames>>(file)?);
    }
    if let Some(seed) = forbidden.seed {
        frames.extend(Frames::of_hits(&search(ram, &Pattern::new(seed), threads())?));
    }
    let nested = forbidden
        .second_stage
        .iter()
        .map(|root| (root, Format::nested(false, 52)));
    let extended = forbidden
        .ept_pointer
        .iter()
        .map(|root| (root, Format::extended(false, 52)));
    for (root, format) in nested.chain(extended) {
        let tables = Tables::new(view, format, *root).with_table_limit(view.table_limit());
        frames.extend(Frames::of_second_stage(&tables, *root)?);
    }
    Ok(Frames::sorted(frames))
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what this command reads", file.display()))
}
