//! The chase, and the prediction beside it.

use std::path::Path;

use anyhow::{Context, Result};
use raw_cpuid::CpuId;
use tools::chase::arena::{Arena, Pages};
use tools::chase::predict::predict;
use tools::chase::{self, Chased};
use tools::pressure::chased::{Chase, ChaseRow, SKIPPED};
use tools::tlb::{Dimensions, Geometry, PageSize, Replacement};

/// Numbers of 4K pages, one object in each: from what fits the first level to 1 GiB.
const PAGES: [u64; 9] = [16, 64, 256, 1024, 2048, 4096, 16_384, 65_536, 262_144];

/// Measures, prints the table, and writes it to a file if one is given; nothing is written when there are no large pages.
pub fn run(core: Option<&'static Geometry>, seed: u64, json: Option<&Path>) -> Result<()> {
    let cpuid = CpuId::new();
    let (core, cpu) = match core {
        Some(core) => (core, "given".to_owned()),
        None => this_core(&cpuid)?,
    };
    println!("core: {} ({cpu})", core.core);
    println!(
        "a hypervisor below: {}",
        if hypervisor(&cpuid) { "yes" } else { "no" }
    );
    let largest = PAGES.into_iter().max().unwrap_or_default() << 12;
    let mut large = match Arena::new(largest as usize, Pages::Large) {
        Ok(large) => large,
        Err(error) => {
            println!("{SKIPPED}{error:#}");
            return Ok(());
        }
    };
    let mut small = Arena::new(largest as usize, Pages::Small)?;
    let probe = chase::large_entries(&mut large, seed);
    println!(
        "2M pages: {} (in one of them, 448 lines in as many pages of 4K cost {:.1} ns a load, in 7 {:.1})",
        if probe.are_large() {
            "entries are large"
        } else {
            "ENTRIES ARE 4K: an outer hypervisor backs them so"
        },
        probe.many,
        probe.few
    );
    let cycle = chase::cycle();
    println!("a core cycle: {cycle:.3} ns\n");
    println!(
        "{:>7}{:>7}  {:^23}  {:^23}  {:>9}  {:^31}",
        "", "", "4K pages, ns a load", "2M pages, ns a load", "4K - 2M", "predicted 4K - 2M, ns"
    );
    println!(
        "{:>7}{:>7}  {:>7}{:>8}{:>8}  {:>7}{:>8}{:>8}  {:>9}  {:>11}{:>10}{:>10}",
        "pages",
        "MiB",
        "p10",
        "p25",
        "median",
        "p10",
        "p25",
        "median",
        "at p25",
        "no outer",
        "outer 4K",
        "outer 2M"
    );
    let mut rows = Vec::new();
    for pages in PAGES {
        let order = chase::places(pages, seed);
        let Chased { small: k4, large: m2 } = chase::chase(&mut small, &mut large, &order);
        let predicted = |dimensions| -> Result<f64> {
            let cycles = |size| -> Result<f64> {
                let counts = predict(core, Replacement::Lru, dimensions, pages, size, seed)?;
                Ok(counts.cycles as f64 / counts.accesses as f64)
            };
            Ok((cycles(Pages::Small)? - cycles(Pages::Large)?) * cycle)
        };
        let row = ChaseRow {
            pages,
            windows: k4.windows(),
            small: k4.percentiles(),
            large: m2.percentiles(),
            predicted: [
                predicted(Dimensions::One)?,
                predicted(Dimensions::Two(PageSize::K4))?,
                predicted(Dimensions::Two(PageSize::M2))?,
            ],
        };
        let at = |percent| (k4.percentile(percent), m2.percentile(percent));
        let [(k4_10, m2_10), (k4_25, m2_25), (k4_50, m2_50)] = [at(10), at(25), at(50)];
        let [none, outer_4k, outer_2m] = row.predicted;
        println!(
            "{pages:>7}{:>7.1}  {k4_10:>7.1}{k4_25:>8.1}{k4_50:>8.1}  {m2_10:>7.1}{m2_25:>8.1}{m2_50:>8.1}  {:>9.1}  {none:>11.1}{outer_4k:>10.1}{outer_2m:>10.1}",
            (pages << 12) as f64 / f64::from(1 << 20),
            k4_25 - m2_25,
        );
        rows.push(row);
    }
    if let Some(path) = json {
        let result = Chase {
            cpu: format!("{cpu}, taken for {}", core.core),
            hypervisor: hypervisor(&cpuid),
            large_entries: probe.are_large(),
            probe: (probe.few, probe.many),
            cycle,
            rows,
        };
        let text = serde_json::to_string(&result).context("the chase as JSON")?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The core that CPUID names.
fn this_core(
    cpuid: &CpuId<raw_cpuid::native_cpuid::CpuIdReaderNative>,
) -> Result<(&'static Geometry, String)> {
    let vendor = cpuid.get_vendor_info().context("CPUID names no vendor")?;
    let feature = cpuid
        .get_feature_info()
        .context("CPUID names no family and model")?;
    let (family, model) = (feature.family_id(), feature.model_id());
    let name = format!("{} family {family:#x} model {model:#x}", vendor.as_str());
    let core = Geometry::of_cpu(vendor.as_str(), family, model);
    Ok((
        core.with_context(|| {
            format!("{name} is no core that the model knows: --core names one to hold it against")
        })?,
        name,
    ))
}

fn hypervisor(cpuid: &CpuId<raw_cpuid::native_cpuid::CpuIdReaderNative>) -> bool {
    cpuid
        .get_feature_info()
        .is_some_and(|feature| feature.has_hypervisor())
}
