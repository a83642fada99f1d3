//! Which memory the work touches.

use memory::address::Pfn;

use crate::random::{below, mix};

/// Memory that is the host's throughout: every phase of a measurement uses the same pages.
pub trait Ground {
    /// The page that a random number stands for; equal numbers, equal pages.
    fn page(&self, random: u64) -> Pfn;

    /// The same among the pages that lie next to memory which is hidden in some phase. Any page where there are none.
    fn neighbour(&self, random: u64) -> Pfn;

    /// The page with work after this one in address order, the first after the last.
    fn next(&self, page: Pfn) -> Pfn;
}

/// Frames in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first.
    pub start: Pfn,
    /// How many.
    pub frames: u64,
}

/// Ground that is all of some RAM but for what a predicate takes away.
#[derive(Clone, Copy, Debug)]
pub struct Ram<'e, U> {
    extents: &'e [Extent],
    frames: u64,
    neighbours: &'e [Extent],
    usable: U,
}

/// How often a random page is drawn before the next one in address order is taken. With a quarter of RAM usable one draw in four hits.
const DRAWS: u64 = 64;

impl<'e, U: Fn(Pfn) -> bool> Ram<'e, U> {
    /// RAM in these extents, ascending; `neighbours` are pieces of it that lie next to hidden memory. `None` when nothing in it is usable.
    pub fn new(extents: &'e [Extent], neighbours: &'e [Extent], usable: U) -> Option<Self> {
        let frames = extents.iter().map(|extent| extent.frames).sum();
        let ram = Self {
            extents,
            frames,
            neighbours,
            usable,
        };
        let first = extents.first()?.start;
        ram.from(first).map(|_| ram)
    }

    /// The first usable page at or after one, around the end.
    fn from(&self, page: Pfn) -> Option<Pfn> {
        let position = self.extents.partition_point(|extent| extent.start <= page);
        let (low, high) = self.extents.split_at(position.saturating_sub(1));
        // Only the part of each extent that counts: a walk over all of RAM for each page would take for ever.
        let pages = |extent: &Extent, from: u64, to: u64| {
            let (start, end) = (extent.start.get(), extent.start.get() + extent.frames);
            (start.max(from)..end.min(to)).map(Pfn::new)
        };
        let mut after = high.iter().flat_map(|extent| pages(extent, page.get(), u64::MAX));
        let mut around = low
            .iter()
            .chain(high.first())
            .flat_map(|extent| pages(extent, 0, page.get()));
        after
            .find(|at| (self.usable)(*at))
            .or_else(|| around.find(|at| (self.usable)(*at)))
    }

    fn nth(extents: &[Extent], mut number: u64) -> Option<Pfn> {
        for extent in extents {
            if number < extent.frames {
                return Some(extent.start.add(number));
            }
            number -= extent.frames;
        }
        None
    }

    fn draw(&self, extents: &[Extent], frames: u64, random: u64) -> Option<Pfn> {
        let mut number = random;
        for draw in 0..DRAWS {
            let page = Self::nth(extents, below(number, frames))?;
            if (self.usable)(page) {
                return Some(page);
            }
            number = mix(random, draw);
        }
        None
    }
}

impl<U: Fn(Pfn) -> bool> Ground for Ram<'_, U> {
    fn page(&self, random: u64) -> Pfn {
        self.draw(self.extents, self.frames, random)
            .or_else(|| self.from(Self::nth(self.extents, below(random, self.frames))?))
            // `new` has seen a usable page, and whatever is usable stays so.
            .unwrap_or_default()
    }

    fn neighbour(&self, random: u64) -> Pfn {
        // One of the pieces first, so that a large one does not drown the small ones.
        let piece = below(random, self.neighbours.len() as u64) as usize;
        self.neighbours
            .get(piece)
            .and_then(|piece| self.draw(core::slice::from_ref(piece), piece.frames, mix(random, 0)))
            .unwrap_or_else(|| self.page(random))
    }

    fn next(&self, page: Pfn) -> Pfn {
        self.from(page.add(1)).unwrap_or(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENTS: [Extent; 2] = [
        Extent {
            start: Pfn::new(16),
            frames: 100,
        },
        Extent {
            start: Pfn::new(1 << 20),
            frames: 300,
        },
    ];

    fn odd(page: Pfn) -> bool {
        page.get() % 2 == 1
    }

    #[test]
    fn only_usable_pages_of_ram_come_and_all_of_them_do() {
        let ram = Ram::new(&EXTENTS, &[], odd).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..5_000 {
            let page = ram.page(mix(3, number));
            assert!(odd(page));
            assert!(
                EXTENTS
                    .iter()
                    .any(|extent| (extent.start..extent.start.add(extent.frames)).contains(&page))
            );
            assert_eq!(page, ram.page(mix(3, number)));
            seen.insert(page);
        }
        assert_eq!(seen.len(), 200);
    }

    #[test]
    fn the_next_page_goes_around_and_skips_what_is_not_usable() {
        let ram = Ram::new(&EXTENTS, &[], odd).unwrap();
        assert_eq!(ram.next(Pfn::new(17)), Pfn::new(19));
        assert_eq!(ram.next(Pfn::new(115)), Pfn::new((1 << 20) + 1));
        assert_eq!(ram.next(Pfn::new((1 << 20) + 299)), Pfn::new(17));
    }

    #[test]
    fn one_usable_page_is_found_though_no_draw_hits_it() {
        let only = |page: Pfn| page == Pfn::new(20);
        let ram = Ram::new(&EXTENTS, &[], only).unwrap();
        assert_eq!(ram.page(u64::MAX), Pfn::new(20));
        assert_eq!(ram.next(Pfn::new(20)), Pfn::new(20));
        assert!(Ram::new(&EXTENTS, &[], |_| false).is_none());
        assert!(Ram::new(&[], &[], |_| true).is_none());
    }

    #[test]
    fn neighbours_come_from_each_piece_alike() {
        let pieces = [
            Extent {
                start: Pfn::new(16),
                frames: 2,
            },
            Extent {
                start: Pfn::new(1 << 20),
                frames: 300,
            },
        ];
        let ram = Ram::new(&EXTENTS, &pieces, odd).unwrap();
        let low = (0..1000)
            .filter(|number| ram.neighbour(mix(5, *number)) == Pfn::new(17))
            .count();
        assert!((400..600).contains(&low), "{low}");
    }
}
