//! The bits of an EPT entry (Intel SDM vol. 3C, 29.3.2, tables 29-1 to 29-6) and what makes one misconfigured (29.3.3.1).
//!
//! Not known here, because nobody switches it on: mode-based execute control (bit 10), sub-page permissions (bit 61), supervisor shadow
//! stacks (bit 60). Without them the CPU ignores these bits.

use crate::entry::{Attributes, Format, Rights, bit::bits};

/// Reads are allowed.
pub(crate) const READ: u64 = 1 << 0;
/// Writes are allowed.
const WRITE: u64 = 1 << 1;
/// Instruction fetches are allowed.
const EXECUTE: u64 = 1 << 2;
/// The memory type's lowest bit, of three; in a leaf.
const TYPE_SHIFT: u32 = 3;
/// The guest's PAT does not change the memory type; in a leaf.
const IGNORE_PAT: u64 = 1 << 6;
/// At levels 2 and 3: this entry is a leaf.
const LEAF: u64 = 1 << 7;
/// The CPU used the entry, where the EPT pointer's bit 6 is set.
pub(crate) const ACCESSED: u64 = 1 << 8;
/// The CPU wrote through the leaf, where the EPT pointer's bit 6 is set.
pub(crate) const DIRTY: u64 = 1 << 9;

/// Write-back, in the encoding of the memory type (29.3.7.2).
const WRITE_BACK: u64 = 6;

/// An entry that allows nothing is not present.
pub(crate) const fn is_present(entry: u64) -> bool {
    entry & (READ | WRITE | EXECUTE) != 0
}

/// The bits of a present entry that must be zero: reserved bits, and the bits without which a misconfigured entry would be right.
pub(crate) const fn misconfigured(
    level: u8,
    entry: u64,
    physical_bits: u32,
    gigabyte_leaves: bool,
    execute_only: bool,
) -> u64 {
    let leaf = is_leaf(level, entry, gigabyte_leaves);
    let mut wrong = bits(physical_bits, 51);
    if !leaf {
        // Table 29-1: bits 7 to 3. Tables 29-3 and 29-5: bits 6 to 3, and bit 7 set would be a leaf, or a leaf that the CPU does not know.
        wrong |= bits(3, 7);
    }
    if leaf && level == 3 {
        wrong |= bits(12, 29);
    }
    if leaf && level == 2 {
        wrong |= bits(12, 20);
    }
    wrong &= entry;
    if leaf && matches!(memory_type(entry), 2 | 3 | 7) {
        wrong |= entry & bits(TYPE_SHIFT, TYPE_SHIFT + 2);
    }
    if entry & READ == 0 {
        wrong |= entry & WRITE;
        if !execute_only {
            wrong |= entry & EXECUTE;
        }
    }
    wrong
}

/// Whether a present entry ends the walk.
pub(crate) const fn is_leaf(level: u8, entry: u64, gigabyte_leaves: bool) -> bool {
    match level {
        1 => true,
        2 => entry & LEAF != 0,
        3 => entry & LEAF != 0 && gigabyte_leaves,
        _ => false,
    }
}

const fn memory_type(entry: u64) -> u64 {
    entry >> TYPE_SHIFT & 7
}

/// What is left of `rights` below this entry. There is no user bit: the guest's own tables tell its user from its supervisor.
pub(crate) const fn through(rights: Rights, entry: u64) -> Rights {
    rights.and(entry & WRITE != 0, true, entry & EXECUTE != 0)
}

/// The attributes of a leaf.
pub(crate) const fn attributes(entry: u64, rights: Rights) -> Attributes {
    let kind = memory_type(entry);
    rights.attributes(
        entry & IGNORE_PAT != 0,
        kind & 1 != 0,
        kind & 2 != 0,
        kind & 4 != 0,
        0,
    )
}

impl Format {
    /// Whether memory behind a leaf of these tables is write-back whatever the guest asks. In EPT the leaf says so: its memory type is
    /// write-back and the guest's PAT is ignored. In AMD's nested tables the PAT that the leaf selects from decides, which is
    /// not in the tables; for host tables nothing is asked.
    pub const fn forces_write_back(self, attributes: Attributes) -> bool {
        let kind = attributes.write_through as u64
            | (attributes.cache_disable as u64) << 1
            | (attributes.pat as u64) << 2;
        !self.is_extended() || (attributes.global && kind == WRITE_BACK)
    }
}

#[cfg(test)]
mod tests;
