//! Address-space identifiers: which one a vCPU runs under, and what must be flushed first (AMD APM vol. 2, 15.16).
//!
//! The TLB of a CPU tags a guest's translations with its ASID. One that was given back may still tag old translations, so it can only
//! be leased again together with a flush: either of itself, where the CPU can, or of everything, which cleans all others that were
//! given back too. When more vCPUs live than there are ASIDs, a new generation takes all leases away at once.
//!
//! One [`Asids`] belongs to one CPU, as a TLB does.

/// What VMRUN flushes, in the encoding of TLB_CONTROL (AMD APM vol. 2, 15.16.1 and table B-1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Flush {
    /// Nothing.
    Nothing = 0,
    /// Every translation of every ASID, the host's too.
    All = 1,
    /// The translations of the guest's ASID; needs CPUID's FlushByAsid.
    ThisAsid = 3,
}

/// A vCPU's right to run under an ASID on one CPU, until the generation ends.
///
/// Not `Clone`: two vCPUs under one ASID would see each other's translations.
#[derive(PartialEq, Eq, Debug)]
pub struct Lease {
    cpu: u32,
    generation: u64,
    asid: u8,
    stale: bool,
}

impl Lease {
    /// Demands a flush before the next run: the second stage has changed.
    pub const fn make_stale(&mut self) {
        self.stale = true;
    }
}

/// What to run with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Assignment {
    /// The ASID, never 0: that is the host's.
    pub asid: u32,
    /// The flush that VMRUN must do.
    pub flush: Flush,
}

/// How many ASIDs a CPU has with the host's own; at least one is left for guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsidCount(u32);

impl AsidCount {
    /// From EBX of CPUID leaf 8000_000AH; `None` when that leaves none for a guest.
    pub const fn new(count: u32) -> Option<Self> {
        if count < 2 { None } else { Some(Self(count)) }
    }

    /// The number, the host's own ASID included.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The ASIDs of one CPU.
#[derive(Debug)]
pub struct Asids {
    cpu: u32,
    generation: u64,
    flush_by_asid: bool,
    /// Every ASID that guests may have, one bit each.
    all: u64,
    /// Those that tag no translation.
    fresh: u64,
    /// Those that nobody runs under and that may tag old translations.
    retired: u64,
}

/// ASIDs are bits of a word here. CPUs have up to 32768; past 64 living guests on one CPU a new generation is rare enough.
const MOST: u32 = u64::BITS;

impl Asids {
    /// The ASIDs of the CPU with number `cpu`. All of them count as retired: whoever ran before us may have left translations.
    pub const fn new(cpu: u32, count: AsidCount, flush_by_asid: bool) -> Self {
        let every = if count.0 >= MOST {
            u64::MAX
        } else {
            (1 << count.0) - 1
        };
        // ASID 0 is the host's.
        let all = every & !1;
        Self {
            cpu,
            generation: 0,
            flush_by_asid,
            all,
            fresh: 0,
            retired: all,
        }
    }

    /// Makes sure that `lease` holds in this generation on this CPU, and says what the next VMRUN must use.
    pub fn prepare(&mut self, lease: &mut Option<Lease>) -> Assignment {
        let held = match lease.take() {
            Some(held) if held.cpu == self.cpu && held.generation == self.generation => held,
            _ => self.take(),
        };
        let flush = match (held.stale, self.flush_by_asid) {
            (false, _) => Flush::Nothing,
            (true, true) => Flush::ThisAsid,
            (true, false) => Flush::All,
        };
        let assignment = Assignment {
            asid: u32::from(held.asid),
            flush,
        };
        *lease = Some(held);
        assignment
    }

    /// Notes that the guest was entered as assigned. Not to be called when VMRUN refused the guest's state: then nothing may have
    /// been flushed.
    pub const fn entered(&mut self, lease: &mut Lease, assignment: Assignment) {
        if !matches!(assignment.flush, Flush::Nothing) {
            lease.stale = false;
        }
        if matches!(assignment.flush, Flush::All) {
            self.fresh |= self.retired;
            self.retired = 0;
        }
    }

    /// Takes back the lease of a vCPU that is gone. Its ASID is not used again before a flush.
    ///
    /// A lease that is dropped instead is lost until the next generation, no worse.
    pub fn retire(&mut self, lease: Lease) {
        if lease.cpu == self.cpu && lease.generation == self.generation {
            self.retired |= 1 << lease.asid;
        }
    }

    fn take(&mut self) -> Lease {
        if self.fresh | self.retired == 0 {
            // Every ASID is held or lost. All leases end here.
            self.generation += 1;
            self.retired = self.all;
        }
        let stale = self.fresh == 0;
        let from = if stale { &mut self.retired } else { &mut self.fresh };
        let asid = from.trailing_zeros() as u8;
        *from &= !(1 << asid);
        Lease {
            cpu: self.cpu,
            generation: self.generation,
            asid,
            stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn one_asid_is_the_hosts() {
        assert!(AsidCount::new(0).is_none());
        assert!(AsidCount::new(1).is_none());
        let mut asids = Asids::new(0, AsidCount::new(2).unwrap(), true);
        assert_eq!(
            asids.prepare(&mut None),
            Assignment {
                asid: 1,
                flush: Flush::ThisAsid
            }
        );
    }

    #[test]
    fn a_full_flush_cleans_all_that_were_retired() {
        let mut asids = Asids::new(0, AsidCount::new(16).unwrap(), false);
        let mut leases: Vec<Option<Lease>> = (0..15).map(|_| None).collect();
        for (index, lease) in leases.iter_mut().enumerate() {
            let assignment = asids.prepare(lease);
            let wanted = if index == 0 { Flush::All } else { Flush::Nothing };
            assert_eq!(assignment.flush, wanted, "vCPU {index}");
            asids.entered(lease.as_mut().unwrap(), assignment);
        }
        // Running again costs nothing.
        assert_eq!(asids.prepare(&mut leases[3]).flush, Flush::Nothing);
    }

    #[test]
    fn a_refused_entry_flushes_nothing() {
        let mut asids = Asids::new(0, AsidCount::new(16).unwrap(), false);
        let mut lease = None;
        assert_eq!(asids.prepare(&mut lease).flush, Flush::All);
        assert_eq!(asids.prepare(&mut lease).flush, Flush::All);
    }

    #[test]
    fn a_lease_holds_on_one_cpu_only() {
        let mut first = Asids::new(0, AsidCount::new(16).unwrap(), true);
        let mut second = Asids::new(1, AsidCount::new(16).unwrap(), true);
        let mut lease = None;
        let assignment = first.prepare(&mut lease);
        first.entered(lease.as_mut().unwrap(), assignment);
        assert_eq!(second.prepare(&mut lease).flush, Flush::ThisAsid);
    }

    /// What a vCPU's owner does.
    #[derive(Clone, Debug)]
    enum Step {
        Run { vcpu: usize, refused: bool },
        Change { vcpu: usize },
        End { vcpu: usize, dropped: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0usize..8, proptest::bool::weighted(0.1)).prop_map(|(vcpu, refused)| Step::Run { vcpu, refused }),
            1 => (0usize..8).prop_map(|vcpu| Step::Change { vcpu }),
            1 => (0usize..8, any::<bool>()).prop_map(|(vcpu, dropped)| Step::End { vcpu, dropped }),
        ];
        proptest::collection::vec(step, 0..300)
    }

    proptest! {
        /// A model TLB that forgets nothing unless told to: no vCPU ever runs under an ASID that tags translations of another one, or of
        /// its own second stage before a change.
        #[test]
        fn nobody_sees_old_translations(steps in steps(), count in 2u32..7, flush_by_asid: bool) {
            let mut asids = Asids::new(0, AsidCount::new(count).unwrap(), flush_by_asid);
            // ASID to the versions of second stages whose translations it tags; at first those of whoever ran before.
            let mut tlb: HashMap<u32, HashSet<usize>> = (1..count).map(|asid| (asid, HashSet::from([usize::MAX]))).collect();
            let mut leases: Vec<Option<Lease>> = (0..8).map(|_| None).collect();
            let mut versions: Vec<usize> = (0..8).collect();
            let mut next_version = 8;
            for step in steps {
                match step {
                    Step::Run { vcpu, refused } => {
                        let assignment = asids.prepare(&mut leases[vcpu]);
                        prop_assert!(assignment.asid >= 1 && assignment.asid < count);
                        prop_assert!(flush_by_asid || assignment.flush != Flush::ThisAsid);
                        if refused {
                            continue;
                        }
                        match assignment.flush {
                            Flush::Nothing => (),
                            Flush::All => tlb.clear(),
                            Flush::ThisAsid => { tlb.remove(&assignment.asid); }
                        }
                        let tagged = tlb.entry(assignment.asid).or_default();
                        tagged.insert(versions[vcpu]);
                        prop_assert_eq!(&*tagged, &HashSet::from([versions[vcpu]]));
                        asids.entered(leases[vcpu].as_mut().unwrap(), assignment);
                    }
                    Step::Change { vcpu } => {
                        versions[vcpu] = next_version;
                        next_version += 1;
                        if let Some(lease) = &mut leases[vcpu] {
                            lease.make_stale();
                        }
                    }
                    Step::End { vcpu, dropped } => {
                        versions[vcpu] = next_version;
                        next_version += 1;
                        if let Some(lease) = leases[vcpu].take() && !dropped {
                            asids.retire(lease);
                        }
                    }
                }
            }
        }
    }
}
