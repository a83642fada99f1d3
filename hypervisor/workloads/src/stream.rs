//! Kinds of work, and the addresses that each touches.

use memory::address::{Hpa, PAGE_SIZE, Pfn};

use crate::ground::Ground;
use crate::random::{below, mix};

/// Bytes of a cache line: what one access is about.
pub const LINE: u64 = 64;
/// Lines of a page.
const LINES: u64 = PAGE_SIZE / LINE;
/// Lines of one payload of the virtqueue: a network packet of 1500 bytes.
pub const PAYLOAD_LINES: u64 = 24;
/// Second-stage tables that a scan goes through: those of 64 guests with 32 tables each.
pub const TABLES: u64 = 2048;
/// Descriptors of a virtqueue: QEMU's default for network devices is 256.
const DESCRIPTORS: u64 = 256;
/// Descriptors in an indirect table: header and three parts of a payload, 16 bytes each (virtio 1.2, 2.7.5.3), so one line.
const PARTS: u64 = 3;
/// Where neighbours are asked for, one page in so many is one.
const NEIGHBOURS: u64 = 8;

/// What is done at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is read.
    Load,
    /// It is written.
    Store,
}

/// One access to a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The line's first byte.
    pub at: Hpa,
    /// What is done.
    pub kind: Kind,
    /// Whether the address is known only when the access before has its result: then nothing can be done at the same time.
    pub dependent: bool,
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Objects of 64 bytes, each found through the one before, in so many pages; `None` is all there is.
    Objects {
        /// Pages that have objects.
        pages: Option<u64>,
    },
    /// Objects in all pages, every eighth of them in a neighbour of hidden memory.
    ObjectsNear,
    /// Requests of a virtqueue: descriptor, indirect table, a payload in three parts, the used ring.
    Virtqueue,
    /// A scan of second-stage tables that clears dirty bits: every line of every table is read and written.
    TableScan,
    /// Zeroing page after page. Translation should cost next to nothing: a negative control.
    ScrubSequential,
    /// Zeroing pages at random places, another one.
    ScrubRandom,
}

impl Workload {
    /// All that are measured while memory is hidden.
    pub const ALL: [Self; 9] = [
        Self::Objects { pages: Some(64) },
        Self::Objects { pages: Some(1024) },
        Self::Objects {
            pages: Some(16 * 1024),
        },
        Self::Objects { pages: None },
        Self::ObjectsNear,
        Self::Virtqueue,
        Self::TableScan,
        Self::ScrubSequential,
        Self::ScrubRandom,
    ];

    /// Why loads from its addresses, each of which waits for the one before, take a time that says nothing of it; `None` where the work waits so, too.
    pub const fn why_no_chase(self) -> Option<&'static str> {
        match self {
            Self::Objects { .. } | Self::ObjectsNear | Self::Virtqueue => None,
            Self::TableScan | Self::ScrubSequential | Self::ScrubRandom => Some(
                "no access of this work waits for another, so it has no latency that a chain of loads could show",
            ),
        }
    }

    /// A name for tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Objects { pages: Some(64) } => "objects-64",
            Self::Objects { pages: Some(1024) } => "objects-1k",
            Self::Objects { pages: Some(16_384) } => "objects-16k",
            Self::Objects { pages: Some(_) } => "objects-some",
            Self::Objects { pages: None } => "objects-all",
            Self::ObjectsNear => "objects-near",
            Self::Virtqueue => "virtqueue",
            Self::TableScan => "table-scan",
            Self::ScrubSequential => "scrub-sequential",
            Self::ScrubRandom => "scrub-random",
        }
    }
}

/// The addresses of a workload, without end.
#[derive(Clone, Debug)]
pub struct Stream<'g, G> {
    ground: &'g G,
    workload: Workload,
    seed: u64,
    /// Accesses so far.
    count: u64,
    /// The page that is being worked on.
    page: Pfn,
}

impl<'g, G: Ground> Stream<'g, G> {
    /// The addresses of `workload` on this ground. Equal seeds, equal addresses.
    pub fn new(ground: &'g G, workload: Workload, seed: u64) -> Self {
        Self {
            ground,
            workload,
            seed,
            count: 0,
            page: ground.page(mix(seed, u64::MAX)),
        }
    }

    /// Page number `number` of a set of its own.
    fn chosen(&self, set: u64, number: u64) -> Pfn {
        self.ground.page(mix(mix(self.seed, set), number))
    }

    fn objects(&self, pages: Option<u64>) -> Access {
        let random = mix(self.seed, self.count);
        // Without a bound on the set each access has a page of its own, as one of a set far larger than any TLB would.
        let number = pages.map_or(random, |pages| below(random, pages));
        let page = match self.workload {
            Workload::ObjectsNear if self.count.is_multiple_of(NEIGHBOURS) => self.ground.neighbour(random),
            _ => self.chosen(1, number),
        };
        // Objects are not all at the start of their pages, and each page has several.
        line(page, below(mix(random, 1), LINES), Kind::Load, true)
    }

    fn virtqueue(&self) -> Access {
        // Ring entry, descriptor, indirect table, the payload's parts, used ring.
        let steps = 3 + PARTS * PAYLOAD_LINES / PARTS + 1;
        let (request, step) = (self.count / steps, self.count % steps);
        let slot = request % DESCRIPTORS;
        let page = |set, number| self.chosen(set, number);
        match step {
            // Two bytes each in the ring of what is available (2.7.6), 16 in the table of descriptors (2.7.5).
            0 => line(page(2, 1), slot * 2 / LINE, Kind::Load, false),
            1 => line(page(2, 2), slot * 16 / LINE % LINES, Kind::Load, true),
            2 => line(
                page(3, request % (4 * DESCRIPTORS)),
                below(mix(self.seed, request), LINES),
                Kind::Load,
                true,
            ),
            step if step < steps - 1 => {
                let place = step - 3;
                let part = place / (PAYLOAD_LINES / PARTS);
                let number = mix(self.seed, request * PARTS + part);
                let first = below(mix(number, 0), LINES - PAYLOAD_LINES / PARTS);
                let at = first + place % (PAYLOAD_LINES / PARTS);
                line(
                    page(4, number),
                    at,
                    Kind::Store,
                    place.is_multiple_of(PAYLOAD_LINES / PARTS),
                )
            }
            // Eight bytes each in the ring of what was used (2.7.8).
            _ => line(page(2, 3), slot * 8 / LINE, Kind::Store, false),
        }
    }

    fn table_scan(&self) -> Access {
        let (step, kind) = (
            self.count / 2,
            if self.count.is_multiple_of(2) {
                Kind::Load
            } else {
                Kind::Store
            },
        );
        let table = step / LINES % TABLES;
        line(self.chosen(5, table), step % LINES, kind, false)
    }
}

fn line(page: Pfn, line: u64, kind: Kind, dependent: bool) -> Access {
    Access {
        at: Hpa::new(page.hpa().get() + line * LINE),
        kind,
        dependent,
    }
}

impl<G: Ground> Iterator for Stream<'_, G> {
    type Item = Access;

    fn next(&mut self) -> Option<Access> {
        let access = match self.workload {
            Workload::Objects { pages } => self.objects(pages),
            Workload::ObjectsNear => self.objects(None),
            Workload::Virtqueue => self.virtqueue(),
            Workload::TableScan => self.table_scan(),
            Workload::ScrubSequential | Workload::ScrubRandom => {
                if self.count > 0 && self.count.is_multiple_of(LINES) {
                    self.page = match self.workload {
                        Workload::ScrubSequential => self.ground.next(self.page),
                        _ => self.chosen(6, mix(self.seed, self.count / LINES)),
                    };
                }
                line(self.page, self.count % LINES, Kind::Store, false)
            }
        };
        self.count += 1;
        Some(access)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::ground::{Extent, Ram};

    const RAM: [Extent; 1] = [Extent {
        start: Pfn::new(0),
        frames: 1 << 22,
    }];
    const HIDDEN: u64 = 1 << 20;
    const NEAR: [Extent; 1] = [Extent {
        start: Pfn::new(HIDDEN - 512),
        frames: 512,
    }];

    fn usable(page: Pfn) -> bool {
        page.get() < HIDDEN
    }

    fn pages(workload: Workload, accesses: usize) -> Vec<u64> {
        let ram = Ram::new(&RAM, &NEAR, usable).unwrap();
        Stream::new(&ram, workload, 1)
            .take(accesses)
            .map(|access| access.at.pfn().get())
            .collect()
    }

    #[test]
    fn a_set_of_pages_is_used_whole_and_nothing_else() {
        for set in [64, 1024] {
            let pages = pages(Workload::Objects { pages: Some(set) }, 20_000);
            let distinct: BTreeSet<_> = pages.into_iter().collect();
            // Two numbers of the set may stand for the same page: the birthday problem allows a few.
            assert!(
                distinct.len() as u64 <= set && distinct.len() as u64 >= set * 9 / 10,
                "{}",
                distinct.len()
            );
        }
        let all = pages(Workload::Objects { pages: None }, 10_000);
        let distinct: BTreeSet<_> = all.iter().collect();
        assert!(distinct.len() > 9_000, "{}", distinct.len());
        let near = |pages: &[u64]| pages.iter().filter(|page| **page >= HIDDEN - 512).count();
        assert!(near(&all) < 50, "{} of 5 expected", near(&all));
        let some = near(&pages(Workload::ObjectsNear, 10_000));
        assert!((1_250..1_300).contains(&some), "{some} neighbours of 1250");
    }

    #[test]
    fn scrubbing_writes_each_line_of_a_page_once() {
        let ram = Ram::new(&RAM, &NEAR, usable).unwrap();
        for workload in [Workload::ScrubSequential, Workload::ScrubRandom] {
            let lines: Vec<_> = Stream::new(&ram, workload, 9).take(640).collect();
            for page in lines.chunks(64) {
                let first = page[0].at.get();
                assert_eq!(first % PAGE_SIZE, 0);
                for (number, access) in (0..).zip(page) {
                    assert_eq!(
                        (access.at.get(), access.kind),
                        (first + number * LINE, Kind::Store)
                    );
                }
            }
        }
        let numbers = pages(Workload::ScrubSequential, 640);
        assert_eq!(numbers[639] - numbers[0], 9);
    }

    #[test]
    fn a_table_is_read_and_written_line_by_line() {
        let ram = Ram::new(&RAM, &NEAR, usable).unwrap();
        let scan: Vec<_> = Stream::new(&ram, Workload::TableScan, 9).take(256).collect();
        for pair in scan.chunks(2) {
            assert_eq!(
                (pair[0].at, pair[0].kind, pair[1].kind),
                (pair[1].at, Kind::Load, Kind::Store)
            );
        }
        assert_ne!(scan[0].at.pfn(), scan[128].at.pfn());
        assert_eq!(scan[0].at.pfn(), scan[127].at.pfn());
        // It begins again after the last table.
        let round = (TABLES * LINES * 2) as usize;
        assert_eq!(
            Stream::new(&ram, Workload::TableScan, 9).nth(round).unwrap(),
            scan[0]
        );
    }

    #[test]
    fn a_request_touches_rings_descriptors_and_three_parts() {
        let ram = Ram::new(&RAM, &NEAR, usable).unwrap();
        let request: Vec<_> = Stream::new(&ram, Workload::Virtqueue, 9).take(28).collect();
        let stores = request.iter().filter(|access| access.kind == Kind::Store).count();
        assert_eq!(stores as u64, PAYLOAD_LINES + 1);
        let distinct: BTreeSet<_> = request.iter().map(|access| access.at.pfn()).collect();
        assert_eq!(
            distinct.len(),
            7,
            "three rings and tables, an indirect table, three parts"
        );
    }

    #[test]
    fn a_chase_is_for_work_that_waits() {
        let ram = Ram::new(&RAM, &NEAR, usable).unwrap();
        for workload in Workload::ALL {
            let waits = Stream::new(&ram, workload, 9)
                .take(256)
                .any(|access| access.dependent);
            assert_eq!(waits, workload.why_no_chase().is_none(), "{}", workload.name());
        }
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_touched_and_streams_repeat(seed in any::<u64>(), which in 0..Workload::ALL.len()) {
            let ram = Ram::new(&RAM, &NEAR, usable).unwrap();
            let stream = || Stream::new(&ram, Workload::ALL[which], seed).take(500);
            for (one, other) in stream().zip(stream()) {
                prop_assert!(usable(one.at.pfn()) && one.at.get().is_multiple_of(LINE));
                prop_assert_eq!(one, other);
            }
        }
    }
}
