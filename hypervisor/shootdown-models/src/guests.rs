//! The world of the models of guests' second-stage translations: two guests with two pages each, and CPUs that run their vCPUs.
//!
//! A CPU keeps what it has looked up under the tag of one vCPU until that vCPU flushes, and forgets nothing when the vCPU moves away: a
//! tag that it finds again on its return is the worst that can be.
//! What a page stands for, a frame of the guest's or a table of its second stage, makes no difference: guest mode alone uses either.
//!
//! A kick is that of the hypervisor's `presence.rs`: a request, a fence, a look at the CPU's mode, an NMI.

use std::cell::Cell;

use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use memory::frame::GuestId;
use memory::stats::Stats;
use memory::tlb::shootdown::{
    Cpu, CpuIndex, CpuLine, GuestTlb, Kicker, LastFlush, Mode, Outstanding, Processor, Reached, Shootdown,
    StillInside,
};

use super::{CPUS, Target, pause};

const GUESTS: usize = 2;
const PAGES: usize = 2;
/// vCPUs of both guests.
const VCPUS: usize = 2;

struct Guest {
    tlb: GuestTlb,
    pages: [Target; PAGES],
}

impl Guest {
    fn new(number: u16) -> Self {
        let Some(id) = GuestId::new(number) else {
            panic!("no guest is 0")
        };
        Self {
            tlb: GuestTlb::new(id),
            pages: [Target::new(), Target::new()],
        }
    }
}

/// What all CPUs share.
pub struct Guests {
    shootdown: Shootdown<'static>,
    guests: [Guest; GUESTS],
    /// Each CPU's request word.
    requests: [AtomicBool; CPUS],
    /// NMIs on their way.
    nmis: [AtomicBool; CPUS],
    /// Threads that are done.
    done: AtomicU32,
}

/// A guest's CPU.
pub struct Vcpu {
    guest: usize,
    tag: usize,
    last: LastFlush,
}

impl Vcpu {
    /// One that has never run, with a tag that no other has.
    pub fn new(guest: usize, tag: usize) -> Self {
        Self {
            guest,
            tag,
            last: LastFlush::NEVER,
        }
    }
}

impl Guests {
    /// A world whose CPUs are not started. It is never freed.
    pub fn new() -> &'static Self {
        let lines: &'static [CpuLine] = Box::leak((0..CPUS).map(|_| CpuLine::new()).collect());
        Box::leak(Box::new(Self {
            shootdown: Shootdown::new(lines),
            guests: [Guest::new(1), Guest::new(2)],
            requests: Default::default(),
            nmis: Default::default(),
            done: AtomicU32::new(0),
        }))
    }

    /// A CPU in the host.
    ///
    /// # Panics
    /// When it is started already.
    pub fn started(&'static self, index: u32) -> Runner {
        let runner = Runner {
            world: self,
            index,
            cached: Default::default(),
        };
        let joined = runner.cpu().announce().then(|| runner.cpu().join(&runner));
        assert_eq!(joined, Some(Ok(())));
        runner
    }

    /// A thread is done with what others may wait for.
    pub fn done(&self) {
        self.done.fetch_add(1, Ordering::Release);
    }

    /// Waits until so many threads are done.
    pub fn until_done(&self, threads: u32) {
        let mut turn = 0;
        while self.done.load(Ordering::Acquire) < threads {
            turn += 1;
            pause(turn);
        }
    }
}

/// A CPU that runs vCPUs: what it has cached.
pub struct Runner {
    world: &'static Guests,
    index: u32,
    cached: [[Cell<bool>; PAGES]; VCPUS],
}

impl Runner {
    fn cpu(&self) -> Cpu<'static> {
        match self.world.shootdown.cpu(CpuIndex::new(self.index)) {
            Some(cpu) => cpu,
            None => panic!("the world has no CPU {}", self.index),
        }
    }

    /// Runs a vCPU once, as the hypervisor's world switch does: `inside` is its time in guest mode. False when it was kicked before that.
    pub fn run(&self, vcpu: &mut Vcpu, inside: impl FnOnce(InGuest<'_>)) -> bool {
        let entry = self.world.guests[vcpu.guest].tlb.enter(self.cpu(), vcpu.last);
        self.cpu().enter_guest();
        // Before the request word is read.
        fence(Ordering::SeqCst);
        let entered = !self.world.requests[self.index as usize].load(Ordering::Acquire);
        if entered {
            if entry.must_flush() {
                self.cached[vcpu.tag].iter().for_each(|page| page.set(false));
            }
            inside(InGuest {
                cpu: self,
                cached: &self.cached[vcpu.tag],
                guest: &self.world.guests[vcpu.guest],
            });
        }
        self.cpu().back(self);
        entry.leave(&mut vcpu.last, entered);
        self.world.requests[self.index as usize].swap(false, Ordering::AcqRel);
        entered
    }

    /// The same, again and again until it was entered.
    pub fn run_once(&self, vcpu: &mut Vcpu, inside: impl Fn(InGuest<'_>)) {
        while !self.run(vcpu, &inside) {}
    }

    /// Takes a page of a guest's away: clears the entry, posts, waits; then the page is somebody else's.
    pub fn take(&self, guest: usize, page: usize) -> Reached {
        let Guest { tlb, pages } = &self.world.guests[guest];
        pages[page].present.store(false, Ordering::Release);
        let receipt = tlb.post(&pages[page]).wait(self.cpu(), self);
        let reached = receipt.reached();
        receipt.open(&mut Stats::default()).taken();
        reached
    }

    /// Counts a guest's generation up, as changes did long ago.
    pub fn change_nothing(&self, guest: usize) {
        let receipt = self.world.guests[guest].tlb.post(()).wait(self.cpu(), self);
        receipt.open(&mut Stats::default());
    }
}

/// A CPU in guest mode.
pub struct InGuest<'a> {
    cpu: &'a Runner,
    cached: &'a [Cell<bool>; PAGES],
    guest: &'a Guest,
}

impl InGuest<'_> {
    /// The guest uses a page, by what the CPU has cached, or else by what the tables say.
    pub fn touch(&self, page: usize) {
        let cached = &self.cached[page];
        cached.set(cached.get() || self.guest.pages[page].present.load(Ordering::Relaxed));
        if cached.get() {
            self.guest.pages[page].used();
        }
    }

    /// The guest uses a page over and over, and only an NMI ends that; or so many threads' being done, where none may come.
    pub fn touch_until_kicked(&self, page: usize, done: u32) {
        let mut turn = 0;
        while !self.kicked() && self.cpu.world.done.load(Ordering::Acquire) < done {
            self.touch(page);
            turn += 1;
            pause(turn);
        }
    }

    /// Whether an NMI has come.
    pub fn kicked(&self) -> bool {
        self.cpu.world.nmis[self.cpu.index as usize].swap(false, Ordering::AcqRel)
    }
}

impl Processor for Runner {
    fn flush(&self) {}

    fn interrupt(&self, cpu: CpuIndex) {
        panic!("nobody hides anything here, and {cpu} is interrupted");
    }

    fn pause(&self, outstanding: &Outstanding) {
        pause(outstanding.polls);
    }
}

impl Kicker for Runner {
    fn kick(&self, cpu: CpuIndex) {
        let index = cpu.get() as usize;
        // Swaps: loom may put a mere store before a swap that came before it, and the kick would be lost.
        self.world.requests[index].swap(true, Ordering::AcqRel);
        // Before the mode is read.
        fence(Ordering::SeqCst);
        if self.world.shootdown.mode(cpu) == Some(Mode::Guest) {
            self.world.nmis[index].swap(true, Ordering::AcqRel);
        }
    }

    fn pause_outside(&self, inside: &StillInside) {
        pause(inside.polls);
    }
}
