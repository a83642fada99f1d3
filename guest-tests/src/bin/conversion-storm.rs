//! Shares single pages all over its memory and takes some back, at random. Of three instances one ends before that, one in the middle of it, one
//! when all is private again, and each says which it is: 0, 1, 2. The host says of each how much of its memory was in large leaves when it ended.
#![no_std]
#![no_main]

use guest_tests::{LaunchInfo, Pattern, hypercall, launch, main, println, sharing};

launch!("memory=32M,limit=60s,count=3");
main!(run);

const PAGE: u64 = 4096;
/// Pages of the area: 12 regions.
const PAGES: u64 = 12 * 512;
/// A choice: enough that hardly a region is spared, with any seed.
const CHANGES: u64 = 200;

fn run(info: &LaunchInfo) {
    let moment = info.instance % 3;
    hypercall::report("moment", moment.into());
    if moment == 0 {
        return;
    }
    sharing::map();
    let random = Pattern::new(!info.seed);
    let start = sharing::area(PAGES * PAGE).start();
    let mut shared = [0_u64; (PAGES / 64) as usize];
    let take_back = |page: u64| {
        assert_eq!(sharing::unshare(start + page * PAGE, PAGE), Ok(()));
        assert_eq!(sharing::accept(start + page * PAGE, PAGE), Ok(()));
    };
    for at in 0..CHANGES {
        // The same for each instance.
        let page = random.word(0, 8 * at) % PAGES;
        let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
        if shared[word] & bit == 0 {
            assert_eq!(sharing::share(start + page * PAGE, PAGE), Ok(()));
        } else {
            take_back(page);
        }
        shared[word] ^= bit;
    }
    let still: u32 = shared.iter().map(|word| word.count_ones()).sum();
    if moment == 1 {
        println!("{still} pages are shared");
        return;
    }
    for page in (0..PAGES).filter(|page| shared[(page / 64) as usize] >> (page % 64) & 1 == 1) {
        take_back(page);
    }
    println!("{still} pages were shared and came back");
}
