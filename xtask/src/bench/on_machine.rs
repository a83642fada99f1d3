//! What the hypervisor measures itself, for `cargo xtask bench tlb`: a boot of the benchmark for each policy with `measure=tlb`, on the best machine that
//! works here, or reports from elsewhere. On an emulated machine the first boot says why there are no figures, and that is all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use boot_config::Policy;
use report::Event;
use tools::pressure::Skip;
use tools::pressure::measured::{MeasuredFigure, MeasuredMoment, MeasuredRun};

use crate::build::{self, Flavor};
use crate::emulator::{self, Watch, file};
use crate::folder::Folder;
use crate::keyboard::Typed;
use crate::machine::{Kind, Machine, Ram};
use crate::medium::Boot;
use crate::preflight::{self, Host};
use crate::report::Report;
use crate::verdict::Outcome;
use crate::{setup, workspace};

/// RAM of the machine: on KVM so much that a sixteenth is more than a second level of 1024 entries reaches by 2M. An emulator only has to say why it does not
/// measure, on the machine of the benchmark; what is not touched costs nothing.
const MEMORY: u64 = 32 << 30;
const MEMORY_EMULATED: u64 = super::MEMORY;
/// A boot on KVM takes seconds; scattered memory is the slowest.
const LIMIT: Duration = Duration::from_secs(600);
/// Loads for which figures are given.
const LOADS: f64 = 1000.0;

/// Boots and reads what was measured.
///
/// # Errors
/// Set-up or build failed, or a boot did not pass.
pub fn boots(seed: u64) -> Result<Vec<MeasuredRun>> {
    let choice = preflight::choose(None, &Host::ask())?;
    setup::machine(choice.kind, Boot::Direct)?;
    let built = build::build(Flavor::Plain)?;
    let (memory, hidden) = if choice.kind == Kind::Kvm {
        (MEMORY, "8G")
    } else {
        (MEMORY_EMULATED, "16M")
    };
    let mut runs = Vec::new();
    for policy in Policy::ALL {
        eprintln!("measure {:<12} on {}", policy.name(), choice.kind.name());
        let line = format!("bench={hidden} policy={} seed={seed} measure=tlb", policy.name());
        let run = boot(choice.kind, memory, &built.hypervisor, line)?;
        let figures = run.has_figures();
        runs.push(run);
        if !figures {
            // It is the machine, not the policy.
            break;
        }
    }
    Ok(runs)
}

fn boot(kind: Kind, memory: u64, image: &Path, command_line: String) -> Result<MeasuredRun> {
    let mut folder = Folder::create(&workspace::root())?;
    let machine = Machine {
        kind,
        boot: Boot::Direct,
        memory,
        smp: 1,
        cpu_flags: "",
        counted: false,
        threads: false,
        ram: Ram::Anonymous,
        image: image.to_owned(),
        archive: None,
        command_line,
        json: folder.file(file::JSON),
        monitor: None,
        debugger: None,
    };
    let mut nothing = |_: &str, _: &str| Ok(());
    let watch = Watch {
        limit: Some(LIMIT),
        show: false,
        visitor: &mut nothing,
        typed: Typed::Nothing,
    };
    let record = emulator::run(machine, &folder, watch)?;
    if record.outcome != Outcome::Pass {
        folder.keep();
    }
    ensure!(
        record.outcome == Outcome::Pass,
        "measure: {}; kept: {}",
        record.outcome,
        folder.path().display()
    );
    read(&record.report)
}

/// Reads reports that other runs of `measure=tlb` have written.
///
/// # Errors
/// A file can't be read or has no such report.
pub fn files(paths: &[PathBuf]) -> Result<Vec<MeasuredRun>> {
    let one = |path: &PathBuf| {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        read(&Report::parse(&bytes))
            .with_context(|| format!("{} is no report of a run with measure=tlb", path.display()))
    };
    paths.iter().map(one).collect()
}

/// What a report says.
fn read(report: &Report) -> Result<MeasuredRun> {
    let start = report.start().context("it has no `start` line")?;
    let mut run = MeasuredRun {
        policy: "guests".into(),
        cpu: start.machine.cpu.clone(),
        memory_mib: start.memory_mib,
        command_line: start.command_line.clone(),
        moments: Vec::new(),
    };
    for event in &report.events {
        match event {
            Event::Bench(bench) => run.policy.clone_from(&bench.policy),
            Event::Pmu(pmu) => {
                let moment = moment_of(&mut run.moments, &pmu.phase);
                if pmu.state != "live" {
                    moment.skipped.push(skip("pmu", &pmu.reason));
                }
            }
            Event::Skip(skipped) => {
                let moment = moment_of(&mut run.moments, &skipped.phase);
                moment.skipped.push(skip(&skipped.what, &skipped.reason));
            }
            Event::Probe(probe) => {
                moment_of(&mut run.moments, &probe.phase)
                    .entries
                    .clone_from(&probe.entries);
            }
            Event::Latency(latency) => {
                let quantiles = [
                    ("p10", latency.p10),
                    ("p25", latency.p25),
                    ("median", latency.median),
                ];
                let figures =
                    quantiles.map(|(what, ticks)| figure(&latency.workload, "latency", what, ticks as f64));
                moment_of(&mut run.moments, &latency.phase)
                    .figures
                    .extend(figures);
            }
            Event::PmuCount(count) => {
                let each = count.count as f64 * LOADS / count.loads.max(1) as f64;
                let figure = figure(&count.workload, "pmu", &count.metric, each);
                moment_of(&mut run.moments, &count.phase).figures.push(figure);
            }
            _ => {}
        }
    }
    ensure!(!run.moments.is_empty(), "it has no `pmu` line");
    Ok(run)
}

fn moment_of<'m>(moments: &'m mut Vec<MeasuredMoment>, phase: &str) -> &'m mut MeasuredMoment {
    let known = moments.iter().position(|moment| moment.phase == phase);
    let place = known.unwrap_or_else(|| {
        moments.push(MeasuredMoment {
            phase: phase.into(),
            entries: "unknown".into(),
            figures: Vec::new(),
            skipped: Vec::new(),
        });
        moments.len() - 1
    });
    &mut moments[place]
}

fn figure(workload: &str, source: &str, what: &str, value: f64) -> MeasuredFigure {
    MeasuredFigure {
        workload: workload.into(),
        source: source.into(),
        what: what.into(),
        value,
    }
}

fn skip(what: &str, reason: &str) -> Skip {
    Skip {
        what: what.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = r#"{"event":"start","schema":1,"version":"0","commit":"0","machine":{"cpu":"a CPU","second_stage":"npt","leaf_1g":true,"nrip_save":true,"decode_assists":true,"flush_by_asid":true,"asids":9,"physical_bits":40},"memory_mib":2048,"cpus_found":1,"cpus_used":1,"seed":1,"command_line":"bench=16M measure=tlb"}"#;

    fn of(lines: &[&str]) -> Result<MeasuredRun> {
        read(&Report::parse([&[START], lines].concat().join("\n").as_bytes()))
    }

    #[test]
    fn lines_become_figures_for_a_thousand_loads() {
        let run = of(&[
            r#"{"event":"pmu","phase":"boot","cpu":0,"core":"Zen 4","interface":"AMD PerfMonV2","counters":6,"width":48,"host_only":true,"state":"live","reason":""}"#,
            r#"{"event":"probe","phase":"boot","cpu":0,"few":1,"many":1,"entries":"large"}"#,
            r#"{"event":"latency","phase":"boot","cpu":0,"workload":"objects-all","loads":256,"windows":2000,"p10":10,"p25":20,"median":30,"tsc_khz":1,"entries":"large"}"#,
            r#"{"event":"pmu_count","phase":"boot","cpu":0,"workload":"objects-all","metric":"walks","loads":65536,"count":131072,"entries":"large"}"#,
            r#"{"event":"skip","phase":"boot","what":"latency objects-near","reason":"not yet"}"#,
            r#"{"event":"pmu","phase":"after","cpu":0,"core":"Zen 4","interface":"AMD PerfMonV2","counters":6,"width":48,"host_only":true,"state":"dead","reason":"lost"}"#,
        ])
        .unwrap();
        let [boot, after] = &run.moments[..] else {
            panic!("two moments")
        };
        assert_eq!((boot.entries.as_str(), run.policy.as_str()), ("large", "guests"));
        assert_eq!(boot.figure("objects-all", "pmu", "walks"), Some(2000.0));
        assert_eq!(boot.figure("objects-all", "latency", "p25"), Some(20.0));
        assert_eq!(boot.skipped.len(), 1);
        assert_eq!(
            (after.entries.as_str(), after.skipped[0].reason.as_str()),
            ("unknown", "lost")
        );
    }

    #[test]
    fn a_report_of_something_else_is_refused() {
        assert!(of(&[]).unwrap_err().to_string().contains("pmu"));
        assert!(read(&Report::parse(b"")).is_err());
    }
}
