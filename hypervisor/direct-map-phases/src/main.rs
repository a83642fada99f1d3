//! The program behind `cargo xtask bench tlb`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use direct_map_phases::ground::HostPages;
use direct_map_phases::history::History;
use direct_map_phases::measure::{Addresses, Setting};
use direct_map_phases::play::{self, Moment};
use memory::address::Hpa;
use memory::layout::direct;
use tools::pressure::results::{EVERY_PHASE, Leaves, Run, SCHEMA, SizeResult};
use tools::pressure::{Core, Phase, PhaseResult, Policy, PolicyResult, Results, Skip};
use tools::tlb::mapping::Mapping;
use tools::tlb::{Dimensions, Geometry, PageSize};
use workloads::{Extent, Workload};

/// Plays guests by several policies and models what the direct map costs the TLB.
#[derive(Debug, Parser)]
struct Flags {
    /// RAM of the machine, in whole GiB
    #[arg(long, default_value = "64G", value_parser = size)]
    ram: u64,
    /// Policies, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = policy, default_values_t = Policy::ALL)]
    policies: Vec<Policy>,
    /// Cores, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = core, default_value = "spr,zen4")]
    cores: Vec<&'static Geometry>,
    /// Lifetimes of small guests before the aged moments
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(0..=50_000))]
    lifetimes: u64,
    /// Accesses counted for each figure
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    accesses: u32,
    /// Seed of history and addresses
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Model an outer hypervisor whose leaves have this size: 4K, 2M or 1G
    #[arg(long, value_parser = page)]
    outer: Option<PageSize>,
    /// Sizes of the one guest whose cost is shown by size, separated by commas; those above a quarter of RAM are left out
    #[arg(long, value_delimiter = ',', value_parser = size, default_value = "2M,16M,128M,1G,4G,16G")]
    sizes: Vec<u64>,
    /// What the results say that they were made of
    #[arg(long, default_value = "unknown")]
    version: String,
    /// Write the results to this file
    #[arg(long)]
    json: PathBuf,
}

fn size(text: &str) -> Result<u64, String> {
    boot_config::parse_size(text).ok_or_else(|| "a size looks like 64G".into())
}

fn policy(text: &str) -> Result<Policy, String> {
    let names = || Policy::ALL.map(Policy::name).join(", ");
    let found = Policy::ALL.into_iter().find(|policy| policy.name() == text);
    found.ok_or_else(|| format!("the policies are {}", names()))
}

fn core(text: &str) -> Result<&'static Geometry, String> {
    let names = || tools::tlb::GEOMETRIES.iter().map(|geometry| geometry.name);
    Geometry::named(text).ok_or_else(|| format!("the cores are {}", names().collect::<Vec<_>>().join(", ")))
}

fn page(text: &str) -> Result<PageSize, String> {
    [PageSize::K4, PageSize::M2, PageSize::G1]
        .into_iter()
        .find(|page| page.to_string() == text)
        .ok_or_else(|| "the sizes are 4K, 2M and 1G".into())
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let setting = Setting {
        cores: flags.cores.clone(),
        dimensions: flags.outer.map_or(Dimensions::One, Dimensions::Two),
        seed: flags.seed,
        accesses: flags.accesses as usize,
    };
    let history = History::new(flags.seed, flags.lifetimes);
    let mut results = Results {
        schema: SCHEMA,
        version: flags.version.clone(),
        ram: flags.ram,
        seed: flags.seed,
        lifetimes: flags.lifetimes,
        accesses: flags.accesses.into(),
        dimensions: match flags.outer {
            None => "one: the tables alone".into(),
            Some(size) => format!("two: over an outer hypervisor with leaves of {size}"),
        },
        measured: Vec::new(),
        cores: flags.cores.iter().map(|core| described(core)).collect(),
        policies: Vec::new(),
        sizes: Vec::new(),
        chase: None,
        skipped: not_measured(),
    };
    // Yardsticks are measured with the addresses of the first policy that hides anything.
    let (hiding, yardsticks): (Vec<Policy>, Vec<Policy>) =
        flags.policies.iter().partition(|policy| !policy.is_yardstick());
    let all_2m = play_one(Policy::All2M, &history, &flags)?;
    let mut common: Option<Addresses> = None;
    for policy in hiding {
        let started = Instant::now();
        eprint!("tlb {policy:<17}");
        let mut board = play::board(policy, flags.ram)?;
        let moments = match play::play(policy, &history, &mut board, flags.seed) {
            Ok(moments) => moments,
            // The machine may be too small for one policy and do for another.
            Err(error) => {
                eprintln!(" SKIP ({error:#})");
                results.policies.push(PolicyResult {
                    policy,
                    phases: Vec::new(),
                    on_all_2m: Vec::new(),
                    skipped: vec![Skip {
                        what: EVERY_PHASE.into(),
                        reason: format!(
                            "{} of RAM do not do: {error:#}",
                            tools::pressure::table::size(flags.ram)
                        ),
                    }],
                });
                continue;
            }
        };
        let ram = board.ram();
        drop(board);
        let pages = HostPages::new(&ram, moments.iter().map(|moment| &moment.map));
        let addresses = Addresses::new(&ram, &pages, &setting)?;
        eprint!(" played in {:.1} s,", started.elapsed().as_secs_f64());
        let mut result = PolicyResult {
            policy,
            phases: Vec::new(),
            on_all_2m: addresses.measure(&all_2m.0[0].map, &setting)?,
            skipped: not_played(policy),
        };
        let everywhere = Addresses::everywhere(&ram, &setting)?;
        for (number, moment) in moments.iter().enumerate() {
            // The same tables and leaves, and the same addresses: the model would count the same again.
            let before = moments.iter().take(number).position(|before| {
                before.map == moment.map && (before.hidden_bytes == 0) == (moment.hidden_bytes == 0)
            });
            let figures = match before.and_then(|place| result.phases.get(place)) {
                Some(before) => before.figures.clone(),
                None => {
                    let mut figures = addresses.measure(&moment.map, &setting)?;
                    if moment.hidden_bytes == 0 {
                        figures.extend(everywhere.measure(&moment.map, &setting)?);
                    }
                    figures
                }
            };
            result.phases.push(phase(moment, &ram, figures));
        }
        results.policies.push(result);
        common.get_or_insert(addresses);
        eprint!(" measured after {:.1} s,", started.elapsed().as_secs_f64());
        for bytes in flags.sizes.iter().filter(|bytes| **bytes <= flags.ram / 4) {
            match one_guest(policy, *bytes, &flags, &setting) {
                Ok(result) => results.sizes.push(result),
                Err(error) => results.skipped.push(Skip {
                    what: format!("{policy}, one guest of {} MiB", bytes >> 20),
                    reason: format!("{error:#}"),
                }),
            }
        }
        // What is done is kept, should a later policy fail.
        results.write(&flags.json)?;
        eprintln!(" guests by size after {:.1} s", started.elapsed().as_secs_f64());
    }
    for policy in yardsticks {
        let started = Instant::now();
        eprint!("tlb {policy:<17}");
        let (moments, ram) = play_one(policy, &history, &flags)?;
        let addresses = match &common {
            Some(addresses) => addresses,
            None => {
                let pages = HostPages::new(&ram, moments.iter().map(|moment| &moment.map));
                common.insert(Addresses::new(&ram, &pages, &setting)?)
            }
        };
        let phases = moments
            .iter()
            .map(|moment| {
                let mut figures = addresses.measure(&moment.map, &setting)?;
                figures.extend(Addresses::everywhere(&ram, &setting)?.measure(&moment.map, &setting)?);
                Ok(phase(moment, &ram, figures))
            })
            .collect::<Result<_>>()?;
        results.policies.push(PolicyResult {
            policy,
            phases,
            on_all_2m: Vec::new(),
            skipped: Vec::new(),
        });
        eprintln!(" measured after {:.1} s", started.elapsed().as_secs_f64());
    }
    if results.policies.iter().all(|policy| policy.phases.is_empty()) {
        bail!("nothing was measured");
    }
    results.write(&flags.json)
}

/// One guest of a size on a machine of its own: what the host's work costs before it and while it lives.
fn one_guest(policy: Policy, bytes: u64, flags: &Flags, setting: &Setting) -> Result<SizeResult> {
    let history = History::one_guest(bytes);
    let (moments, ram) = play_one(policy, &history, flags)
        .with_context(|| format!("one guest of {} MiB by the policy {policy}", bytes >> 20))?;
    let [boot, guest] = moments.as_slice() else {
        bail!("broken invariant: one guest has {} moments", moments.len());
    };
    let pages = HostPages::new(&ram, moments.iter().map(|moment| &moment.map));
    let addresses = Addresses::of(
        &[Workload::Objects { pages: None }, Workload::ObjectsNear],
        &ram,
        &pages,
        setting,
    )?;
    Ok(SizeResult {
        policy,
        bytes,
        before: leaves(boot),
        leaves: leaves(guest),
        boot: addresses.measure(&boot.map, setting)?,
        figures: addresses.measure(&guest.map, setting)?,
    })
}

fn leaves(moment: &Moment) -> Leaves {
    let counts = moment.map.leaves();
    Leaves {
        g1: counts.g1,
        m2: counts.m2,
        k4: counts.k4,
    }
}

fn play_one(policy: Policy, history: &History, flags: &Flags) -> Result<(Vec<Moment>, Vec<Extent>)> {
    let mut board = play::board(policy, flags.ram)?;
    let moments = play::play(policy, history, &mut board, flags.seed)?;
    Ok((moments, board.ram()))
}

fn described(core: &Geometry) -> Core {
    Core {
        name: core.name.into(),
        core: core.core.into(),
        weights: core.weights(),
        source: core.source.into(),
    }
}

/// What no part of this measures.
fn not_measured() -> Vec<Skip> {
    [
        ("pmu", "these figures are a model's: no counter was read"),
        (
            "latency",
            "these figures are a model's: no access to a direct map was timed",
        ),
        (
            "objects-ram while guests live",
            "it touches all RAM, and some is hidden then",
        ),
    ]
    .map(|(what, reason)| Skip {
        what: what.into(),
        reason: reason.into(),
    })
    .into()
}

/// The moments that a policy does not have.
fn not_played(policy: Policy) -> Vec<Skip> {
    let why =
        "Linux' secret memory, which this policy follows, gives a page for good: it has no call to share one";
    (!play::converts(policy))
        .then(|| Skip {
            what: Phase::Conversions.name().into(),
            reason: why.into(),
        })
        .into_iter()
        .collect()
}

fn phase(moment: &Moment, ram: &[Extent], figures: Vec<tools::pressure::Figure>) -> PhaseResult {
    PhaseResult {
        phase: moment.phase,
        guests: moment.guests,
        hidden_bytes: moment.hidden_bytes,
        leaves: leaves(moment),
        map: picture(&moment.map, ram),
        figures,
    }
}

/// The 2M blocks from 0 on, neighbours that look the same joined.
fn picture(map: &Mapping, ram: &[Extent]) -> Vec<Run> {
    use tools::pressure::results::CellKind;
    let end = ram
        .last()
        .map_or(0, |extent| (extent.start.get() + extent.frames).div_ceil(512));
    let mut runs: Vec<Run> = Vec::new();
    for block in 0..end {
        let holds_ram = ram.iter().any(|extent| {
            extent.start.get() < (block + 1) * 512 && extent.start.get() + extent.frames > block * 512
        });
        let kind = match direct(Hpa::new(block << 21)) {
            Some(at) if holds_ram => CellKind::from(map.cell(at.get())),
            _ => CellKind::NoRam,
        };
        match runs.last_mut() {
            Some(run) if run.kind == kind => run.blocks += 1,
            _ => runs.push(Run { kind, blocks: 1 }),
        }
    }
    runs
}
