//! What an address is, in words, for fault reports.

use core::fmt::{self, Write};

use memory::address::{Hpa, Hva};
use memory::frame::FrameState;
use memory::layout::{DEVICE_BASE, DIRECT_MAP_BASE, DIRECT_MAP_BYTES, SLOT_BYTES, STACK_BASE, WINDOW_BASE};

use crate::boot::image;
use crate::bring_up::cpu_area::{self, Place};
use crate::frames::try_with_memory;

/// Describes an address. Takes no lock that might be held: it only tries.
pub fn address(at: Hva, out: &mut dyn Write) -> fmt::Result {
    let offset = |base: Hva, bytes: u64| at.get().checked_sub(base.get()).filter(|offset| *offset < bytes);
    if let Some(hpa) = offset(DIRECT_MAP_BASE, DIRECT_MAP_BYTES) {
        return direct_map(Hpa::new(hpa), out);
    }
    if offset(WINDOW_BASE, SLOT_BYTES).is_some() {
        return write!(out, "window slot of this CPU");
    }
    if offset(STACK_BASE, SLOT_BYTES).is_some() {
        return match cpu_area::describe(at) {
            Some(Place::Part { cpu, name }) => write!(out, "{name} of CPU {cpu}"),
            Some(Place::Guard { cpu, below, above }) => {
                write!(out, "guard page below the {below} of CPU {cpu}")?;
                above.map_or(Ok(()), |above| write!(out, " (above its {above})"))
            }
            None => write!(out, "area of stacks, between CPUs"),
        };
    }
    if offset(DEVICE_BASE, SLOT_BYTES).is_some() {
        return write!(out, "device registers");
    }
    if let Some(section) = image::sections()
        .into_iter()
        .find(|section| section.start <= at && at < section.end)
    {
        return write!(out, "image, section .{}", section.name);
    }
    if at.get() < 4096 {
        return write!(out, "first page: most likely a null pointer");
    }
    write!(out, "no area of the hypervisor")
}

fn direct_map(hpa: Hpa, out: &mut dyn Write) -> fmt::Result {
    write!(out, "direct map of {hpa}, ")?;
    let constant = image::sections()
        .into_iter()
        .find(|section| section.hpa() <= hpa && hpa.get() < section.hpa().get() + section.bytes());
    if let Some(section) = constant {
        return write!(out, "image section .{}", section.name);
    }
    let Some(state) = try_with_memory(|memory| memory.frames.state(hpa.pfn())) else {
        return write!(out, "frame records busy");
    };
    match state {
        FrameState::Private { owner, gfn, .. } => {
            let gpa = gfn.gpa().get() + hpa.get() % 4096;
            write!(out, "hole of guest {owner} (its guest-physical {gpa:#x})")
        }
        FrameState::Shared { owner, gfn } => {
            let gpa = gfn.gpa().get() + hpa.get() % 4096;
            write!(
                out,
                "page that guest {owner} shares (its guest-physical {gpa:#x})"
            )
        }
        FrameState::Hidden { .. } | FrameState::PoolFree { .. } | FrameState::Pooled => {
            write!(out, "hole that no guest owns")
        }
        FrameState::Quarantined { .. } => write!(out, "hole that is out of use for good"),
        FrameState::Unmapped { .. } => write!(out, "hole whose flush is under way"),
        FrameState::Absent => write!(out, "which is not RAM"),
        FrameState::Reserved => write!(out, "in use since boot"),
        FrameState::Free { .. } | FrameState::Tail => write!(out, "free memory"),
        FrameState::Host { order } => write!(out, "host memory, extent of {} frames", 1_u64 << order),
        FrameState::Table { .. } | FrameState::TableListed { .. } => write!(out, "page table"),
        FrameState::Carved { .. } => write!(out, "memory on its way to be hidden"),
        FrameState::Mixed => write!(out, "block of small extents"),
    }
}
