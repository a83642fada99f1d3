//! Addresses from a file through the model.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use tools::LeafDump;
use tools::tlb::{Dimensions, GEOMETRIES, Geometry, Mapping, Model, PageSize, Replacement};

/// Prints a line for each core and kind of replacement.
pub fn run(
    leaves: &Path,
    addresses: &Path,
    core: Option<&'static Geometry>,
    outer: Option<PageSize>,
) -> Result<()> {
    let text = fs::read_to_string(leaves).with_context(|| leaves.display().to_string())?;
    let dump: LeafDump = serde_json::from_str(&text)
        .with_context(|| format!("{} is not what `leaves --json` prints", leaves.display()))?;
    let mapping = Mapping::from_leaves(&dump.leaves)?;
    let mut text = String::new();
    if addresses == Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("the standard input")?;
    } else {
        text = fs::read_to_string(addresses).with_context(|| addresses.display().to_string())?;
    }
    let accesses = parse(&text)?;
    let dimensions = outer.map_or(Dimensions::One, Dimensions::Two);
    println!(
        "{:<6}{:<5}{:>10}{:>12}{:>12}{:>14}   for 1000 accesses",
        "core", "", "accesses", "misses", "walks", "cycles"
    );
    let all: Vec<&'static Geometry> = match core {
        Some(core) => vec![core],
        None => GEOMETRIES.iter().collect(),
    };
    for core in all {
        for replacement in [Replacement::Lru, Replacement::Nru] {
            let mut model = Model::new(core, replacement, dimensions);
            for (va, store) in &accesses {
                let pa = physical(&dump, *va);
                model
                    .access(&mapping, *va, pa, *store)
                    .map_err(|error| anyhow!("{error}"))?;
            }
            let counts = model.counts();
            println!(
                "{:<6}{replacement:<5}{:>10}{:>12.1}{:>12.1}{:>14.1}",
                core.name,
                counts.accesses,
                counts.per_thousand(counts.misses),
                counts.per_thousand(counts.walks),
                counts.per_thousand(counts.cycles)
            );
        }
    }
    Ok(())
}

/// Where an address goes, by the leaf around it.
fn physical(dump: &LeafDump, va: u64) -> u64 {
    let after = dump.leaves.partition_point(|leaf| leaf.va <= va);
    let leaf = after.checked_sub(1).and_then(|at| dump.leaves.get(at));
    leaf.map_or(va, |leaf| leaf.pa + (va - leaf.va))
}

fn parse(text: &str) -> Result<Vec<(u64, bool)>> {
    let lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let (address, store) = match line.trim().strip_suffix(" w") {
                Some(address) => (address.trim(), true),
                None => (line.trim(), false),
            };
            let digits = address.trim_start_matches("0x");
            let address = u64::from_str_radix(digits, 16);
            Ok((
                address.with_context(|| format!("line {number}, {line:?}, is no address"))?,
                store,
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let read = parse("0xffff800000001000\n\n2000 w\n").unwrap();
        assert_eq!(read, [(0xffff_8000_0000_1000, false), (0x2000, true)]);
        assert!(
            parse("1000\nzebra")
                .unwrap_err()
                .to_string()
                .starts_with("line 2")
        );
    }
}
