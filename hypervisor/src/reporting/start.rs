//! The first lines of the report.

use boot_config::Config;
use report::Event;

use super::json;
use crate::boot::info::BootInfo;
use crate::bring_up::ram::Ram;
use crate::cpu::features::Features;
use crate::println;
use crate::virt::Capabilities;

/// Says what runs and on what. `cpus` are those found and those used.
pub fn say(
    info: &BootInfo,
    features: &Features,
    (cpus_found, cpus_used): (u32, u32),
    ram: &Ram,
    config: &Config<'_>,
    capabilities: &Capabilities,
) {
    println!(
        "{}, {} MiB of RAM, loaded by {}",
        features.brand,
        ram.mib(),
        info.loader
    );
    println!(
        "1G leaves: {}; second stage: {}; CPUs: {cpus_found} found, {cpus_used} used; seed {:#x}",
        if features.gigabyte_pages {
            "yes"
        } else {
            "no, the CPU has none"
        },
        capabilities.second_stage,
        config.seed
    );
    if let Some(quirk) = capabilities.quirk {
        println!("{quirk}");
    }
    if ram.map.unreachable_bytes() > 0 {
        println!(
            "{} MiB of RAM lie beyond the reach of the direct map and are not used",
            ram.map.unreachable_bytes() >> 20
        );
    }
    println!();
    json::event(&Event::Start(report::Start {
        schema: report::SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("LACUNA_COMMIT"),
        machine: report::Machine {
            cpu: &features.brand,
            second_stage: capabilities.second_stage,
            leaf_1g: features.gigabyte_pages,
            nrip_save: capabilities.nrip_save,
            decode_assists: capabilities.decode_assists,
            flush_by_asid: capabilities.flush_by_asid,
            asids: capabilities.asids,
            physical_bits: features.physical_address_bits.into(),
        },
        memory_mib: ram.mib(),
        cpus_found,
        cpus_used,
        seed: config.seed,
        command_line: &info.command_line,
    }));
}
