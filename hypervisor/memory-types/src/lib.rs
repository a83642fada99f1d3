//! Which physical memory the CPU caches write-back: the MTRRs' rules (SDM vol. 3A, 11.11 "Memory Type Range Registers"; APM vol. 2, 7.7
//! "Memory-Type Range Registers") on plain values, so that they can be tried on the host.
//!
//! Firmware programs the registers; the hypervisor reads them ([`Registers`]) and asks for what is not write-back
//! ([`Registers::not_write_back`]). Such memory is not used, even where the firmware calls it RAM: it would be slow, and a leaf over
//! a boundary between two types has no defined type (SDM vol. 3A, 11.11.9). So every leaf of RAM lies in one type.
#![cfg_attr(not(test), no_std)]

#[cfg(test)]
mod tests;

use memory::address::Hpa;

/// Variable ranges that are read; CPUs have 8 to 10.
pub const MAX_VARIABLE: usize = 32;
/// Registers for the first MiB.
pub const FIXED: usize = 11;

/// Bytes that the fixed ranges cover.
const FIXED_END: u64 = 1 << 20;
/// The memory type "write-back", "write-through" and "uncacheable" (SDM vol. 3A, 11.3, table 11-2).
const UNCACHEABLE: u8 = 0;
const WRITE_THROUGH: u8 = 4;
const WRITE_BACK: u8 = 6;
/// IA32_MTRR_DEF_TYPE: fixed ranges enabled, MTRRs enabled (SDM vol. 3A, 11.11.2.1).
const FIXED_ENABLED: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;
/// IA32_MTRR_PHYSMASKn: the pair is in use (SDM vol. 3A, 11.11.2.3).
const VALID: u64 = 1 << 11;
const FOUR_GIB: u64 = 1 << 32;

/// One pair of IA32_MTRR_PHYSBASEn and IA32_MTRR_PHYSMASKn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variable {
    /// The base register.
    pub base: u64,
    /// The mask register.
    pub mask: u64,
}

/// The registers' values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// IA32_MTRR_DEF_TYPE.
    pub default: u64,
    /// The fixed ranges: 64K, 16K twice, 4K eight times; `None` when the CPU has none.
    pub fixed: Option<[u64; FIXED]>,
    /// The variable ranges; those that the CPU lacks are zero.
    pub variable: [Variable; MAX_VARIABLE],
    /// AMD's: RAM from 4 GiB up to here is write-back by default (APM vol. 2, 7.9.5, `Tom2ForceMemTypeWB`).
    pub top_of_memory: Option<Hpa>,
    /// Width of physical addresses.
    pub physical_bits: u8,
}

/// Memory of other types than write-back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: Hpa,
    /// One past the last byte.
    pub end: Hpa,
}

/// The mask of this variable range has holes: the range is many ranges. Firmware does not do that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskWithHoles(pub usize);

impl core::fmt::Display for MaskWithHoles {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the mask of MTRR {} has holes", self.0)
    }
}

/// A variable range in use.
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    end: u64,
    kind: u8,
}

impl Registers {
    /// Everything below the end of physical addresses that is not write-back, ascending, with neighbours joined. Nothing when the
    /// MTRRs are switched off: a machine that does so and works (a virtual one) does without them.
    ///
    /// # Errors
    /// [`MaskWithHoles`].
    pub fn not_write_back(&self) -> Result<impl Iterator<Item = Span> + Clone, MaskWithHoles> {
        for (number, pair) in self.variable.iter().enumerate() {
            if pair.mask & VALID != 0 && !self.without_holes(pair.mask) {
                return Err(MaskWithHoles(number));
            }
        }
        let end = if self.default & ENABLED == 0 {
            0
        } else {
            self.end()
        };
        let mut at = 0;
        Ok(core::iter::from_fn(move || {
            while at < end && self.kind(at) == WRITE_BACK {
                at = self.next_boundary(at);
            }
            let start = at;
            while at < end && self.kind(at) != WRITE_BACK {
                at = self.next_boundary(at);
            }
            (start < at).then_some(Span {
                start: Hpa::new(start),
                end: Hpa::new(at),
            })
        }))
    }

    /// One past the last physical address.
    fn end(&self) -> u64 {
        1 << self.physical_bits.clamp(32, 52)
    }

    /// The address bits of a base or mask register.
    fn address(&self, register: u64) -> u64 {
        register & (self.end() - 1) & !0xfff
    }

    fn without_holes(&self, mask: u64) -> bool {
        let bytes = self.end() - self.address(mask);
        bytes.is_power_of_two()
    }

    /// The variable ranges in use.
    fn ranges(&self) -> impl Iterator<Item = Range> {
        let valid = self.variable.iter().filter(|pair| pair.mask & VALID != 0);
        valid.map(|pair| {
            let mask = self.address(pair.mask);
            let start = self.address(pair.base) & mask;
            Range {
                start,
                end: start + (self.end() - mask),
                kind: pair.base as u8,
            }
        })
    }

    /// The fixed ranges, where they count.
    fn fixed(&self) -> Option<&[u64; FIXED]> {
        self.fixed.as_ref().filter(|_| self.default & FIXED_ENABLED != 0)
    }

    /// The type at an address.
    fn kind(&self, at: u64) -> u8 {
        if at < FIXED_END
            && let Some(fixed) = self.fixed()
        {
            // Eight ranges in each register (SDM vol. 3A, 11.11.2.2, table 11-9).
            let (register, bytes) = match at {
                0..0x8_0000 => (0, 0x1_0000),
                0x8_0000..0xc_0000 => (1 + (at - 0x8_0000) / 0x2_0000, 0x4000),
                _ => (3 + (at - 0xc_0000) / 0x8000, 0x1000),
            };
            let value = fixed.get(register as usize).copied().unwrap_or_default();
            return (value >> (at / bytes % 8 * 8)) as u8;
        }
        // Uncacheable wins, then write-through over write-back; other overlaps are undefined (SDM vol. 3A, 11.11.4.1), which here is
        // uncacheable: not used.
        let covering = self.ranges().filter(|range| range.start <= at && at < range.end);
        let combined = covering
            .map(|range| range.kind)
            .reduce(|one, other| match (one, other) {
                _ if one == other => one,
                (WRITE_THROUGH, WRITE_BACK) | (WRITE_BACK, WRITE_THROUGH) => WRITE_THROUGH,
                _ => UNCACHEABLE,
            });
        combined.unwrap_or_else(|| {
            let top = self.top_of_memory.map_or(0, Hpa::get);
            if (FOUR_GIB..top).contains(&at) {
                WRITE_BACK
            } else {
                self.default as u8
            }
        })
    }

    /// The first address above this one at which the type may change; at most the end of physical addresses.
    fn next_boundary(&self, at: u64) -> u64 {
        let mut next = self.end();
        let mut consider = |boundary: u64| {
            if boundary > at {
                next = next.min(boundary);
            }
        };
        if at < FIXED_END && self.fixed().is_some() {
            // The smallest of the fixed ranges' sizes: 256 steps at most.
            consider((at & !0xfff) + 0x1000);
        }
        consider(FIXED_END);
        for range in self.ranges() {
            consider(range.start);
            consider(range.end);
        }
        if let Some(top) = self.top_of_memory {
            consider(FOUR_GIB);
            consider(top.get());
        }
        next
    }
}
