//! The rules, judged over the whole state of the machine and the frame records. `docs/testing.md` says which break of the code each of
//! them notices.

use std::collections::HashSet;
use std::fmt;

use memory::address::{ENTRIES, Gfn, Hpa, Pfn};
use memory::frame::{FrameState, FrameTable};
use memory::layout::DIRECT_MAP_BASE;

use crate::guests::{GuestTree, SHARED_BIT, TableKind, is_shared};
use crate::machine::ModelMachine;
use crate::ram::Ram;
use crate::reach::{LINEAR, Node, Reached};
use crate::state::{State, WINDOWS};
use crate::tags::Writer;

/// What must always hold, by the numbers of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// 1: no CPU reaches a hidden frame except through its own open window.
    HiddenMeansHidden,
    /// 2: a private frame is mapped in one guest at one address, that of its record.
    OneOwner,
    /// 3: what a guest wrote, and what a guest is given, was zeroed in between.
    NothingLeaks,
    /// 4: giving back needs nothing and loses nothing.
    GivingBackNeverFails,
    /// 5: a refused operation changes nothing.
    RefusedChangesNothing,
    /// 6: a table's frame is reused only when no CPU can walk it.
    FreedAfterFlush,
    /// 7: an entry changes its size, or attributes and address; cached translations never disagree; no leaf spans memory types.
    SizeAndAttributesApart,
    /// The direct map shows what is not hidden, all of it, at its own address, as ordinary data.
    DirectMapShape,
    /// The frame records agree with themselves.
    Records,
    /// The counters say what was done.
    Counters,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Extents of frames, ascending: first and one past the last byte.
#[derive(Default)]
struct Extents(Vec<(u64, u64)>);

impl Extents {
    fn push(&mut self, start: Hpa, bytes: u64) {
        match self.0.last_mut() {
            Some(last) if last.1 == start.get() => last.1 += bytes,
            _ => self.0.push((start.get(), start.get() + bytes)),
        }
    }

    fn overlap(&self, start: u64, bytes: u64) -> Option<u64> {
        let next = self.0.partition_point(|extent| extent.1 <= start);
        let extent = self.0.get(next)?;
        (extent.0 < start + bytes).then(|| extent.0.max(start))
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }
}

/// What the frame records say, in brief.
#[derive(Default)]
struct Summary {
    /// Frames that are hidden, whoever owns them.
    hidden: Extents,
    /// Frames whose entry is cleared, hidden or not yet.
    unmapped: Extents,
    /// Frames of guests.
    private: Extents,
    free: u64,
}

/// Visits the states of all frames of RAM, whole blocks at once where their frames agree: first frame, number, state of the first.
pub(crate) fn each_state(ram: &Ram, frames: &FrameTable<'_>, mut visit: impl FnMut(Pfn, u64, FrameState)) {
    for range in ram.ranges() {
        let mut pfn = range.start;
        while pfn < range.end {
            let whole = pfn.is_aligned(ENTRIES as u64) && pfn.add(ENTRIES as u64) <= range.end;
            let count = if whole && !frames.frames_differ(pfn) {
                ENTRIES as u64
            } else {
                1
            };
            visit(pfn, count, frames.state(pfn));
            pfn = pfn.add(count);
        }
    }
}

impl Summary {
    fn of(ram: &Ram, frames: &FrameTable<'_>) -> Self {
        let mut summary = Self::default();
        each_state(ram, frames, |pfn, count, state| {
            let (at, bytes) = (pfn.hpa(), count << 12);
            match state {
                FrameState::Unmapped { .. } => summary.unmapped.push(at, bytes),
                FrameState::Hidden { .. } | FrameState::PoolFree { .. } | FrameState::Quarantined { .. } => {
                    summary.hidden.push(at, bytes);
                    summary.unmapped.push(at, bytes);
                }
                FrameState::Private { .. } => {
                    summary.hidden.push(at, bytes);
                    summary.unmapped.push(at, bytes);
                    summary.private.push(at, bytes);
                }
                FrameState::Free { .. } => summary.free += count,
                _ => {}
            }
        });
        summary
    }
}

/// Whether a frame's record says that it is a table, or one that waits.
fn is_table(frames: &FrameTable<'_>, pfn: Pfn) -> bool {
    matches!(
        frames.state(pfn),
        FrameState::Table { .. } | FrameState::TableListed { .. } | FrameState::Reserved
    )
}

impl ModelMachine {
    /// Judges the whole state, between two operations. The rules that were broken since the last time, in stores and accesses, come first.
    pub fn check(&self, frames: &FrameTable<'_>) -> Vec<Violation> {
        let mut state = self.state();
        let mut found = std::mem::take(&mut state.violations);
        let summary = Summary::of(self.ram(), frames);
        if summary.free != frames.free_frames() {
            let what = format!(
                "{} frames are free, the count says {}",
                summary.free,
                frames.free_frames()
            );
            found.push(Violation {
                rule: Rule::Records,
                what,
            });
        }
        let mut judge = Judge {
            ram: self.ram(),
            state: &state,
            frames,
            summary: &summary,
            found: &mut found,
            tables: HashSet::new(),
        };
        for (index, _) in state.cpus.iter().enumerate().filter(|(_, cpu)| cpu.may_walk()) {
            judge.cpu(index);
        }
        for tree in &state.guests {
            judge.guest(tree);
        }
        judge.mapped_is_private();
        state.tags.settle();
        state.place_all(self.ram(), self.shared_root());
        found
    }
}

struct Judge<'a> {
    ram: &'a Ram,
    state: &'a State,
    frames: &'a FrameTable<'a>,
    summary: &'a Summary,
    found: &'a mut Vec<Violation>,
    /// Tables judged already.
    tables: HashSet<Pfn>,
}

impl Judge<'_> {
    fn broken(&mut self, rule: Rule, what: String) {
        self.found.push(Violation { rule, what });
    }

    fn cpu(&mut self, index: usize) {
        let cpu = &self.state.cpus[index];
        let mut nodes = Vec::new();
        self.state
            .host(self.ram)
            .walk(cpu.root, cpu.flushed, (0, LINEAR), &mut |node| nodes.push(node));
        let mut shown = 0;
        for node in nodes {
            match node {
                Node::Table { pfn, .. } => self.table(pfn, &format!("CPU {index}")),
                Node::Bad { at, level, why } => self.broken(
                    Rule::SizeAndAttributesApart,
                    format!("CPU {index}: the level {level} entry at {at}: {why}"),
                ),
                Node::Leaf(reached) => {
                    let is_window = (WINDOWS.0..=WINDOWS.1).contains(&(reached.leaf.va.get() & LINEAR));
                    if is_window {
                        self.window(index, &reached);
                    } else {
                        shown += if reached.current {
                            reached.leaf.size.bytes()
                        } else {
                            0
                        };
                        self.direct(index, &reached);
                    }
                }
            }
        }
        for leaf in &cpu.globals {
            self.hidden(index, leaf.pa.get(), leaf.size.bytes(), "a global translation");
        }
        let ram: u64 = self.ram.ranges().map(|range| range.frames() << 12).sum();
        let expected = ram - self.summary.unmapped.bytes();
        if shown != expected {
            let what = format!("CPU {index} sees {shown:#x} bytes of RAM, {expected:#x} are not hidden");
            self.broken(Rule::DirectMapShape, what);
        }
    }

    fn table(&mut self, pfn: Pfn, who: &str) {
        if self.tables.insert(pfn) && !is_table(self.frames, pfn) {
            let state = self.frames.state(pfn);
            let what = format!("{who} may walk {} as a table, which is {state:?}", pfn.hpa());
            self.broken(Rule::FreedAfterFlush, what);
        }
    }

    fn hidden(&mut self, index: usize, start: u64, bytes: u64, how: &str) {
        if self.state.cpus[index].is_held() {
            return;
        }
        if let Some(at) = self.summary.hidden.overlap(start, bytes) {
            let what = format!("CPU {index} reaches {at:#x} by {how}");
            self.broken(Rule::HiddenMeansHidden, what);
        }
        if let Some(pfn) = self.state.tags.secret_in(start, bytes) {
            let what = format!("CPU {index} reaches what a guest wrote at {} by {how}", pfn.hpa());
            self.broken(Rule::NothingLeaks, what);
        }
    }

    fn direct(&mut self, index: usize, reached: &Reached) {
        let (start, bytes) = reached.extent();
        if self.state.cpus[index].has_dropped(&reached.leaf, reached.until) {
            return;
        }
        let how = if reached.current {
            "the direct map"
        } else {
            "a translation that was not flushed"
        };
        self.hidden(index, start, bytes, how);
        let at = reached.leaf.va.get();
        let attributes = reached.leaf.attributes;
        let is_data = attributes.writable
            && !attributes.user
            && !attributes.execute
            && !attributes.global
            && !attributes.cache_disable
            && !attributes.write_through
            && !attributes.pat;
        if at.wrapping_sub(DIRECT_MAP_BASE.get()) != start || !is_data {
            let what = format!("CPU {index} sees {start:#x} at {at:#x} as {attributes:?}");
            self.broken(Rule::DirectMapShape, what);
        }
        if !self.ram.holds(Hpa::new(start), bytes) {
            let what = format!(
                "a leaf of {bytes:#x} bytes at {start:#x} spans the end of RAM, where the memory type changes"
            );
            self.broken(Rule::SizeAndAttributesApart, what);
        }
    }

    /// Between operations no window is open.
    fn window(&mut self, index: usize, reached: &Reached) {
        if !self.state.cpus[index].has_dropped(&reached.leaf, reached.until) {
            let (start, bytes) = reached.extent();
            let how = if reached.current {
                "a window that was left open"
            } else {
                "a window that was closed and not invalidated"
            };
            self.hidden(index, start, bytes, how);
        }
    }

    fn guest(&mut self, tree: &GuestTree) {
        let mut nodes = Vec::new();
        self.state.second_stage(self.ram, tree.kind).walk(
            tree.root,
            tree.flushed,
            (0, LINEAR),
            &mut |node| nodes.push(node),
        );
        let who = format!("guest {}", tree.number);
        let (mut private, mut in_place) = (Vec::new(), Vec::new());
        for node in nodes {
            match node {
                // The top-level table of a guest that has stopped is empty; nobody walks it again.
                Node::Table { level: 4, .. } if tree.stopped => {}
                Node::Table { pfn, .. } => self.table(pfn, &who),
                Node::Bad { at, level, why } => self.broken(
                    Rule::SizeAndAttributesApart,
                    format!("{who}: the level {level} entry at {at}: {why}"),
                ),
                Node::Leaf(reached) => {
                    self.guest_leaf(tree, &who, &reached);
                    if !is_shared(&reached.leaf) {
                        private.push(reached.extent());
                    } else if self.is_in_place(&reached.leaf) {
                        in_place.push(reached.extent());
                    }
                }
            }
        }
        // By no mix of translations, old and new, does it reach a frame at both of its aliases.
        private.sort_unstable();
        for (start, _) in in_place {
            let next = private.partition_point(|(from, _)| *from <= start);
            let both = next.checked_sub(1).map(|before| private[before]);
            if both.is_some_and(|(from, bytes)| start < from + bytes) {
                self.broken(
                    Rule::OneOwner,
                    format!("{who} reaches {start:#x} at both aliases"),
                );
            }
        }
    }

    /// Whether a leaf of the shared alias leads to a hidden frame.
    fn is_in_place(&self, leaf: &audit::Leaf) -> bool {
        let state = self.frames.state(Hpa::new(leaf.pa.get()).pfn());
        matches!(state, FrameState::Private { .. })
    }

    fn guest_leaf(&mut self, tree: &GuestTree, who: &str, reached: &Reached) {
        let (start, bytes) = reached.extent();
        if tree.stopped {
            let what = format!("{who} has stopped and was flushed, and its tables lead to {start:#x}");
            self.broken(Rule::OneOwner, what);
            return;
        }
        if !tree.kind.format().forces_write_back(reached.leaf.attributes) {
            let what = format!("{who} may make {start:#x} uncached");
            self.broken(Rule::SizeAndAttributesApart, what);
        }
        if tree.kind == TableKind::Nested && !reached.leaf.attributes.user {
            self.broken(Rule::OneOwner, format!("{who} can't use {start:#x}"));
        }
        let shared = is_shared(&reached.leaf);
        let page = |gfn: Gfn| Gfn::new(gfn.get() & !(SHARED_BIT >> 12));
        let first = Hpa::new(start).pfn();
        let uniform = bytes >= 1 << 21 && !self.frames.frames_differ(first);
        let step = if uniform { ENTRIES as u64 } else { 1 };
        for frame in (0..bytes >> 12).step_by(step as usize) {
            let (pfn, gfn) = (first.add(frame), Gfn::new((reached.leaf.va.get() >> 12) + frame));
            match self.frames.state(pfn) {
                FrameState::Private { owner, gfn: own, .. }
                    if owner.get() == tree.number && own == page(gfn) => {}
                FrameState::Shared { owner, gfn: own }
                    if shared && owner.get() == tree.number && own == page(gfn) => {}
                other => {
                    let what = format!(
                        "{who} may reach {} at guest frame {gfn}, which is {other:?}",
                        pfn.hpa()
                    );
                    self.broken(Rule::OneOwner, what);
                }
            }
        }
        let hidden = !shared || self.is_in_place(&reached.leaf);
        let one = self.state.tags.of_region(first).filter(|_| bytes == 1 << 21);
        for frame in 0..bytes >> 12 {
            let writer = one.unwrap_or_else(|| self.state.tags.get(first.add(frame)));
            let fits = match writer {
                Writer::Zeroed => true,
                Writer::Guest => hidden,
                Writer::Shared | Writer::Host => !hidden,
                Writer::Unknown => false,
            };
            if !fits {
                let at = first.add(frame).hpa();
                self.broken(
                    Rule::NothingLeaks,
                    format!("{who} may reach {at}, written last by {writer:?}"),
                );
            }
            if one.is_some() {
                break;
            }
        }
    }

    /// Frames that a record calls a guest's belong to a guest that is known, or is being launched or torn down.
    fn mapped_is_private(&mut self) {
        let reached: u64 = self
            .state
            .guests
            .iter()
            .filter(|tree| !tree.stopped)
            .map(|tree| self.reached_now(tree))
            .sum();
        let private = self.summary.private.bytes();
        if reached > private {
            let what = format!("guests reach {reached:#x} bytes, {private:#x} are private");
            self.broken(Rule::OneOwner, what);
        }
    }

    fn reached_now(&self, tree: &GuestTree) -> u64 {
        let mut bytes = 0;
        let walker = self.state.second_stage(self.ram, tree.kind);
        walker.walk_now(tree.root, 4, 0, &mut |node| {
            if let Node::Leaf(reached) = node
                && (!is_shared(&reached.leaf) || self.is_in_place(&reached.leaf))
            {
                bytes += reached.leaf.size.bytes();
            }
        });
        bytes
    }
}
