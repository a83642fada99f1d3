//! What is judged at each single store to a table, in the state that hardware sees right after it: the intermediate states of every
//! operation.

use audit::{Entry, Leaf};
use memory::address::{Hpa, Pfn};
use memory::layout::DIRECT_MAP_BASE;

use crate::check::Rule;
use crate::places::{Place, Space};
use crate::ram::{Ram, word};
use crate::reach::{LINEAR, Node, Reached, Walker, hpa};
use crate::state::State;

impl State {
    /// Frames were overwritten as bytes: they are no tables any more.
    pub(crate) fn overwritten_as_bytes(&mut self, ram: &Ram, first: Pfn, frames: u64) {
        self.overwritten(ram, first, frames);
        self.journal.forget_frames(first, frames);
    }

    /// Frames were overwritten, as bytes or for a new table.
    pub(crate) fn overwritten(&mut self, ram: &Ram, first: Pfn, frames: u64) {
        for frame in self.places.among(first, frames) {
            if let Some(who) = self.may_walk(ram, frame) {
                let what = format!(
                    "{} is overwritten while {who} may walk it as a table",
                    frame.hpa()
                );
                self.broken(Rule::FreedAfterFlush, what);
            }
        }
    }

    /// An entry was written.
    pub(crate) fn stored(&mut self, ram: &Ram, cpu: usize, at: Hpa, old: u64, new: u64) {
        if old == new {
            return;
        }
        for place in self.places.of(at.pfn()) {
            let linear = place.base + ((word(at) as u64) << (12 + 9 * (place.level - 1)));
            self.tally(ram, at.pfn(), place, linear, (old, new));
            self.stored_at(ram, cpu, at, place, (old, new));
        }
    }

    pub(crate) fn walker_at<'a>(&'a self, ram: &'a Ram, space: Space) -> Option<Walker<'a>> {
        match space {
            Space::Shared | Space::Window(_) => Some(self.host(ram)),
            Space::Guest(number) => {
                let tree = self.guests.iter().find(|tree| tree.number == number)?;
                Some(self.second_stage(ram, tree.kind))
            }
        }
    }

    fn stored_at(&mut self, ram: &Ram, cpu: usize, at: Hpa, place: Place, (old, new): (u64, u64)) {
        let mut broken = Vec::new();
        let (mut tables, mut leaves) = (Vec::new(), Vec::new());
        {
            let Some(walker) = self.walker_at(ram, place.space) else {
                return;
            };
            let linear = place.base + ((word(at) as u64) << (12 + 9 * (place.level - 1)));
            let (before, after) = (
                walker.decode(place.level, linear, old),
                walker.decode(place.level, linear, new),
            );
            // Whether the leaves that are there now were there before, in another size.
            let mut same = false;
            let mut agree = |why: Option<String>| {
                same |= why.is_none();
                broken.extend(why.map(|why| {
                    let what = format!("the level {} entry for {linear:#x}: {why}", place.level);
                    (Rule::SizeAndAttributesApart, what)
                }));
            };
            match (before, after) {
                (_, Entry::Malformed { reserved }) => {
                    agree(Some(format!("{new:#x} has the reserved bits {reserved:#x}")));
                }
                (Entry::Leaf(leaf), Entry::Table(table)) => {
                    agree(disagreement(
                        &walker,
                        &leaf,
                        table,
                        place.level,
                        linear,
                        Change::Split,
                    ));
                }
                (Entry::Table(table), Entry::Leaf(leaf)) => {
                    agree(disagreement(
                        &walker,
                        &leaf,
                        table,
                        place.level,
                        linear,
                        Change::Merge,
                    ));
                }
                (Entry::Table(one), Entry::Table(other)) if one != other => {
                    agree(Some("a table replaces another one".into()));
                }
                (Entry::Leaf(one), Entry::Leaf(other)) if one.pa != other.pa => {
                    agree(Some(format!(
                        "present, it moves from {:#x} to {:#x}",
                        one.pa.get(),
                        other.pa.get()
                    )));
                }
                _ => {}
            }
            match after {
                Entry::Table(table) => {
                    let below = place.level - 1;
                    walker.walk_now(hpa(table).pfn(), below, linear, &mut |node| match node {
                        Node::Table { pfn, level, base, .. } => tables.push((pfn, level, base)),
                        Node::Leaf(reached) => leaves.push(reached),
                        Node::Bad { at, level, why } => {
                            broken.push((
                                Rule::SizeAndAttributesApart,
                                format!("the level {level} entry at {at}: {why}"),
                            ));
                        }
                    });
                }
                Entry::Leaf(leaf) => leaves.push(Reached {
                    leaf,
                    at,
                    until: u64::MAX,
                    current: true,
                }),
                Entry::Absent | Entry::Malformed { .. } => {}
            }
            if same {
                leaves.clear();
            }
        }
        // What tables lie below, so that stores to them are judged, too.
        for (pfn, level, base) in tables {
            let space = place.space;
            self.places.add(pfn, Place { space, level, base });
        }
        for (rule, what) in broken {
            self.broken(rule, what);
        }
        if let Space::Window(owner) = place.space {
            let linear = place.base + ((word(at) as u64) << (12 + 9 * (place.level - 1)));
            self.opened.insert(at.get(), cpu);
            self.window_entries.insert((owner, linear, place.level), at);
            if owner != cpu {
                let what = format!("CPU {cpu} wrote into the windows of CPU {owner}");
                self.broken(Rule::HiddenMeansHidden, what);
            }
        }
        for reached in leaves {
            self.appeared(ram, place.space, &reached);
        }
    }

    /// A leaf can be reached that could not before, or not like this.
    fn appeared(&mut self, ram: &Ram, space: Space, reached: &Reached) {
        let (start, bytes) = reached.extent();
        let mut broken = self.conflicts(ram, space, &reached.leaf);
        match space {
            Space::Shared => {
                let at = reached.leaf.va.get();
                if at.wrapping_sub(DIRECT_MAP_BASE.get()) != start {
                    let what = format!("{at:#x} shows {start:#x}");
                    broken.push((Rule::DirectMapShape, what));
                }
                if let Some(pfn) = self.tags.secret_in(start, bytes) {
                    let what = format!("{} is in the direct map again before its scrub", pfn.hpa());
                    broken.push((Rule::NothingLeaks, what));
                }
                let earlier = self.reached_by_guests.range(..start + bytes).rev();
                for (from, (length, guest)) in earlier.take_while(|(from, _)| **from + (1 << 30) > start) {
                    if from + length > start {
                        let what = format!("{from:#x} is in the direct map while guest {guest} may reach it");
                        broken.push((Rule::HiddenMeansHidden, what));
                    }
                }
            }
            Space::Window(owner) => {
                for index in (0..self.cpus.len()).filter(|index| *index != owner) {
                    if self.reached_by_guests.contains_key(&start)
                        && let Some((_, how)) = self.host_reaches(ram, index, start, bytes)
                    {
                        let what = format!(
                            "CPU {index} reaches {start:#x} by {how} while CPU {owner} has a window open"
                        );
                        broken.push((Rule::HiddenMeansHidden, what));
                    }
                }
            }
            // What is shared the host may reach, but for what is shared in place.
            Space::Guest(_) if !self.is_hidden_leaf(ram, &reached.leaf) => {}
            Space::Guest(number) => {
                for index in 0..self.cpus.len() {
                    if let Some((_, how)) = self.host_reaches(ram, index, start, bytes) {
                        let what = format!(
                            "CPU {index} may reach {start:#x} by {how} when it is mapped for guest {number}"
                        );
                        broken.push((Rule::HiddenMeansHidden, what));
                    }
                }
                self.reached_by_guests.insert(start, (bytes, number));
            }
        }
        if !ram.holds(Hpa::new(start), bytes) {
            let what = format!(
                "a leaf of {bytes:#x} bytes at {start:#x} spans the end of RAM, where the memory type changes"
            );
            broken.push((Rule::SizeAndAttributesApart, what));
        }
        for (rule, what) in broken {
            self.broken(rule, what);
        }
    }

    /// Translations that may still be cached for addresses of a new leaf, and say otherwise.
    fn conflicts(&self, ram: &Ram, space: Space, leaf: &Leaf) -> Vec<(Rule, String)> {
        let first = leaf.va.get() & LINEAR;
        let span = (first, first + (leaf.size.bytes() - 1));
        let offset = leaf.pa.get().wrapping_sub(leaf.va.get());
        let mut found = Vec::new();
        let mut compare = |who: String, reached: &Reached| {
            let (one, other) = (leaf.attributes, reached.leaf.attributes);
            let kind = |a: audit::Attributes| (a.pat, a.cache_disable, a.write_through, a.global);
            if reached.leaf.pa.get().wrapping_sub(reached.leaf.va.get()) != offset || kind(one) != kind(other)
            {
                let what = format!(
                    "{:#x} leads to {:#x} while {who} may still have {:#x} for {:#x}",
                    leaf.va.get(),
                    leaf.pa.get(),
                    reached.leaf.pa.get(),
                    reached.leaf.va.get()
                );
                found.push((Rule::SizeAndAttributesApart, what));
            }
        };
        for (index, cpu) in self.cpus.iter().enumerate() {
            let sees = match space {
                Space::Shared => true,
                Space::Window(owner) => owner == index,
                Space::Guest(_) => false,
            };
            if sees && !cpu.is_held() {
                self.host(ram).walk(cpu.root, cpu.flushed, span, &mut |node| {
                    if let Node::Leaf(reached) = node
                        && !reached.current
                        && !cpu.has_dropped(&reached.leaf, reached.until)
                    {
                        compare(format!("CPU {index}"), &reached);
                    }
                });
            }
        }
        for tree in &self.guests {
            if space == Space::Guest(tree.number) {
                self.second_stage(ram, tree.kind)
                    .walk(tree.root, tree.flushed, span, &mut |node| {
                        if let Node::Leaf(reached) = node
                            && !reached.current
                        {
                            compare(format!("guest {}", tree.number), &reached);
                        }
                    });
            }
        }
        found
    }
}

/// Whether a leaf becomes a table, or a table a leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Split,
    Merge,
}

/// Why a leaf and the 512 entries of a table do not say the same.
fn disagreement(
    walker: &Walker<'_>,
    leaf: &Leaf,
    table: audit::Pa,
    level: u8,
    linear: u64,
    change: Change,
) -> Option<String> {
    let below = level - 1;
    let bytes = 4096_u64 << (9 * (below - 1));
    let (mut accessed, mut dirty) = (false, false);
    for index in 0..512 {
        let entry = walker.ram.load(Hpa::new(table.get() + 8 * index));
        let Entry::Leaf(small) = walker.decode(below, linear + index * bytes, entry) else {
            return Some(format!("entry {index} of the table is no leaf: {entry:#x}"));
        };
        if small.pa.get() != leaf.pa.get() + index * bytes || small.attributes != leaf.attributes {
            return Some(format!("entry {index} of the table says otherwise: {entry:#x}"));
        }
        accessed |= small.accessed;
        dirty |= small.dirty;
    }
    if change == Change::Merge && (accessed && !leaf.accessed || dirty && !leaf.dirty) {
        return Some("accessed or dirty bits were lost".into());
    }
    None
}
