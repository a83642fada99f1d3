//! The whole state, to be compared: what an operation that was refused must not have changed.

use memory::HostMemory;
use memory::address::Pfn;
use memory::frame::FrameState;
use memory::stats::Stats;

use crate::check::each_state;
use crate::machine::ModelMachine;
use crate::reach::{LINEAR, Node};
use crate::tags::Writer;

/// A leaf: address, physical address, bytes, attributes as a number.
type Mapping = (u64, u64, u64, u16);

/// Everything that anybody can see: the records of all frames, the leaves of every tree, the counters, and whose contents are where. Not
/// the contents of free frames: those may have been tables for a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    states: Vec<(Pfn, u64, FrameState)>,
    host: Vec<Vec<Mapping>>,
    guests: Vec<(u16, Vec<Mapping>)>,
    contents: Vec<(Pfn, Writer)>,
    free: (u64, u64),
    waiting: u64,
    stats: Stats,
}

impl Snapshot {
    /// The state now.
    pub fn of(machine: &ModelMachine, memory: &HostMemory<'_>) -> Self {
        let state = machine.state();
        let leaves = |walker: crate::reach::Walker<'_>, root: Pfn| {
            let mut found = Vec::new();
            walker.walk_now(root, 4, 0, &mut |node| {
                if let Node::Leaf(reached) = node {
                    let leaf = reached.leaf;
                    found.push((
                        leaf.va.get() & LINEAR,
                        leaf.pa.get(),
                        leaf.size.bytes(),
                        leaf.attributes.code(),
                    ));
                }
            });
            found
        };
        let mut states: Vec<(Pfn, u64, FrameState)> = Vec::new();
        each_state(machine.ram(), &memory.frames, |pfn, count, state| {
            states.push((pfn, count, without_order(state)));
        });
        let contents = states
            .iter()
            .filter(|(.., state)| !matches!(state, FrameState::Free { .. }))
            .flat_map(|(pfn, count, _)| {
                // As a rule one for all frames of a region.
                let one = state.tags.of_region(*pfn);
                let frames = if one.is_some() { 1 } else { *count };
                (0..frames).map(move |frame| pfn.add(frame))
            })
            .map(|pfn| (pfn, state.tags.get(pfn)))
            .collect();
        Self {
            host: state
                .cpus
                .iter()
                .map(|cpu| leaves(state.host(machine.ram()), cpu.root))
                .collect(),
            guests: state
                .guests
                .iter()
                .map(|tree| {
                    let walker = state.second_stage(machine.ram(), tree.kind);
                    (tree.number, leaves(walker, tree.root))
                })
                .collect(),
            contents,
            states,
            free: (memory.frames.free_frames(), memory.frames.free_regions()),
            waiting: memory.waiting_tables(),
            stats: memory.stats(),
        }
    }

    /// Regions that the shrinker had given back.
    pub fn regions_shrunk(&self) -> u64 {
        self.stats.regions_shrunk
    }

    /// What is left of everything that happened since: the first difference in anything but the counters and the contents of memory.
    pub fn trace(&self, later: &Self) -> Option<String> {
        let later = Self {
            contents: self.contents.clone(),
            stats: self.stats,
            ..later.clone()
        };
        self.difference(&later)
    }

    /// The first difference, in words; `None` when all is equal.
    pub fn difference(&self, later: &Self) -> Option<String> {
        if let Some((before, after)) = self.states.iter().zip(&later.states).find(|(a, b)| a != b) {
            return Some(format!("records: {before:?} became {after:?}"));
        }
        for (name, differs) in [
            ("the number of records", self.states.len() != later.states.len()),
            ("the host's tables", self.host != later.host),
            ("the guests' tables", self.guests != later.guests),
            ("contents", self.contents != later.contents),
            ("free memory", self.free != later.free),
            ("tables that wait", self.waiting != later.waiting),
        ] {
            if differs {
                return Some(format!("{name} changed"));
            }
        }
        (self.stats != later.stats).then(|| format!("counters: {:?} became {:?}", self.stats, later.stats))
    }
}

/// The state without the size of the extent where nobody can see it: cached extents may have been cut up.
fn without_order(state: FrameState) -> FrameState {
    match state {
        FrameState::Hidden { .. } => FrameState::Hidden { order: 0 },
        state => state,
    }
}
