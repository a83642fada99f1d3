//! What `lacuna-inspect` prints: text, or one JSON value.

use std::io::{self, Write};
use std::ops::RangeInclusive;

use anyhow::Result;
use audit::{Leaf, Pa, Reach, Run, Runs, Stats, WalkError};
use serde_json::{Value, json};
use tools::dump::{attributes, size};
use tools::{Difference, Frames, Hit, LeafDump, LeafRecord, Vmcb, Vmcs};

/// Prints to standard output.
pub struct Printer {
    json: bool,
    out: io::BufWriter<io::StdoutLock<'static>>,
}

impl Printer {
    pub fn new(json: bool) -> Self {
        Self {
            json,
            out: io::BufWriter::new(io::stdout().lock()),
        }
    }

    /// Hands on what was printed; without it an error of the output would be lost.
    pub fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }

    fn value(&mut self, value: &impl serde::Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        writeln!(self.out)?;
        Ok(())
    }

    pub fn runs(
        &mut self,
        leaves: impl Iterator<Item = Result<Leaf, WalkError>>,
        range: &RangeInclusive<u64>,
    ) -> Result<()> {
        let inside = |leaf: &Result<Leaf, WalkError>| match leaf {
            Ok(leaf) => {
                leaf.va.get() <= *range.end()
                    && leaf.va.get().saturating_add(leaf.size.bytes() - 1) >= *range.start()
            }
            Err(_) => true,
        };
        let runs = Runs::new(leaves.filter(inside)).collect::<Result<Vec<Run>, _>>()?;
        if self.json {
            let runs: Vec<Value> = runs
                .iter()
                .map(|run| {
                    json!({
                        "va": run.va.to_string(),
                        "pa": run.pa.to_string(),
                        "leaves": run.leaves,
                        "leaf": size(run.size.bytes()),
                        "attributes": attributes(run.attributes),
                    })
                })
                .collect();
            return self.value(&runs);
        }
        for run in &runs {
            writeln!(
                self.out,
                "{:#018x} -> {:#014x} {:>7} x {} {}",
                run.va.get(),
                run.pa.get(),
                run.leaves,
                size(run.size.bytes()),
                attributes(run.attributes)
            )?;
        }
        Ok(())
    }

    pub fn leaves(&mut self, dump: &LeafDump) -> Result<()> {
        if self.json {
            return self.value(dump);
        }
        for leaf in &dump.leaves {
            let flags = match (leaf.accessed, leaf.dirty) {
                (_, true) => " dirty",
                (true, false) => " accessed",
                (false, false) => "",
            };
            writeln!(self.out, "{leaf}{flags}")?;
        }
        Ok(())
    }

    pub fn count(&mut self, stats: &Stats) -> Result<()> {
        let Stats { leaves, tables } = stats;
        if self.json {
            return self.value(&json!({
                "g1": leaves.g1, "m2": leaves.m2, "k4": leaves.k4, "tables": tables, "mapped_bytes": leaves.bytes(),
            }));
        }
        writeln!(self.out, "1G leaves  {:>10}", leaves.g1)?;
        writeln!(self.out, "2M leaves  {:>10}", leaves.m2)?;
        writeln!(self.out, "4K leaves  {:>10}", leaves.k4)?;
        writeln!(self.out, "tables     {tables:>10}")?;
        writeln!(self.out, "mapped MiB {:>10}", leaves.bytes() >> 20)?;
        Ok(())
    }

    pub fn translation(&mut self, address: u64, found: Option<(Leaf, Pa)>) -> Result<()> {
        if self.json {
            let value =
                found.map(|(leaf, pa)| json!({ "pa": pa.to_string(), "leaf": LeafRecord::from(leaf) }));
            return self.value(&value);
        }
        match found {
            Some((leaf, pa)) => writeln!(
                self.out,
                "{address:#x} -> {pa}, through {}",
                LeafRecord::from(leaf)
            )?,
            None => writeln!(self.out, "{address:#x} is not mapped")?,
        }
        Ok(())
    }

    pub fn hits(&mut self, hits: &[Hit]) -> Result<()> {
        if self.json {
            return self.value(&hits);
        }
        for hit in hits {
            writeln!(
                self.out,
                "{:#014x}: {} words of guest {} for {:#x} on",
                hit.pa, hit.words, hit.instance, hit.gpa
            )?;
        }
        let words: u64 = hits.iter().map(|hit| hit.words).sum();
        writeln!(self.out, "{}, {words} words", many(hits.len(), "hit"))?;
        Ok(())
    }

    pub fn vmcbs(&mut self, vmcbs: &[Vmcb]) -> Result<()> {
        if self.json {
            return self.value(&vmcbs);
        }
        for vmcb in vmcbs {
            writeln!(
                self.out,
                "{:#014x}: nested CR3 {:#x}, ASID {}, RIP {:#x}, CR3 {:#x}",
                vmcb.pa, vmcb.nested_cr3, vmcb.asid, vmcb.rip, vmcb.cr3
            )?;
        }
        writeln!(self.out, "{}", many(vmcbs.len(), "control block"))?;
        Ok(())
    }

    pub fn vmcses(&mut self, vmcses: &[Vmcs]) -> Result<()> {
        if self.json {
            return self.value(&vmcses);
        }
        for vmcs in vmcses {
            writeln!(
                self.out,
                "{:#014x}: EPT pointer {:#x}, VPID {}, RIP {:#x}, CR3 {:#x}",
                vmcs.pa, vmcs.ept_pointer, vmcs.vpid, vmcs.rip, vmcs.cr3
            )?;
        }
        writeln!(self.out, "{}", many(vmcses.len(), "control structure"))?;
        Ok(())
    }

    pub fn reach(&mut self, frames: &[Frames], found: &[Reach]) -> Result<()> {
        let kib: u64 = frames
            .iter()
            .map(|frames| (frames.end - frames.start) >> 10)
            .sum();
        if self.json {
            let found: Vec<Value> = found
                .iter()
                .map(|reach| {
                    json!({
                        "va": reach.va.to_string(),
                        "pa": reach.pa.to_string(),
                        "owner": reach.owner,
                        "table_level": reach.table,
                    })
                })
                .collect();
            return self.value(&json!({ "checked_kib": kib, "reached": found }));
        }
        for Reach { va, pa, owner, table } in found {
            match table {
                Some(level) => writeln!(
                    self.out,
                    "the level {level} table for {va} lies at {pa}, private to {owner:#x}"
                )?,
                None => writeln!(self.out, "{va} leads to {pa}, private to {owner:#x}")?,
            }
        }
        writeln!(
            self.out,
            "{kib} KiB of private memory checked, {} to reach it",
            many(found.len(), "way")
        )?;
        Ok(())
    }

    pub fn differences(&mut self, differences: &[Difference]) -> Result<()> {
        if self.json {
            return self.value(&differences);
        }
        for difference in differences {
            writeln!(self.out, "{difference}")?;
        }
        writeln!(self.out, "{}", many(differences.len(), "difference"))?;
        Ok(())
    }
}

/// A number with its word, which takes an `s` unless the number is 1.
fn many(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}
