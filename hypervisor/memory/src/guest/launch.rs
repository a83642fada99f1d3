//! Giving a new guest its memory, once it is out of the direct map (`prepare`): flush, scrub, assign, map.

use core::fmt;

use crate::address::{ENTRIES, Gfn};
use crate::direct_map::HideCause;
use crate::frame::allocator::OutOfMemory;
use crate::frame::extent::Clean;
use crate::frame::extent_list::ExtentList;
use crate::frame::state::GuestId;
use crate::host::HostMemory;
use crate::machine::Machine;
use crate::region::Scrubber;
use crate::tlb::{Posted, Receipt};
use crate::window::Windows;

use super::second_stage::{MOST_GUEST_BITS, SecondStage, Shape};
use super::{GuestMemory, Teardown};

/// Why a guest got no memory. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The size is 0 or not a multiple of 2 MiB.
    BadSize(u64),
    /// The size exceeds what one guest's tables cover.
    TooLarge {
        /// The size.
        bytes: u64,
        /// The most that can be had.
        limit: u64,
    },
    /// Regions or tables are missing.
    OutOfMemory(OutOfMemory),
    /// A region cannot be hidden.
    Hide(HideCause),
    /// It was cancelled ([`Preparing::cancel`](super::Preparing::cancel)).
    Cancelled,
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadSize(bytes) => {
                write!(
                    f,
                    "guest memory of {bytes} bytes: it must be a multiple of 2 MiB and not 0"
                )
            }
            Self::TooLarge { bytes, limit } => {
                write!(
                    f,
                    "guest memory of {} MiB: at most {} MiB are supported",
                    bytes >> 20,
                    limit >> 20
                )
            }
            Self::OutOfMemory(error) => error.fmt(f),
            Self::Hide(cause) => cause.fmt(f),
            Self::Cancelled => f.write_str("the launch was cancelled"),
        }
    }
}

impl core::error::Error for LaunchError {}

/// A launch whose memory is out of the direct map, and for which a flush was asked. Nothing from here on can fail.
#[derive(Debug)]
#[must_use = "unmapped memory comes back only through the guest that it is meant for"]
pub struct Hiding {
    guest: GuestMemory,
    posted: Posted,
    cached: ExtentList<Clean>,
}

impl Hiding {
    /// All is hidden, `posted` its flush; `cached` was hidden before.
    pub(super) fn new(
        id: GuestId,
        shape: &Shape,
        tables: SecondStage,
        posted: Posted,
        cached: ExtentList<Clean>,
    ) -> Self {
        let guest = GuestMemory {
            id,
            bytes: shape.bytes,
            tables,
            shared: 0,
            most_shared: u64::MAX,
            tables_made: 0,
            most_tables: u64::MAX,
            changing: None,
        };
        Self {
            guest,
            posted,
            cached,
        }
    }

    /// Waits for the flush, without the lock of the memory subsystem.
    pub fn wait<M: Machine>(self, machine: &M) -> Launching {
        Launching {
            guest: self.guest,
            receipt: Some(self.posted.wait(machine)),
            scrubber: Scrubber::new(self.cached),
            next: Gfn::default(),
        }
    }
}

/// A launch on its way: all memory is hidden, none of it is the guest's yet. It goes on in steps, so that whoever drives it holds no lock
/// for longer than the zeroing of 2 MiB takes.
#[derive(Debug)]
#[must_use = "hidden memory comes back only through the guest that it is meant for"]
pub struct Launching {
    guest: GuestMemory,
    /// Until the first step has opened it.
    receipt: Option<Receipt>,
    scrubber: Scrubber,
    /// Where the next extent that becomes the guest's goes.
    next: Gfn,
}

impl Launching {
    /// One step: opens the batch, then scrubs a region, or, when all are clean, makes some the guest's and maps them: one second-stage table's worth. False
    /// when nothing was left to do.
    pub fn step<M: Machine>(
        &mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> bool {
        if self.open(memory, machine) {
            return true;
        }
        if self.scrubber.step(memory, machine, windows) {
            return true;
        }
        let start = machine.now();
        let more = self.assign_and_map(memory, machine);
        memory.costs.map += machine.now().wrapping_sub(start);
        more
    }

    /// Opens the batch, unless that is done.
    fn open<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M) -> bool {
        let Some(receipt) = self.receipt.take() else {
            return false;
        };
        let start = machine.now();
        let waited = receipt.ticks();
        let opened = memory.complete(machine, receipt);
        self.scrubber.open(&mut memory.frames, opened);
        memory.costs.hide += waited + machine.now().wrapping_sub(start);
        true
    }

    fn assign_and_map<M: Machine>(&mut self, memory: &mut HostMemory<'_>, machine: &M) -> bool {
        let (guest, frames) = (&mut self.guest, &mut memory.frames);
        let mut leaves = 0;
        while leaves < ENTRIES as u64 {
            let Some(extent) = self.scrubber.clean.pop(frames) else {
                return leaves > 0;
            };
            let at = self.next;
            let extent = extent.assign(frames, guest.id, at);
            self.next = Gfn::new(at.get() + extent.frames());
            match guest.tables.map(machine, frames, guest.id, &extent) {
                Ok(mapped) => leaves += mapped,
                Err(_) => panic!("broken invariant: guest frame {at} of a new guest cannot be mapped"),
            }
            // It is found again by the second stage.
        }
        true
    }

    /// Ends the launch, however far it is. No vCPU has run, so no translation leads to what is mapped, and nothing is to be flushed before it is taken
    /// back. What is not zeroed yet is zeroed on the way, as hidden memory leaves its user only clean.
    pub fn cancel<M: Machine>(mut self, memory: &mut HostMemory<'_>, machine: &M) -> Teardown {
        self.open(memory, machine);
        self.guest.revoke(machine).of_launch(self.scrubber)
    }

    /// Does what is left; the guest's memory is complete, private and zero.
    pub fn finish<M: Machine>(
        mut self,
        memory: &mut HostMemory<'_>,
        machine: &M,
        windows: &mut Windows,
    ) -> GuestMemory {
        while self.step(memory, machine, windows) {}
        self.guest
    }
}

impl HostMemory<'_> {
    /// Says whether the second stage may map whole gigablocks by 1G leaves: whether all CPUs know them. At first it may not.
    pub fn allow_large_guest_leaves(&mut self, allowed: bool) {
        self.large_guest_leaves = allowed;
    }

    /// Says how many bits of guest-physical address all CPUs have; a guest's highest one tells its shared alias from its private one. At
    /// first 48.
    ///
    /// # Panics
    /// Below 31 bits: no CPU with a second stage has so few (AMD APM vol. 2, 5.1; Intel SDM vol. 3A, 4.1.4), and more than 32 all.
    pub fn set_guest_address_bits(&mut self, bits: u8) {
        let bits = bits.min(MOST_GUEST_BITS);
        assert!(bits > 30, "broken invariant: a CPU with {bits} bits of address");
        self.shared_bit = bits - 1;
    }
}
