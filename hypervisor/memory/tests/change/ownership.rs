//! Who may do what to a page, as one table: every state, every operation, every party. Each cell is tried, with the three kinds of tables, a page
//! and 2 MiB; after each, what every party sees is compared with what the state lets it see, and what is refused has changed nothing.
//!
//! Another guest, and frames that are no guest's pages, cannot be named in an operation: a call takes an address of the guest that makes it. So of those it is
//! shown that whatever a guest does leaves them alone, and that the host's copies do not follow an entry that leads to them.

use std::fmt;

use super::*;
use memory::address::Gfn;
use memory::frame::extent::{Dirty, Extent};

/// The table, as docs/testing.md has it. A cell is what comes of the operation: a new state, or what it says.
const TABLE: &str = "\
| operation | by | outside | absent | pending | accepted | shared | shared in place |
|---|---|---|---|---|---|---|---|
| share | its guest | range | state | → shared | → shared | state | state |
| unshare | its guest | range | state | state | state | → pending | state |
| accept | its guest | range | state | → accepted | state | state | state |
| share in place | its guest | range | state | state | → shared in place | state | state |
| unshare in place | its guest | range | state | state | state | state | → accepted |
| give back | its guest | range | state | → absent | → absent | state | state |
| take again | its guest | range | → pending | state | state | state | state |
| write at the private alias | its guest | fault | fault | fault | done | fault | fault |
| write at the shared alias | its guest | fault | fault | fault | fault | done | done |
| each of these at the same address | another guest | apart | apart | apart | apart | apart | apart |
| copy out | host | range | not shared | not shared | not shared | done | done |
| copy in | host | range | not shared | not shared | not shared | done | done |
| read for the guest's vCPU | host | range | range | range | done | range | range |
| write for the guest's vCPU | host | range | range | range | done | range | range |
| take all frames that are free | host | apart | apart | apart | apart | apart | apart |
| take all hidden frames that are free | host | apart | apart | apart | apart | apart | apart |
| take another guest down | host | apart | apart | apart | apart | apart | apart |
| take the guest down | host | gone | gone | gone | gone | gone | gone |
";

const STATES: [PageState; 6] = [
    PageState::Outside,
    PageState::Absent,
    PageState::Pending,
    PageState::Accepted,
    PageState::Shared,
    PageState::SharedInPlace,
];

fn name(state: PageState) -> &'static str {
    match state {
        PageState::Outside => "outside",
        PageState::Absent => "absent",
        PageState::Pending => "pending",
        PageState::Accepted => "accepted",
        PageState::Shared => "shared",
        PageState::SharedInPlace => "shared in place",
    }
}

/// The changes that lead to a state from the launch on.
fn way_to(state: PageState) -> &'static [Change] {
    match state {
        PageState::Outside | PageState::Accepted => &[],
        PageState::Absent => &[Change::GiveBack],
        PageState::Pending => &[Change::Share, Change::Unshare],
        PageState::Shared => &[Change::Share],
        PageState::SharedInPlace => &[Change::ShareInPlace],
    }
}

/// Size of both guests.
const BYTES: u64 = 6 * MIB;
/// What the other guest's words are.
const OTHERS: u64 = 0x07e5;

/// Two guests, and a range of the first one's addresses in some state.
struct Scene {
    bench: Bench<'static>,
    first: GuestMemory,
    second: GuestMemory,
    start: u64,
    bytes: u64,
    state: PageState,
    what: String,
}

/// What the parties can do with a page. It follows from its state alone.
#[derive(Debug, PartialEq, Eq)]
struct View {
    guest_private: bool,
    guest_shared: bool,
    host_shared: bool,
    host_for_vcpu: bool,
    other: [Option<u64>; 2],
}

impl View {
    fn of(state: PageState) -> Self {
        let (guest_private, guest_shared) = match state {
            PageState::Outside | PageState::Absent | PageState::Pending => (false, false),
            PageState::Accepted => (true, false),
            PageState::Shared | PageState::SharedInPlace => (false, true),
        };
        Self {
            guest_private,
            guest_shared,
            host_shared: guest_shared,
            host_for_vcpu: guest_private,
            other: [Some(OTHERS), Some(!OTHERS)],
        }
    }
}

impl Scene {
    fn new(kind: SecondStageKind, bytes: u64, state: PageState) -> Self {
        let mut bench = Bench::of_ram(128 * MIB);
        let mut first = bench.launch_as(1, kind, BYTES);
        let second = bench.launch_as(2, kind, BYTES);
        // In the middle of what the other guest has at the same addresses.
        let start = match state {
            PageState::Outside => BYTES,
            _ => 2 * MIB,
        };
        for change in way_to(state) {
            bench.change(&mut first, *change, start, bytes).unwrap();
        }
        let what = format!("{kind:?}, {bytes:#x} bytes, {}", name(state));
        let mut scene = Self {
            bench,
            first,
            second,
            start,
            bytes,
            state,
            what,
        };
        scene.fill();
        scene
    }

    /// First and last word of the range.
    fn ends(&self) -> [u64; 2] {
        [self.start, self.start + self.bytes - 8]
    }

    /// The other guest's words: at the same addresses, or where it ends.
    fn others(&self) -> [u64; 2] {
        let start = self.start.min(BYTES - self.bytes);
        [start, start + self.bytes - 8]
    }

    fn fill(&mut self) {
        for (at, value) in self.others().into_iter().zip([OTHERS, !OTHERS]) {
            assert!(self.bench.machine.guest_store(id(2), Gpa::new(at), value));
        }
        // Both aliases, so that hardware has marked whatever it will mark.
        self.views();
    }

    /// What everybody sees is what the state says; and what was written where it could be is read by the others who may.
    fn views(&mut self) {
        let others = self.others();
        for (at, value) in self.ends().into_iter().zip([0x0a11, !0x0a11_u64]) {
            let state = self.bench.state(&self.first, at);
            assert_eq!(state, self.state, "{}: {at:#x}", self.what);
            let view = View {
                guest_private: self.bench.store(at, value),
                guest_shared: self.bench.store(at | SHARED, value),
                host_shared: self.bench.load_shared(&self.first, at).is_ok(),
                host_for_vcpu: self.bench.load(&self.first, at).is_some(),
                other: others.map(|at| self.bench.load(&self.second, at)),
            };
            assert_eq!(view, View::of(self.state), "{}: {at:#x}", self.what);
            let read = self
                .bench
                .load_shared(&self.first, at)
                .ok()
                .or(self.bench.load(&self.first, at));
            let written = view.guest_private || view.guest_shared;
            assert_eq!(read, written.then_some(value), "{}: {at:#x}", self.what);
        }
        let broken = self.bench.machine.check(&self.bench.memory.frames);
        assert_eq!(broken, [], "{}", self.what);
    }

    fn snapshot(&self) -> (Snapshot, [Vec<(Pfn, u64)>; 2]) {
        let cpu = self.bench.cpu;
        (
            self.bench.snapshot(),
            [
                self.first.unreachable(&cpu).collect(),
                self.first.shared_in_place(&cpu).collect(),
            ],
        )
    }

    /// A change by the first guest, as the table writes what comes of it.
    fn change(&mut self, change: Change) -> String {
        match self.bench.change(&mut self.first, change, self.start, self.bytes) {
            Ok(()) => {
                self.state = self.bench.state(&self.first, self.start);
                format!("→ {}", name(self.state))
            }
            Err(ChangeError::Range(_)) => "range".into(),
            Err(ChangeError::State) => "state".into(),
            Err(error) => error.to_string(),
        }
    }

    /// A write by the first guest at one alias.
    fn guest_writes(&mut self, alias: u64) -> String {
        let stored = self.ends().map(|at| self.bench.store(at | alias, 0x0a11));
        said(stored.map(|stored| stored.then_some(()).ok_or("fault")))
    }

    /// All that the second guest can do to the same address: it does it to its own page.
    fn other_guest(&mut self) -> String {
        let start = self.others()[0];
        // What is taken again has to be accepted.
        for change in Change::ALL.into_iter().chain([Change::Accept]) {
            let result = self.bench.change(&mut self.second, change, start, self.bytes);
            assert_eq!(result, Ok(()), "{}: {change:?}", self.what);
            for alias in [0, SHARED] {
                self.bench.machine.guest_store(id(2), Gpa::new(start | alias), 7);
            }
        }
        self.fill();
        "apart".into()
    }

    /// One of the host's copies of both words.
    fn host_copies(&mut self, into: bool) -> String {
        let ends = self.ends();
        let copied = ends.map(|at| {
            let copied = if into {
                self.bench.store_shared(&mut self.first, at, 0x1a5d)
            } else {
                self.bench.load_shared(&self.first, at).map(drop)
            };
            copied.map_err(|error| match error {
                NotShared::Range(_) => "range",
                NotShared::Page(_) => "not shared",
            })
        });
        said(copied)
    }

    /// What the host does for a vCPU that has exited, at both words.
    fn for_the_vcpu(&mut self, write: bool) -> String {
        let ends = self.ends();
        let Bench {
            cpu, memory, windows, ..
        } = &mut self.bench;
        let done = ends.map(|at| {
            let (frames, windows, at) = (&memory.frames, &mut windows[0], Gpa::new(at));
            let done = if write {
                self.first.write(cpu, frames, windows, at, &[5; 8])
            } else {
                self.first.read(cpu, frames, windows, at, &mut [0; 8])
            };
            done.map_err(|_| "range")
        });
        said(done)
    }

    /// The host takes what it can get, looks whose it was, and gives it back.
    fn host_takes_all(&mut self) -> String {
        let before: Vec<FrameState> = self.states();
        let mut hoard = Vec::new();
        while let Ok(frame) = self.bench.memory.frames.allocate(0) {
            hoard.push(frame);
        }
        assert!(!hoard.is_empty());
        for frame in &hoard {
            let state = before[frame.pfn().get() as usize];
            assert!(
                matches!(state, FrameState::Free { .. } | FrameState::Tail),
                "{}: {state:?}",
                self.what
            );
        }
        self.views();
        hoard
            .into_iter()
            .for_each(|frame| self.bench.memory.frames.free(frame));
        "apart".into()
    }

    /// The same for hidden frames.
    fn host_takes_all_hidden(&mut self) -> String {
        let before: Vec<FrameState> = self.states();
        let Bench {
            cpu, memory, windows, ..
        } = &mut self.bench;
        let mut taken: Vec<Extent<Dirty>> = Vec::new();
        for _ in 0..2048 {
            let Ok(extent) = memory.allocate_private(cpu, &mut windows[0], 0) else {
                break;
            };
            let state = before[extent.pfn().get() as usize];
            let was_a_guests = matches!(state, FrameState::Private { .. } | FrameState::Shared { .. });
            assert!(!was_a_guests, "{}: {state:?}", self.what);
            taken.push(extent.used());
        }
        assert!(!taken.is_empty());
        for extent in taken {
            memory.free_private(cpu, &mut windows[0], extent);
        }
        "apart".into()
    }

    fn states(&self) -> Vec<FrameState> {
        let frames = &self.bench.memory.frames;
        (0..128 * MIB / PAGE_SIZE)
            .map(|pfn| frames.state(Pfn::new(pfn)))
            .collect()
    }

    /// Does what a row of the table says, and gives what came of it.
    fn apply(&mut self, operation: &str) -> String {
        let change = Change::ALL
            .into_iter()
            .zip([
                "share",
                "unshare",
                "accept",
                "share in place",
                "unshare in place",
                "give back",
                "take again",
            ])
            .find_map(|(change, name)| (name == operation).then_some(change));
        match operation {
            "write at the private alias" => self.guest_writes(0),
            "write at the shared alias" => self.guest_writes(SHARED),
            "each of these at the same address" => self.other_guest(),
            "copy out" => self.host_copies(false),
            "copy in" => self.host_copies(true),
            "read for the guest's vCPU" => self.for_the_vcpu(false),
            "write for the guest's vCPU" => self.for_the_vcpu(true),
            "take all frames that are free" => self.host_takes_all(),
            "take all hidden frames that are free" => self.host_takes_all_hidden(),
            _ => match change {
                Some(change) => self.change(change),
                None => panic!("nobody knows how to `{operation}`"),
            },
        }
    }

    /// Takes one guest down, or both; what is left is as it was, and in the end all is as at boot.
    fn end(self, boot: &Snapshot, other_first: bool) {
        let Self {
            mut bench,
            first,
            second,
            start,
            bytes,
            state,
            what,
        } = self;
        let others = [OTHERS, !OTHERS].map(Some);
        let at = start.min(BYTES - bytes);
        if other_first {
            bench.teardown(second);
            let reached = [bench.store(start, 3), bench.store(start | SHARED, 3)];
            let view = View::of(state);
            assert_eq!(reached, [view.guest_private, view.guest_shared], "{what}");
            bench.teardown(first);
        } else {
            bench.teardown(first);
            let kept = [at, at + bytes - 8].map(|at| bench.load(&second, at));
            assert_eq!(kept, others, "{what}");
            bench.teardown(second);
        }
        assert_eq!(bench.machine.check(&bench.memory.frames), [], "{what}");
        let now = bench.snapshot();
        assert_eq!(boot.trace(&now), None, "{what}");
    }
}

/// What happened at both ends of a range, which must be the same.
fn said<E: Copy + PartialEq + fmt::Debug + Into<&'static str>>(results: [Result<(), E>; 2]) -> String {
    assert_eq!(results[0], results[1], "the ends of the range differ");
    results[0].map_or_else(Into::into, |()| "done").into()
}

/// The rows: operation, and what comes of it in each state.
fn rows() -> Vec<(&'static str, [&'static str; 6])> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        let line = line.trim_matches('|');
        line.split('|').map(str::trim).collect()
    };
    let mut lines = TABLE.lines().map(cells);
    assert_eq!(lines.next().unwrap()[2..], STATES.map(name));
    lines
        .skip(1)
        .map(|cells| (cells[0], cells[2..].try_into().unwrap()))
        .collect()
}

#[test]
fn every_state_every_operation_every_party() {
    let boot = Bench::of_ram(128 * MIB).boot.0;
    for kind in KINDS {
        for bytes in [PAGE_SIZE, 2 * MIB] {
            for (index, state) in STATES.into_iter().enumerate() {
                let mut scene = Scene::new(kind, bytes, state);
                let mut tried = 0;
                for (operation, cells) in rows() {
                    let cell = cells[index];
                    let context = format!("{}: {operation}", scene.what);
                    if let Some(after) = cell.strip_prefix("→ ") {
                        let mut fresh = Scene::new(kind, bytes, state);
                        assert_eq!(fresh.apply(operation), cell, "{context}");
                        assert_eq!(name(fresh.state), after, "{context}");
                        fresh.views();
                        fresh.end(&boot, false);
                    } else if cell == "gone" {
                        assert_eq!(operation, "take the guest down");
                        Scene::new(kind, bytes, state).end(&boot, false);
                    } else if operation == "take another guest down" {
                        Scene::new(kind, bytes, state).end(&boot, true);
                    } else {
                        let before = scene.snapshot();
                        assert_eq!(scene.apply(operation), cell, "{context}");
                        let now = scene.snapshot();
                        if matches!(cell, "range" | "state" | "fault" | "not shared") {
                            assert_eq!(before.0.difference(&now.0), None, "{context}");
                        }
                        assert_eq!(before.1, now.1, "{context}");
                        scene.views();
                    }
                    tried += 1;
                }
                assert_eq!(tried, TABLE.lines().count() - 2);
                scene.end(&boot, false);
            }
        }
    }
}

#[test]
fn the_document_has_the_same_table() {
    let document = include_str!("../../../../docs/testing.md");
    assert!(
        document.contains(TABLE),
        "docs/testing.md should have this:\n{TABLE}"
    );
}

/// Where an entry of the lowest level stands: the guest's tables, walked by hand (AMD APM vol. 2, 5.3.3).
fn entry_of(bench: &Bench, guest: &GuestMemory, gpa: u64) -> Hpa {
    let mut table = guest.second_stage().get();
    for level in (1..4).rev() {
        let at = table + 8 * (gpa >> (12 + 9 * level) & 511);
        let entry = bench.machine.ram().load(Hpa::new(at));
        assert_eq!(entry & 0x81, 1, "no table leads to {gpa:#x}");
        table = entry & 0x000f_ffff_ffff_f000;
    }
    Hpa::new(table + 8 * (gpa >> 12 & 511))
}

/// Whose a frame is, for one page of guest 1.
fn whose(state: FrameState, page: Gfn) -> Option<String> {
    Some(match state {
        FrameState::Private { owner, gfn, .. } | FrameState::Shared { owner, gfn }
            if (owner, gfn) == (id(1), page) =>
        {
            return None;
        }
        FrameState::Private { owner, .. } => format!("private of guest {owner}"),
        FrameState::Shared { owner, .. } => format!("shared of guest {owner}"),
        FrameState::Absent => "not RAM".into(),
        FrameState::Reserved => "reserved".into(),
        FrameState::Free { .. } => "free".into(),
        FrameState::Host { .. } => "the host's".into(),
        FrameState::Table { .. } => "a table".into(),
        FrameState::PoolFree { .. } => "hidden and free".into(),
        FrameState::Hidden { .. } => "hidden and in use".into(),
        _ => return None,
    })
}

/// What an entry may lead to in the test below.
const FOREIGN: [&str; 11] = [
    "a table",
    "free",
    "hidden and free",
    "hidden and in use",
    "not RAM",
    "private of guest 1",
    "private of guest 2",
    "reserved",
    "shared of guest 1",
    "shared of guest 2",
    "the host's",
];

/// An entry of the shared alias leads to a frame that is not what the page is shared by: whosever it is, the host copies nothing, because the
/// frame's record says otherwise.
#[test]
fn the_host_s_copies_follow_no_entry_to_a_frame_of_anyone_else() {
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    for change in [Change::Share, Change::ShareInPlace] {
        let mut scene = Scene::new(SecondStageKind::Nested, PAGE_SIZE, PageState::Accepted);
        scene.change(change);
        let page = Gpa::new(scene.start).gfn();
        // Another page of its own in each way, and two of the other guest.
        for (way, at) in [(Change::Share, 4 * MIB), (Change::ShareInPlace, 5 * MIB)] {
            scene.bench.change(&mut scene.first, way, at, PAGE_SIZE).unwrap();
            scene.bench.change(&mut scene.second, way, at, PAGE_SIZE).unwrap();
        }
        let Bench {
            cpu, memory, windows, ..
        } = &mut scene.bench;
        let host = memory.frames.allocate(0).unwrap();
        let hidden = memory.allocate_private(cpu, &mut windows[0], 0).unwrap();
        let entries = [scene.start | SHARED, scene.start].map(|at| entry_of(&scene.bench, &scene.first, at));
        let old = entries.map(|at| scene.bench.machine.ram().load(at));
        let mut tried = std::collections::BTreeSet::new();
        let beyond = (128 * MIB / PAGE_SIZE, FrameState::Absent);
        for (pfn, state) in (0..).zip(scene.states()).chain([beyond]) {
            let Some(whose) = whose(state, page).filter(|whose| !tried.contains(whose)) else {
                continue;
            };
            let ram = scene.bench.machine.ram();
            ram.store(entries[0], old[0] & !ADDRESS | pfn << 12);
            if change == Change::ShareInPlace {
                // The mark, too: then only the record is left to say no.
                ram.store(entries[1], old[1] & !ADDRESS | !(pfn << 12) & ADDRESS);
            }
            for into in [false, true] {
                let came = scene.host_copies(into);
                assert_eq!(came, "not shared", "{change:?}: {whose}, {into}");
            }
            let ram = scene.bench.machine.ram();
            entries
                .iter()
                .zip(old)
                .for_each(|(at, entry)| ram.store(*at, entry));
            tried.insert(whose);
        }
        assert!(tried.iter().eq(&FOREIGN), "{tried:?}");
        assert_eq!(scene.host_copies(false), "done");
        scene.views();
        let Bench {
            cpu, memory, windows, ..
        } = &mut scene.bench;
        memory.free_private(cpu, &mut windows[0], hidden.used());
        memory.frames.free(host);
        let Scene {
            mut bench,
            first,
            second,
            ..
        } = scene;
        bench.teardown(first);
        bench.teardown(second);
    }
}
