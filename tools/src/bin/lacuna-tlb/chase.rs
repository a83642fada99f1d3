//! The chase, and the prediction beside it.

use anyhow::{Context, Result};
use raw_cpuid::CpuId;
use tools::chase::arena::{Arena, Pages};
use tools::chase::predict::predict;
use tools::chase::{self, Chased};
use tools::tlb::{Dimensions, Geometry, PageSize, Replacement};

/// Numbers of 4K pages, one object in each: from what fits the first level to 1 GiB.
const PAGES: [u64; 9] = [16, 64, 256, 1024, 2048, 4096, 16_384, 65_536, 262_144];

/// Measures, and prints the table.
pub fn run(core: Option<&'static Geometry>, seed: u64) -> Result<()> {
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
            println!("chase: SKIP ({error:#})");
            return Ok(());
        }
    };
    let mut small = Arena::new(largest as usize, Pages::Small)?;
    let probe = chase::large_entries(&mut large);
    println!(
        "2M pages: {} (24 of them cost {:.1} ns a load, 4 cost {:.1})",
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
    for pages in PAGES {
        let order = chase::places(pages, seed);
        let Chased { small: k4, large: m2 } = chase::chase(&mut small, &mut large, &order);
        print!(
            "{pages:>7}{:>7.1}  {:>7.1}{:>8.1}{:>8.1}  {:>7.1}{:>8.1}{:>8.1}  {:>9.1}  ",
            (pages << 12) as f64 / f64::from(1 << 20),
            k4.p10,
            k4.p25,
            k4.median,
            m2.p10,
            m2.p25,
            m2.median,
            k4.p25 - m2.p25
        );
        for (width, dimensions) in [
            (11, Dimensions::One),
            (10, Dimensions::Two(PageSize::K4)),
            (10, Dimensions::Two(PageSize::M2)),
        ] {
            let cycles = |size| -> Result<f64> {
                let counts = predict(core, Replacement::Lru, dimensions, pages, size, seed)?;
                Ok(counts.cycles as f64 / counts.accesses as f64)
            };
            let difference = (cycles(Pages::Small)? - cycles(Pages::Large)?) * cycle;
            print!("{difference:>width$.1}");
        }
        println!();
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
