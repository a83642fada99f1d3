//! Changes of a guest's memory that one of its vCPUs has asked for, while nothing of that vCPU runs.
//!
//! A change goes on step by step, in the turns of the vCPU that asked. Between two steps no lock is held, shootdowns are answered, and the
//! turn may end, so that a guest that changes all of its memory gets no more of the CPU than any other.

use guest_abi::{HypercallError, Pages};
use memory::address::Gpa;
use memory::guest::{Change, ChangeError, GuestMemory, Progress};
use memory::machine::Machine;
use memory::window::Windows;

use super::guest::Guest;
use crate::cpu::registers;
use crate::frames::with_memory;
use crate::hardware::Hardware;

/// Begins a change.
///
/// # Errors
/// Why not.
pub fn begin(guest: &Guest, change: Change, pages: Pages) -> Result<(), HypercallError> {
    let start = Gpa::new(pages.start());
    let begun = guest.with_memory(|memory| memory.begin(change, start, pages.bytes()));
    begun.unwrap_or(Err(ChangeError::Busy)).map_err(code)
}

/// Goes on with the change that the vCPU has asked for until it is done; `None` when its turn is over before.
pub fn go_on(
    guest: &Guest,
    windows: &mut Windows,
    is_over: impl Fn() -> bool,
) -> Option<Result<(), HypercallError>> {
    loop {
        let step = guest
            .with_memory(|guest| with_memory(|memory| guest.go_on(memory, &Hardware, windows)))
            // It is being taken down, and never sees the result.
            .unwrap_or(Progress::Done(Ok(())));
        match step {
            Progress::More => {}
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

const fn code(error: ChangeError) -> HypercallError {
    match error {
        ChangeError::Unaligned | ChangeError::Range(_) | ChangeError::TooMuch => HypercallError::BadRange,
        ChangeError::State => HypercallError::WrongState,
        ChangeError::OutOfMemory(_) => HypercallError::OutOfMemory,
        ChangeError::Limit => HypercallError::ShareLimit,
        ChangeError::Tables => HypercallError::TableLimit,
        ChangeError::Busy => HypercallError::Busy,
    }
}
