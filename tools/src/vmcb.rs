//! Guests' control blocks, found in RAM by their looks: from them the roots of the second-stage tables, without asking anyone.

use std::io;

use serde::Serialize;

use crate::dump::hex;
use crate::ram::RamFile;

/// Offsets in a VMCB: AMD APM volume 2, appendix B, tables B-1 and B-2 (save area at 0x400).
mod offset {
    pub const INTERCEPTS_3: usize = 0x10;
    pub const ASID: usize = 0x58;
    pub const NESTED_CONTROL: usize = 0x90;
    pub const NESTED_CR3: usize = 0xb0;
    pub const EFER: usize = 0x400 + 0xd0;
    pub const CR3: usize = 0x400 + 0x150;
    pub const CR0: usize = 0x400 + 0x158;
    pub const RIP: usize = 0x400 + 0x178;
}

/// A page that looks like the VMCB of a guest with nested paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Vmcb {
    /// Where it is.
    #[serde(with = "hex")]
    pub pa: u64,
    /// Root of the nested tables.
    #[serde(with = "hex")]
    pub nested_cr3: u64,
    /// Address-space identifier.
    pub asid: u32,
    /// The guest's next instruction.
    #[serde(with = "hex")]
    pub rip: u64,
    /// Root of the guest's own tables, a guest-physical address.
    #[serde(with = "hex")]
    pub cr3: u64,
}

/// Finds pages that a CPU would accept as the VMCB of a 64-bit guest with nested paging. A freed one that was not overwritten looks the
/// same.
///
/// # Errors
/// The file cannot be read.
pub fn find_vmcbs(ram: &RamFile) -> io::Result<Vec<Vmcb>> {
    let mut found = Vec::new();
    ram.for_each_page(|pa, page| {
        found.extend(recognise(page, pa).filter(|vmcb| ram.layout().offset(vmcb.nested_cr3).is_some()));
    })?;
    Ok(found)
}

/// The consistency rules of VMRUN that pick out a VMCB (APM volume 2 section 15.5.1): it must intercept VMRUN and have an ASID; a
/// guest has EFER.SVME set; here also nested paging with an aligned root, protected mode and long mode.
fn recognise(page: &[u8; 4096], pa: u64) -> Option<Vmcb> {
    let word = |at: usize| page.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let (nested_cr3, asid) = (word(offset::NESTED_CR3)?, word(offset::ASID)? as u32);
    let (efer, cr0) = (word(offset::EFER)?, word(offset::CR0)?);
    let looks_right = word(offset::INTERCEPTS_3)? & 1 != 0
        && asid != 0
        && word(offset::NESTED_CONTROL)? & 1 != 0
        && nested_cr3 != 0
        && nested_cr3 & 0xfff0_0000_0000_0fe7 == 0
        && efer & (1 << 12 | 1 << 8) == 1 << 12 | 1 << 8
        && efer >> 16 == 0
        && cr0 & 1 != 0
        && cr0 >> 32 == 0;
    looks_right.then_some(Vmcb {
        pa,
        nested_cr3,
        asid,
        rip: word(offset::RIP)?,
        cr3: word(offset::CR3)?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn page(nested_cr3: u64) -> [u8; 4096] {
        let mut page = [0; 4096];
        for (at, word) in [
            (0x10, 0x3_u64),
            (0x58, 5),
            (0x90, 1),
            (0xb0, nested_cr3),
            (0x4d0, 0x1d00),
            (0x558, 0x8001_0033),
            (0x578, 0x10_0000),
            (0x550, 0x8_0000),
        ] {
            page[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        page
    }

    #[test]
    fn a_control_block_is_found_and_a_near_miss_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        file.as_file().write_all_at(&page(0x30_0000), 0x200_0000).unwrap();
        // Roots outside RAM or not aligned, a page with one bit less, and one that is not aligned.
        file.as_file().write_all_at(&page(1 << 40), 0x210_0000).unwrap();
        file.as_file().write_all_at(&page(0x30_0800), 0x220_0000).unwrap();
        let mut other = page(0x30_0000);
        other[0x10] &= !1;
        file.as_file().write_all_at(&other, 0x230_0000).unwrap();
        file.as_file().write_all_at(&page(0x30_0000), 0x240_0800).unwrap();
        let found = find_vmcbs(&RamFile::open(file.path()).unwrap()).unwrap();
        let expected = Vmcb {
            pa: 0x200_0000,
            nested_cr3: 0x30_0000,
            asid: 5,
            rip: 0x10_0000,
            cr3: 0x8_0000,
        };
        assert_eq!(found, [expected]);
    }
}
