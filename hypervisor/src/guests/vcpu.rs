//! A guest's vCPU as the run queues hold it.

use memory::tlb::shootdown::LastFlush;

use super::change::Asked;
use super::faults::Faulted;
use super::guest::{Counts, Guest, Loading};
use super::list::Place;
use crate::shared::Shared;
use crate::virt::VcpuPass;

/// Which vCPU of which guest: the guest's number in this boot, and its own, from 0 in the order in which they were started.
pub type Name = (u32, u32);

/// A vCPU, with what is kept of it between its turns.
pub struct GuestVcpu<V> {
    /// Whose it is.
    pub guest: Shared<Guest>,
    /// Its number in its guest.
    number: u32,
    /// The processor.
    pub vcpu: V,
    /// Its permission to run.
    pub pass: VcpuPass,
    /// What it has done. The exits are known to the processor until it is retired.
    pub counts: Counts,
    /// It has asked for a change of the guest's memory that is not done yet.
    pub change: Option<Asked>,
    /// An access of its that waits for such a change, which it has not asked for.
    pub fault: Option<Faulted>,
    /// When its second-stage translations were last flushed.
    pub last_flush: LastFlush,
    /// The CPU that it had its last turn on.
    pub ran_on: Option<u32>,
}

impl<V> GuestVcpu<V> {
    /// A vCPU that has not run yet.
    pub fn new(guest: Shared<Guest>, vcpu: V, pass: VcpuPass) -> Self {
        Self {
            guest,
            number: pass.number(),
            vcpu,
            pass,
            counts: Counts::default(),
            change: None,
            fault: None,
            last_flush: LastFlush::NEVER,
            ran_on: None,
        }
    }

    /// Whether it may get a turn, or is to be retired.
    pub fn is_runnable(&self) -> bool {
        self.guest.has_ended() || !self.guest.is_paused()
    }

    /// Which it is.
    pub fn name(&self) -> Name {
        (self.guest.instance, self.number)
    }
}

/// A new guest with its first vCPU, and the places for both.
pub struct Newborn<V> {
    /// Where the world keeps the guest.
    pub place: Place<Shared<Guest>>,
    /// Where the run queues keep the vCPU.
    pub vcpu_place: Place<GuestVcpu<V>>,
    /// The vCPU, which knows its guest.
    pub vcpu: GuestVcpu<V>,
    /// What the image cost to load.
    pub loading: Loading,
}
