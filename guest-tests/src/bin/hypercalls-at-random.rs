//! Makes calls at random: each is refused with the code that the ABI names for it, and the guest's memory and registers stay as they are.
//!
//! Which calls depends on the run's seed and on the instance, so `count=200` makes a million different ones.
#![no_std]
#![no_main]

use guest_abi::{Arguments, Hypercall, HypercallError, number};
use guest_tests::hypercall::{self, exit};
use guest_tests::registers::{Source, general};
use guest_tests::{LaunchInfo, Pattern, launch, main, memory, println};

launch!("memory=4M,limit=120s");
main!(run);

/// Calls of one instance: a choice, so that one also ends soon where an exit takes half a millisecond, under nested KVM in an emulator.
const CALLS: u64 = 5000;
/// Words that a call is made from.
const WORDS: u64 = 8;
/// A call that is well-formed, and does something, comes once in so many at most.
const YIELDS: u64 = 64;

fn run(info: &LaunchInfo) {
    let pattern = Pattern::new(info.seed);
    for extent in memory::free() {
        extent.fill(&pattern, info.instance);
    }
    // Other keys than those of the memory: what is passed must not look as if it had been read there.
    let random = Pattern::new(!info.seed);
    let is_own = |start: u64, bytes: u64| {
        start
            .checked_add(bytes)
            .is_some_and(|end| end <= info.memory_bytes)
    };
    let (mut made, mut unknown, mut bad) = (0, 0, 0);
    for at in 0.. {
        if made == CALLS {
            break;
        }
        let word = |n: u64| random.word(info.instance, 8 * (WORDS * at + n));
        let (number, arguments) = call(&word);
        let expected = match Hypercall::decode(number, &arguments) {
            // They would end the guest, or fill the log.
            Ok(Hypercall::Exit(_) | Hypercall::Print(_) | Hypercall::Report { .. }) => continue,
            Ok(Hypercall::Yield) if at % YIELDS != 0 => continue,
            Ok(Hypercall::Yield) => 0,
            // It was launched with one vCPU.
            Ok(Hypercall::StartVcpu(_)) => HypercallError::NoMoreVcpus.code(),
            Ok(Hypercall::Share(pages) | Hypercall::ShareInPlace(pages) | Hypercall::GiveBack(pages))
                if is_own(pages.start(), pages.bytes()) =>
            {
                continue;
            }
            Ok(
                Hypercall::Unshare(pages)
                | Hypercall::Accept(pages)
                | Hypercall::UnshareInPlace(pages)
                | Hypercall::TakeAgain(pages),
            ) if is_own(pages.start(), pages.bytes()) => HypercallError::WrongState.code(),
            Ok(
                Hypercall::Share(_)
                | Hypercall::Unshare(_)
                | Hypercall::Accept(_)
                | Hypercall::ShareInPlace(_)
                | Hypercall::UnshareInPlace(_)
                | Hypercall::GiveBack(_)
                | Hypercall::TakeAgain(_),
            ) => HypercallError::BadRange.code(),
            Ok(Hypercall::PrintShared { start, bytes }) => match (is_own(start, bytes as u64), bytes) {
                (false, _) => HypercallError::BadRange.code(),
                (true, 0) => 0,
                (true, _) => HypercallError::WrongState.code(),
            },
            Err(error) => error.code(),
        };
        let found = hypercall::raw(number, &arguments);
        made += 1;
        if found != expected {
            println!("call {number:#x} with {arguments:x?} gives {found}, should be {expected}");
            exit(1);
        }
        unknown += u64::from(expected == -1);
        bad += u64::from(matches!(expected, -2 | -5));
    }
    // A sequence without both kinds would show little.
    assert!(
        unknown > CALLS / 8 && bad > CALLS / 8,
        "{unknown} and {bad} refused"
    );
    for extent in memory::free() {
        if let Some(changed) = extent.first_foreign(&pattern, info.instance, 8) {
            println!("memory at {:#x} is now {:#x}", changed.gpa, changed.found);
            exit(2);
        }
    }
    if let Some(changed) = general::yield_with(&Source::new(&pattern, info.instance, 0)) {
        panic!("{} changed: {changed:x?}", general::NAMES[changed.index]);
    }
    hypercall::report("calls", made);
    hypercall::report("unknown", unknown);
    hypercall::report("bad", bad);
}

/// A call out of random words: its number is often one that exists, its arguments are often small or have single bits.
fn call(word: &impl Fn(u64) -> u64) -> (u64, Arguments) {
    let kinds = word(7);
    let shape = |n: u64| {
        let value = word(n);
        match kinds >> (8 * n) & 3 {
            0 => value,
            1 => value & 0xff,
            2 => 1 << (value & 63),
            _ => (value as i64 >> (value & 63)) as u64,
        }
    };
    let number = match kinds & 3 {
        0 => word(0),
        // The upper half counts: RAX is 64 bits.
        1 => (word(0) << 32) | (word(1) % (number::LAST + 1)),
        _ => word(0) % (number::LAST + 2),
    };
    let arguments = Arguments {
        rdi: shape(1),
        rsi: shape(2),
        rdx: shape(3),
        r8: shape(4),
        r9: shape(5),
        r10: shape(6),
    };
    (number, arguments)
}
