//! Pages that the guest shares with the host, and takes back (docs/guest-abi.md).

use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::{Hypercall, HypercallError, PRINT_SHARED_MAX, Pages, cpuid};

use crate::memory::Extent;
use crate::{hypercall, launch_info, memory};

/// Virtual addresses from here on show the first GiB of the shared alias: the second entry of the top-level table, of which the launch makes
/// no use.
const SHOWN_AT: u64 = 1 << 39;
/// Present and writable; and the same for a leaf of 2M (AMD APM vol. 2, 5.4.1).
const TABLE: u64 = 0b11;
const LARGE_LEAF: u64 = TABLE | 1 << 7;

#[repr(align(4096))]
struct Table([AtomicU64; 512]);

/// What leads to the shared alias. A guest's image is at the same addresses physically.
static TABLES: [Table; 2] = [const { Table([const { AtomicU64::new(0) }; 512]) }; 2];

/// The shared bit: set in a guest-physical address, it names the page at its shared alias.
pub fn shared_bit() -> u64 {
    1 << __cpuid(cpuid::LEAF_ALIASES).eax
}

/// Maps the first GiB of the shared alias, once.
pub fn map() {
    let [third_level, second_level] = &TABLES;
    // Once: each CPUID is an exit.
    let bit = shared_bit();
    for (region, entry) in (0..).zip(&second_level.0) {
        entry.store(bit | region << 21 | LARGE_LEAF, Ordering::Relaxed);
    }
    let below = |table: &Table| core::ptr::from_ref(table).addr() as u64 | TABLE;
    third_level.0[0].store(below(second_level), Ordering::Release);
    let entry = launch_info().page_tables_start + SHOWN_AT / (1 << 39) * 8;
    // SAFETY: an entry that was absent, of a table that leads to nothing but the identity map otherwise.
    unsafe { memory::store(entry, below(third_level)) };
}

/// The virtual address at which [`map`] shows the shared alias of an address below 1 GiB.
pub fn shown(gpa: u64) -> u64 {
    SHOWN_AT + gpa
}

/// Shares pages with the host: whole ones, by their addresses at the private alias. While the host has no memory for it, others run: they may
/// give some back.
///
/// # Errors
/// Why the hypervisor refuses; nothing was changed then.
pub fn share(start: u64, bytes: u64) -> Result<(), HypercallError> {
    make_in_time(&Hypercall::Share(Pages::new(start, bytes)?))
}

/// Makes shared pages private again; they are pending. While the host lacks memory that was kept for them, others run.
///
/// # Errors
/// As for [`share`].
pub fn unshare(start: u64, bytes: u64) -> Result<(), HypercallError> {
    make_in_time(&Hypercall::Unshare(Pages::new(start, bytes)?))
}

/// Accepts pending pages.
///
/// # Errors
/// As for [`share`].
pub fn accept(start: u64, bytes: u64) -> Result<(), HypercallError> {
    make(&Hypercall::Accept(Pages::new(start, bytes)?))
}

/// Shares pages with the host in place: what they hold is to be found where [`shown`] says.
///
/// # Errors
/// As for [`share`].
pub fn share_in_place(start: u64, bytes: u64) -> Result<(), HypercallError> {
    make_in_time(&Hypercall::ShareInPlace(Pages::new(start, bytes)?))
}

/// Makes pages private again that are shared in place; they keep what they hold.
///
/// # Errors
/// As for [`share`].
pub fn unshare_in_place(start: u64, bytes: u64) -> Result<(), HypercallError> {
    make(&Hypercall::UnshareInPlace(Pages::new(start, bytes)?))
}

/// Gives private pages back to the host; they are absent.
///
/// # Errors
/// As for [`share`].
pub fn give_back(start: u64, bytes: u64) -> Result<(), HypercallError> {
    make_in_time(&Hypercall::GiveBack(Pages::new(start, bytes)?))
}

/// Takes absent pages again; they are pending. While the host has no memory for it, others run.
///
/// # Errors
/// As for [`share`].
pub fn take_again(start: u64, bytes: u64) -> Result<(), HypercallError> {
    make_in_time(&Hypercall::TakeAgain(Pages::new(start, bytes)?))
}

/// Prints what lies in shared pages.
///
/// # Errors
/// As for [`share`]; nothing was printed then.
pub fn print(start: u64, bytes: usize) -> Result<(), HypercallError> {
    assert!(bytes <= PRINT_SHARED_MAX, "{bytes} bytes are too many");
    make(&Hypercall::PrintShared { start, bytes })
}

/// [`share`], which fails when the host has no memory for it now.
///
/// # Errors
/// As for [`share`], and that there is no memory.
pub fn share_now(start: u64, bytes: u64) -> Result<(), HypercallError> {
    make(&Hypercall::Share(Pages::new(start, bytes)?))
}

/// Makes a call that the host may have no memory for at the moment.
fn make_in_time(call: &Hypercall) -> Result<(), HypercallError> {
    loop {
        match make(call) {
            Err(HypercallError::OutOfMemory) => hypercall::yield_now(),
            result => return result,
        }
    }
}

fn make(call: &Hypercall) -> Result<(), HypercallError> {
    match hypercall::call(call) {
        0 => Ok(()),
        code => Err(HypercallError::from_code(code).unwrap_or(HypercallError::UnknownNumber)),
    }
}

/// Writes text at any mapped address.
///
/// # Safety
/// As for [`memory::store`], for as many words as the text fills.
pub unsafe fn store_text(at: u64, text: &str) {
    for (place, bytes) in (at..).step_by(8).zip(text.as_bytes().chunks(8)) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(bytes) {
            *to = *from;
        }
        // SAFETY: as the caller promises.
        unsafe { memory::store(place, u64::from_le_bytes(word)) };
    }
}

/// A part of the guest's memory to try this with: the first free one that is aligned to 2 MiB and has `bytes` bytes.
///
/// # Panics
/// When there is none.
pub fn area(bytes: u64) -> Extent {
    let found = memory::free().find_map(|free| {
        let start = free.start().next_multiple_of(2 << 20);
        free.sub(start - free.start(), bytes)
    });
    match found {
        Some(area) => area,
        None => panic!("no {bytes:#x} bytes aligned to 2 MiB are free"),
    }
}
