//! Shares, takes back and accepts ranges at random, in place and not, right and wrong ones, and keeps account: each call is answered as the account
//! says, and every page holds what was written to it last, at the alias that it has.
//!
//! Which ranges depends on the run's seed and on the instance.
#![no_std]
#![no_main]

use guest_abi::HypercallError;
use guest_tests::{LaunchInfo, Pattern, hypercall, launch, main, memory, println, sharing};

launch!("memory=12M,limit=120s,count=2");
main!(run);

const PAGE: u64 = 4096;
/// Pages of the area: two regions and a half.
const PAGES: usize = 1280;
/// A choice, so that it also ends soon where an exit takes half a millisecond, under nested KVM in an emulator.
const CALLS: u64 = 400;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Accepted,
    Pending,
    Shared,
    InPlace,
}

fn run(info: &LaunchInfo) {
    sharing::map();
    let random = Pattern::new(!info.seed);
    let area = sharing::area(PAGES as u64 * PAGE);
    let mut pages = [(State::Accepted, 0_u64); PAGES];
    let (mut done, mut refused) = (0, 0);
    for at in 0..CALLS {
        let word = |n: u64| random.word(info.instance, 8 * (4 * at + n));
        let first = match word(0) % 3 {
            0 => [0, 1, 511, 512, 513, 1024][(word(0) >> 8) as usize % 6],
            _ => (word(0) >> 8) as usize % PAGES,
        };
        let count = match word(1) % 4 {
            0 => 1,
            1 => [2, 511, 512, 513][(word(1) >> 8) as usize % 4],
            _ => (word(1) >> 8) as usize % 40 + 1,
        };
        let range = first..(first + count).min(PAGES);
        let (start, bytes) = (area.start() + first as u64 * PAGE, range.len() as u64 * PAGE);
        // What fits the first page, more often than not.
        let call = match (word(2) % 4, pages[first].0) {
            (0, _) => (word(2) >> 8) % 5,
            (_, State::Accepted) => 3 * ((word(2) >> 8) % 2),
            (_, State::Shared) => 1,
            (_, State::Pending) => 2 * ((word(2) >> 8) % 2),
            (_, State::InPlace) => 4,
        };
        let fits = |state: State| match call {
            0 => matches!(state, State::Accepted | State::Pending),
            1 => state == State::Shared,
            2 => state == State::Pending,
            3 => state == State::Accepted,
            _ => state == State::InPlace,
        };
        let (result, after) = match call {
            0 => (sharing::share(start, bytes), State::Shared),
            1 => (sharing::unshare(start, bytes), State::Pending),
            2 => (sharing::accept(start, bytes), State::Accepted),
            3 => (sharing::share_in_place(start, bytes), State::InPlace),
            _ => (sharing::unshare_in_place(start, bytes), State::Accepted),
        };
        let allowed = pages[range.clone()].iter().all(|(state, _)| fits(*state));
        let expected = if allowed {
            Ok(())
        } else {
            Err(HypercallError::WrongState)
        };
        assert_eq!(result, expected, "call {call} of {count} pages at page {first}");
        if allowed {
            for (state, held) in &mut pages[range.clone()] {
                *state = after;
                *held = if call < 3 { 0 } else { *held };
            }
            done += 1;
        } else {
            refused += 1;
        }
        // Neighbours, too.
        let from = range.start.saturating_sub(2);
        for (page, state) in (from as u64..).zip(&mut pages[from..(range.end + 2).min(PAGES)]) {
            use_page(area.start() + page * PAGE, state, word(3));
        }
    }
    for (page, state) in (0..).zip(&mut pages) {
        use_page(area.start() + page * PAGE, state, 0);
    }
    assert!(
        done > CALLS / 4 && refused > CALLS / 16,
        "{done} done, {refused} refused"
    );
    hypercall::report("done", done);
    hypercall::report("refused", refused);
    println!("{done} changes were done, {refused} refused");
}

/// Checks the first and last word of a page, and writes others.
fn use_page(gpa: u64, (state, held): &mut (State, u64), value: u64) {
    let at = match state {
        State::Accepted => gpa,
        State::Shared | State::InPlace => sharing::shown(gpa),
        // To be touched only by those who want to end.
        State::Pending => return,
    };
    for (word, expected) in [
        (at, *held),
        (at + PAGE - 8, !*held & u64::from(*held != 0).wrapping_neg()),
    ] {
        // SAFETY: the page is the guest's at this alias, and free.
        let found = unsafe { memory::load(word) };
        assert!(
            found == expected,
            "{found:#x} at {word:#x}, should be {expected:#x}"
        );
    }
    *held = value ^ gpa;
    // SAFETY: as above.
    unsafe {
        memory::store(at, *held);
        memory::store(at + PAGE - 8, !*held & u64::from(*held != 0).wrapping_neg());
    }
}
