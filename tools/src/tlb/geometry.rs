//! What cores have: TLBs, page-walk caches, caches. Each figure has its source; one that only one place gives, or none, says "unverified".

use std::fmt;

/// Size of what one entry translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB.
    K4,
    /// Four adjacent pages of 4 KiB that AMD's cores keep in one entry.
    K16,
    /// 2 MiB.
    M2,
    /// 1 GiB.
    G1,
}

impl PageSize {
    /// All of them, ascending; an array by size is indexed in this order.
    pub const ALL: [Self; 4] = [Self::K4, Self::K16, Self::M2, Self::G1];

    /// log2 of the bytes.
    pub const fn shift(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::M2 => 21,
            Self::G1 => 30,
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::K4 => "4K",
            Self::K16 => "16K",
            Self::M2 => "2M",
            Self::G1 => "1G",
        })
    }
}

/// How an array chooses the set of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// The page number's low bits.
    Low,
    /// The page number's low bits xor as many above them.
    Xor,
}

/// Ways of a set that one size of page may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// The first.
    pub first: u32,
    /// How many; 0 when the array does not hold such pages.
    pub count: u32,
}

impl Ways {
    /// None.
    pub const NONE: Self = Self { first: 0, count: 0 };

    /// The first so many.
    pub const fn first(count: u32) -> Self {
        Self { first: 0, count }
    }
}

/// A set-associative array of translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Array {
    /// Number of sets; 1 is fully associative.
    pub sets: u32,
    /// Entries of a set.
    pub ways: u32,
    /// How the set is chosen.
    pub index: Index,
    /// Which ways hold pages of 4K (those of 16K use the same), 2M and 1G.
    pub by_size: [Ways; 3],
    /// 1G pages are kept here in pieces of 2M.
    pub splits_1g: bool,
}

impl Array {
    /// A fully associative array for all sizes.
    pub const fn full(entries: u32) -> Self {
        Self::of(1, entries, [true, true, true])
    }

    /// An array for these sizes (4K, 2M, 1G), whose ways all of them share.
    pub const fn of(sets: u32, ways: u32, sizes: [bool; 3]) -> Self {
        const fn held(held: bool, ways: u32) -> Ways {
            Ways::first(if held { ways } else { 0 })
        }
        Self {
            sets,
            ways,
            index: Index::Low,
            by_size: [held(sizes[0], ways), held(sizes[1], ways), held(sizes[2], ways)],
            splits_1g: false,
        }
    }

    /// The ways for pages of a size.
    pub const fn ways_for(&self, size: PageSize) -> Ways {
        match size {
            PageSize::K4 | PageSize::K16 => self.by_size[0],
            PageSize::M2 => self.by_size[1],
            PageSize::G1 => {
                if self.splits_1g {
                    self.by_size[1]
                } else {
                    self.by_size[2]
                }
            }
        }
    }
}

/// Entries of the page-walk caches, each fully associative: what they let a walk skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkCaches {
    /// Top-level entries: skip one load.
    pub level4: u32,
    /// Third-level entries that lead to a table: skip two.
    pub level3: u32,
    /// Second-level entries that lead to a table: skip three.
    pub level2: u32,
    /// Second-stage translations of the tables' own addresses, with two-dimensional walks.
    pub nested: u32,
}

/// One level of the data caches, through which the walker reads entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataCache {
    /// Its size in bytes: for a shared one, one core's share.
    pub bytes: u64,
    /// Ways.
    pub ways: u32,
    /// Core cycles until a load that hits here has its value.
    pub cycles: u32,
}

/// A core.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Short, for tables: `spr`.
    pub name: &'static str,
    /// What it is.
    pub core: &'static str,
    /// First-level arrays for loads.
    pub loads: &'static [Array],
    /// First-level arrays for stores; `None` where they are those for loads.
    pub stores: Option<&'static [Array]>,
    /// Second-level arrays.
    pub second: &'static [Array],
    /// Whether four adjacent 4K pages share an entry.
    pub coalesces: bool,
    /// The page-walk caches.
    pub walk_caches: WalkCaches,
    /// The data caches, the nearest first.
    pub data: &'static [DataCache],
    /// Core cycles of a load from memory.
    pub memory_cycles: u32,
    /// Core cycles that a hit in the second level adds.
    pub second_cycles: u32,
    /// Where the figures come from.
    pub source: &'static str,
}

impl Geometry {
    /// The geometry with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        GEOMETRIES.iter().find(|geometry| geometry.name == name)
    }

    /// The geometry of a CPU by what CPUID says of it; `None` for one that is not known. Family and model are the displayed ones, with their extensions.
    ///
    /// Models of Intel's as its perfmon repository maps them to events (`mapfile.csv`); of AMD's as Linux 6.12 does (`tools/perf/pmu-events/arch/x86`). That
    /// Rocket Lake (A7H) is Sunny Cove made in another process, with its TLBs, is unverified.
    pub fn of_cpu(vendor: &str, family: u8, model: u8) -> Option<&'static Self> {
        let name = match (vendor, family, model) {
            ("GenuineIntel", 6, 0x4e | 0x5e | 0x8e | 0x9e | 0xa5 | 0xa6 | 0x55) => "skx",
            ("GenuineIntel", 6, 0x7d | 0x7e | 0x6a | 0x6c | 0xa7) => "icx",
            ("GenuineIntel", 6, 0x8f | 0xcf | 0xad | 0xae) => "spr",
            ("AuthenticAMD", 0x17, 0x30..) => "zen2",
            ("AuthenticAMD", 0x19, 0x00..=0x0f | 0x20..=0x2f | 0x40..=0x5f) => "zen3",
            ("AuthenticAMD", 0x19, _) => "zen4",
            ("AuthenticAMD", 0x1a, _) => "zen5",
            _ => return None,
        };
        Self::named(name)
    }

    /// The weights of the translation cycles, in words.
    pub fn weights(&self) -> String {
        let caches: Vec<String> = (1..)
            .zip(self.data)
            .map(|(level, cache)| format!("{} L{level}", cache.cycles))
            .collect();
        format!(
            "second-level hit {}; a walk's load {}, {} memory",
            self.second_cycles,
            caches.join(", "),
            self.memory_cycles
        )
    }
}

const K4: [bool; 3] = [true, false, false];
const M2: [bool; 3] = [false, true, false];
const G1: [bool; 3] = [false, false, true];
const SMALL: [bool; 3] = [true, true, false];

/// Intel's page-walk caches. About 32 second-level entries and 4 to 8 third-level ones: unverified; the top level: unverified.
const INTEL_WALK_CACHES: WalkCaches = WalkCaches {
    level4: 4,
    level3: 8,
    level2: 32,
    nested: 32,
};
/// AMD's: unverified; 64 entries of a page directory cache are what optimisation guides of family 17h and later speak of.
const AMD_WALK_CACHES: WalkCaches = WalkCaches {
    level4: 16,
    level3: 32,
    level2: 64,
    nested: 64,
};

/// Ice Lake's second level and its successors': two structures of 128 sets by 8 ways, one for 4K and 2M, one for 4K and 1G, so that 4K pages have
/// 2048 entries and the others 1024 (InstLatx64 CPUID dumps). The index was measured on Emerald Rapids: bits 6:0 of the page number xor bits 13:7.
const ICE_LAKE_SECOND: [Array; 1] = [Array {
    sets: 128,
    ways: 16,
    index: Index::Xor,
    by_size: [Ways::first(16), Ways::first(8), Ways { first: 8, count: 8 }],
    splits_1g: false,
}];

/// Zen's second level has no known index function: low bits. CPUID 8000_0006H gives entries; 16 and 24 ways are unverified.
const fn zen_second(sets: u32, ways: u32, splits_1g: bool) -> Array {
    Array {
        splits_1g,
        ..Array::of(sets, ways, SMALL)
    }
}

/// The cores that the model knows. Data caches have their known sizes, a shared one by core; cycles of L1 and L2 are the vendors' usual figures, those of
/// L3 and memory round numbers for a server: all unverified here.
pub const GEOMETRIES: &[Geometry] = &[
    Geometry {
        name: "spr",
        core: "Intel Golden Cove (Sapphire Rapids, Emerald Rapids)",
        loads: &[Array::of(16, 6, K4), Array::of(8, 4, M2), Array::full(8).only(G1)],
        stores: Some(&[Array::full(16)]),
        second: &ICE_LAKE_SECOND,
        coalesces: false,
        walk_caches: INTEL_WALK_CACHES,
        data: &[
            cache(48 << 10, 12, 5),
            cache(2 << 20, 16, 16),
            cache(15 << 17, 15, 120),
        ],
        memory_cycles: 350,
        second_cycles: 7,
        source: "InstLatx64 CPUID dumps; 96 entries by 6 ways for 4K, index functions and the cost of a second-level hit measured on Emerald Rapids",
    },
    Geometry {
        name: "icx",
        core: "Intel Sunny Cove (Ice Lake server)",
        loads: &[Array::of(16, 4, K4), Array::of(8, 4, M2), Array::full(8).only(G1)],
        stores: Some(&[Array::full(16)]),
        second: &ICE_LAKE_SECOND,
        coalesces: false,
        walk_caches: INTEL_WALK_CACHES,
        data: &[
            cache(48 << 10, 12, 5),
            cache(5 << 18, 20, 14),
            cache(3 << 19, 12, 120),
        ],
        memory_cycles: 350,
        second_cycles: 7,
        source: "InstLatx64 CPUID dumps; index of the second level as measured on Emerald Rapids",
    },
    Geometry {
        name: "skx",
        core: "Intel Skylake server, Cascade Lake",
        loads: &[Array::of(16, 4, K4), Array::of(8, 4, M2), Array::full(4).only(G1)],
        stores: None,
        second: &[Array::of(128, 12, SMALL), Array::of(4, 4, G1)],
        coalesces: false,
        walk_caches: INTEL_WALK_CACHES,
        data: &[
            cache(32 << 10, 8, 5),
            cache(1 << 20, 16, 14),
            cache(11 << 17, 11, 100),
        ],
        memory_cycles: 350,
        second_cycles: 7,
        source: "InstLatx64 CPUID dumps; the second level's 16 entries for 1G and its index are unverified",
    },
    Geometry {
        name: "zen2",
        core: "AMD Zen 2",
        loads: &[Array::full(64)],
        stores: None,
        second: &[zen_second(128, 16, true)],
        coalesces: true,
        walk_caches: AMD_WALK_CACHES,
        data: &[
            cache(32 << 10, 8, 4),
            cache(512 << 10, 8, 12),
            cache(4 << 20, 16, 40),
        ],
        memory_cycles: 350,
        second_cycles: 7,
        source: "InstLatx64 CPUID dumps; ways, index and the cost of a second-level hit are unverified",
    },
    Geometry {
        name: "zen3",
        core: "AMD Zen 3",
        loads: &[Array::full(64)],
        stores: None,
        second: &[zen_second(128, 16, false), Array::full(64).only(G1)],
        coalesces: true,
        walk_caches: AMD_WALK_CACHES,
        data: &[
            cache(32 << 10, 8, 4),
            cache(512 << 10, 8, 12),
            cache(4 << 20, 16, 47),
        ],
        memory_cycles: 350,
        second_cycles: 7,
        source: "InstLatx64 CPUID dumps; ways, index and the cost of a second-level hit are unverified",
    },
    Geometry {
        name: "zen4",
        core: "AMD Zen 4",
        loads: &[Array::full(72)],
        stores: None,
        second: &[zen_second(128, 24, false), Array::full(64).only(G1)],
        coalesces: true,
        walk_caches: AMD_WALK_CACHES,
        data: &[
            cache(32 << 10, 8, 4),
            cache(1 << 20, 8, 14),
            cache(4 << 20, 16, 50),
        ],
        memory_cycles: 350,
        second_cycles: 7,
        source: "InstLatx64 CPUID dumps; ways, index and the cost of a second-level hit are unverified",
    },
    Geometry {
        name: "zen5",
        core: "AMD Zen 5",
        loads: &[Array::full(96)],
        stores: None,
        second: &[zen_second(256, 16, false), Array::of(64, 16, G1)],
        coalesces: true,
        walk_caches: AMD_WALK_CACHES,
        data: &[
            cache(48 << 10, 12, 4),
            cache(1 << 20, 16, 14),
            cache(4 << 20, 16, 50),
        ],
        memory_cycles: 350,
        second_cycles: 7,
        source: "InstLatx64 CPUID dumps; ways, index and the cost of a second-level hit are unverified",
    },
];

const fn cache(bytes: u64, ways: u32, cycles: u32) -> DataCache {
    DataCache { bytes, ways, cycles }
}

impl Array {
    /// The same array for some of the sizes.
    const fn only(self, sizes: [bool; 3]) -> Self {
        Self::of(self.sets, self.ways, sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_add_up_to_what_cpuid_says() {
        let entries = |name: &str, size: PageSize| -> (u32, u32) {
            let geometry = Geometry::named(name).unwrap();
            let of = |arrays: &[Array]| {
                arrays
                    .iter()
                    .map(|array| array.sets * array.ways_for(size).count)
                    .sum()
            };
            (of(geometry.loads), of(geometry.second))
        };
        for (name, k4, m2, g1) in [
            ("skx", (64, 1536), (32, 1536), (4, 16)),
            ("icx", (64, 2048), (32, 1024), (8, 1024)),
            ("spr", (96, 2048), (32, 1024), (8, 1024)),
            ("zen2", (64, 2048), (64, 2048), (64, 2048)),
            ("zen3", (64, 2048), (64, 2048), (64, 64)),
            ("zen4", (72, 3072), (72, 3072), (72, 64)),
            ("zen5", (96, 4096), (96, 4096), (96, 1024)),
        ] {
            assert_eq!(entries(name, PageSize::K4), k4, "{name}");
            assert_eq!(entries(name, PageSize::M2), m2, "{name}");
            assert_eq!(entries(name, PageSize::G1), g1, "{name}");
        }
    }

    #[test]
    fn cpus_are_known_by_vendor_family_and_model() {
        let name = |vendor, family, model| Geometry::of_cpu(vendor, family, model).map(|core| core.name);
        assert_eq!(name("GenuineIntel", 6, 0xcf), Some("spr"));
        assert_eq!(name("GenuineIntel", 6, 0x6a), Some("icx"));
        assert_eq!(name("AuthenticAMD", 0x19, 0x21), Some("zen3"));
        assert_eq!(name("AuthenticAMD", 0x19, 0x11), Some("zen4"));
        assert_eq!(
            (name("GenuineIntel", 6, 0x0f), name("AuthenticAMD", 6, 0xcf)),
            (None, None)
        );
    }

    #[test]
    fn arrays_and_caches_are_well_formed() {
        for geometry in GEOMETRIES {
            let stores = geometry.stores.unwrap_or_default();
            for array in geometry.loads.iter().chain(stores).chain(geometry.second) {
                assert!(array.sets.is_power_of_two());
                for ways in array.by_size {
                    assert!(ways.first + ways.count <= array.ways);
                }
            }
            for size in [PageSize::K4, PageSize::M2, PageSize::G1] {
                assert!(geometry.loads.iter().any(|array| array.ways_for(size).count > 0));
            }
            for cache in geometry.data {
                assert_eq!(cache.bytes % (64 * u64::from(cache.ways)), 0, "{}", geometry.name);
            }
            assert!(!geometry.source.is_empty());
        }
    }
}
