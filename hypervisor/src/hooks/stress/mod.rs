//! The stress (`stress=` on the command line): between two pieces of work, each CPU makes random operations on the pool of hidden memory, while
//! guests come, run and go on all of them: over and over, until the operations are done.
//!
//! Everything random is from the run's seed: what each CPU does one after the other, and at which of all operations everybody stops for a check
//! ([`look`]). What a CPU holds is in its [`Hand`], which only it touches, but for the check. Every extent is looked through when it
//! comes, carries a stamp while it is held, and must still have it when it goes or changes hands. [`operations`] has the operations,
//! [`held`] what is held, [`signals`] counts what CPUs send each other.

mod held;
mod look;
mod operations;
pub mod signals;

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use boot_config::{Config, Stress};
use heapless::{String, Vec};
use memory::address::{GIGABLOCK_ORDER, REGION_ORDER};
use memory::frame::OutOfMemory;
use memory::region::Watermarks;
use memory::tlb::shootdown::Mode;
use memory::window::Windows;
use spin::{Mutex, Once};

use crate::cpu::registers;
use crate::frames::{leak_slice_with, with_memory};
use crate::magazines::{OwnMagazine, Uses};
use crate::presence;

use held::{Held, HostHeld};
pub use look::look;
pub use operations::Kind;

/// Hidden extents that one CPU holds at most; ordinary ones; those on their way from one CPU to another. Choices: they bound the room for the
/// notes, and what is held of all RAM has a bound of its own ([`Shared::limit`]).
const HELD: usize = 256;
const HOST_HELD: usize = 16;
const MAIL: usize = 32;
/// Operations between two pieces of work at most: a choice, so that guests have most of the time.
const AT_ONCE: u64 = 256;
/// Of the free memory at the start, the part that the stress holds at most: the rest is for guests.
const PART: u64 = 4;

static SHARED: Once<Shared> = Once::new();

/// What a CPU does after its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Go on with its work, and come back.
    More,
    /// Stop all CPUs, and [`look`].
    Stop,
    /// Go on; there is nothing left to do.
    Over,
}

/// What the CPUs share.
struct Shared {
    plan: Stress,
    seed: u64,
    /// The next operation that nobody has claimed.
    next: AtomicU64,
    hands: &'static [Mutex<Hand>],
    mail: Mutex<Vec<Held, MAIL>>,
    /// Frames that are held, hidden or not.
    held: AtomicU64,
    /// How many may be.
    limit: u64,
    /// log2 of the largest extent to ask for.
    largest: u8,
    /// CPUs that hold nothing any more and have nothing left to do.
    finished: AtomicU32,
    /// The last check was made.
    concluded: AtomicBool,
    /// Checks of everything so far.
    looks: AtomicU64,
    /// Those at which no guest lived, but for the last, at the end.
    lonely: AtomicU64,
    /// CPUs in guest mode at the same time, at most.
    most_in_guests: AtomicU32,
    /// Frames of all kinds that the allocator knows.
    frames: u64,
    /// What the command line wants of the pool.
    cache: u64,
    watermarks: Watermarks,
}

/// What one CPU has to do with the stress.
struct Hand {
    random: oorandom::Rand64,
    /// Operations that it has claimed and not made.
    claim: Range<u64>,
    held: Vec<Held, HELD>,
    host: Vec<HostHeld, HOST_HELD>,
    counts: [u64; Kind::ALL.len()],
    refused: u64,
    /// Extents given back by another CPU than had taken them.
    moved: u64,
    /// Requests for the magazines of all that got everything.
    asked_in_full: u64,
    uses: Uses,
    done: bool,
    failures: u64,
    first_failure: String<160>,
}

impl Hand {
    fn fail(&mut self, what: fmt::Arguments<'_>) {
        self.failures += 1;
        if self.first_failure.is_empty() {
            // What does not fit is cut.
            let _ = fmt::write(&mut self.first_failure, what);
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.rand_range(0..bound)
    }
}

/// Gets ready, if the command line asks for a stress; with `cpus` the numbers of CPUs are below it.
///
/// # Errors
/// When there is no memory for the notes.
pub fn start(config: &Config<'_>, cpus: u32) -> Result<(), OutOfMemory> {
    let Some(plan) = config.stress else {
        return Ok(());
    };
    let mut numbers = 0..;
    let hands = leak_slice_with(cpus as usize, |_| {
        let number: u128 = numbers.next().unwrap_or(0);
        Ok(Mutex::new(Hand {
            // Another stream than the order of turns has.
            random: oorandom::Rand64::new(u128::from(config.seed) | (number + 1) << 96),
            claim: 0..0,
            held: Vec::new(),
            host: Vec::new(),
            counts: [0; Kind::ALL.len()],
            refused: 0,
            moved: 0,
            asked_in_full: 0,
            uses: Uses::default(),
            done: false,
            failures: 0,
            first_failure: String::new(),
        }))
    })?;
    SHARED.call_once(|| {
        let (view, free, watermarks) = with_memory(|memory| {
            (
                memory.view(),
                memory.frames.free_frames(),
                memory.pool().watermarks(),
            )
        });
        let limit = free / PART;
        Shared {
            plan,
            seed: config.seed,
            next: AtomicU64::new(0),
            hands,
            mail: Mutex::new(Vec::new()),
            held: AtomicU64::new(0),
            limit,
            largest: (limit.ilog2() as u8).clamp(REGION_ORDER, GIGABLOCK_ORDER),
            finished: AtomicU32::new(0),
            concluded: AtomicBool::new(false),
            looks: AtomicU64::new(0),
            lonely: AtomicU64::new(0),
            most_in_guests: AtomicU32::new(0),
            frames: look::frames_of_all_kinds(&view),
            cache: config.cache,
            watermarks,
        }
    });
    Ok(())
}

/// Whether there is one in this run.
pub fn is_on() -> bool {
    SHARED.get().is_some()
}

/// Whether guests are to be launched over and over, because there are operations left; `None` where there is no stress.
pub fn wants_guests() -> Option<bool> {
    let shared = SHARED.get()?;
    Some(shared.next.load(Ordering::Relaxed) < shared.plan.operations)
}

/// Between two pieces of the CPU's work: some operations. Interrupts are masked before and after.
pub fn piece(cpu: u32, windows: &mut Windows, magazine: &mut OwnMagazine) -> Piece {
    let Some((shared, hand)) = SHARED
        .get()
        .and_then(|shared| Some((shared, shared.hands.get(cpu as usize)?)))
    else {
        return Piece::Over;
    };
    magazine.look(windows);
    // Nobody else takes it but who has stopped all CPUs, this one included.
    let Some(mut hand) = hand.try_lock() else {
        panic!("broken invariant: the hand of CPU {cpu} is in use")
    };
    if hand.done {
        // The boot CPU ends the run.
        if cpu > 0 || shared.concluded.load(Ordering::Acquire) {
            return Piece::Over;
        }
        // It may come here again and again with nothing else to do, and must not keep a shootdown waiting.
        // SAFETY: as below.
        unsafe { registers::let_interrupts_in() };
        return Piece::More;
    }
    // SAFETY: the descriptor tables are loaded, and no lock is held here: a hand is never waited for.
    unsafe { registers::unmask_interrupts() };
    let piece = shared.operate(cpu, &mut hand, windows, magazine);
    hand.uses = magazine.uses();
    registers::mask_interrupts();
    piece
}

impl Shared {
    fn operate(&self, cpu: u32, hand: &mut Hand, windows: &mut Windows, magazine: &mut OwnMagazine) -> Piece {
        if hand.claim.is_empty() {
            let count = 1 + hand.below(AT_ONCE);
            let first = self.next.fetch_add(count, Ordering::Relaxed);
            hand.claim = first..(first + count).min(self.plan.operations);
        }
        self.note_guests(cpu);
        while let Some(operation) = hand.claim.next() {
            self.one(cpu, hand, windows, magazine);
            if self.is_stop(operation) {
                return Piece::Stop;
            }
        }
        if self.next.load(Ordering::Relaxed) < self.plan.operations {
            return Piece::More;
        }
        self.finish(cpu, hand, windows, magazine)
    }

    /// Whether everybody stops after an operation: once in each of as many equal parts as there are stops, anywhere in it.
    fn is_stop(&self, operation: u64) -> bool {
        let part = self.plan.operations / self.plan.stops;
        let number = operation / part;
        let seed = u128::from(self.seed) | u128::from(number) << 64;
        number < self.plan.stops && operation % part == oorandom::Rand64::new(seed).rand_range(0..part)
    }

    /// Gives everything back. The last CPU leaves the pool as the command line wants it, and has everything checked.
    fn finish(&self, cpu: u32, hand: &mut Hand, windows: &mut Windows, magazine: &mut OwnMagazine) -> Piece {
        while self.give_any(cpu, hand, windows, magazine) {}
        while hand.host.pop().is_some_and(|held| {
            self.host_give(hand, held);
            true
        }) {}
        while let Some(held) = self.mail.try_lock().and_then(|mut mail| mail.pop()) {
            self.give(cpu, hand, held, windows, magazine);
        }
        magazine.give_back(windows);
        hand.done = true;
        let all = presence::tables_of_all().count() as u32;
        if self.finished.fetch_add(1, Ordering::AcqRel) + 1 < all {
            return Piece::More;
        }
        with_memory(|memory| {
            memory.set_cache(self.cache);
            memory.set_watermarks(self.watermarks);
        });
        self.drain();
        Piece::Stop
    }

    /// Notes how many of the other CPUs run a guest.
    fn note_guests(&self, cpu: u32) {
        let in_guests = presence::others(cpu)
            .filter(|other| presence::mode(other.number()) == Some(Mode::Guest))
            .count();
        self.most_in_guests.fetch_max(in_guests as u32, Ordering::Relaxed);
    }
}
