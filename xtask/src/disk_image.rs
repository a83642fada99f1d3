//! A raw disk that starts the hypervisor through the BIOS: boot sector, plan, and what the plan names (package `disk-boot`).

use anyhow::{Context, Result, ensure};
use disk_boot::{
    MAP, PIECE_BYTES, PLAN, PLAN_COMMAND_LINE, PLAN_ENTRY, PLAN_MODULE, PLAN_PIECES, PLAN_SECTOR,
    PLAN_SECTORS, PLAN_START_INFO, SECTOR,
};
use object::{Object, ObjectSection};

use crate::image_file::ImageFile;

/// Bytes of a page: modules begin on one.
const PAGE: u32 = 4096;
/// PVH's magic number, and the version of `hvm_start_info` that has a memory map (Xen
/// `xen/include/public/arch-x86/hvm/start_info.h`).
const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
/// The disk's length is a multiple of a MiB: Bochs guesses its geometry, and wants whole cylinders (16 heads of 63 sectors).
const CYLINDER: usize = 16 * 63 * SECTOR as usize;

/// Takes the boot sector from its ELF file.
///
/// # Errors
/// The file is not what the package `disk-boot` builds.
pub fn boot_sector(file: &[u8]) -> Result<Vec<u8>> {
    let elf = object::File::parse(file).context("read the boot sector's file")?;
    let section = elf
        .section_by_name(".boot")
        .context("the boot sector's file has no section .boot")?;
    let bytes = section.data().context("read the boot sector")?;
    ensure!(
        bytes.len() == SECTOR as usize && bytes.ends_with(&[0x55, 0xaa]),
        "the boot sector is damaged"
    );
    Ok(bytes.to_vec())
}

/// Makes the disk.
///
/// # Errors
/// The command line is too long, or the image is not one.
pub fn make(boot_sector: &[u8], image: &[u8], archive: Option<&[u8]>, command_line: &str) -> Result<Vec<u8>> {
    let image = ImageFile::parse(image)?;
    let mut plan = Plan::new();
    let mut disk = boot_sector.to_vec();
    disk.resize(((PLAN_SECTOR + PLAN_SECTORS) * SECTOR) as usize, 0);
    for segment in &image.segments {
        plan.piece(&mut disk, segment.bytes, segment.address)?;
    }
    let module = image.end().next_multiple_of(PAGE);
    if let Some(archive) = archive {
        plan.piece(&mut disk, archive, module)?;
        plan.long(PLAN_MODULE, module.into());
        plan.long(PLAN_MODULE + 8, archive.len() as u64);
    }

    for (place, word) in [MAGIC, VERSION, 0, archive.is_some().into()].iter().enumerate() {
        plan.word(PLAN_START_INFO + 4 * place as u32, *word);
    }
    // Module list, command line, root pointer (the hypervisor searches for it), memory map; its number of entries stays 0.
    for (place, address) in [PLAN + PLAN_MODULE, PLAN + PLAN_COMMAND_LINE, 0, MAP]
        .iter()
        .enumerate()
    {
        plan.long(PLAN_START_INFO + 16 + 8 * place as u32, (*address).into());
    }
    plan.word(PLAN_ENTRY, image.entry);
    let room = (PLAN_SECTORS * SECTOR - PLAN_COMMAND_LINE) as usize;
    ensure!(
        command_line.len() < room && !command_line.contains('\0'),
        "the command line has {} bytes; a boot disk has room for {}",
        command_line.len(),
        room - 1
    );
    plan.put(PLAN_COMMAND_LINE, command_line.as_bytes());
    let place = (PLAN_SECTOR * SECTOR) as usize;
    let area = disk.get_mut(place..place + plan.bytes.len());
    area.context("a disk without room for the plan")?
        .copy_from_slice(&plan.bytes);
    disk.resize(disk.len().next_multiple_of(CYLINDER), 0);
    Ok(disk)
}

/// The plan under construction.
struct Plan {
    bytes: Vec<u8>,
    pieces: u32,
}

impl Plan {
    fn new() -> Self {
        Self {
            bytes: vec![0; (PLAN_SECTORS * SECTOR) as usize],
            pieces: 0,
        }
    }

    fn put(&mut self, offset: u32, bytes: &[u8]) {
        let start = offset as usize;
        if let Some(place) = self.bytes.get_mut(start..start + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn word(&mut self, offset: u32, value: u32) {
        self.put(offset, &value.to_le_bytes());
    }

    fn long(&mut self, offset: u32, value: u64) {
        self.put(offset, &value.to_le_bytes());
    }

    /// Appends `bytes` to the disk, in whole sectors, to be loaded to `address`.
    fn piece(&mut self, disk: &mut Vec<u8>, bytes: &[u8], address: u32) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let at = PLAN_PIECES + self.pieces * PIECE_BYTES;
        // The last place is for the piece of no sectors that ends the list.
        ensure!(
            at + 2 * PIECE_BYTES <= PLAN_COMMAND_LINE,
            "the image has too many segments for a boot disk"
        );
        self.pieces += 1;
        let sector = SECTOR as usize;
        self.word(at, u32::try_from(disk.len() / sector)?);
        self.word(at + 4, u32::try_from(bytes.len().div_ceil(sector))?);
        self.word(at + 8, address);
        disk.extend(bytes);
        disk.resize(disk.len().next_multiple_of(sector), 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_file::tests::made_up;

    /// Does what the boot sector does: calls `load` with each piece.
    fn pieces(disk: &[u8], mut load: impl FnMut(u32, &[u8])) {
        let plan = &disk[SECTOR as usize..];
        for number in 0.. {
            let at = (PLAN_PIECES + number * PIECE_BYTES) as usize;
            let word = |index: usize| {
                let four = plan[at + 4 * index..].first_chunk().unwrap();
                u32::from_le_bytes(*four)
            };
            if word(1) == 0 {
                return;
            }
            let start = (word(0) * SECTOR) as usize;
            load(word(2), &disk[start..start + (word(1) * SECTOR) as usize]);
        }
    }

    #[test]
    fn everything_comes_to_its_place() {
        let mut sector = vec![0; 510];
        sector.extend([0x55, 0xaa]);
        let disk = make(&sector, &made_up(), Some(&[7; 1300]), "guest=hello seed=1").unwrap();
        assert_eq!(disk.len() % CYLINDER, 0);
        assert_eq!(disk[..512], sector);

        let mut memory = vec![0; 0x30_0000];
        let mut order = Vec::new();
        pieces(&disk, |address, bytes| {
            order.push(address);
            memory[address as usize..address as usize + bytes.len()].copy_from_slice(bytes);
        });
        // The archive begins on the page after the image's last byte in memory, which is more than the file has.
        assert_eq!(order, [0x20_0000, 0x20_1000, 0x20_6000]);
        assert_eq!(memory[0x20_0000..0x20_0000 + 700], [0xaa; 700]);
        assert_eq!(memory[0x20_1000..0x20_1100], [0xbb; 0x100]);
        assert_eq!(memory[0x20_6000..0x20_6000 + 1300], [7; 1300]);

        let plan = &disk[512..512 + (PLAN_SECTORS * SECTOR) as usize];
        memory[PLAN as usize..PLAN as usize + plan.len()].copy_from_slice(plan);
        let long = |at: u32| u64::from_le_bytes(*memory[at as usize..].first_chunk().unwrap());
        // magic and version; flags and modules; module list; command line; root pointer; memory map; its entries
        let info: Vec<_> = (0..7).map(|place| long(PLAN + 8 * place)).collect();
        assert_eq!(info[0], u64::from(MAGIC) | 1 << 32);
        assert_eq!(info[1], 1 << 32);
        assert_eq!(
            (long(info[2] as u32), long(info[2] as u32 + 8)),
            (0x20_6000, 1300)
        );
        assert!(memory[info[3] as usize..].starts_with(b"guest=hello seed=1\0"));
        assert_eq!(info[4..], [0, MAP.into(), 0]);
        assert_eq!(long(PLAN + PLAN_ENTRY) as u32, 0x20_0040);
    }

    #[test]
    fn without_an_archive_there_is_no_module() {
        let disk = make(&[0; 512], &made_up(), None, "").unwrap();
        assert_eq!(disk[512 + 12..512 + 16], [0; 4]);
        assert_eq!(disk[512 + PLAN_COMMAND_LINE as usize], 0);
    }

    #[test]
    fn a_command_line_that_does_not_fit_is_refused() {
        let make = |length| make(&[0; 512], &made_up(), None, &"x".repeat(length));
        assert!(make(2047).is_ok());
        assert!(make(2048).unwrap_err().to_string().contains("2047"));
    }

    #[test]
    fn a_wrong_boot_sector_is_refused() {
        assert!(boot_sector(b"no ELF").is_err());
        assert!(boot_sector(&made_up()).is_err());
    }
}
