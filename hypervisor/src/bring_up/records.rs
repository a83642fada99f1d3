//! The frame records, in the highest RAM there is.

use memory::HostMemory;
use memory::address::{PAGE_SIZE, Pfn};
use memory::frame::FrameTable;
use memory::frame::records::RecordsLayout;
use memory::layout::DIRECT_MAP_BASE;

use super::ram::{Ram, RamError};
use crate::hardware::Hardware;

/// Makes the records and hands all RAM that is not in use to the memory subsystem.
///
/// # Errors
/// When there is no room for the records.
///
/// # Safety
/// Our own tables must be in use, and `root` be their shared top-level table. To be called once.
pub unsafe fn make(ram: &mut Ram, root: Pfn) -> Result<HostMemory<'static>, RamError> {
    let words = RecordsLayout::new(&ram.map).storage_words();
    let frames = (words as u64 * 8).div_ceil(PAGE_SIZE);
    let range = ram.take_high("frame records", frames)?;
    let at = DIRECT_MAP_BASE.get() + range.start.hpa().get();
    let pointer = core::ptr::with_exposed_provenance_mut::<u64>(at as usize);
    // SAFETY: the range is RAM that nothing else uses, in the direct map, aligned to a page and never freed. The records do not
    // rely on what stands in it; RAM has no uninitialised bytes to the machine, and nothing in Rust knew this memory before.
    let storage = unsafe { core::slice::from_raw_parts_mut(pointer, words) };
    let frames = FrameTable::new(&ram.map, ram.in_use(), storage)
        .map_err(|_| RamError::NoRoom("frame records", range.frames()))?;
    Ok(HostMemory::new(&Hardware, frames, root))
}
