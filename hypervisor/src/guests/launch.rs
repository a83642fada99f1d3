//! From a file in the archive to a guest that can run.

use core::fmt;

use guest_image::{
    Digest, Flags, Image, ImageError, Launch, LaunchError as AreaError, Measuring, OutOfOrder, PageKind,
};
use memory::address::{Gpa, PAGE_SIZE};
use memory::frame::OutOfMemory;
use memory::guest::{GuestFlushed, GuestMemory, LaunchError as MemoryError, NotGuestMemory};
use memory::window::Windows;

use super::backing::{GoesOn, pieces, private_memory, take_back, write};
use super::guest::{Guest, Loading};
use super::list::Place;
use super::vcpu::{GuestVcpu, Newborn};
use super::world::Due;
use crate::cpu::timer;
use crate::frames::with_memory;
use crate::hardware::Hardware;
use crate::shared::Shared;
use crate::virt::{Backend, OutOfFrames, StartState};

/// Why a guest was not launched. Nothing of it is left.
#[derive(Debug)]
pub enum Refusal {
    /// Its file is no program for a guest of this size.
    Image(ImageError),
    /// Its size cannot be described to it.
    Area(AreaError),
    /// No private memory.
    Memory(MemoryError),
    /// No frames for its record.
    Record(OutOfMemory),
    /// No frames for its vCPU.
    Vcpu(OutOfFrames),
    /// Its image does not fit its memory although it was checked.
    Load(NotGuestMemory),
    /// Its pages were measured in a wrong order.
    Measure(OutOfOrder),
    /// Somebody has destroyed it before it was launched.
    Cancelled,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::Area(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Record(error) => error.fmt(f),
            Self::Vcpu(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::Measure(error) => error.fmt(f),
            Self::Cancelled => f.write_str("on request, before it was launched"),
        }
    }
}

impl Refusal {
    /// Whether the death of another guest can help.
    pub fn for_lack_of_memory(&self) -> bool {
        matches!(
            self,
            Self::Memory(MemoryError::OutOfMemory(_) | MemoryError::Hide(_))
                | Self::Record(_)
                | Self::Vcpu(_)
        )
    }
}

/// Launches a guest: private memory, image, launch area, measurement, vCPU.
///
/// # Errors
/// See [`Refusal`].
pub fn launch<B: Backend>(
    backend: &B,
    windows: &mut Windows,
    due: &Due,
    seed: u64,
    goes_on: &mut GoesOn<'_>,
) -> Result<Newborn<B::Vcpu>, Refusal> {
    let &Due {
        order, id, instance, ..
    } = due;
    let bytes = order.launch.memory;
    let image = Image::parse(order.file.contents(), bytes).map_err(Refusal::Image)?;
    let area = Launch::new(&image, instance, seed).map_err(Refusal::Area)?;
    let start = area.start_state();
    let start = StartState {
        rip: start.rip,
        rsp: start.rsp,
        rdi: start.rdi.get(),
        cr3: start.cr3,
        gdt_base: start.gdt_base,
        gdt_limit: start.gdt_limit,
    };
    let (guest, pass) = Guest::new(order.file, instance, order.launch, id, start);
    let guest = Shared::new(guest).map_err(Refusal::Record)?;
    let place = Place::new().map_err(Refusal::Record)?;
    let vcpu_place = Place::new().map_err(Refusal::Record)?;
    #[cfg(feature = "test-hooks")]
    crate::hooks::mark::mark(crate::hooks::mark::Mark::Launch);
    let mut memory =
        private_memory(backend.second_stage(), windows, id, bytes, goes_on).map_err(|error| match error {
            MemoryError::Cancelled => Refusal::Cancelled,
            other => Refusal::Memory(other),
        })?;
    memory.limit_sharing(order.launch.share);
    memory.limit_tables(order.launch.tables);
    let made = load(&mut memory, windows, &image, &area, goes_on).and_then(|loading| {
        let flags = Flags::of(&order.launch);
        let (measurement, loading) = measure(&memory, windows, (&image, &area), &flags, loading, goes_on)?;
        let vcpu = backend.new_vcpu(&start, measurement.as_bytes(), memory.second_stage());
        Ok((loading, measurement, vcpu.map_err(Refusal::Vcpu)?))
    });
    match made {
        Ok((loading, measurement, vcpu)) => {
            #[cfg(feature = "test-hooks")]
            crate::hooks::mark::mark(crate::hooks::mark::Mark::Launched);
            guest.give(memory, measurement);
            Ok(Newborn {
                place,
                vcpu_place,
                vcpu: GuestVcpu::new(guest, vcpu, pass),
                loading,
            })
        }
        Err(refusal) => {
            // It never ran, so no CPU has a translation of its.
            let flushed = GuestFlushed::new(memory.id());
            take_back(memory, flushed, windows, &mut || {
                goes_on();
            });
            Err(refusal)
        }
    }
}

/// Writes image and launch area, through windows; the rest of the memory is zero.
fn load(
    guest: &mut GuestMemory,
    windows: &mut Windows,
    image: &Image<'_>,
    area: &Launch,
    goes_on: &mut GoesOn<'_>,
) -> Result<Loading, Refusal> {
    let start = timer::tsc();
    let mut written = 0;
    let mut write = |at: Gpa, bytes: &[u8]| {
        if !goes_on() {
            return Err(Refusal::Cancelled);
        }
        written += bytes.len() as u64;
        write(guest, windows, at, bytes).map_err(Refusal::Load)
    };
    for segment in image.segments() {
        for (at, piece) in pieces(segment.start, segment.contents) {
            write(at, piece)?;
        }
    }
    area.for_each_write(write)?;
    Ok(Loading {
        ticks: timer::tsc() - start,
        bytes: written,
        ..Loading::default()
    })
}

/// Measures what has been loaded: reads it back out of the guest's memory page by page, so that what counts is what lies there. This is
/// done once, for as many pages as the file fills and the launch area has; reading the result later costs nothing.
fn measure(
    guest: &GuestMemory,
    windows: &mut Windows,
    (image, area): (&Image<'_>, &Launch),
    flags: &Flags,
    loading: Loading,
    goes_on: &mut GoesOn<'_>,
) -> Result<(Digest, Loading), Refusal> {
    let start = timer::tsc();
    let mut measuring = Measuring::new();
    let mut page = [0; PAGE_SIZE as usize];
    // The launch area lies below every image.
    let areas = area.pages().map(|at| (PageKind::LaunchArea, at));
    let images = image.loaded_pages().map(|at| (PageKind::Image, at));
    for (kind, at) in areas.chain(images) {
        if !goes_on() {
            return Err(Refusal::Cancelled);
        }
        with_memory(|memory| guest.read(&Hardware, &memory.frames, windows, at, &mut page))
            .map_err(Refusal::Load)?;
        measuring.page(kind, at, &page).map_err(Refusal::Measure)?;
    }
    let pages = measuring.pages();
    let digest = measuring.finish(&area.start_state(), flags);
    let loading = Loading {
        measure_ticks: timer::tsc() - start,
        measured_bytes: pages * PAGE_SIZE,
        ..loading
    };
    Ok((digest, loading))
}
