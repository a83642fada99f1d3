//! What the policies leave behind, and that the work finds all of its pages.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use direct_map_phases::ground::HostPages;
use direct_map_phases::history::History;
use direct_map_phases::measure::{Addresses, Setting};
use direct_map_phases::play::{self, Moment};
use memory::address::Hpa;
use memory::layout::direct;
use tools::pressure::{Figure, Phase, Policy};
use tools::tlb::mapping::Cell;
use tools::tlb::{Dimensions, Geometry};
use workloads::Extent;

const RAM: u64 = 32 << 30;

fn played(policy: Policy) -> (Vec<Moment>, Vec<Extent>) {
    let mut board = play::board(policy, RAM).unwrap();
    let moments = play::play(policy, &History::new(3, 50), &mut board, 3).unwrap();
    (moments, board.ram())
}

fn at(moments: &[Moment], phase: Phase) -> &Moment {
    moments.iter().find(|moment| moment.phase == phase).unwrap()
}

#[test]
fn grouped_gives_back_the_map_of_the_boot_and_costs_what_it_did() {
    let (moments, ram) = played(Policy::Grouped);
    let (boot, after) = (at(&moments, Phase::Boot), at(&moments, Phase::After));
    assert!(boot.map == after.map, "tables and leaves are where they were");
    let (before, converted) = (at(&moments, Phase::Guests64), at(&moments, Phase::Conversions));
    assert!(
        before.map == converted.map,
        "conversions leave the direct map alone"
    );
    let hidden = at(&moments, Phase::Guests64).hidden_bytes;
    let mapped = |moment: &Moment| moment.map.leaves().bytes();
    assert_eq!(
        mapped(boot) - mapped(at(&moments, Phase::Guests64)),
        hidden,
        "exactly the guests' memory is hidden"
    );
    let pages = HostPages::new(&ram, moments.iter().map(|moment| &moment.map));
    assert!(!pages.neighbours.is_empty());
    let setting = Setting {
        cores: vec![Geometry::named("spr").unwrap(), Geometry::named("zen4").unwrap()],
        dimensions: Dimensions::One,
        seed: 3,
        accesses: 2000,
    };
    let addresses = Addresses::new(&ram, &pages, &setting).unwrap();
    let figures = |moment: &Moment| -> Vec<Figure> { addresses.measure(&moment.map, &setting).unwrap() };
    // No moment hides a page that the work touches, or this would be an error.
    for moment in &moments {
        assert_eq!(figures(moment).len(), 2 * 2 * workloads::Workload::ALL.len());
    }
    assert_eq!(figures(boot), figures(after));
}

/// Gigablocks that were one leaf at boot, some of which is hidden now and some is not.
fn partly_hidden(boot: &Moment, now: &Moment, ram: &[Extent]) -> usize {
    let end = ram.last().map_or(0, |last| last.start.get() + last.frames);
    let cells = |moment: &Moment, gigablock: u64| -> Vec<Cell> {
        let at = |block: u64| direct(Hpa::new(gigablock << 30 | block << 21)).unwrap().get();
        (0..512).map(|block| moment.map.cell(at(block))).collect()
    };
    let were_one_leaf =
        (0..end >> 18).filter(|number| cells(boot, *number).iter().all(|cell| *cell == Cell::In1G));
    were_one_leaf
        .filter(|number| {
            let now = cells(now, *number);
            now.contains(&Cell::Absent) && now.iter().any(|cell| *cell != Cell::Absent)
        })
        .count()
}

#[test]
fn no_gigablock_stays_partly_hidden_where_it_is_hidden_whole() {
    let (moments, ram) = played(Policy::GroupedWhole);
    let boot = at(&moments, Phase::Boot);
    let (plain, plain_ram) = played(Policy::Grouped);
    for phase in [Phase::Guests1, Phase::Guests8, Phase::Guests64, Phase::AgedAlive] {
        assert_eq!(partly_hidden(boot, at(&moments, phase), &ram), 0, "{phase}");
    }
    let guests = Phase::Guests64;
    assert_eq!(partly_hidden(boot, at(&plain, guests), &plain_ram), 1);
    let more = at(&moments, guests).hidden_bytes - at(&plain, guests).hidden_bytes;
    assert!(more > 0 && more < 1 << 30, "{more}");
    for phase in [Phase::AgedEmpty, Phase::After] {
        assert!(at(&moments, phase).map == at(&plain, phase).map, "{phase}");
    }
}

#[test]
fn without_merging_1g_leaves_stay_lost_and_page_by_page_2m_leaves_do() {
    let lost = |policy| {
        let (moments, _) = played(policy);
        let (boot, after) = (at(&moments, Phase::Boot), at(&moments, Phase::After));
        let (before, after) = (boot.map.leaves(), after.map.leaves());
        assert_eq!(
            before.bytes(),
            after.bytes(),
            "{policy}: all of RAM is mapped again"
        );
        (before.g1 - after.g1, after.k4 - before.k4)
    };
    let (g1, k4) = lost(Policy::GroupedNoMerge);
    assert!(g1 > 0 && k4 == 0, "{g1} {k4}");
    let (g1, k4) = lost(Policy::LinuxFresh);
    assert!(g1 > 10 && k4 > 3 << 20, "{g1} {k4}");
}

#[test]
fn work_on_a_hidden_page_is_an_error() {
    let (moments, ram) = played(Policy::Grouped);
    // Only the boot's pages are asked for, so some are hidden later.
    let boot = at(&moments, Phase::Boot);
    let pages = HostPages::new(&ram, std::iter::once(&boot.map));
    let setting = Setting {
        cores: vec![Geometry::named("spr").unwrap()],
        dimensions: Dimensions::One,
        seed: 3,
        accesses: 2000,
    };
    let addresses = Addresses::new(&ram, &pages, &setting).unwrap();
    let guests = at(&moments, Phase::Guests64);
    let error = addresses.measure(&guests.map, &setting).unwrap_err().to_string();
    assert!(error.contains("nothing is mapped"), "{error}");
}
