//! The look from outside: while the machine is paused, its RAM is read as a file and its tables are walked from the CPU's own CR3,
//! with code that the hypervisor does not use. What the hypervisor says about itself is not asked for, only compared with. The guests' tables
//! are found by searching RAM for what a CPU would take as a guest's control block: a VMCB, or on Bochs a VMCS.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use guest_abi::pattern::{Pattern, REGISTERS};
use tools::audit::{Format, Reach, Tables, Va};
use tools::{
    Frames, Hit, Layout, LeafDump, RamFile, RamView, Registers, compare, find_vmcbs, find_vmcses, owners,
    reachable, search, threads,
};

use crate::bochs;
use crate::machine::Kind;
use crate::preflight::{Device, Host};
use crate::report::Report;

/// Where the image lies in physical memory: a place that the host must be able to reach, to see that the check finds what is there.
const IMAGE: u64 = 0x20_0000;
/// Bits of a physical address that an entry may have at most (APM volume 2, section 5.3); the emulator does not print the CPU's own.
const PHYSICAL_BITS: u32 = 52;

/// Why this host's machines of a kind can't be looked at from outside; `None` when they can.
pub fn obstacle(kind: Kind, host: &Host) -> Option<String> {
    match (kind, &host.kvm) {
        // Linux' `arch/x86/kvm/vmx/nested.c`, `nested_release_vmcs12`: it is copied back to the guest's memory when it stops being current, as a
        // `struct vmcs12`, which is nobody else's affair and has another revision than any processor.
        (Kind::Kvm, Device::Offers(cpu)) if cpu.vmx && !cpu.svm => Some(
            "KVM keeps the control structures of Intel's guests in a format of its own, so guests' tables can't be found in RAM from outside".into(),
        ),
        (Kind::Bochs, _) => bochs::obstacle(),
        (Kind::NestedAmd | Kind::NestedIntel, _) => Some("level 2's RAM is no file here, and nobody can pause it".into()),
        (Kind::Kvm | Kind::Tcg, _) => None,
    }
}

/// What one moment shows.
struct Moment {
    /// Every leaf under CR3.
    dump: LeafDump,
    /// Runs of guests' words anywhere in RAM, those for registers included.
    hits: Vec<Hit>,
    /// Memory of guests: under their second stages, and where their words were found.
    private: Vec<Frames>,
    /// What is wrong with second stages: a frame of two guests, or of two addresses.
    shared: Vec<String>,
    /// Runs of guests' words for memory that are under no second stage.
    stray: Vec<Hit>,
    /// Where the host reaches private memory.
    reached: Vec<Reach>,
    /// Whether the host reaches its own image, as it must.
    sees_image: bool,
}

/// Looks at the machine at each pause and remembers what it saw.
pub struct Look {
    kind: Kind,
    ram: PathBuf,
    pattern: Pattern,
    moments: Vec<(String, Moment)>,
}

impl Look {
    /// A look at the RAM file `ram` of a run with this seed on a machine of this kind.
    pub fn new(kind: Kind, ram: &Path, seed: u64) -> Self {
        Self {
            kind,
            ram: ram.to_owned(),
            pattern: Pattern::new(seed),
            moments: Vec::new(),
        }
    }

    /// Looks at the paused machine, with what its emulator says of the CPU's registers.
    ///
    /// # Errors
    /// The registers, the file or the tables can't be read.
    pub fn visit(&mut self, phase: &str, registers: &str) -> Result<()> {
        let registers =
            Registers::parse(registers).context("the emulator's registers have no CR3, CR4, EFER")?;
        let layout = |bytes| match self.kind {
            Kind::Tcg | Kind::Kvm | Kind::NestedAmd | Kind::NestedIntel => Layout::q35(bytes),
            Kind::Bochs => Layout::with_below_4g(bytes, bytes),
        };
        let ram =
            RamFile::open_with(&self.ram, layout).with_context(|| format!("open {}", self.ram.display()))?;
        let view = ram.view();
        let tables =
            Tables::new(&view, registers.format(), registers.cr3).with_table_limit(view.table_limit());
        let dump = LeafDump::take(&tables, Va::new(0), Va::new(u64::MAX)).map_err(walk)?;

        let hits = search(&ram, &self.pattern, threads()).context("search the RAM")?;
        let (guests, shared) = self.second_stages(&ram, &view, &tables)?;
        let (private, stray) = private(&hits, guests);
        let reached = reachable(&tables, &private).map_err(walk)?;
        let image = [Frames {
            start: IMAGE,
            end: IMAGE + 0x1000,
            owner: 0,
        }];
        let sees_image = !reachable(&tables, &image).map_err(walk)?.is_empty();
        self.moments.push((
            phase.to_owned(),
            Moment {
                dump,
                hits,
                private,
                shared,
                stray,
                reached,
                sees_image,
            },
        ));
        Ok(())
    }

    /// The memory under the second stages of all guests that are found in RAM, and what is wrong with them.
    fn second_stages<'v>(
        &self,
        ram: &RamFile,
        view: &'v RamView<'v>,
        host: &Tables<'v, RamView<'v>>,
    ) -> Result<(Vec<Frames>, Vec<String>)> {
        let searched = "search the RAM for guests' control blocks";
        // Where each was found, and the root of its tables.
        let found: Vec<(u64, u64)> = match self.kind {
            Kind::Tcg | Kind::Kvm | Kind::NestedAmd => {
                let vmcbs = find_vmcbs(ram).context(searched)?;
                vmcbs.iter().map(|vmcb| (vmcb.pa, vmcb.nested_cr3)).collect()
            }
            Kind::Bochs | Kind::NestedIntel => {
                let vmcses = find_vmcses(ram).context(searched)?;
                vmcses.iter().map(|vmcs| (vmcs.pa, vmcs.ept_pointer)).collect()
            }
        };
        let format = match self.kind {
            Kind::Tcg | Kind::Kvm | Kind::NestedAmd => Format::nested(false, PHYSICAL_BITS),
            Kind::Bochs | Kind::NestedIntel => Format::extended(false, PHYSICAL_BITS),
        };
        let guests: Vec<_> = found
            .iter()
            .map(|(_, root)| Tables::new(view, format, *root).with_table_limit(view.table_limit()))
            .collect();
        let place = |guest: u64| found.get(guest as usize - 1).map_or(0, |(pa, _)| *pa);
        let owners = owners(&guests, host).map_err(|(guest, error)| {
            anyhow!(
                "the second stage of the control block at {:#x}: {error}",
                place(guest)
            )
        })?;
        let wrong = owners.wrong.iter().map(|(guest, violation)| {
            format!(
                "in the second stage of the control block at {:#x} {violation}",
                place(*guest)
            )
        });
        Ok((owners.frames, wrong.collect()))
    }

    fn moment(&self, phase: &str) -> Result<&Moment, String> {
        let mut found = self.moments.iter().filter(|(name, _)| name == phase);
        match (found.next(), found.next()) {
            (Some((_, moment)), None) => Ok(moment),
            (None, _) => Err(format!("the machine did not pause at `{phase}`")),
            _ => Err(format!("the machine paused more than once at `{phase}`")),
        }
    }

    /// Judges what was seen, and compares it with what the hypervisor reports.
    ///
    /// # Errors
    /// Everything that must not be, a line each.
    pub fn conclude(&self, report: &Report) -> Result<(), String> {
        let (boot, guests, after) = (
            self.moment("boot")?,
            self.moment("guests")?,
            self.moment("after")?,
        );
        let mut wrong = Vec::new();
        for (phase, moment) in &self.moments {
            if !moment.sees_image {
                wrong.push(format!(
                    "at {phase} the walk does not even find the hypervisor's image"
                ));
            }
            if let Some(Reach { va, pa, .. }) = moment.reached.first() {
                let count = moment.reached.len();
                wrong.push(format!(
                    "at {phase} the host reaches private memory in {count} places, first {pa} at {va}"
                ));
            }
        }
        for (phase, moment) in &self.moments {
            wrong.extend(moment.shared.iter().map(|shared| format!("at {phase} {shared}")));
        }
        if let Some(hit) = boot.hits.first() {
            wrong.push(format!(
                "at boot there is a guest's pattern: {}",
                words(hit, &boot.dump)
            ));
        }
        if let Some(hit) = after.hits.first() {
            wrong.push(format!(
                "after teardown {} pieces of guests' patterns are left, first {}",
                after.hits.len(),
                words(hit, &after.dump)
            ));
        }
        if guests.hits.iter().all(|hit| hit.gpa >= REGISTERS) {
            wrong.push(
                "with guests alive their pattern is nowhere: the search would find nothing later either"
                    .into(),
            );
        }
        if let Some(hit) = guests.stray.first() {
            wrong.push(format!(
                "a guest's words lie outside its memory: {}",
                words(hit, &guests.dump)
            ));
        }
        let differences = compare(&boot.dump.leaves, &after.dump.leaves);
        if let Some(first) = differences.first() {
            wrong.push(format!(
                "the leaves after teardown differ from those at boot in {} places, first {first}",
                differences.len()
            ));
        }

        // What is missing from the host's tables while guests live is what the guests have, and what the report says.
        let missing = mapped(&boot.dump).saturating_sub(mapped(&guests.dump));
        let private: u64 = guests
            .private
            .iter()
            .map(|frames| frames.end - frames.start)
            .sum();
        let reported = report.phase("guests").map(|phase| phase.hidden_mib << 20);
        if missing < private || reported != Some(missing) {
            wrong.push(format!(
                "the host's tables show {missing} bytes less than at boot, guests have {private} bytes, the report says {reported:?}"
            ));
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n"))
        }
    }
}

/// Whether a look has found the mistake that was made; the error is what it has found instead.
///
/// # Errors
/// It found nothing, or only something else.
pub fn found(what: &str, concluded: Result<(), String>) -> Result<(), String> {
    match concluded {
        Err(reason) if reason.contains(what) => Ok(()),
        Err(reason) => Err(format!(
            "the look from outside finds something else than `{what}`: {reason}"
        )),
        Ok(()) => Err(format!(
            "the look from outside does not find `{what}`, which was done on purpose"
        )),
    }
}

/// A run of words as people read it, with every address at which the host sees it.
fn words(hit: &Hit, dump: &LeafDump) -> String {
    let Hit {
        pa,
        instance,
        gpa,
        words,
    } = hit;
    let what = if *gpa < REGISTERS {
        "memory at"
    } else {
        "registers, as"
    };
    let leaves = dump
        .leaves
        .iter()
        .filter(|leaf| (leaf.pa..leaf.pa + leaf.bytes).contains(pa));
    let seen: Vec<_> = leaves
        .map(|leaf| format!("{:#x}", leaf.va + (pa - leaf.pa)))
        .collect();
    let seen = if seen.is_empty() {
        "nowhere".into()
    } else {
        format!("at {}", seen.join(" and "))
    };
    format!(
        "{words} words of guest {instance} for its {what} {gpa:#x}, found at physical {pa:#x}, seen by the host {seen}"
    )
}

/// Bytes that the leaves map.
fn mapped(dump: &LeafDump) -> u64 {
    dump.leaves.iter().map(|leaf| leaf.bytes).sum()
}

/// All memory of guests, and the runs of words that are in none of the extents of their second stages. Words for registers are left out: they
/// lie in the host's memory while their guest does not run.
fn private(hits: &[Hit], second_stages: Vec<Frames>) -> (Vec<Frames>, Vec<Hit>) {
    let of_memory: Vec<Hit> = hits.iter().filter(|hit| hit.gpa < REGISTERS).copied().collect();
    let stray = of_memory
        .iter()
        .filter(|hit| !covered(hit, &second_stages))
        .copied()
        .collect();
    (
        Frames::sorted([second_stages, Frames::of_hits(&of_memory)].concat()),
        stray,
    )
}

/// Whether the words lie in one of the extents of the guests.
fn covered(hit: &Hit, guests: &[Frames]) -> bool {
    guests
        .iter()
        .any(|frames| frames.start <= hit.pa && hit.pa + 8 * hit.words <= frames.end)
}

fn walk(error: tools::audit::WalkError) -> anyhow::Error {
    anyhow!("the host's tables: {error}")
}
