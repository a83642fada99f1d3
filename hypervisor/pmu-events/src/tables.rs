//! Which events a core has.

use crate::select::{Select, Vendor};

/// What an event counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Cycles of the core.
    Cycles,
    /// Instructions retired.
    Instructions,
    /// Walks for loads that completed, by size of the leaf.
    LoadWalks4K,
    /// The same for 2M (and 4M).
    LoadWalks2M,
    /// The same for 1G.
    LoadWalks1G,
    /// The same for all sizes.
    LoadWalks,
    /// Walks for stores, all sizes.
    StoreWalks,
    /// Walks for instruction fetches, all sizes.
    FetchWalks,
    /// Cycles with a walk for a load under way, each walk counted.
    LoadWalkPending,
    /// Cycles with at least one walk for a load under way.
    LoadWalkActive,
    /// Loads that missed the first level and hit the second.
    LoadSecondHits,
    /// Cycles in which the second stage of a walk was under way.
    SecondStagePending,
    /// Retired loads that missed the second level.
    RetiredLoadMisses,
    /// Retired stores that missed the second level.
    RetiredStoreMisses,
    /// Data TLB misses in the first level that hit the second, 4K; on AMD loads and stores together.
    SecondHits4K,
    /// The same for coalesced 4K pages: four in one entry; add it to 4K.
    SecondHitsCoalesced,
    /// The same for 2M.
    SecondHits2M,
    /// The same for 1G.
    SecondHits1G,
    /// Walks, 4K; on AMD loads and stores together.
    Walks4K,
    /// The same for coalesced 4K pages.
    WalksCoalesced,
    /// The same for 2M.
    Walks2M,
    /// The same for 1G.
    Walks1G,
    /// The same for all sizes.
    Walks,
    /// Whole-TLB flushes.
    Flushes,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it counts.
    pub metric: Metric,
    /// How it is asked for.
    pub select: Select,
}

/// The events of some cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// What they are.
    pub cores: &'static str,
    /// Their maker.
    pub vendor: Vendor,
    /// The events.
    pub events: &'static [Event],
    /// General counters that can count them, from 0 on.
    pub counters: u8,
    /// Where the table comes from.
    pub source: &'static str,
}

impl Metric {
    /// A name for tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::Instructions => "instructions",
            Self::LoadWalks4K => "load-walks-4k",
            Self::LoadWalks2M => "load-walks-2m",
            Self::LoadWalks1G => "load-walks-1g",
            Self::LoadWalks => "load-walks",
            Self::StoreWalks => "store-walks",
            Self::FetchWalks => "fetch-walks",
            Self::LoadWalkPending => "load-walk-pending",
            Self::LoadWalkActive => "load-walk-active",
            Self::LoadSecondHits => "load-second-hits",
            Self::SecondStagePending => "second-stage-pending",
            Self::RetiredLoadMisses => "retired-load-misses",
            Self::RetiredStoreMisses => "retired-store-misses",
            Self::SecondHits4K => "second-hits-4k",
            Self::SecondHitsCoalesced => "second-hits-coalesced",
            Self::SecondHits2M => "second-hits-2m",
            Self::SecondHits1G => "second-hits-1g",
            Self::Walks4K => "walks-4k",
            Self::WalksCoalesced => "walks-coalesced",
            Self::Walks2M => "walks-2m",
            Self::Walks1G => "walks-1g",
            Self::Walks => "walks",
            Self::Flushes => "flushes",
        }
    }
}

/// What every core of a maker counts, known or not.
pub const fn common(vendor: Vendor) -> [Event; 2] {
    match vendor {
        // Architectural events (SDM vol. 3B, 20.2.1.2, table 20-1).
        Vendor::Intel => [
            event(Metric::Cycles, 0x3c, 0),
            event(Metric::Instructions, 0xc0, 0),
        ],
        // Of every family since 0Fh (its "BIOS and Kernel Developer's Guide", later each family's "Processor Programming Reference": PMCx076, PMCx0C0).
        Vendor::Amd => [
            event(Metric::Cycles, 0x76, 0),
            event(Metric::Instructions, 0xc0, 0),
        ],
    }
}

impl Events {
    /// The event that counts this.
    pub fn event(&self, metric: Metric) -> Option<&'static Event> {
        self.events.iter().find(|event| event.metric == metric)
    }
}

const fn event(metric: Metric, event: u16, umask: u8) -> Event {
    Event {
        metric,
        select: Select::new(event, umask),
    }
}

const fn active(number: u16) -> Event {
    Event {
        metric: Metric::LoadWalkActive,
        select: Select {
            event: number,
            umask: 0x10,
            cmask: 1,
        },
    }
}

const PERFMON: &str = "Intel's perfmon repository, mapfile.csv and the core's *_core.json";
const PERF: &str = "Linux 6.12, tools/perf/pmu-events/arch/x86/amdzen*";

/// Skylake, Cascade Lake.
const SKYLAKE: Events = Events {
    cores: "Skylake to Comet Lake, Skylake and Cascade Lake servers",
    vendor: Vendor::Intel,
    events: &[
        event(Metric::LoadWalks4K, 0x08, 0x02),
        event(Metric::LoadWalks2M, 0x08, 0x04),
        event(Metric::LoadWalks1G, 0x08, 0x08),
        event(Metric::LoadWalks, 0x08, 0x0e),
        event(Metric::StoreWalks, 0x49, 0x0e),
        event(Metric::FetchWalks, 0x85, 0x0e),
        event(Metric::LoadWalkPending, 0x08, 0x10),
        active(0x08),
        event(Metric::LoadSecondHits, 0x08, 0x20),
        event(Metric::SecondStagePending, 0x4f, 0x10),
        event(Metric::RetiredLoadMisses, 0xd0, 0x11),
        event(Metric::RetiredStoreMisses, 0xd0, 0x12),
        event(Metric::Flushes, 0xbd, 0x20),
    ],
    counters: 4,
    source: PERFMON,
};

/// Ice Lake: as Skylake, without the event for the second stage.
const ICE_LAKE: Events = Events {
    cores: "Ice Lake, client and server",
    vendor: Vendor::Intel,
    events: &[
        event(Metric::LoadWalks4K, 0x08, 0x02),
        event(Metric::LoadWalks2M, 0x08, 0x04),
        event(Metric::LoadWalks1G, 0x08, 0x08),
        event(Metric::LoadWalks, 0x08, 0x0e),
        event(Metric::StoreWalks, 0x49, 0x0e),
        event(Metric::FetchWalks, 0x85, 0x0e),
        event(Metric::LoadWalkPending, 0x08, 0x10),
        active(0x08),
        event(Metric::LoadSecondHits, 0x08, 0x20),
        event(Metric::RetiredLoadMisses, 0xd0, 0x11),
        event(Metric::RetiredStoreMisses, 0xd0, 0x12),
        event(Metric::Flushes, 0xbd, 0x20),
    ],
    counters: 4,
    source: PERFMON,
};

/// Golden Cove and later.
const GOLDEN_COVE_EVENTS: &[Event] = &[
    event(Metric::LoadWalks4K, 0x12, 0x02),
    event(Metric::LoadWalks2M, 0x12, 0x04),
    event(Metric::LoadWalks1G, 0x12, 0x08),
    event(Metric::LoadWalks, 0x12, 0x0e),
    event(Metric::StoreWalks, 0x13, 0x0e),
    event(Metric::FetchWalks, 0x11, 0x0e),
    event(Metric::LoadWalkPending, 0x12, 0x10),
    active(0x12),
    event(Metric::LoadSecondHits, 0x12, 0x20),
    event(Metric::RetiredLoadMisses, 0xd0, 0x11),
    event(Metric::RetiredStoreMisses, 0xd0, 0x12),
];
const GOLDEN_COVE: Events = Events {
    cores: "Sapphire Rapids, Emerald Rapids, Granite Rapids; P-cores of Alder Lake to Arrow Lake",
    vendor: Vendor::Intel,
    events: GOLDEN_COVE_EVENTS,
    counters: 4,
    source: PERFMON,
};
const LUNAR_LAKE: Events = Events {
    cores: "P-cores of Lunar Lake",
    counters: 10,
    ..GOLDEN_COVE
};

/// Sierra Forest: no event for 1G, none for active cycles.
const SIERRA_FOREST: Events = Events {
    cores: "Sierra Forest",
    vendor: Vendor::Intel,
    events: &[
        event(Metric::LoadWalks4K, 0x08, 0x02),
        event(Metric::LoadWalks2M, 0x08, 0x04),
        event(Metric::LoadWalks, 0x08, 0x0e),
        event(Metric::StoreWalks, 0x49, 0x0e),
        event(Metric::FetchWalks, 0x85, 0x0e),
        event(Metric::LoadWalkPending, 0x08, 0x10),
        event(Metric::LoadSecondHits, 0x08, 0x20),
    ],
    counters: 8,
    source: PERFMON,
};

/// Zen 2 counts flushes with another mask, and has no coalesced entries for fetches.
const ZEN_2: Events = Events {
    cores: "Zen 2",
    vendor: Vendor::Amd,
    events: &zen(0xdf, 0x07),
    counters: 6,
    source: PERF,
};
const ZEN_3: Events = Events {
    cores: "Zen 3",
    events: &zen(0xff, 0x0f),
    ..ZEN_2
};
const ZEN_4: Events = Events {
    cores: "Zen 4",
    ..ZEN_3
};
const ZEN_5: Events = Events {
    cores: "Zen 5",
    ..ZEN_3
};

const fn zen(flushes: u8, fetches: u8) -> [Event; 11] {
    [
        event(Metric::SecondHits4K, 0x45, 0x01),
        event(Metric::SecondHitsCoalesced, 0x45, 0x02),
        event(Metric::SecondHits2M, 0x45, 0x04),
        event(Metric::SecondHits1G, 0x45, 0x08),
        event(Metric::Walks4K, 0x45, 0x10),
        event(Metric::WalksCoalesced, 0x45, 0x20),
        event(Metric::Walks2M, 0x45, 0x40),
        event(Metric::Walks1G, 0x45, 0x80),
        event(Metric::Walks, 0x45, 0xf0),
        event(Metric::FetchWalks, 0x85, fetches),
        event(Metric::Flushes, 0x78, flushes),
    ]
}

/// The events of a core, by what CPUID says of it (displayed family and model); `None` for one that is not known. A hybrid CPU has one model for both
/// kinds of core: the table is that of its P-cores.
pub fn events_of(vendor: Vendor, family: u8, model: u8) -> Option<&'static Events> {
    Some(match (vendor, family, model) {
        (Vendor::Intel, 6, 0x4e | 0x5e | 0x8e | 0x9e | 0xa5 | 0xa6 | 0x55) => &SKYLAKE,
        (Vendor::Intel, 6, 0x7d | 0x7e | 0x6a | 0x6c) => &ICE_LAKE,
        (Vendor::Intel, 6, 0x8f | 0xcf | 0xad | 0xae) => &GOLDEN_COVE,
        (Vendor::Intel, 6, 0x97 | 0x9a | 0xb7 | 0xba | 0xbf | 0xaa | 0xac | 0xb5 | 0xc5 | 0xc6) => {
            &GOLDEN_COVE
        }
        (Vendor::Intel, 6, 0xbd) => &LUNAR_LAKE,
        (Vendor::Intel, 6, 0xaf) => &SIERRA_FOREST,
        (Vendor::Amd, 0x17, 0x30..) => &ZEN_2,
        (Vendor::Amd, 0x19, 0x00..=0x0f | 0x20..=0x2f | 0x40..=0x5f) => &ZEN_3,
        (Vendor::Amd, 0x19, _) => &ZEN_4,
        (Vendor::Amd, 0x1a, _) => &ZEN_5,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_told_apart() {
        let cores = |vendor, family, model| events_of(vendor, family, model).map(|events| events.cores);
        assert_eq!(cores(Vendor::Amd, 0x19, 0x21), Some("Zen 3"));
        assert_eq!(cores(Vendor::Amd, 0x19, 0x11), Some("Zen 4"));
        assert_eq!(cores(Vendor::Amd, 0x17, 0x01), None, "Zen 1 has other events");
        assert_eq!(cores(Vendor::Intel, 0x19, 0x11), None);
        let load = |model| events_of(Vendor::Intel, 6, model)?.event(Metric::LoadWalks);
        assert_eq!(load(0x8f).map(|event| event.select.event), Some(0x12));
        assert_eq!(load(0x6a).map(|event| event.select.event), Some(0x08));
        let of = |model, metric| events_of(Vendor::Intel, 6, model).and_then(|events| events.event(metric));
        assert!(
            of(0x55, Metric::SecondStagePending).is_some() && of(0x6a, Metric::SecondStagePending).is_none()
        );
        let fetches = |family| events_of(Vendor::Amd, family, 0x31)?.event(Metric::FetchWalks);
        let umask = |family| fetches(family).map(|event| event.select.umask);
        assert_eq!((umask(0x17), umask(0x19)), (Some(0x07), Some(0x0f)));
        assert!(of(0xaf, Metric::LoadWalks1G).is_none() && of(0xaf, Metric::LoadWalkActive).is_none());
        assert_eq!(
            events_of(Vendor::Intel, 6, 0xbd).map(|events| events.counters),
            Some(10)
        );
    }

    #[test]
    fn a_metric_stands_once_in_a_table_and_a_total_has_all_its_parts() {
        for model in 0..=u8::MAX {
            for (vendor, family) in [
                (Vendor::Intel, 6),
                (Vendor::Amd, 0x17),
                (Vendor::Amd, 0x19),
                (Vendor::Amd, 0x1a),
            ] {
                let Some(events) = events_of(vendor, family, model) else {
                    continue;
                };
                for (place, event) in events.events.iter().enumerate() {
                    let later = events.events.iter().skip(place + 1);
                    assert!(later.clone().all(|other| other.metric != event.metric));
                    assert!(later.clone().all(|other| other.select != event.select));
                }
                let umask = |metric| events.event(metric).map_or(0, |event| event.select.umask);
                let parts = [
                    Metric::Walks4K,
                    Metric::WalksCoalesced,
                    Metric::Walks2M,
                    Metric::Walks1G,
                ];
                let all = parts.into_iter().fold(0, |all, metric| all | umask(metric));
                assert_eq!(umask(Metric::Walks), all);
            }
        }
    }
}
