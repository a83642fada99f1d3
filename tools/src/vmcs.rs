//! Finding guests' control structures of Intel's in RAM, as Bochs keeps them.
//!
//! The format of a VMCS is the processor's own affair, and a processor may keep one that is current, or was, wholly in itself (SDM vol. 3C,
//! 25.1 and 25.2). So this is for Bochs alone (2.7; 2.8 has the same): it writes every field to the region at once (`cpu/vmx.cc`,
//! `VMwrite16` to `VMwrite64`), at an offset that follows from the field's encoding (`cpu/vmcs.cc`, `VMCS_Mapping::init_generic_mapping`).
//! What a processor says of its fields it says by VMREAD, to the hypervisor; nothing of that is asked here.

use std::io;

use serde::Serialize;

use crate::dump::hex;
use crate::ram::RamFile;

/// What Bochs' processors report in IA32_VMX_BASIC, and want to find at the start of a region (`cpu/vmx.h`, `BX_VMX_VMCS_REVISION_ID`).
const REVISION: u32 = 0x2b;
/// Where the first field lies (`cpu/vmx.h`, `VMCS_DATA_OFFSET`).
const FIRST_FIELD: usize = 0x10;
/// Room for each kind of field, in bytes: 64 fields of four (`cpu/vmcs.cc`).
const KIND_BYTES: usize = 64 * 4;

/// Fields by their encodings (SDM vol. 3D, appendix B).
mod field {
    pub const VPID: u32 = 0x0000;
    pub const EPT_POINTER: u32 = 0x201a;
    pub const PRIMARY_CONTROLS: u32 = 0x4002;
    pub const SECONDARY_CONTROLS: u32 = 0x401e;
    pub const ENTRY_CONTROLS: u32 = 0x4012;
    pub const GUEST_CR0: u32 = 0x6800;
    pub const GUEST_CR3: u32 = 0x6802;
    pub const GUEST_RIP: u32 = 0x681e;
}

/// A page that looks like the VMCS of a 64-bit guest with EPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Vmcs {
    /// Where it is.
    #[serde(with = "hex")]
    pub pa: u64,
    /// Root of the extended tables, with flags.
    #[serde(with = "hex")]
    pub ept_pointer: u64,
    /// Virtual-processor identifier; 0 where they are not used.
    pub vpid: u16,
    /// The guest's next instruction.
    #[serde(with = "hex")]
    pub rip: u64,
    /// Root of the guest's own tables, a guest-physical address.
    #[serde(with = "hex")]
    pub cr3: u64,
}

/// Finds pages that Bochs would accept as the VMCS of a 64-bit guest with EPT. A freed one that was not overwritten looks the same; one that
/// was never entered may not be written yet.
///
/// # Errors
/// The file cannot be read.
pub fn find_vmcses(ram: &RamFile) -> io::Result<Vec<Vmcs>> {
    let mut found = Vec::new();
    ram.for_each_page(|pa, page| {
        let in_ram = |vmcs: &Vmcs| ram.layout().offset(vmcs.ept_pointer & !0xfff).is_some();
        found.extend(recognise(page, pa).filter(in_ram));
    })?;
    Ok(found)
}

/// Offset of a field in Bochs' regions. The encoding has the field's index in bits 9:0, doubled and with the half of a 64-bit field in bit
/// 0, its type in bits 11:10 and its width in bits 14:13 (SDM vol. 3C, 25.11.2); Bochs counts four bytes for each value of bits 9:0.
const fn offset(encoding: u32) -> usize {
    let kind = (encoding >> 13 & 3) << 2 | encoding >> 10 & 3;
    FIRST_FIELD + kind as usize * KIND_BYTES + (encoding & 0x3ff) as usize * 4
}

/// The checks of a VM entry that pick out a VMCS (SDM vol. 3C, 27.2.1.1): the revision without the shadow bit, no abort, secondary
/// controls (primary bit 31) with EPT (bit 1), an EPT pointer of write-back tables with four levels and no reserved bit (25.6.11); here
/// also a guest in protected mode and long mode (entry control 9).
fn recognise(page: &[u8; 4096], pa: u64) -> Option<Vmcs> {
    let bytes = |at: usize| Some(u64::from_le_bytes(page.get(at..at + 8)?.try_into().ok()?));
    let word = |encoding| bytes(offset(encoding));
    let half = |encoding| word(encoding).map(|word| word as u32);
    let ept_pointer = word(field::EPT_POINTER)?;
    let cr0 = word(field::GUEST_CR0)?;
    // The revision, then the abort indicator.
    let looks_right = bytes(0)? == u64::from(REVISION)
        && half(field::PRIMARY_CONTROLS)? & 1 << 31 != 0
        && half(field::SECONDARY_CONTROLS)? & 1 << 1 != 0
        && half(field::ENTRY_CONTROLS)? & 1 << 9 != 0
        && ept_pointer & 0x3f == 0x1e
        && ept_pointer & 0xfff0_0000_0000_0f80 == 0
        && ept_pointer >> 12 != 0
        && cr0 & 1 != 0
        && cr0 >> 32 == 0;
    looks_right.then_some(Vmcs {
        pa,
        ept_pointer,
        vpid: word(field::VPID)? as u16,
        rip: word(field::GUEST_RIP)?,
        cr3: word(field::GUEST_CR3)?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn offsets_are_those_of_bochs() {
        // By hand: kinds 0, 4, 8 and 14.
        assert_eq!(offset(field::VPID), 0x10);
        assert_eq!(offset(field::EPT_POINTER), 0x478);
        assert_eq!(offset(field::PRIMARY_CONTROLS), 0x818);
        assert_eq!(offset(field::GUEST_RIP), 0xe88);
    }

    fn page(ept_pointer: u64) -> [u8; 4096] {
        let mut page = [0; 4096];
        for (at, word) in [
            (0, 0x2b),
            (0x10, 5_u64),
            (0x478, ept_pointer),
            (0x818, 1 << 31),
            (0x888, 2),
            (0x858, 1 << 9),
            (0xe10, 0x8000_0031),
            (0xe18, 0x8_0000),
            (0xe88, 0x10_0000),
        ] {
            page[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        page
    }

    #[test]
    fn a_control_structure_is_found_and_a_near_miss_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let mut at = 0x200_0000;
        let mut write = |page: &[u8; 4096]| {
            file.as_file().write_all_at(page, at).unwrap();
            at += 0x10_0000;
        };
        write(&page(0x30_005e));
        // A root outside RAM, another memory type, three levels, a reserved bit.
        for pointer in [1 << 40 | 0x1e, 0x30_0018, 0x30_0016, 0x30_009e] {
            write(&page(pointer));
        }
        // The shadow bit, an abort, another revision, and a bit less in each of the controls.
        for (at, byte) in [(3, 0x80), (4, 1), (0, 0x2a), (0x81b, 0), (0x888, 0), (0x859, 0)] {
            let mut page = page(0x30_001e);
            page[at] = byte;
            write(&page);
        }
        let found = find_vmcses(&RamFile::open(file.path()).unwrap()).unwrap();
        let expected = Vmcs {
            pa: 0x200_0000,
            ept_pointer: 0x30_005e,
            vpid: 5,
            rip: 0x10_0000,
            cr3: 0x8_0000,
        };
        assert_eq!(found, [expected]);
    }
}
