//! What hypercalls do.

use boot_config::Ending;
use guest_abi::{Arguments, Hypercall, HypercallError, PRINT_SHARED_MAX, Pages, VcpuStart};
use memory::address::{Gpa, Gva};
use memory::guest::{Change, NotShared};
use memory::window::Windows;

use super::change::{self, Asked};
use super::guest::{Guest, NoVcpu, Showing};
use super::list::Place;
use super::vcpu::GuestVcpu;
use super::world::World;
use crate::frames::with_memory;
use crate::hardware::Hardware;
use crate::println;
use crate::shared::Shared;
use crate::virt::{Backend, OutOfFrames, StartState};

/// What comes of a hypercall.
pub enum Outcome {
    /// The guest goes on, with this result.
    Result(Result<(), HypercallError>),
    /// It goes on, after others had a turn.
    Yield,
    /// It goes on when the change of its memory that was begun is done.
    Changes(Asked),
    /// It ends.
    End(Ending),
}

/// Does what a vCPU of this guest asks for, which runs on the CPU with this number and these windows.
pub fn call<B: Backend>(
    world: &World<B>,
    (cpu, windows): (u32, &mut Windows),
    guest: &Shared<Guest>,
    number: u64,
    arguments: &Arguments,
) -> Outcome {
    let call = match Hypercall::decode(number, arguments) {
        Ok(call) => call,
        Err(error) => return Outcome::Result(Err(error)),
    };
    match call {
        Hypercall::Print(text) => {
            if !world.config.quiet {
                guest.print(text.as_bytes());
            }
        }
        Hypercall::Report { name, value } => {
            let label = guest.label();
            match guest.count_value() {
                Showing::Shown => world
                    .report
                    .with(|report| report.reporter.value(&label, name.as_str(), value)),
                Showing::FirstDropped => println!("  {label} | (too many values: the rest is dropped)"),
                Showing::Dropped => (),
            }
        }
        Hypercall::Exit(code) => return Outcome::End(Ending::Exit(code)),
        Hypercall::Yield => return Outcome::Yield,
        Hypercall::Share(pages) => return changes(guest, Change::Share, pages),
        Hypercall::Unshare(pages) => return changes(guest, Change::Unshare, pages),
        Hypercall::Accept(pages) => return changes(guest, Change::Accept, pages),
        Hypercall::ShareInPlace(pages) => return changes(guest, Change::ShareInPlace, pages),
        Hypercall::UnshareInPlace(pages) => return changes(guest, Change::UnshareInPlace, pages),
        Hypercall::GiveBack(pages) => return changes(guest, Change::GiveBack, pages),
        Hypercall::TakeAgain(pages) => return changes(guest, Change::TakeAgain, pages),
        Hypercall::PrintShared { start, bytes } => {
            return Outcome::Result(print_shared(world, windows, guest, Gpa::new(start), bytes));
        }
        Hypercall::StartVcpu(start) => return Outcome::Result(start_vcpu(world, cpu, guest, &start)),
    }
    Outcome::Result(Ok(()))
}

fn changes(guest: &Guest, change: Change, pages: Pages) -> Outcome {
    let asked = Asked::new(change, Gpa::new(pages.start()), pages.bytes());
    match asked.begin(guest) {
        Ok(()) => Outcome::Changes(asked),
        Err(error) => Outcome::Result(Err(change::code(error))),
    }
}

/// Prints what the guest has put into pages that it shares: a copy, made once, so what is shown is what was looked at.
fn print_shared<B: Backend>(
    world: &World<B>,
    windows: &mut Windows,
    guest: &Guest,
    start: Gpa,
    bytes: usize,
) -> Result<(), HypercallError> {
    let mut copy = [0; PRINT_SHARED_MAX];
    let text = copy.get_mut(..bytes).ok_or(HypercallError::BadArgument)?;
    let read = guest.with_memory(|guest| {
        with_memory(|memory| guest.read_shared(&Hardware, &memory.frames, windows, start, text))
    });
    match read {
        Some(Ok(())) if !world.config.quiet => guest.print(text),
        Some(Ok(())) | None => {}
        Some(Err(NotShared::Range(_))) => return Err(HypercallError::BadRange),
        Some(Err(NotShared::Page(_))) => return Err(HypercallError::WrongState),
    }
    Ok(())
}

/// Starts a further vCPU of the same guest. It starts as the first one did, but where the call says.
fn start_vcpu<B: Backend>(
    world: &World<B>,
    cpu: u32,
    guest: &Shared<Guest>,
    start: &VcpuStart,
) -> Result<(), HypercallError> {
    let start = StartState {
        rip: Gva::new(start.rip),
        rsp: Gva::new(start.rsp),
        rdi: start.argument,
        ..guest.start
    };
    let pass = guest.admit().map_err(|NoVcpu| HypercallError::NoMoreVcpus)?;
    let place = Place::new().map_err(|_| HypercallError::OutOfMemory);
    let made = place.and_then(|place| Ok((place, make_vcpu(world, guest, &start)?)));
    let (place, vcpu) = match made {
        Ok(made) => made,
        Err(error) => {
            guest.dismiss(pass);
            return Err(error);
        }
    };
    world.add_vcpu(cpu, place, GuestVcpu::new(guest.clone(), vcpu, pass));
    Ok(())
}

/// Makes the vCPU itself.
fn make_vcpu<B: Backend>(
    world: &World<B>,
    guest: &Guest,
    start: &StartState,
) -> Result<B::Vcpu, HypercallError> {
    // One that is being taken down has neither, and starts no vCPU.
    let (Some(second_stage), Some(measurement)) = (guest.second_stage(), guest.measurement()) else {
        return Err(HypercallError::NoMoreVcpus);
    };
    let vcpu = world
        .backend
        .new_vcpu(start, measurement.as_bytes(), second_stage);
    vcpu.map_err(|OutOfFrames { .. }| HypercallError::OutOfMemory)
}
