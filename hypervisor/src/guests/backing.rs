//! A guest's memory taken, written and given back, step by step, each under the lock of the memory subsystem. Flushes are waited for without it.

use memory::address::{Gpa, Level};
use memory::frame::GuestId;
use memory::guest::{
    GuestFlushed, GuestMemory, LaunchError, NotGuestMemory, Prepared, SecondStageKind, Teardown,
};
use memory::window::Windows;

use crate::frames::with_memory;
use crate::hardware::Hardware;

/// What is written under the lock at once.
const PIECE: usize = Level::L2.bytes() as usize;

/// Asked between two steps of a launch, with nothing locked: whether it goes on.
pub type GoesOn<'a> = dyn FnMut() -> bool + 'a;

/// Called between two steps of a teardown, with nothing locked.
pub type Between<'a> = dyn FnMut() + 'a;

/// Hides memory for a guest and hands it over.
///
/// # Errors
/// See [`LaunchError`]; nothing of it is left then.
pub fn private_memory(
    kind: SecondStageKind,
    windows: &mut Windows,
    id: GuestId,
    bytes: u64,
    goes_on: &mut GoesOn<'_>,
) -> Result<GuestMemory, LaunchError> {
    let mut preparing = with_memory(|memory| memory.prepare(kind, id, bytes))?;
    let hiding = loop {
        if !goes_on() {
            preparing = preparing.cancel();
        }
        match with_memory(|memory| preparing.step(memory, &Hardware)) {
            Prepared::More(rest) => preparing = rest,
            Prepared::Hidden(hiding) => break hiding,
            Prepared::Refused(error) => return Err(error),
        }
    };
    let mut launching = hiding.wait(&Hardware);
    loop {
        if !goes_on() {
            let teardown = with_memory(|memory| launching.cancel(memory, &Hardware));
            finish(teardown, windows, &mut || {
                goes_on();
            });
            return Err(LaunchError::Cancelled);
        }
        if !with_memory(|memory| launching.step(memory, &Hardware, windows)) {
            break;
        }
    }
    Ok(with_memory(|memory| launching.finish(memory, &Hardware, windows)))
}

/// Writes into a guest's memory, through windows, in pieces, so that the lock is never held for more than 2 MiB of work.
///
/// # Errors
/// The range is not all the guest's; pieces before that are written.
pub fn write(
    guest: &mut GuestMemory,
    windows: &mut Windows,
    at: Gpa,
    bytes: &[u8],
) -> Result<(), NotGuestMemory> {
    for (at, piece) in pieces(at, bytes) {
        with_memory(|memory| guest.write(&Hardware, &memory.frames, windows, at, piece))?;
    }
    Ok(())
}

/// Bytes and where they go, in pieces of 2 MiB at most.
pub fn pieces(at: Gpa, bytes: &[u8]) -> impl Iterator<Item = (Gpa, &[u8])> {
    let starts = (at.get()..).step_by(PIECE);
    starts.map(Gpa::new).zip(bytes.chunks(PIECE))
}

/// Takes a guest's memory back.
pub fn take_back(
    memory: GuestMemory,
    flushed: GuestFlushed,
    windows: &mut Windows,
    between: &mut Between<'_>,
) {
    finish(memory.revoke(&Hardware).reclaim(flushed), windows, between);
}

fn finish(mut teardown: Teardown, windows: &mut Windows, between: &mut Between<'_>) {
    while with_memory(|memory| teardown.step(memory, &Hardware, windows)) {
        between();
    }
    let restored = with_memory(|memory| teardown.finish(memory, &Hardware, windows));
    let flushed = restored.wait(&Hardware);
    with_memory(|memory| flushed.release(memory, &Hardware));
}
