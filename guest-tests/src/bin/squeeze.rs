//! Shares so much that the host has to take the hidden frames that it keeps for the pages, and takes all of it back: from single frames of others
//! where every other page was shared, from whole regions elsewhere. For a host with less memory than the guest has twice.
#![no_std]
#![no_main]

use guest_abi::HypercallError;
use guest_tests::{LaunchInfo, launch, main, memory, println, sharing};

launch!("memory=96M,limit=120s");
main!(run);

const PAGE: u64 = 4096;
const REGION: u64 = 2 << 20;
/// What stays as it is, beside the pages that are shared one by one.
const REST: u64 = 8 << 20;

fn run(info: &LaunchInfo) {
    sharing::map();
    let bytes = info.memory_bytes - REST;
    let area = sharing::area(bytes);
    // Every other page of two regions, and then all regions behind them.
    let pages = area.start()..area.start() + 2 * REGION;
    let (start, bytes) = (pages.end, bytes - 2 * REGION);
    let (even, odd) = (
        || pages.clone().step_by(2 * PAGE as usize),
        || pages.clone().skip(PAGE as usize).step_by(2 * PAGE as usize),
    );
    for page in pages.clone().step_by(8) {
        // SAFETY: the area is free.
        unsafe { memory::store(page, !page) };
    }
    for page in odd() {
        assert_eq!(sharing::share(page, PAGE), Ok(()));
    }
    // Too much: refused, but not before the frames that were kept for those pages are taken. A host with room for it takes none.
    match sharing::share_now(start, bytes) {
        Err(HypercallError::OutOfMemory) => {}
        result => {
            assert_eq!(result, Ok(()));
            assert_eq!(sharing::unshare(start, bytes), Ok(()));
            assert_eq!(sharing::accept(start, bytes), Ok(()));
        }
    }
    for page in odd() {
        assert_eq!(sharing::unshare(page, PAGE), Ok(()));
        assert_eq!(sharing::accept(page, PAGE), Ok(()));
    }
    for page in odd() {
        assert!(holds(page, |_| 0), "a frame of another came with something in it");
    }
    for page in even() {
        assert!(
            holds(page, |at| !at),
            "a page lost what it held when its neighbour was shared"
        );
    }
    // In pieces it is not, because what is kept for each makes room for the next.
    let regions = || (start..start + bytes).step_by(REGION as usize);
    for region in regions() {
        assert_eq!(sharing::share(region, REGION), Ok(()));
        // SAFETY: the page is shared, and nothing else of the guest is there.
        unsafe { memory::store(sharing::shown(region), region) };
    }
    for region in regions() {
        // SAFETY: as above.
        let found = unsafe { memory::load(sharing::shown(region)) };
        assert_eq!(found, region, "a shared page lost what it held");
        assert_eq!(sharing::unshare(region, REGION), Ok(()));
        assert_eq!(sharing::accept(region, REGION), Ok(()));
        for page in (region..region + REGION).step_by(PAGE as usize) {
            assert!(holds(page, |_| 0), "a region of others came with something in it");
        }
    }
    println!("{} MiB were shared and came back", bytes >> 20);
}

/// Whether each word of a page is what it should be.
fn holds(page: u64, word: impl Fn(u64) -> u64) -> bool {
    // SAFETY: reading the guest's own memory has no effect.
    let mut words = (page..page + PAGE)
        .step_by(8)
        .map(|at| (at, unsafe { memory::load(at) }));
    words.all(|(at, found)| found == word(at))
}
