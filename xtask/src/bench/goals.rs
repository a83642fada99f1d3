//! What the figures must be.

use report::{Bench, Leaves};

/// Instructions a page that Linux 7.2 spends to hide one page of secret memory and flush, in a region that is split already, on one CPU:
/// measured with QEMU 7.2 and the same `-icount`. Our figure has the frame's allocation and the splits in it, Linux' has not;
/// docs/performance.md takes both apart.
pub const LINUX_HIDE: u64 = 610;

type Held = Result<(), String>;

fn must(held: bool, bench: &Bench<String>, what: &str) -> Held {
    if held {
        Ok(())
    } else {
        Err(format!(
            "{} with {} pages: {what}: {bench:?}",
            bench.policy, bench.pages
        ))
    }
}

/// 2M regions that lie in a 2M leaf or in a larger one.
const fn whole_regions(leaves: Leaves) -> u64 {
    leaves.g1 * 512 + leaves.m2
}

/// Leaves that are fewer at one moment than at another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// 1G leaves.
    pub g1: u64,
    /// 2M regions that lie in a leaf of 2M or more no longer.
    pub m2: u64,
}

impl Lost {
    /// What `later` has lost since `before`.
    pub const fn between(before: Leaves, later: Leaves) -> Self {
        Self {
            g1: before.g1.saturating_sub(later.g1),
            m2: whole_regions(before).saturating_sub(whole_regions(later)),
        }
    }
}

/// Lacuna's own way, for 256 MiB: less than one instruction a page to hide and map, and less than one to restore, and to load an image less than
/// two beside the copying itself; one flush; nothing lost.
///
/// # Errors
/// What is missed.
pub fn grouped(bench: &Bench<String>) -> Held {
    let must = |held, what| must(held, bench, what);
    must(
        bench.hide + bench.map < bench.pages,
        "hiding and mapping takes an instruction a page or more",
    )?;
    must(
        bench.restore < bench.pages,
        "restoring takes an instruction a page or more",
    )?;
    must(bench.launch_flushes == 1, "the launch takes more than one flush")?;
    must(bench.level2_splits == 0, "a 2M leaf was split")?;
    must(bench.after == bench.before, "leaves are lost after the teardown")?;
    let hidden = Lost::between(bench.before, bench.peak).m2;
    must(
        hidden == bench.pages / 512,
        "the walker does not see the regions hidden",
    )?;
    must(
        bench.scrub_after >= bench.pages * 512,
        "the memory was not zeroed",
    )?;
    must(
        bench.bytes_loaded == bench.pages * 4096 && bench.load >= bench.pages * 512,
        "the memory was not filled with an image",
    )?;
    must(
        bench.load < bench.pages * 514,
        "loading an image takes two instructions a page or more beside the copying",
    )
}

/// Linux' way on a fresh machine, for 256 MiB: it flushes and splits as Linux does, and costs about what Linux' own hiding costs.
///
/// # Errors
/// What is not like Linux.
pub fn linux_fresh(bench: &Bench<String>) -> Held {
    let must = |held, what| must(held, bench, what);
    let splits = bench.level2_splits + bench.level3_splits;
    must(
        bench.launch_flushes == bench.pages + splits,
        "not one flush for each page and each split",
    )?;
    must(
        (120..=140).contains(&bench.level2_splits),
        "Linux splits 128 to 140 2M leaves",
    )?;
    must(bench.level3_collapses == 0, "something was merged")?;
    let lost = Lost::between(bench.before, bench.after);
    must(
        lost.m2 == bench.level2_splits && lost.g1 == bench.level3_splits,
        "the walker does not see each split leaf lost",
    )?;
    let hide = bench.hide / bench.pages;
    must(
        hide.abs_diff(LINUX_HIDE) * 100 <= LINUX_HIDE * 30,
        "hiding is not within 30 % of Linux' 610 instructions a page",
    )
}

/// Figures that meet the goals of [`grouped`], for tests of the programs around.
#[cfg(test)]
pub fn sample(pages: u64) -> Bench<String> {
    let before = Leaves {
        g1: 6,
        m2: 1000,
        k4: 1400,
    };
    Bench {
        policy: "grouped".into(),
        pages,
        hide: pages / 2,
        map: pages / 4,
        scrub_before: pages * 512,
        load: pages * 512 + pages / 2,
        bytes_loaded: pages * 4096,
        load_invlpgs: pages / 512,
        restore: pages - 1,
        scrub_after: pages * 512,
        launch_flushes: 1,
        teardown_flushes: 1,
        cpus_interrupted: 0,
        cpus_flagged: 0,
        cpus_spared: 0,
        launch_invlpgs: pages / 512,
        teardown_invlpgs: pages / 512,
        level2_splits: 0,
        level3_splits: 1,
        level3_collapses: 1,
        before,
        peak: Leaves {
            g1: 5,
            m2: before.m2 + 512 - pages / 512,
            ..before
        },
        after: before,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 256 MiB as Linux does it.
    fn fresh() -> Bench<String> {
        let (pages, splits) = (65536, 130);
        let good = sample(pages);
        Bench {
            policy: "linux-fresh".into(),
            hide: pages * LINUX_HIDE,
            load: 0,
            bytes_loaded: 0,
            load_invlpgs: 0,
            launch_flushes: pages + splits + 1,
            level2_splits: splits,
            level3_collapses: 0,
            after: Leaves {
                g1: good.before.g1 - 1,
                m2: good.before.m2 + 512 - splits,
                k4: good.before.k4 + splits * 512,
            },
            ..good
        }
    }

    #[test]
    fn every_goal_can_be_missed() {
        let good = sample(65536);
        assert_eq!(grouped(&good), Ok(()));
        let lost = Leaves {
            g1: 5,
            m2: good.before.m2 + 512,
            ..good.before
        };
        let miss: [fn(&mut Bench<String>); 10] = [
            |bench| bench.load = bench.pages * 511,
            |bench| bench.load = bench.pages * 514,
            |bench| bench.bytes_loaded = 0,
            |bench| bench.map = bench.pages - bench.hide,
            |bench| bench.restore = bench.pages,
            |bench| bench.launch_flushes = 2,
            |bench| bench.level2_splits = 1,
            |bench| bench.after.k4 += 512,
            |bench| bench.peak = bench.before,
            |bench| bench.scrub_after = 0,
        ];
        for (number, miss) in miss.iter().enumerate() {
            let mut bench = good.clone();
            miss(&mut bench);
            assert!(grouped(&bench).is_err(), "{number}");
        }
        assert!(grouped(&Bench { after: lost, ..good }).is_err());
    }

    #[test]
    fn every_likeness_with_linux_can_be_missed() {
        assert_eq!(linux_fresh(&fresh()), Ok(()));
        let miss: [fn(&mut Bench<String>); 7] = [
            |bench| bench.launch_flushes -= 1,
            |bench| bench.level2_splits = 64,
            |bench| bench.level3_collapses = 1,
            |bench| bench.after = bench.before,
            |bench| bench.after.g1 += 1,
            |bench| bench.hide = bench.pages * 400,
            |bench| bench.hide = bench.pages * 800,
        ];
        for (number, miss) in miss.iter().enumerate() {
            let mut bench = fresh();
            miss(&mut bench);
            assert!(linux_fresh(&bench).is_err(), "{number}");
        }
    }

    #[test]
    fn a_region_in_a_split_gigabyte_leaf_is_not_lost() {
        let bench = fresh();
        assert_eq!(Lost::between(bench.before, bench.after), Lost { g1: 1, m2: 130 });
        let split = Leaves {
            g1: 5,
            m2: bench.before.m2 + 512,
            ..bench.before
        };
        assert_eq!(Lost::between(bench.before, split), Lost { g1: 1, m2: 0 });
        assert_eq!(Lost::between(split, bench.before), Lost { g1: 0, m2: 0 });
    }
}
