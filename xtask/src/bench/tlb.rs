//! `cargo xtask bench tlb`: what hidden memory costs the TLB, by policy and moment (`hypervisor/direct-map-phases`, a program of its own, because
//! it must be optimised). `cargo xtask report`: the same from files. `cargo xtask bench chase`: the model held against this machine (`lacuna-tlb`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tools::pressure::chased::{CHASE, Chase, SKIPPED};
use tools::pressure::goals::goals;
use tools::pressure::measured::MeasuredTable;
use tools::pressure::page::page;
use tools::pressure::table::Table;
use tools::pressure::{Comparison, Results, Skip};

use crate::bench::on_machine;
use crate::process::Process;
use crate::verdict::Outcome;
use crate::{Failure, cli, interrupt, workspace};

/// The package.
const PACKAGE: &str = "direct-map-phases";
/// What the hypervisor measures, by the names of the sources.
const SOURCES: [&str; 2] = ["pmu", "latency"];
/// The default took seven minutes on two busy cores, with the build nine.
const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Measures, prints the table, and writes JSON and page.
///
/// # Errors
/// The program can't be built or run, or what it wrote can't be read.
pub fn tlb(flags: &cli::Tlb) -> Result<Outcome, Failure> {
    let json = beside(&flags.json, "tlb.json")?;
    measure(flags, &json)?;
    let mut results = Results::read(&json)?;
    match hold_against_this_machine(&json.with_extension("chase.json")) {
        Ok(chase) => results.chase = Some(chase),
        Err(error) if interrupt::asked() => return Err(error.into()),
        Err(error) => results.skipped.push(Skip {
            what: CHASE.into(),
            reason: format!("{error:#}"),
        }),
    }
    add_measured(&mut results, flags)?;
    results.write(&json)?;
    println!("\n{}", Table(&results));
    println!("{}", MeasuredTable(&results.measured));
    println!("json: {}", json.display());
    write_page(&results, None, &flags.page)?;
    let missed: Vec<String> = goals(&results)
        .into_iter()
        .filter(|goal| !goal.met)
        .map(|goal| goal.text)
        .collect();
    Ok(if missed.is_empty() {
        Outcome::Pass
    } else {
        Outcome::Fail(missed.join("; "))
    })
}

/// Has the hypervisor measure, and puts its figures, or its reasons, where the model has none.
fn add_measured(results: &mut Results, flags: &cli::Tlb) -> Result<()> {
    // A file that can't be read is a mistake; a boot that fails takes nothing from the model.
    let measured = if flags.measured.is_empty() {
        on_machine::boots(flags.seed)
    } else {
        Ok(on_machine::files(&flags.measured)?)
    };
    results
        .skipped
        .retain(|skip| !SOURCES.contains(&skip.what.as_str()));
    match measured {
        Ok(runs) => {
            let reasons = runs.iter().flat_map(|run| run.skipped());
            let reasons = reasons.filter(|skip| SOURCES.contains(&skip.what.as_str()));
            for skip in reasons {
                if !results.skipped.contains(&skip) {
                    results.skipped.push(skip);
                }
            }
            let sources = SOURCES.iter().filter(|source| {
                let mut figures = runs
                    .iter()
                    .flat_map(|run| &run.moments)
                    .flat_map(|moment| &moment.figures);
                figures.any(|figure| figure.source == **source)
            });
            results.skipped.extend(sources.map(|source| Skip {
                what: (*source).into(),
                reason: "not of the model's moments: what the hypervisor measured itself stands below".into(),
            }));
            results.measured = runs;
        }
        Err(error) if interrupt::asked() => return Err(error),
        Err(error) => {
            let skip = |what: &&str| Skip {
                what: (*what).into(),
                reason: format!("the hypervisor could not measure: {error:#}"),
            };
            results.skipped.extend(SOURCES.iter().map(skip));
        }
    }
    Ok(())
}

/// Shows files again: the table and the page of the first, and how the others compare to it.
///
/// # Errors
/// A file can't be read, or the page can't be written.
pub fn report(flags: &cli::Report) -> Result<(), Failure> {
    let mut runs = Vec::new();
    for path in &flags.files {
        // The file's name tells runs apart as whoever made them does.
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        runs.push((name.into_owned(), Results::read(path)?));
    }
    let comparison = Comparison::new(&runs);
    if let Some((_, first)) = runs.first() {
        println!("{}", Table(first));
        println!("{}", MeasuredTable(&first.measured));
        if let Some(comparison) = &comparison {
            println!("{comparison}");
        }
        write_page(first, comparison.as_ref(), &flags.page)?;
    }
    Ok(())
}

/// Has `lacuna-tlb` chase pointers on this machine and print what the model says beside it.
///
/// # Errors
/// It can't be built or run, or does not know this core.
pub fn chase(flags: &cli::Chase) -> Result<Outcome, Failure> {
    let mut cargo = chase_command();
    if let Some(core) = &flags.core {
        cargo.args(["--core", core]);
    }
    run(&mut cargo, "lacuna-tlb")?;
    Ok(Outcome::Pass)
}

fn chase_command() -> Command {
    let mut cargo = workspace::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "tools",
        "--bin",
        "lacuna-tlb",
    ]);
    cargo.args(["--", "chase"]);
    cargo
}

/// The same for the page, by way of a file that goes again.
fn hold_against_this_machine(file: &Path) -> Result<Chase> {
    eprintln!("chasing pointers on this machine, half a minute and 2 GiB of memory");
    let mut cargo = chase_command();
    // Its table goes to the page instead; what it says where there is none is the reason.
    let said = file.with_extension("txt");
    let output = fs::File::create(&said).with_context(|| format!("create {}", said.display()))?;
    cargo.arg("--json").arg(file).stdout(output);
    let outcome = run(&mut cargo, "lacuna-tlb").and_then(|()| {
        if !file.exists() {
            let said = fs::read_to_string(&said).unwrap_or_default();
            bail!(
                "{}",
                said.lines()
                    .find_map(|line| line.strip_prefix(SKIPPED))
                    .unwrap_or("no reason was given")
            );
        }
        let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_slice(&text).context("the chase")
    });
    // They may not be there.
    let _ = fs::remove_file(file);
    let _ = fs::remove_file(&said);
    outcome
}

/// Runs a program of ours to its end, which must be a good one.
fn run(cargo: &mut Command, name: &str) -> Result<()> {
    let status = Process::start(cargo)?.wait(LIMIT).context("measure")?;
    if !status.success() {
        bail!("{name}: {status}; what to mend is above");
    }
    Ok(())
}

/// The path that was given, or a name beside what cargo builds.
fn beside(given: &Option<PathBuf>, name: &str) -> Result<PathBuf> {
    match given {
        Some(path) => Ok(path.clone()),
        None => Ok(workspace::target_folder()?.join(name)),
    }
}

fn write_page(results: &Results, comparison: Option<&Comparison>, given: &Option<PathBuf>) -> Result<()> {
    let path = beside(given, "tlb.html")?;
    let text = page(results, comparison)?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    println!("page: {}", path.display());
    Ok(())
}

fn measure(flags: &cli::Tlb, json: &Path) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", PACKAGE, "--"]);
    cargo.arg("--json").arg(json);
    cargo.args(["--ram", &format!("{}M", flags.ram >> 20)]);
    cargo.args(["--cores", &flags.cores, "--version", &version()]);
    cargo.args([
        "--lifetimes",
        &flags.lifetimes.to_string(),
        "--seed",
        &flags.seed.to_string(),
    ]);
    if let Some(policies) = &flags.policies {
        cargo.args(["--policies", policies]);
    }
    if let Some(sizes) = &flags.sizes {
        cargo.args(["--sizes", sizes]);
    }
    if let Some(outer) = &flags.outer {
        cargo.args(["--outer", outer]);
    }
    eprintln!("building {PACKAGE}, then measuring; progress follows");
    run(&mut cargo, PACKAGE)
}

/// The commit, for the file's readers; "unknown" outside of a clone.
fn version() -> String {
    let describe = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(workspace::root())
        .output();
    describe
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".into(), |text| text.trim().into())
}
