//! What a CPU holds, and the stamp that it must still have when it goes.

use memory::address::PAGE_SIZE;
use memory::frame::extent::{Clean, Dirty, Extent};
use memory::window::Windows;

use crate::frames::Frames;
use crate::hardware::Hardware;

/// Places of an extent that are stamped, or looked at for zeros, when it is larger than a page: its ends and as many more.
const PLACES: u64 = 6;
/// Bytes of a place.
const STAMP: usize = 16;

/// A hidden extent in use.
pub struct Held {
    pub extent: Extent<Dirty>,
    /// The CPU that took it.
    pub by: u32,
    /// What was written last.
    stamp: u64,
}

/// Ordinary memory in use.
pub struct HostHeld {
    pub frames: Frames,
    stamp: u64,
}

/// A word that depends on all of both.
fn mix(value: u64, more: u64) -> u64 {
    // The steps of SplitMix64.
    let mut word = value.wrapping_add(more.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Where an extent of so many frames is stamped: byte offsets, some of them perhaps equal.
fn places(frames: u64, stamp: u64) -> impl Iterator<Item = u64> {
    (0..PLACES).map(move |number| match number {
        0 => 0,
        1 => frames * PAGE_SIZE - STAMP as u64,
        _ => {
            let word = mix(stamp, number);
            (word % frames) * PAGE_SIZE + (word >> 40) % (PAGE_SIZE / STAMP as u64) * STAMP as u64
        }
    })
}

/// What stands at a place.
fn bytes(stamp: u64, place: u64) -> [u8; STAMP] {
    (u128::from(mix(stamp, place)) << 64 | u128::from(stamp)).to_le_bytes()
}

/// The first byte of a new extent that is not zero, as far as it is looked at: all of a page, some places of what is larger.
pub fn not_zero(extent: &Extent<Clean>, windows: &mut Windows, stamp: u64) -> Option<u64> {
    if extent.order() == 0 {
        let mut page = [1; PAGE_SIZE as usize];
        let read = extent.read(&Hardware, windows, 0, &mut page);
        return match read {
            Ok(()) => (0..).zip(page).find(|(_, byte)| *byte != 0).map(|(at, _)| at),
            Err(error) => Some(error.offset),
        };
    }
    places(extent.frames(), stamp).find(|place| {
        let mut found = [1; STAMP];
        extent.read(&Hardware, windows, *place, &mut found).is_err() || found != [0; STAMP]
    })
}

impl Held {
    /// Takes an extent into use and stamps it.
    pub fn new(extent: Extent<Clean>, by: u32, windows: &mut Windows, stamp: u64) -> Self {
        let mut held = Self {
            extent: extent.used(),
            by,
            stamp: 0,
        };
        held.stamp(windows, stamp);
        held
    }

    /// Writes another stamp.
    pub fn stamp(&mut self, windows: &mut Windows, stamp: u64) {
        self.stamp = stamp;
        for place in places(self.extent.frames(), stamp) {
            // Inside of the extent, as `places` are.
            let _ = self.extent.write(&Hardware, windows, place, &bytes(stamp, place));
        }
    }

    /// The first place that has not what was written.
    pub fn spoilt(&self, windows: &mut Windows) -> Option<u64> {
        places(self.extent.frames(), self.stamp).find(|place| {
            let mut found = [0; STAMP];
            let read = self.extent.read(&Hardware, windows, *place, &mut found);
            read.is_err() || found != bytes(self.stamp, *place)
        })
    }
}

impl HostHeld {
    /// Takes ordinary memory into use and stamps it; the first place that was not zero instead.
    pub fn new(frames: Frames, stamp: u64) -> Result<Self, u64> {
        let this = Self { frames, stamp };
        let all = || places(this.count(), stamp);
        // SAFETY: a place is a multiple of 16 bytes inside of the frames, which are ours, in the direct map.
        let dirty = all().find(|place| unsafe { this.at(*place).read_volatile() } != 0);
        if let Some(place) = dirty {
            return Err(place);
        }
        for place in all() {
            // SAFETY: as above.
            unsafe {
                this.at(place)
                    .write_volatile(u128::from_le_bytes(bytes(stamp, place)))
            };
        }
        Ok(this)
    }

    /// Its frames.
    pub fn count(&self) -> u64 {
        self.frames.bytes() as u64 / PAGE_SIZE
    }

    /// The first place that has not what was written.
    pub fn spoilt(&self) -> Option<u64> {
        places(self.count(), self.stamp).find(|place| {
            // SAFETY: as in `new`.
            let found = unsafe { self.at(*place).read_volatile() };
            found != u128::from_le_bytes(bytes(self.stamp, *place))
        })
    }

    fn at(&self, place: u64) -> *mut u128 {
        self.frames.as_ptr().wrapping_add(place as usize).cast()
    }
}
