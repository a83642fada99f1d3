//! The shootdown of a living guest's second-stage translations: how every CPU that runs the guest, or may still cache it, stops using what a
//! change took out of the guest's tables, and how nobody else is disturbed.
//!
//! A guest's vCPUs share a [`GuestTlb`]: the *generation* of the guest's tables, and which CPUs have ever run it. Each CPU says in its line which
//! guest it is inside, and for which generation of that guest it has flushed. Each vCPU knows its [`LastFlush`].
//!
//! 1. [`GuestTlb::enter`], on the way into guest mode, compares, and says whether the entry must flush the vCPU's translations. [`Inside::leave`]
//!    follows when guest mode has ended.
//! 2. [`GuestTlb::post`] counts the generation up after the tables were changed, and takes what was removed.
//! 3. [`GuestPosted::wait`] (without any lock) kicks the CPUs that are inside with an older generation, and waits until each has left, or has come
//!    in again and flushed. All others that have run the guest are flagged by the generation: their next entry flushes. Those that never ran
//!    it are not even looked at.
//! 4. The [`GuestReceipt`] gives out what was removed.
//!
//! Nobody can be missed between entry and change: each side writes, fences, then reads what the other wrote.
//!
//! ```text
//!  changer                                        CPU on its way into the guest
//!  clear second-stage entries                     line: inside this guest, flushed for nothing
//!  generation += 1                                fence
//!  fence                                          read generation: new? this entry flushes
//!  read line: inside, flushed for less? kick,     line: flushed for that generation
//!    wait until it has left or has flushed        enter
//! ```
//!
//! In every order either the CPU sees the new generation and flushes, or the changer sees it inside and kicks it. A kick meets the
//! entry as `presence.rs` of the hypervisor draws it: a CPU that is not in guest mode yet sees its request and leaves again.
//!
//! **Why a flag is enough, for table frames too.** A CPU outside the guest may keep its translations, and its copies of entries of its tables, but
//! it neither uses nor walks them. Intel says so (SDM vol. 3C, 29.4.2): while EPT is not in use no guest-physical and no combined mapping is created
//! or used, and while it is in use only those of the current EPTP. AMD tags translations with the ASID that they were made under and uses them
//! under no other (APM vol. 2, 15.16), and translates by nested tables only in a guest that VMRUN started with them (15.25); it has no sentence about
//! speculation as plain as Intel's. So after the wait a table frame may be freed as a page may be reused. The host's own tables are different: a CPU walks
//! those in any mode, and a flag does not free them.
//!
//! What an entry that must flush has to drop is everything that comes from the guest's second stage: on SVM all of the vCPU's ASID by
//! TLB_CONTROL; on VMX all of the EPTP by INVEPT. INVVPID does not do: guest-physical mappings have no VPID (SDM vol. 3C, 29.4.3.1).

use core::fmt;

use super::super::atomics::{AtomicU64, Ordering, const_unless_modelled, fence};
use super::{Cpu, CpuIndex, CpuLine, Mode, Processor};
use crate::frame::GuestId;
use crate::stats::Stats;

/// Version of a guest's tables: how many changes were posted. Each guest has its own; it never comes round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u64);

/// Words of a set of CPUs.
const WORDS: usize = 4;

/// A set of CPUs that only grows. Past 256 (the hypervisor starts no more) CPUs share a place, so that some count as members that are none.
#[derive(Debug)]
struct CpuSet([AtomicU64; WORDS]);

impl CpuSet {
    const_unless_modelled! {
        /// Nobody.
        pub fn new() -> Self {
            Self([AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)])
        }
    }

    fn place(&self, cpu: CpuIndex) -> (&AtomicU64, u64) {
        let bit = cpu.get() % (u64::BITS * WORDS as u32);
        (&self.0[(bit / u64::BITS) as usize], 1 << (bit % u64::BITS))
    }

    /// Relaxed: the fence that follows orders it.
    fn add(&self, cpu: CpuIndex) {
        let (word, bit) = self.place(cpu);
        // After the first time the word is only read.
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn contains(&self, cpu: CpuIndex) -> bool {
        let (word, bit) = self.place(cpu);
        word.load(Ordering::Relaxed) & bit != 0
    }
}

/// What all CPUs' TLBs may hold of one guest. Its vCPUs share it: a cache line that entries only read.
#[derive(Debug)]
#[repr(align(64))]
pub struct GuestTlb {
    guest: GuestId,
    version: AtomicU64,
    /// CPUs that may cache its translations.
    ran_on: CpuSet,
}

/// When and where a vCPU's translations were last flushed. Belongs to the vCPU, and is used by whoever runs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastFlush(Option<(CpuIndex, Version)>);

impl LastFlush {
    /// That of a vCPU that was never entered.
    pub const NEVER: Self = Self(None);
}

/// A CPU that is on its way into a guest, inside, or on its way out: between [`GuestTlb::enter`] and [`Self::leave`]. A change may wait for it
/// there, so in between the CPU waits for nobody; interrupts stay masked.
///
/// Dropping it says that the guest was not entered.
#[derive(Debug)]
#[must_use = "the CPU counts as inside the guest while this lives"]
pub struct Inside<'c> {
    line: &'c CpuLine,
    flush: bool,
    now: LastFlush,
}

impl Inside<'_> {
    /// Whether the vCPU's second-stage translations must be flushed before its next instruction, by the entry or right before it.
    pub fn must_flush(&self) -> bool {
        self.flush
    }

    /// The CPU has left the guest. `entered`: guest mode was really entered, so that the flush was done, if one was due. To be told for an
    /// entry that was given up or refused, too: then the vCPU still owes its flush.
    pub fn leave(self, last: &mut LastFlush, entered: bool) {
        if entered {
            *last = self.now;
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // Release: what the guest did with old translations came before.
        self.line.guest.store(OUTSIDE, Ordering::Release);
    }
}

/// No guest, in a CPU's line: no [`GuestId`] is 0.
pub(super) const OUTSIDE: u64 = 0;

impl CpuLine {
    /// Whether the CPU may be using translations that were removed before `version` of a guest's tables.
    ///
    /// The two words may be read of two different entries, even of different guests. An entry that has fenced before the changer shows itself in
    /// both, with nothing flushed at first; every later one reads the generation that the changer has counted up.
    fn is_behind(&self, guest: GuestId, version: Version) -> bool {
        // Acquire, both: what the CPU did in the guest comes before what follows here.
        self.guest.load(Ordering::Acquire) == u64::from(guest.get()) && self.guest_flushed() < version
    }

    fn guest_flushed(&self) -> Version {
        Version(self.guest_flushed.load(Ordering::Acquire))
    }
}

impl GuestTlb {
    const_unless_modelled! {
        /// That of a guest which no CPU has run.
        pub fn new(guest: GuestId) -> Self {
            Self {
                guest,
                version: AtomicU64::new(0),
                ran_on: CpuSet::new(),
            }
        }
    }

    /// `cpu`, which calls, goes to enter the guest with the vCPU that was last flushed at `last`. Interrupts are masked until it has left.
    ///
    /// # Panics
    /// When the CPU has not left the guest that it entered last: a broken invariant.
    pub fn enter<'c>(&self, cpu: Cpu<'c>, last: LastFlush) -> Inside<'c> {
        let line = cpu.line;
        assert!(
            line.guest.load(Ordering::Relaxed) == OUTSIDE,
            "broken invariant: {} enters a guest inside a guest",
            cpu.index
        );
        self.ran_on.add(cpu.index);
        // What it says is another guest's, or of an earlier entry. Relaxed, both: the fence makes them seen by each changer whose generation is not
        // read below.
        line.guest_flushed.store(0, Ordering::Relaxed);
        line.guest.store(self.guest.get().into(), Ordering::Relaxed);
        // Before the generation is read: see the drawing above.
        fence(Ordering::SeqCst);
        // Acquire: the tables as they were when this generation was posted.
        let version = Version(self.version.load(Ordering::Acquire));
        // Before the flush itself: until then the CPU is not in guest mode, where alone it could use a translation. Release: whatever an
        // entry before this one did came before.
        line.guest_flushed.store(version.0, Ordering::Release);
        let now = LastFlush(Some((cpu.index, version)));
        Inside {
            line,
            flush: last != now,
            now,
        }
    }

    /// Asks every CPU to stop using what was just taken out of the guest's tables: entries cleared, narrowed, or led elsewhere. `removed`
    /// is whatever must not be reused before; it comes out through the receipt. To be called after the stores to the tables.
    pub fn post<T>(&self, removed: T) -> GuestPosted<'_, T> {
        // Release: who sees the generation sees the tables as they are now.
        let before = self.version.fetch_add(1, Ordering::AcqRel);
        // Before anyone's line is read: see the drawing above.
        fence(Ordering::SeqCst);
        GuestPosted {
            tlb: self,
            version: Version(before + 1),
            removed: Removed(Some(removed)),
        }
    }
}

/// What may still be in use.
///
/// # Panics
/// Dropping it is a broken invariant and panics: there is no way to ignore a change.
#[derive(Debug)]
struct Removed<T>(Option<T>);

impl<T> Drop for Removed<T> {
    fn drop(&mut self) {
        assert!(
            self.0.is_none(),
            "broken invariant: a change of a guest's tables was dropped before its flush"
        );
    }
}

/// A change that was posted. Dropping it panics.
#[derive(Debug)]
#[must_use = "a change is waited for"]
pub struct GuestPosted<'g, T> {
    tlb: &'g GuestTlb,
    version: Version,
    removed: Removed<T>,
}

/// No CPU uses a translation of the guest's that was removed before the change. Dropping it panics.
#[derive(Debug)]
#[must_use = "what was removed comes out only through the receipt"]
pub struct GuestReceipt<T> {
    guest: GuestId,
    reached: Reached,
    removed: Removed<T>,
}

/// Whom a change reached. Together all CPUs, the one that made it included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// CPUs that were inside with older translations, and were kicked.
    pub kicked: u32,
    /// CPUs that have run the guest and were outside: they flush if they enter it again.
    pub flagged: u32,
    /// CPUs that have never run the guest, or were inside and had flushed already.
    pub spared: u32,
}

/// What a change needs of the CPU that makes it.
pub trait Kicker: Processor {
    /// Gets another CPU out of the guest that it is inside: out of guest mode, or off its way there. The kick must not get lost before that CPU
    /// has left; it may come late, and may come to a CPU that has left already.
    fn kick(&self, cpu: CpuIndex);

    /// As [`Processor::pause`], while a CPU that was kicked has not left.
    fn pause_outside(&self, inside: &StillInside);
}

/// A CPU that has not left a guest yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillInside {
    /// Which CPU.
    pub cpu: CpuIndex,
    /// What it does.
    pub mode: Mode,
    /// The guest.
    pub guest: GuestId,
    /// The generation of the guest's tables that it has flushed for; 0 when it is about to look.
    pub flushed: u64,
    /// The generation that is waited for.
    pub wanted: u64,
    /// How often it has been looked at in this wait.
    pub polls: u64,
}

impl fmt::Display for StillInside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            mode,
            guest,
            flushed,
            wanted,
            polls,
        } = self;
        write!(
            f,
            "{cpu} has not left guest {guest} for change {wanted} after {polls} polls: it is {mode}, last flush {flushed}"
        )
    }
}

impl<T> GuestPosted<'_, T> {
    /// Kicks whom it must, and waits until no CPU uses what was removed. `cpu` is the one that calls: in the host, outside any guest, and without
    /// a lock that another CPU might wait for with interrupts masked. Meanwhile it answers shootdowns of host translations; interrupts may be
    /// masked.
    ///
    /// Changers don't wait for each other: each is outside, and whom it waits for waits for nobody. (One that calls from inside waits for itself,
    /// and [`StillInside`] says so.)
    pub fn wait<K: Kicker>(self, cpu: Cpu<'_>, kicker: &K) -> GuestReceipt<T> {
        kicker.may_wait();
        let Self {
            tlb,
            version,
            removed,
        } = self;
        let mut reached = Reached::default();
        let lines = || (0..).map(CpuIndex).zip(cpu.all.cpus);
        for (index, line) in lines() {
            let count = if !tlb.ran_on.contains(index) {
                &mut reached.spared
            } else if line.is_behind(tlb.guest, version) {
                kicker.kick(index);
                &mut reached.kicked
            } else if line.guest.load(Ordering::Relaxed) == u64::from(tlb.guest.get()) {
                &mut reached.spared
            } else {
                &mut reached.flagged
            };
            *count += 1;
        }
        for (index, line) in lines().filter(|(index, _)| tlb.ran_on.contains(*index)) {
            let mut polls = 0;
            while line.is_behind(tlb.guest, version) {
                // Others may wait for this CPU just now, and its interrupts may be masked.
                cpu.catch_up(kicker);
                polls += 1;
                kicker.pause_outside(&StillInside {
                    cpu: index,
                    mode: line.mode(),
                    guest: tlb.guest,
                    flushed: line.guest_flushed().0,
                    wanted: version.0,
                    polls,
                });
            }
        }
        GuestReceipt {
            guest: tlb.guest,
            reached,
            removed,
        }
    }
}

impl<T> GuestReceipt<T> {
    /// Whose translations are out of use.
    pub fn guest(&self) -> GuestId {
        self.guest
    }

    /// Whom the change reached.
    pub fn reached(&self) -> Reached {
        self.reached
    }

    /// What was removed: from here on it may be scrubbed, reused, freed.
    pub fn open(mut self, stats: &mut Stats) -> T {
        stats.guest_cpus_kicked += u64::from(self.reached.kicked);
        stats.guest_cpus_flagged += u64::from(self.reached.flagged);
        stats.guest_cpus_spared += u64::from(self.reached.spared);
        match self.removed.0.take() {
            Some(removed) => removed,
            None => unreachable!("a receipt is opened once"),
        }
    }
}
