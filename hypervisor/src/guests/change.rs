//! Changes of a guest's memory that one of its vCPUs has asked for, while nothing of that vCPU runs.
//!
//! A change goes on step by step, in the turns of the vCPU that asked. Between two steps no lock is held, shootdowns are answered, and the
//! turn may end, so that a guest that changes all of its memory gets no more of the CPU than any other.

use guest_abi::HypercallError;
use memory::address::{Gpa, PAGE_SIZE};
use memory::guest::{Change, ChangeError, GuestMemory, Progress};
use memory::machine::Machine;
use memory::window::Windows;

use super::guest::Guest;
use super::pressure;
use super::world::World;
use crate::cpu::registers;
use crate::frames::with_memory;
use crate::hardware::Hardware;
use crate::magazines::OwnMagazine;
use crate::virt::Backend;

/// A change, and its range.
#[derive(Clone, Copy)]
pub struct Asked {
    change: Change,
    start: Gpa,
    bytes: u64,
    /// It was refused once, and room was made for it.
    again: bool,
}

impl Asked {
    /// A change of `bytes` from `start` on, an address at the private alias.
    pub const fn new(change: Change, start: Gpa, bytes: u64) -> Self {
        Self {
            change,
            start,
            bytes,
            again: false,
        }
    }

    /// Begins it.
    ///
    /// # Errors
    /// Why not.
    pub fn begin(self, guest: &Guest) -> Result<(), ChangeError> {
        let begun = guest.with_memory(|memory| memory.begin(self.change, self.start, self.bytes));
        begun.unwrap_or(Err(ChangeError::Busy))
    }

    /// It was refused with this result. When that was for want of memory, and some can be made free, it begins once more; `None` when it stays
    /// refused.
    pub fn begin_again<B: Backend>(
        mut self,
        world: &World<B>,
        guest: &Guest,
        result: Result<(), HypercallError>,
    ) -> Option<Self> {
        if self.again || result != Err(HypercallError::OutOfMemory) {
            return None;
        }
        self.again = true;
        let room = pressure::make_room(world, self.bytes / PAGE_SIZE, || {
            // SAFETY: the tables with their handlers are loaded since bring-up, and no lock is held here.
            unsafe { registers::let_interrupts_in() };
        });
        (room && self.begin(guest).is_ok()).then_some(self)
    }
}

/// Goes on with the change that the vCPU has asked for until it is done; `None` when its turn is over before.
pub fn go_on(
    guest: &Guest,
    windows: &mut Windows,
    magazine: &mut OwnMagazine,
    is_over: impl Fn() -> bool,
) -> Option<Result<(), HypercallError>> {
    loop {
        let step = magazine.with(|magazine| {
            guest.with_memory(|guest| with_memory(|memory| guest.go_on(memory, &Hardware, windows, magazine)))
        });
        // It is being taken down, and never sees the result.
        match step.unwrap_or(Progress::Done(Ok(()))) {
            Progress::More => {}
            Progress::Restock => {
                if let Err(error) = magazine.restock(windows) {
                    guest.with_memory(|guest| with_memory(|memory| guest.starve(memory, error)));
                }
            }
            Progress::Flush => {
                // Those that run one of its vCPUs are kicked, and waited for. The vCPU that asked is here, and flushes when it goes on.
                let receipt = guest.tlb.post(()).wait(Hardware.cpu(), &Hardware);
                guest.with_memory(|guest| with_memory(|memory| guest.flushed(memory, receipt)));
            }
            Progress::Hide => {
                let posted = guest.with_memory(GuestMemory::hiding).flatten();
                if let Some(posted) = posted {
                    // The vCPU that asked has not ended, so its guest still has its memory.
                    let receipt = posted.wait(&Hardware);
                    guest.with_memory(|guest| with_memory(|memory| guest.hidden(memory, &Hardware, receipt)));
                }
            }
            Progress::Done(result) => return Some(result.map_err(code)),
        }
        // SAFETY: the tables with their handlers are loaded since bring-up, and no lock is held here.
        unsafe { registers::let_interrupts_in() };
        if is_over() {
            return None;
        }
    }
}

/// The error as the guest gets it.
pub const fn code(error: ChangeError) -> HypercallError {
    match error {
        ChangeError::Unaligned | ChangeError::Range(_) | ChangeError::TooMuch => HypercallError::BadRange,
        ChangeError::State => HypercallError::WrongState,
        ChangeError::OutOfMemory(_) => HypercallError::OutOfMemory,
        ChangeError::Limit => HypercallError::ShareLimit,
        ChangeError::Tables => HypercallError::TableLimit,
        ChangeError::Busy => HypercallError::Busy,
    }
}
