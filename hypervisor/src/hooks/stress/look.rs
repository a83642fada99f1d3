//! The check of everything, while all CPUs are stopped, and what it says at the end.

use core::fmt;
use core::sync::atomic::Ordering;

use heapless::String;
use memory::address::PAGE_SIZE;
use memory::view::{ByOrder, View};
use report::Event;

use super::{Hand, Kind, SHARED, Shared, signals};
use crate::checks::Memories;
use crate::cpu::registers;
use crate::frames::with_memory;
use crate::guests::Report;
use crate::magazines::OwnMagazine;
use crate::reporting::json;
use crate::{presence, println};

/// Polls for signals that are on their way: a choice, some tenths of a second.
const POLLS: u32 = 1 << 18;

fn frames(extents: &ByOrder) -> u64 {
    (0..).zip(extents).map(|(order, count)| count << order).sum()
}

/// Frames that the allocator knows of, whatever they are.
pub(super) fn frames_of_all_kinds(view: &View) -> u64 {
    view.kinds().into_iter().map(|(_, extents)| frames(extents)).sum()
}

/// Two counts that must be equal, in a sentence.
struct Differ(&'static str, u64, u64);

impl fmt::Display for Differ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(what, found, wanted) = self;
        write!(f, "{what}: {found}, and must be {wanted}")
    }
}

/// Checks everything: the walker's checks; what the CPUs hold against the frame records; contents, as far as they were looked at. The last
/// time it says what was done.
pub fn look(report: &mut Report, guests: &dyn Memories) {
    let Some(shared) = SHARED.get() else { return };
    let reporter = &mut report.reporter;
    report.checks.run(guests, |subject, error| {
        reporter.check_failed(subject, error);
    });
    let mut held = 0;
    let mut failed = 0;
    for (number, hand) in (0..).zip(shared.hands) {
        let Some(hand) = hand.try_lock() else {
            panic!("broken invariant: CPU {number} is stopped in the middle of its operations")
        };
        held += hand.held.iter().map(|held| held.extent.frames()).sum::<u64>();
        failed += hand.failures;
        if hand.failures > 0 {
            reporter.stress_failed(format_args!("CPU {number}: {}", hand.first_failure));
        }
    }
    if let Some(mail) = shared.mail.try_lock() {
        held += mail.iter().map(|held| held.extent.frames()).sum::<u64>();
    }
    let (mut alive, mut private) = (0, 0);
    guests.each(&mut |guest| {
        alive += 1;
        private += guest.bytes() / PAGE_SIZE;
    });
    let (view, free, pool_free, cached) = with_memory(|memory| {
        (
            memory.view(),
            memory.frames.free_frames(),
            memory.frames.pool_free_frames(),
            memory.pool().cached_regions() * 512,
        )
    });
    for (what, found, wanted) in [
        ("frames of all kinds", frames_of_all_kinds(&view), shared.frames),
        ("free frames", free, frames(&view.host_free)),
        ("free frames of the pool", pool_free, frames(&view.pool_free)),
        (
            "hidden frames of CPUs and cache",
            held + cached,
            frames(&view.hidden),
        ),
        ("frames of guests", private, frames(&view.private)),
        (
            "CPUs with frames in their magazines",
            OwnMagazine::stocked().into(),
            0,
        ),
    ] {
        if found != wanted {
            failed += 1;
            reporter.stress_failed(format_args!("{}", Differ(what, found, wanted)));
        }
    }
    let looks = shared.looks.fetch_add(1, Ordering::AcqRel) + 1;
    let all = presence::tables_of_all().count() as u32;
    if shared.finished.load(Ordering::Acquire) >= all {
        for (what, found) in [
            ("hidden frames when all is given back", held + pool_free),
            (
                "frames held when all is given back",
                shared.held.load(Ordering::Acquire),
            ),
        ] {
            if found != 0 {
                failed += 1;
                reporter.stress_failed(format_args!("{}", Differ(what, found, 0)));
            }
        }
        for missing in Missing::of_all() {
            failed += 1;
            reporter.stress_failed(format_args!("{missing}"));
        }
        conclude(shared, all, failed);
        return;
    }
    if alive == 0 {
        shared.lonely.fetch_add(1, Ordering::AcqRel);
    }
    if looks.is_multiple_of((shared.plan.stops / 10).max(1)) {
        let done = shared.next.load(Ordering::Relaxed).min(shared.plan.operations);
        println!("stress: {done} operations, {looks} stops, {held} frames held, {alive} guests");
    }
}

/// Signals that were sent and have not come.
enum Missing {
    Interrupts(u64, u64),
    Kicks(u64),
}

impl Missing {
    /// All that are missing, after a wait: an interrupt that was sent is taken as soon as its CPU lets interrupts in.
    fn of_all() -> impl Iterator<Item = Self> {
        // SAFETY: the descriptor tables are loaded. Handlers take no lock that a look holds.
        unsafe { registers::let_interrupts_in() };
        let mut interrupts = signals::interrupts();
        for _ in 0..POLLS {
            if interrupts.0 == interrupts.1 {
                break;
            }
            core::hint::spin_loop();
            interrupts = signals::interrupts();
        }
        let (sent, taken) = interrupts;
        let kicks = presence::kicks();
        let interrupts = (sent != taken).then_some(Self::Interrupts(sent, taken));
        // Two that come close together may be one to the CPU.
        let kicks = (kicks > 0 && signals::kicks() == 0).then_some(Self::Kicks(kicks));
        interrupts.into_iter().chain(kicks)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupts(sent, taken) => {
                write!(f, "{sent} interrupts were sent for shootdowns, and {taken} came")
            }
            Self::Kicks(sent) => write!(f, "{sent} kicks were sent, and none came"),
        }
    }
}

/// Says what was done, in text and in the report.
fn conclude(shared: &Shared, cpus: u32, failures: u64) {
    let sum = |value: fn(&Hand) -> u64| -> u64 {
        let hands = shared.hands.iter();
        hands
            .filter_map(|hand| hand.try_lock().map(|hand| value(&hand)))
            .sum()
    };
    let count = |kind: Kind| -> u64 {
        let hands = shared.hands.iter();
        hands
            .filter_map(|hand| hand.try_lock().map(|hand| hand.counts[kind as usize]))
            .sum()
    };
    let (interrupts_sent, interrupts_taken) = signals::interrupts();
    let line = report::Stress {
        cpus,
        operations: Kind::ALL.into_iter().map(count).sum(),
        stops: shared.looks.load(Ordering::Acquire) - 1,
        stops_without_guests: shared.lonely.load(Ordering::Acquire),
        failures,
        take_frame: count(Kind::TakeFrame),
        take: count(Kind::Take),
        take_large: count(Kind::TakeLarge),
        take_pieces: count(Kind::TakePieces),
        give: count(Kind::Give),
        exchange: count(Kind::Exchange),
        rewrite: count(Kind::Rewrite),
        host_take: count(Kind::HostTake),
        host_give: count(Kind::HostGive),
        shrink: count(Kind::Shrink),
        drain: count(Kind::Drain),
        cache: count(Kind::Cache),
        watermarks: count(Kind::Watermarks),
        ask: count(Kind::Ask),
        asked_in_full: sum(|hand| hand.asked_in_full),
        refused: sum(|hand| hand.refused),
        given_elsewhere: sum(|hand| hand.moved),
        magazine_operations: sum(|hand| hand.uses.operations),
        magazine_locks: sum(|hand| hand.uses.locks),
        magazine_returned: sum(|hand| hand.uses.returned),
        most_in_guests: shared.most_in_guests.load(Ordering::Acquire),
        interrupts_sent,
        interrupts_taken,
        kicks_taken: signals::kicks(),
    };
    let mut kinds = String::<400>::new();
    for (name, number) in line.kinds() {
        // There is room for all.
        let _ = fmt::write(&mut kinds, format_args!(" {name} {number}"));
    }
    println!("stress: {} operations on {cpus} CPUs:{kinds}", line.operations);
    println!(
        "stress: {} stops; up to {} CPUs in a guest at once; {} extents given back by another CPU; {} requests refused; {failures} failures",
        line.stops, line.most_in_guests, line.given_elsewhere, line.refused
    );
    println!(
        "stress: magazines took the lock {} times for {} frames, and gave {} back when asked; {} of {} shootdown interrupts came",
        line.magazine_locks,
        line.magazine_operations,
        line.magazine_returned,
        line.interrupts_taken,
        line.interrupts_sent
    );
    json::event(&Event::Stress(line));
    shared.concluded.store(true, Ordering::Release);
}
