//! What happens on the machine: the same for every policy, made from a seed before anything runs.

use memory::address::PAGE_SIZE;
use memory::guest::Change;
use oorandom::Rand64;
use tools::pressure::Phase;

/// Frames of a region.
const REGION_FRAMES: u64 = 512;
/// Guests of mixed size that live at once.
pub const GUESTS: usize = 64;
/// Small guests that live beside them while the machine ages.
const SMALL: usize = 64;
/// Extents that the host has in use from the boot on.
const HOST: usize = 4096;
/// Extents that the host takes, and as many that it gives back, in each lifetime.
const HOST_TURNS: usize = 8;
/// Of so many regions of guests one has a range that is converted to and fro.
const REGIONS_A_RANGE: u64 = 2;
/// Conversions of the storm, for each such range: some two rounds of private, shared, pending.
const CONVERSIONS_A_RANGE: usize = 7;
/// After so many lifetimes of small guests one of the 64 is replaced.
const REPLACE: u64 = 100;

/// One thing that happens. Guests and extents are named by slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The host takes `1 << order` frames for itself.
    Take {
        /// The slot, empty so far.
        slot: usize,
        /// Their order.
        order: u8,
    },
    /// The host gives an extent back.
    Give {
        /// Its slot.
        slot: usize,
    },
    /// A guest begins.
    Launch {
        /// The slot, empty so far.
        slot: usize,
        /// Its size.
        regions: u64,
    },
    /// A guest ends.
    Die {
        /// Its slot.
        slot: usize,
    },
    /// A guest converts some of its pages, all of which are in the state that this wants.
    Convert {
        /// Its slot.
        slot: usize,
        /// From what to what.
        change: Change,
        /// The first page, from the start of its memory.
        page: u64,
        /// How many, all in one region.
        pages: u64,
    },
    /// Now is measured.
    Measure(Phase),
}

/// All that happens.
#[derive(Clone, Debug)]
pub struct History {
    /// In order.
    pub events: Vec<Event>,
    /// Most frames that guests have at once.
    pub peak_frames: u64,
    /// Slots for guests, and for the host's extents.
    pub slots: (usize, usize),
}

/// The size of one of the 64: one in sixteen has a whole GiB, half are small, the others up to half a GiB.
fn mixed(random: &mut Rand64, number: usize) -> u64 {
    match number % 16 {
        0 => 512,
        1..8 => random.rand_range(1..33),
        8..12 => random.rand_range(32..193),
        _ => random.rand_range(192..257),
    }
}

struct Maker {
    random: Rand64,
    events: Vec<Event>,
    /// Regions by guest slot, 0 when empty.
    guests: Vec<u64>,
    host: Vec<bool>,
    peak: u64,
}

impl Maker {
    fn launch(&mut self, slot: usize, regions: u64) {
        self.guests[slot] = regions;
        self.events.push(Event::Launch { slot, regions });
        self.peak = self.peak.max(self.guests.iter().sum());
    }

    fn die(&mut self, slot: usize) {
        if std::mem::take(&mut self.guests[slot]) > 0 {
            self.events.push(Event::Die { slot });
        }
    }

    fn host_turn(&mut self) {
        let slot = self.random.rand_range(0..self.host.len() as u64) as usize;
        if std::mem::replace(&mut self.host[slot], true) {
            self.events.push(Event::Give { slot });
        }
        let order = self.random.rand_range(0..7) as u8;
        self.events.push(Event::Take { slot, order });
    }

    /// Ranges in many regions of all guests, of one page to a whole region, go through their states in no particular order.
    fn convert(&mut self, seed: u64) {
        // Numbers of its own: whoever lives and dies afterwards is the same with and without the storm.
        let mut random = Rand64::new((u128::from(seed) << 64) | 1);
        let mut ranges = Vec::new();
        for (slot, regions) in self.guests.iter().enumerate() {
            for region in 0..*regions {
                if random.rand_range(0..REGIONS_A_RANGE) == 0 {
                    let first = random.rand_range(0..REGION_FRAMES);
                    let pages = random.rand_range(1..REGION_FRAMES - first + 1);
                    ranges.push((slot, region * REGION_FRAMES + first, pages, Change::Share));
                }
            }
        }
        for _ in 0..ranges.len() * CONVERSIONS_A_RANGE {
            let which = random.rand_range(0..ranges.len() as u64) as usize;
            let (slot, page, pages, change) = ranges[which];
            self.events.push(Event::Convert {
                slot,
                change,
                page,
                pages,
            });
            ranges[which].3 = match change {
                Change::Share => Change::Unshare,
                Change::Unshare => Change::Accept,
                Change::ShareInPlace => Change::UnshareInPlace,
                Change::GiveBack => Change::TakeAgain,
                Change::TakeAgain => Change::Accept,
                // Accepted again: in one of the two ways, at random.
                Change::Accept | Change::UnshareInPlace if random.rand_range(0..2) == 0 => {
                    Change::ShareInPlace
                }
                Change::Accept | Change::UnshareInPlace => Change::Share,
            };
        }
    }

    fn measure(&mut self, phase: Phase) {
        self.events.push(Event::Measure(phase));
    }
}

impl History {
    /// A history with so many lifetimes.
    pub fn new(seed: u64, lifetimes: u64) -> Self {
        let mut maker = Maker {
            random: Rand64::new(seed.into()),
            events: Vec::new(),
            guests: vec![0; GUESTS + SMALL],
            host: vec![false; HOST],
            peak: 0,
        };
        maker.measure(Phase::Boot);
        (0..HOST).for_each(|_| maker.host_turn());
        for (upto, phase) in [
            (1, Phase::Guests1),
            (8, Phase::Guests8),
            (GUESTS, Phase::Guests64),
        ] {
            for slot in 0..upto {
                if maker.guests[slot] == 0 {
                    let regions = mixed(&mut maker.random, slot);
                    maker.launch(slot, regions);
                    (0..HOST_TURNS).for_each(|_| maker.host_turn());
                }
            }
            maker.measure(phase);
        }
        maker.convert(seed);
        maker.measure(Phase::Conversions);
        for lifetime in 0..lifetimes {
            let slot = GUESTS + maker.random.rand_range(0..SMALL as u64) as usize;
            maker.die(slot);
            let regions = maker.random.rand_range(1..9);
            maker.launch(slot, regions);
            (0..HOST_TURNS).for_each(|_| maker.host_turn());
            if lifetime % REPLACE == REPLACE - 1 {
                let slot = maker.random.rand_range(0..GUESTS as u64) as usize;
                maker.die(slot);
                let regions = mixed(&mut maker.random, slot);
                maker.launch(slot, regions);
            }
        }
        maker.measure(Phase::AgedAlive);
        // In no particular order, as guests end.
        let mut slots: Vec<usize> = (0..maker.guests.len()).collect();
        while !slots.is_empty() {
            let place = maker.random.rand_range(0..slots.len() as u64) as usize;
            maker.die(slots.swap_remove(place));
        }
        maker.measure(Phase::AgedEmpty);
        for slot in 0..HOST {
            if maker.host[slot] {
                maker.events.push(Event::Give { slot });
            }
        }
        maker.measure(Phase::After);
        Self {
            events: maker.events,
            peak_frames: maker.peak * REGION_FRAMES,
            slots: (maker.guests.len(), HOST),
        }
    }

    /// One guest of so many bytes and nothing else, rounded down to regions: measured before it and while it lives.
    pub fn one_guest(bytes: u64) -> Self {
        let regions = bytes / (REGION_FRAMES * PAGE_SIZE);
        Self {
            events: vec![
                Event::Measure(Phase::Boot),
                Event::Launch { slot: 0, regions },
                Event::Measure(Phase::Guests1),
            ],
            peak_frames: regions * REGION_FRAMES,
            slots: (1, 0),
        }
    }

    /// Bytes that guests have at most at once.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_frames * PAGE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_begins_ends_and_slots_are_used_one_at_a_time() {
        let history = History::new(1, 1000);
        let (mut guests, mut host) = (vec![false; history.slots.0], vec![false; history.slots.1]);
        let (mut launches, mut phases, mut alive) = (0, Vec::new(), 0);
        let mut ranges = std::collections::BTreeMap::new();
        for event in &history.events {
            match *event {
                Event::Take { slot, .. } => assert!(!std::mem::replace(&mut host[slot], true)),
                Event::Give { slot } => assert!(std::mem::replace(&mut host[slot], false)),
                Event::Launch { slot, regions } => {
                    assert!(!std::mem::replace(&mut guests[slot], true) && regions > 0);
                    (launches, alive) = (launches + 1, alive + 1);
                }
                Event::Die { slot } => {
                    assert!(std::mem::replace(&mut guests[slot], false));
                    alive -= 1;
                }
                Event::Convert {
                    slot,
                    change,
                    page,
                    pages,
                } => {
                    assert!(guests[slot] && pages > 0 && page % 512 + pages <= 512);
                    let turns = ranges
                        .entry((slot, page / 512))
                        .or_insert((page, pages, Vec::new()));
                    assert_eq!((turns.0, turns.1), (page, pages), "one range in a region");
                    turns.2.push(change);
                }
                Event::Measure(phase) => phases.push((phase, alive)),
            }
        }
        assert!(guests.iter().chain(&host).all(|used| !used));
        assert_eq!(launches, 64 + 1000 + 10);
        assert_eq!(
            phases,
            [
                (Phase::Boot, 0),
                (Phase::Guests1, 1),
                (Phase::Guests8, 8),
                (Phase::Guests64, 64),
                (Phase::Conversions, 64),
                (Phase::AgedAlive, 128),
                (Phase::AgedEmpty, 0),
                (Phase::After, 0)
            ]
        );
        assert!(ranges.len() > 1000, "{}", ranges.len());
        for (.., turns) in ranges.values() {
            assert!(
                turns.first().is_none_or(|first| *first == Change::Share),
                "{turns:?}"
            );
            for pair in turns.windows(2) {
                let again = [Change::Share, Change::ShareInPlace];
                let fits = match pair[0] {
                    Change::Share => pair[1] == Change::Unshare,
                    Change::Unshare => pair[1] == Change::Accept,
                    Change::ShareInPlace => pair[1] == Change::UnshareInPlace,
                    Change::Accept | Change::UnshareInPlace => again.contains(&pair[1]),
                    // The storm gives nothing back: that would change the direct map.
                    Change::GiveBack | Change::TakeAgain => false,
                };
                assert!(fits, "{turns:?}");
            }
        }
    }

    #[test]
    fn guests_fit_a_quarter_of_64_gib_and_histories_repeat() {
        let (one, other) = (History::new(7, 100), History::new(7, 100));
        assert_eq!(one.events, other.events);
        assert!(
            (10 << 30..17 << 30).contains(&one.peak_bytes()),
            "{}",
            one.peak_bytes()
        );
    }
}
