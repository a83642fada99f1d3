//! The operations, one kind each.

use core::sync::atomic::Ordering;

use memory::address::REGION_ORDER;
use memory::frame::extent::{Clean, Extent};
use memory::region::{Freeing, Growing, PrivateError, Watermarks};
use memory::window::Windows;

use super::held::{Held, HostHeld, not_zero};
use super::{Hand, Shared};
use crate::frames::{Frames, with_memory};
use crate::hardware::Hardware;
use crate::magazines::OwnMagazine;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// Take a frame from the CPU's magazine.
    TakeFrame,
    /// Take an extent of any size from the pool, small ones most often.
    Take,
    /// Take an extent of a region or more, all sizes alike.
    TakeLarge,
    /// Take an extent below a region while no whole region is free.
    TakePieces,
    /// Give one back: a frame mostly into the magazine.
    Give,
    /// Give one to another CPU, and take what another has given.
    Exchange,
    /// Look at one and write another stamp.
    Rewrite,
    /// Take ordinary memory.
    HostTake,
    /// Give ordinary memory back.
    HostGive,
    /// Give some cached regions back to the host.
    Shrink,
    /// Empty the pool's cache.
    Drain,
    /// Change the size of the pool's cache.
    Cache,
    /// Change the watermarks of the shrinker.
    Watermarks,
    /// Ask all CPUs for what is in their magazines.
    Ask,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::TakeFrame,
        Self::Take,
        Self::TakeLarge,
        Self::TakePieces,
        Self::Give,
        Self::Exchange,
        Self::Rewrite,
        Self::HostTake,
        Self::HostGive,
        Self::Shrink,
        Self::Drain,
        Self::Cache,
        Self::Watermarks,
        Self::Ask,
    ];

    /// How often it is done, of 100,000 operations. Choices: what costs much is rare, so that an operation takes some microseconds.
    const fn weight(self) -> u64 {
        match self {
            Self::TakeFrame => 34_000,
            Self::Give => 38_000,
            Self::Exchange | Self::Rewrite => 8_000,
            Self::Take => 5_500,
            Self::HostTake | Self::HostGive => 3_000,
            Self::Shrink | Self::Cache => 150,
            Self::Watermarks => 80,
            Self::TakePieces => 70,
            Self::Drain => 30,
            Self::TakeLarge | Self::Ask => 10,
        }
    }
}

/// Regions that the cache keeps at most, and orders of ordinary memory below this.
const MOST_CACHED: u64 = 16;
const HOST_ORDERS: u64 = 5;

impl Shared {
    /// One operation, whichever comes.
    pub(super) fn one(&self, cpu: u32, hand: &mut Hand, windows: &mut Windows, magazine: &mut OwnMagazine) {
        let mut left = hand.below(Kind::ALL.iter().map(|kind| kind.weight()).sum());
        let chosen = Kind::ALL.into_iter().find(|kind| {
            let found = left < kind.weight();
            left = left.saturating_sub(kind.weight());
            found
        });
        let Some(kind) = chosen else { return };
        hand.counts[kind as usize] += 1;
        match kind {
            Kind::TakeFrame => self.take(cpu, hand, windows, 0, |windows| magazine.take(windows)),
            Kind::Take => {
                let order = (hand.random.rand_u64().trailing_zeros() as u8).min(self.largest);
                self.take(cpu, hand, windows, order, |windows| take_private(windows, order));
            }
            Kind::TakeLarge => {
                let sizes = u64::from(self.largest - REGION_ORDER) + 1;
                let order = REGION_ORDER + hand.below(sizes) as u8;
                self.take(cpu, hand, windows, order, |windows| take_private(windows, order));
            }
            Kind::TakePieces => {
                let order = hand.below(u64::from(REGION_ORDER)) as u8;
                self.take(cpu, hand, windows, order, |windows| take_pieces(windows, order));
            }
            Kind::Give => {
                self.give_any(cpu, hand, windows, magazine);
            }
            Kind::Exchange => self.exchange(hand),
            Kind::Rewrite => self.rewrite(hand, windows),
            Kind::HostTake => self.host_take(hand),
            Kind::HostGive => {
                if let Some(held) = hand.host.pop() {
                    self.host_give(hand, held);
                }
            }
            Kind::Shrink => {
                let regions = 1 + hand.below(MOST_CACHED);
                with_memory(|memory| memory.shrink(&Hardware, regions));
            }
            Kind::Drain => self.drain(),
            Kind::Cache => {
                let keep = hand.below(MOST_CACHED + 1);
                with_memory(|memory| memory.set_cache(keep));
            }
            Kind::Watermarks => {
                let low = hand.below(self.limit / 4);
                with_memory(|memory| memory.set_watermarks(Watermarks { low, high: 2 * low }));
            }
            Kind::Ask => hand.asked_in_full += u64::from(magazine.ask_others(windows)),
        }
    }

    /// Takes hidden memory, if this CPU and all together may hold more.
    fn take(
        &self,
        cpu: u32,
        hand: &mut Hand,
        windows: &mut Windows,
        order: u8,
        get: impl FnOnce(&mut Windows) -> Result<Extent<Clean>, PrivateError>,
    ) {
        if hand.held.is_full() || !self.may_hold(1 << order) {
            hand.refused += 1;
            return;
        }
        let extent = match get(windows) {
            Ok(extent) => extent,
            Err(_) => {
                self.held.fetch_sub(1 << order, Ordering::Relaxed);
                hand.refused += 1;
                return;
            }
        };
        self.note_guests(cpu);
        if (extent.order(), extent.pfn().is_aligned(1 << order)) != (order, true) {
            hand.fail(format_args!(
                "an extent of order {order} came as {} of order {}",
                extent.pfn().hpa(),
                extent.order()
            ));
        }
        let stamp = hand.random.rand_u64() | 1;
        if let Some(at) = not_zero(&extent, windows, stamp) {
            hand.fail(format_args!(
                "new hidden memory at {} is not zero at byte {at:#x}",
                extent.pfn().hpa()
            ));
        }
        // There is room: it was looked at first.
        let _ = hand.held.push(Held::new(extent, cpu, windows, stamp));
    }

    /// Whether so many frames more may be held; then they are counted.
    fn may_hold(&self, frames: u64) -> bool {
        let before = self.held.fetch_add(frames, Ordering::Relaxed);
        let may = before + frames <= self.limit;
        if !may {
            self.held.fetch_sub(frames, Ordering::Relaxed);
        }
        may
    }

    /// Gives any one of the CPU's extents back. False when it has none.
    pub(super) fn give_any(
        &self,
        cpu: u32,
        hand: &mut Hand,
        windows: &mut Windows,
        magazine: &mut OwnMagazine,
    ) -> bool {
        let Some(held) = pick(hand) else { return false };
        self.give(cpu, hand, held, windows, magazine);
        true
    }

    /// Gives one back.
    pub(super) fn give(
        &self,
        cpu: u32,
        hand: &mut Hand,
        held: Held,
        windows: &mut Windows,
        magazine: &mut OwnMagazine,
    ) {
        look_at(hand, &held, windows);
        hand.moved += u64::from(held.by != cpu);
        let frames = held.extent.frames();
        if held.extent.order() == 0 && hand.below(8) > 0 {
            magazine.put(windows, held.extent);
        } else {
            let mut freeing = with_memory(|memory| Freeing::new(memory, held.extent));
            while with_memory(|memory| freeing.step(memory, &Hardware, windows)) {}
        }
        self.held.fetch_sub(frames, Ordering::Relaxed);
    }

    /// Puts one where another CPU finds it, and takes the first that is there. Nobody waits for the other.
    fn exchange(&self, hand: &mut Hand) {
        let Some(mut mail) = self.mail.try_lock() else {
            return;
        };
        let own = pick(hand);
        if !mail.is_empty() && !hand.held.is_full() && hand.below(2) == 0 || mail.is_full() {
            // From anywhere among them, so that none stays for ever.
            let at = hand.below(mail.len() as u64) as usize;
            let _ = hand.held.push(mail.swap_remove(at));
        }
        if let Some(own) = own {
            // There is room in one of the two.
            let _ = mail.push(own).map_err(|own| hand.held.push(own));
        }
    }

    fn rewrite(&self, hand: &mut Hand, windows: &mut Windows) {
        let Some(mut held) = pick(hand) else { return };
        look_at(hand, &held, windows);
        held.stamp(windows, hand.random.rand_u64() | 1);
        let _ = hand.held.push(held);
    }

    fn host_take(&self, hand: &mut Hand) {
        let order = hand.below(HOST_ORDERS) as u8;
        if hand.host.is_full() || !self.may_hold(1 << order) {
            hand.refused += 1;
            return;
        }
        let held = match Frames::zeroed(order) {
            Ok(frames) => HostHeld::new(frames, hand.random.rand_u64() | 1),
            Err(_) => {
                self.held.fetch_sub(1 << order, Ordering::Relaxed);
                hand.refused += 1;
                return;
            }
        };
        match held {
            Ok(held) => drop(hand.host.push(held)),
            Err(at) => hand.fail(format_args!("zeroed memory is not zero at byte {at:#x}")),
        }
    }

    pub(super) fn host_give(&self, hand: &mut Hand, held: HostHeld) {
        if let Some(at) = held.spoilt() {
            hand.fail(format_args!(
                "ordinary memory at {} was changed at byte {at:#x}",
                held.frames.hpa()
            ));
        }
        self.held.fetch_sub(held.count(), Ordering::Relaxed);
    }

    /// Empties the pool's cache and waits for the flush.
    pub(super) fn drain(&self) {
        let flushed = with_memory(|memory| memory.drain(&Hardware)).wait(&Hardware);
        with_memory(|memory| flushed.release(memory, &Hardware));
    }
}

/// Takes any one out of the CPU's list.
fn pick(hand: &mut Hand) -> Option<Held> {
    if hand.held.is_empty() {
        return None;
    }
    let at = hand.below(hand.held.len() as u64) as usize;
    Some(hand.held.swap_remove(at))
}

fn look_at(hand: &mut Hand, held: &Held, windows: &mut Windows) {
    if let Some(at) = held.spoilt(windows) {
        hand.fail(format_args!(
            "hidden memory at {} was changed at byte {at:#x}",
            held.extent.pfn().hpa()
        ));
    }
}

/// Takes an extent, growing the pool if it must.
fn take_private(windows: &mut Windows, order: u8) -> Result<Extent<Clean>, PrivateError> {
    match with_memory(|memory| memory.take_private(order)) {
        Some(extent) => Ok(extent),
        None => with_memory(|memory| memory.grow(&Hardware, order)).map(|growing| grow(windows, growing)),
    }
}

/// Takes an extent below a region as if no region were free: all of them are out of the allocator's hands for a moment, but for half of one.
fn take_pieces(windows: &mut Windows, order: u8) -> Result<Extent<Clean>, PrivateError> {
    let growing = with_memory(|memory| {
        let half = memory.frames.allocate(REGION_ORDER - 1);
        let marks = memory.pool().watermarks();
        memory.set_watermarks(Watermarks::default());
        let all = memory.frames.carve(memory.frames.free_regions());
        let growing = memory.grow(&Hardware, order);
        if let Ok(all) = all {
            memory.frames.uncarve(all);
        }
        if let Ok(half) = half {
            memory.frames.free(half);
        }
        memory.set_watermarks(marks);
        growing
    });
    growing.map(|growing| grow(windows, growing))
}

/// The flush is waited for without the lock; one that takes long is done in steps.
fn grow(windows: &mut Windows, growing: Growing) -> Extent<Clean> {
    let mut grown = growing.wait(&Hardware);
    while with_memory(|memory| grown.step(memory, &Hardware, windows)) {}
    with_memory(|memory| grown.finish(memory, &Hardware, windows))
}
