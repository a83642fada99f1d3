//! What the model says of the chase.

use anyhow::{Result, anyhow};
use audit::LeafSize;

use super::arena::Pages;
use super::measure::places;
use crate::dump::LeafRecord;
use crate::tlb::{Counts, Dimensions, Geometry, Mapping, Model, Replacement};

/// Where the memory is taken to be; any place would do.
const BASE: u64 = 1 << 40;

/// What the model counts in the chase over these pages, after a round that is not counted.
///
/// # Errors
/// The model refuses the addresses.
pub fn predict(
    core: &'static Geometry,
    replacement: Replacement,
    dimensions: Dimensions,
    pages: u64,
    size: Pages,
    seed: u64,
) -> Result<Counts> {
    let leaf = match size {
        Pages::Small => LeafSize::K4,
        Pages::Large => LeafSize::M2,
    };
    let end = BASE + (pages << 12).next_multiple_of(2 << 20);
    let leaves: Vec<LeafRecord> = (BASE..end)
        .step_by(leaf.bytes() as usize)
        .map(|va| LeafRecord {
            va,
            pa: va,
            bytes: leaf.bytes(),
            attributes: String::new(),
            accessed: true,
            dirty: true,
        })
        .collect();
    let mapping = Mapping::from_leaves(&leaves)?;
    let mut model = Model::new(core, replacement, dimensions);
    for _ in 0..2 {
        model.restart();
        for place in places(pages, seed) {
            let at = BASE + 8 * place;
            model
                .access(&mapping, at, at, false)
                .map_err(|error| anyhow!("{error}"))?;
        }
    }
    Ok(model.counts())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_costs_nothing_and_what_does_not_walks() {
        let core = Geometry::named("spr").unwrap();
        let walks = |pages, size| {
            let counts = predict(core, Replacement::Lru, Dimensions::One, pages, size, 1).unwrap();
            assert_eq!(counts.accesses, pages);
            (counts.misses, counts.walks)
        };
        // 16 pages are one in each set of the first level.
        assert_eq!(walks(16, Pages::Small), (0, 0));
        // 2048 pages in a row are 16 in each set of the second level, which has 16 ways.
        assert_eq!(walks(2048, Pages::Small).1, 0);
        assert_eq!(walks(4096, Pages::Small).1, 4096);
        // 32 large pages fill the first level for 2M.
        assert_eq!(walks(32 * 512, Pages::Large), (0, 0));
    }
}
