//! What a guest's access to a page leads to, where the guest was launched to have it done for it (docs/guest-abi.md).
//!
//! Each is a change that the guest could have asked for by a hypercall, begun for the instruction that faulted. When it is done the
//! instruction runs again. What can't be done for want of memory is the memory fault that it was.

use guest_abi::HypercallError;
use memory::address::PAGE_SIZE;
use memory::guest::{Alias, Change, Page, PageState};

use super::change::Asked;
use super::guest::Guest;
use crate::hardware::Hardware;
use crate::virt::{Ending, MemoryFault};

/// A fault of a vCPU that is being seen to.
pub struct Faulted {
    /// How the guest ends if it can't be.
    pub ending: Ending,
    /// What is to be done next.
    pub next: Option<Asked>,
    /// And after that.
    pub last: Option<Asked>,
}

impl Faulted {
    /// What a fault calls for; `None` when the guest was not launched for it.
    pub fn of(guest: &Guest, ending: Ending, fault: &MemoryFault) -> Option<Self> {
        let page = fault.page.filter(|_| !fault.present && !fault.reserved_bit)?;
        let (start, bytes) = (page.start, PAGE_SIZE);
        let accept = Some(Asked::new(Change::Accept, start, bytes));
        let (next, last) = match wanted(guest, page)? {
            Change::TakeAgain => {
                let around = guest.with_memory(|memory| memory.absent_around(&Hardware, start));
                let (start, bytes) = around.unwrap_or((start, bytes));
                (
                    Asked::new(Change::TakeAgain, start, bytes),
                    Some(Asked::new(Change::Accept, start, bytes)),
                )
            }
            Change::Unshare => (Asked::new(Change::Unshare, start, bytes), accept),
            change => (Asked::new(change, start, bytes), None),
        };
        Some(Self {
            ending,
            next: Some(next),
            last,
        })
    }

    /// A change that was made for it has ended. False when the fault stays one: what another vCPU has changed meanwhile is for the instruction to
    /// find out.
    pub fn is_mended(&self, result: Result<(), HypercallError>) -> bool {
        matches!(
            result,
            Ok(()) | Err(HypercallError::WrongState | HypercallError::Busy)
        )
    }
}

/// The change that makes a page what the access takes it for.
fn wanted(guest: &Guest, page: Page) -> Option<Change> {
    let launch = &guest.launch;
    match (page.alias, page.state) {
        (Alias::Private, PageState::Absent) if launch.auto_accept => Some(Change::TakeAgain),
        (Alias::Private, PageState::Pending) if launch.auto_accept => Some(Change::Accept),
        (Alias::Private, PageState::Shared) if launch.auto_convert => Some(Change::Unshare),
        (Alias::Private, PageState::SharedInPlace) if launch.auto_convert => Some(Change::UnshareInPlace),
        (Alias::Shared, PageState::Accepted | PageState::Pending) if launch.auto_convert => {
            Some(Change::Share)
        }
        _ => None,
    }
}
