//! What the owner of hidden memory reads and writes in it, through windows.

use core::fmt;

use crate::address::{PAGE_SIZE, REGION_ORDER};
use crate::frame::extent::{Clean, Dirty, Extent, ExtentState};
use crate::machine::Machine;
use crate::window::Windows;

/// A range that is not all inside an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfExtent {
    /// First byte of the range, from the extent's first.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl fmt::Display for OutOfExtent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes from byte {} on are not all in the extent",
            self.bytes, self.offset
        )
    }
}

impl core::error::Error for OutOfExtent {}

impl Extent<Clean> {
    /// Reads what is zero unless hardware is broken.
    ///
    /// # Errors
    /// When the range is not all in the extent; then `data` is unchanged.
    pub fn read<M: Machine>(
        &self,
        machine: &M,
        windows: &mut Windows,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), OutOfExtent> {
        read(self, machine, windows, offset, data)
    }
}

impl Extent<Dirty> {
    /// Reads.
    ///
    /// # Errors
    /// When the range is not all in the extent; then `data` is unchanged.
    pub fn read<M: Machine>(
        &self,
        machine: &M,
        windows: &mut Windows,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), OutOfExtent> {
        read(self, machine, windows, offset, data)
    }

    /// Writes.
    ///
    /// # Errors
    /// When the range is not all in the extent; then nothing was written.
    pub fn write<M: Machine>(
        &mut self,
        machine: &M,
        windows: &mut Windows,
        offset: u64,
        data: &[u8],
    ) -> Result<(), OutOfExtent> {
        check(self, offset, data.len())?;
        let mut done = 0;
        while done < data.len() {
            let (window, within, room) = window(self, offset + done as u64);
            let piece = &data[done..][..room.min(data.len() - done)];
            windows
                .open(machine, self.pfn().add(window), self.order().min(REGION_ORDER))
                .write(within, piece);
            done += piece.len();
        }
        Ok(())
    }
}

fn read<S: ExtentState, M: Machine>(
    extent: &Extent<S>,
    machine: &M,
    windows: &mut Windows,
    offset: u64,
    data: &mut [u8],
) -> Result<(), OutOfExtent> {
    check(extent, offset, data.len())?;
    let mut done = 0;
    while done < data.len() {
        let (window, within, room) = window(extent, offset + done as u64);
        let length = room.min(data.len() - done);
        windows
            .open(
                machine,
                extent.pfn().add(window),
                extent.order().min(REGION_ORDER),
            )
            .read(within, &mut data[done..][..length]);
        done += length;
    }
    Ok(())
}

fn check<S: ExtentState>(extent: &Extent<S>, offset: u64, bytes: usize) -> Result<(), OutOfExtent> {
    let bytes = bytes as u64;
    match offset.checked_add(bytes) {
        Some(end) if end <= extent.frames() * PAGE_SIZE => Ok(()),
        _ => Err(OutOfExtent { offset, bytes }),
    }
}

/// For a byte of an extent: the first frame, from the extent's first, of the window that shows it; where it is in the window; and how much of
/// the window follows it.
fn window<S: ExtentState>(extent: &Extent<S>, offset: u64) -> (u64, u64, usize) {
    let bytes = PAGE_SIZE << extent.order().min(REGION_ORDER);
    let within = offset % bytes;
    ((offset - within) / PAGE_SIZE, within, (bytes - within) as usize)
}
