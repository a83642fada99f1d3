//! A machine made by hand in a RAM file: host tables, a guest's tables and its memory, looked at by library and program.
#![cfg(test)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use audit::{Format, SecondStageViolation, Tables, Va, WalkError};
use guest_abi::pattern::Pattern;
use tools::{Difference, Frames, LeafDump, Owners, RamFile, compare, owners, reachable, search};

const BASE: u64 = 0xffff_8000_0000_0000;
const SEED: u64 = 99;
const CR3: u64 = 0x10_0000;
const NESTED: u64 = 0x11_0000;
/// The guest's private region.
const PRIVATE: u64 = 20 << 21;
const P_W: u64 = 3;
const LARGE: u64 = 0x80;
const NX: u64 = 1 << 63;

/// 64 MiB; the direct map in 2M leaves but for the guest's region, which the guest maps at 0 and has filled.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        File::create(machine.path()).unwrap().set_len(64 << 20).unwrap();
        machine.write(CR3 + 8 * 256, &[0x10_1000 | P_W]);
        machine.write(0x10_1000, &[0x10_2000 | P_W]);
        let leaves: Vec<u64> = (0..32).map(|region| region << 21 | P_W | LARGE | NX).collect();
        machine.write(0x10_2000, &leaves);
        machine.write(0x10_2000 + 8 * 20, &[0]);
        machine.write(NESTED, &[0x11_1000 | 7]);
        machine.write(0x11_1000, &[0x11_2000 | 7]);
        machine.write(0x11_2000, &[PRIVATE | LARGE | 7]);
        let pattern = Pattern::new(SEED);
        let words: Vec<u64> = (0..1 << 18).map(|word| pattern.word(1, 8 * word)).collect();
        machine.write(PRIVATE, &words);
        machine
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ram")
    }

    fn write(&self, pa: u64, words: &[u64]) {
        let file = File::options().write(true).open(self.path()).unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.write_all_at(&bytes, pa).unwrap();
    }

    fn ram(&self) -> RamFile {
        RamFile::open(&self.path()).unwrap()
    }

    fn dump(&self) -> LeafDump {
        let ram = self.ram();
        let view = ram.view();
        LeafDump::take(
            &Tables::new(&view, Format::host(false, 52), CR3),
            Va::new(0),
            Va::new(u64::MAX),
        )
        .unwrap()
    }

    fn inspect(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna-inspect"));
        command.args(arguments);
        if arguments[0] != "compare" {
            command.arg("--ram").arg(self.path());
        }
        command.output().unwrap()
    }

    /// Standard output and status.
    fn prints(&self, arguments: &[&str]) -> (String, i32) {
        let output = self.inspect(arguments);
        assert!(
            output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        (
            String::from_utf8(output.stdout).unwrap(),
            output.status.code().unwrap(),
        )
    }

    fn save(&self, name: &str, dump: &LeafDump) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, serde_json::to_string(dump).unwrap()).unwrap();
        path
    }
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_guest_s_memory_is_found_by_search_and_by_its_tables_and_is_out_of_reach() {
    let machine = Machine::new();
    let ram = machine.ram();
    let view = ram.view();
    let hits = search(&ram, &Pattern::new(SEED), 2).unwrap();
    assert_eq!(hits.len(), 1);
    assert_eq!(
        (hits[0].pa, hits[0].instance, hits[0].gpa, hits[0].words),
        (PRIVATE, 1, 0, 1 << 18)
    );
    let frames = Frames::of_hits(&hits);
    let guest = Tables::new(&view, Format::nested(false, 52), NESTED);
    assert_eq!(frames, Frames::of_second_stage(&guest, 1).unwrap());
    let host = Tables::new(&view, Format::host(false, 52), CR3);
    assert_eq!(reachable(&host, &frames).unwrap(), []);
    assert!(host.translate(Va::new(BASE + PRIVATE)).unwrap().is_none());
}

#[test]
fn planted_ways_to_reach_it_are_all_found() {
    let machine = Machine::new();
    // Restored in the direct map, an alias in the last slot, a table in private memory, and a copy of its words elsewhere.
    machine.write(0x10_2000 + 8 * 20, &[PRIVATE | P_W | LARGE | NX]);
    machine.write(CR3 + 8 * 511, &[0x12_0000 | P_W]);
    machine.write(0x12_0000, &[0x12_1000 | P_W]);
    machine.write(0x12_1000, &[0x12_2000 | P_W]);
    machine.write(0x12_2000, &[(PRIVATE + 0x5000) | P_W]);
    machine.write(0x12_1008, &[(PRIVATE + 0x1f_f000) | P_W]);
    machine.write(PRIVATE + 0x1f_f000, &[0; 512]);
    let pattern = Pattern::new(SEED);
    machine.write(
        0x300_0010,
        &[0x800, 0x808, 0x810, 0x818, 0x820].map(|gpa| pattern.word(1, gpa)),
    );
    let ram = machine.ram();
    let view = ram.view();
    let guest = Tables::new(&view, Format::nested(false, 52), NESTED);
    let mut frames = Frames::of_second_stage(&guest, 1).unwrap();
    frames.extend(Frames::of_hits(&search(&ram, &pattern, 2).unwrap()));
    let found = reachable(&Tables::new(&view, Format::host(false, 52), CR3), &frames).unwrap();
    let places: Vec<(u64, u64, Option<u8>)> = found
        .iter()
        .map(|reach| (reach.va.get(), reach.pa.get(), reach.table))
        .collect();
    assert_eq!(
        places,
        [
            (BASE + PRIVATE, PRIVATE, None),
            (BASE + 0x300_0000, 0x300_0000, None),
            (0xffff_ff80_0000_0000, PRIVATE + 0x5000, None),
            (0xffff_ff80_0020_0000, PRIVATE + 0x1f_f000, Some(1)),
        ]
    );
}

#[test]
fn a_frame_with_two_owners_or_two_addresses_is_found() {
    let machine = Machine::new();
    let (other, extended) = (0x14_0000, 0x15_0000);
    // Two more guests, in AMD's tables and in Intel's, each with a region of its own.
    machine.write(other, &[0x14_1000 | 7]);
    machine.write(0x14_1000, &[0x14_2000 | 7]);
    machine.write(0x14_2000, &[21 << 21 | LARGE | 7]);
    machine.write(extended, &[0x15_1000 | 7]);
    machine.write(0x15_1000, &[0x15_2000 | 7]);
    let write_back = 6 << 3 | 1 << 6;
    machine.write(0x15_2000, &[22 << 21 | LARGE | write_back | 7]);
    let look = || {
        let ram = machine.ram();
        let view = ram.view();
        let nested = |root| Tables::new(&view, Format::nested(false, 52), root);
        let extended = Tables::new(&view, Format::extended(false, 52), extended);
        let host = Tables::new(&view, Format::host(false, 52), CR3);
        owners(&[nested(NESTED), nested(other), extended], &host).unwrap()
    };
    let region = |number: u64, owner| Frames {
        start: number << 21,
        end: (number + 1) << 21,
        owner,
    };
    let frames = vec![region(20, 1), region(21, 2), region(22, 3)];
    let wrong = Vec::new();
    assert_eq!(look(), Owners { frames, wrong });

    let only = || {
        let found = look().wrong;
        assert_eq!(found.len(), 1, "{found:?}");
        found[0]
    };
    // The second has a page of the first.
    machine.write(0x14_2008, &[0x14_3000 | 7]);
    machine.write(0x14_3000, &[(PRIVATE + 0x3000) | 7]);
    assert!(
        matches!(only(), (2, SecondStageViolation::NotOwned { pa, owner: Some(1), .. }) if pa.get() == PRIVATE + 0x3000)
    );
    // It has one of its own twice.
    machine.write(0x14_3000, &[21 << 21 | 7]);
    assert!(matches!(only(), (2, SecondStageViolation::NotOnce { .. })));
    machine.write(0x14_2008, &[0]);
    // What the second shares is not private memory; it must not be another guest's, nor its own.
    machine.write(other + 8, &[0x14_4000 | 7]);
    machine.write(0x14_4000, &[0x14_5000 | 7]);
    machine.write(0x14_5000, &[30 << 21 | LARGE | 7]);
    assert_eq!(look().wrong, []);
    assert!(!look().frames.contains(&region(30, 2)));
    machine.write(0x14_5000, &[20 << 21 | LARGE | 7]);
    let found = only();
    assert!(
        matches!(found, (2, SecondStageViolation::SharedPrivate { pa, owner: 1, .. }) if pa.get() == 20 << 21),
        "{found:?}"
    );
    machine.write(0x14_5000, &[21 << 21 | LARGE | 7]);
    let found = only();
    assert!(
        matches!(found, (2, SecondStageViolation::NotInPlace { .. })),
        "{found:?}"
    );
    // What the host's tables do not show either is shared in place, and the guest's.
    machine.write(0x14_5000, &[30 << 21 | LARGE | 7]);
    machine.write(0x10_2000 + 8 * 30, &[0]);
    assert_eq!(look().wrong, []);
    assert!(look().frames.contains(&region(30, 2)));
    // At both aliases it is wrong.
    machine.write(0x14_2008, &[30 << 21 | LARGE | 7]);
    assert!(matches!(only(), (2, SecondStageViolation::NotOnce { .. })));
    machine.write(0x14_2008, &[0]);
    machine.write(0x10_2000 + 8 * 30, &[30 << 21 | P_W | LARGE | NX]);
    machine.write(other + 8, &[0]);
    // The third can choose the memory type.
    machine.write(0x15_2000, &[22 << 21 | LARGE | 6 << 3 | 7]);
    assert!(matches!(only(), (3, SecondStageViolation::NotWriteBack { .. })));
    // Tables that are none.
    machine.write(0x15_2000, &[22 << 21 | LARGE | 0x1000 | 7]);
    let ram = machine.ram();
    let view = ram.view();
    let tables = Tables::new(&view, Format::extended(false, 52), extended);
    assert!(matches!(
        owners(&[tables], &Tables::new(&view, Format::host(false, 52), CR3)),
        Err((1, WalkError::ReservedBits { .. }))
    ));
}

#[test]
fn two_moments_are_compared_leaf_for_leaf() {
    let machine = Machine::new();
    let before = machine.dump();
    assert_eq!(before.leaves.len(), 31);
    // Accessed and dirty are nothing; an attribute, a hole and a split are.
    machine.write(0x10_2000 + 8, &[1 << 21 | P_W | LARGE | NX | 0x60]);
    assert_eq!(compare(&before.leaves, &machine.dump().leaves), []);
    machine.write(0x10_2000 + 8 * 3, &[3 << 21 | 1 | LARGE | NX]);
    machine.write(0x10_2000 + 8 * 4, &[0]);
    machine.write(0x10_2000 + 8 * 5, &[0x13_0000 | P_W]);
    let pages: Vec<u64> = (0..512).map(|page| 5 << 21 | page << 12 | P_W | NX).collect();
    machine.write(0x13_0000, &pages);
    let differences = compare(&before.leaves, &machine.dump().leaves);
    assert_eq!(differences.len(), 2 + 1 + 511);
    assert!(matches!(&differences[0], Difference::Changed { after, .. } if after.attributes == "r--s----"));
    assert!(matches!(&differences[1], Difference::Gone(leaf) if leaf.pa == 4 << 21));
    assert!(
        matches!(&differences[2], Difference::Changed { before, after } if before.bytes == 1 << 21 && after.bytes == 4096)
    );
}

#[test]
fn the_program_prints_what_the_library_finds() {
    let machine = Machine::new();
    let (text, status) = machine.prints(&["runs", "--cr3", "0x100000"]);
    assert_eq!(
        (text.as_str(), status),
        (
            "0xffff800000000000 -> 0x000000000000      20 x 2M rw-s----\n\
             0xffff800002a00000 -> 0x000002a00000      11 x 2M rw-s----\n",
            0
        )
    );
    let (text, _) = machine.prints(&["runs", "--cr3", "0x110000", "--nested", "--json"]);
    assert!(
        text.contains("\"va\":\"0x0\"") && text.contains("\"pa\":\"0x2800000\""),
        "{text}"
    );
    let (text, _) = machine.prints(&["count", "--cr3", "0x100000"]);
    assert!(
        text.contains("2M leaves          31\n") && text.contains("mapped MiB         62\n"),
        "{text}"
    );
    let (text, _) = machine.prints(&["translate", "--cr3", "0x100000", "0xffff800000345678"]);
    assert!(
        text.starts_with("0xffff800000345678 -> 0x345678, through"),
        "{text}"
    );
    let (text, _) = machine.prints(&["translate", "--cr3", "0x100000", "0xffff800002800000"]);
    assert!(text.contains("is not mapped"), "{text}");
    let (text, _) = machine.prints(&["search", "--seed", "99"]);
    assert_eq!(
        text,
        "0x000002800000: 262144 words of guest 1 for 0x0 on\n1 hit, 262144 words\n"
    );
    let (text, _) = machine.prints(&["search", "--seed", "98"]);
    assert_eq!(text, "0 hits, 0 words\n");
}

#[test]
fn the_program_s_status_tells_found_from_could_not_look() {
    let machine = Machine::new();
    let check = [
        "reach",
        "--cr3",
        "0x100000",
        "--seed",
        "99",
        "--second-stage",
        "0x110000",
    ];
    assert_eq!(
        machine.prints(&check),
        (
            String::from("2048 KiB of private memory checked, 0 ways to reach it\n"),
            0
        )
    );
    let before = machine.save("before", &machine.dump());
    machine.write(0x10_2000 + 8 * 20, &[PRIVATE | P_W | LARGE | NX]);
    let (text, status) = machine.prints(&check);
    assert!(
        text.starts_with("0xffff800002800000 leads to 0x2800000") && status == 1,
        "{text}"
    );
    let after = machine.save("after", &machine.dump());
    let (text, status) = machine.prints(&["compare", name(&before), name(&after)]);
    assert!(
        text.ends_with("\n1 difference\n") && text.starts_with("new ") && status == 1,
        "{text}"
    );
    assert_eq!(machine.prints(&["compare", name(&before), name(&before)]).1, 0);

    // Nothing to check, a root outside RAM, a root that is no root.
    for arguments in [
        &["reach", "--cr3", "0x100000", "--seed", "98"][..],
        &["count", "--cr3", "0x7f000000"],
        &["count", "--cr3", "0x2800000"],
        &["compare", "/nonexistent", "/nonexistent"],
    ] {
        let output = machine.inspect(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: "));
    }
}
