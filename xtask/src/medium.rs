//! What a machine starts from when the emulator does not load the image itself: a raw disk or a GRUB disc, made for each run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::build::BOOT_SECTOR;
use crate::folder::Folder;
use crate::machine::{Kind, Machine};
use crate::{disk_image, iso};

/// Firmware for [`Boot::Uefi`], from the package `ovmf`: code and variables in one file.
pub const UEFI: &str = "/usr/share/ovmf/OVMF.fd";

/// How the hypervisor is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Boot {
    /// By the emulator itself; on Bochs, which can't, from a raw disk.
    Direct,
    /// From a raw disk with a boot sector of its own.
    Disk,
    /// From a GRUB disc, by the BIOS.
    Iso,
    /// From the same GRUB disc, by UEFI (QEMU only).
    Uefi,
}

/// A file to boot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A raw disk.
    Disk,
    /// A GRUB disc.
    Disc,
}

impl Medium {
    /// What a machine of this kind starts from; `None` when the emulator loads the image.
    pub fn of(kind: Kind, boot: Boot) -> Option<Self> {
        match boot {
            Boot::Direct if kind != Kind::Bochs => None,
            Boot::Direct | Boot::Disk => Some(Self::Disk),
            Boot::Iso | Boot::Uefi => Some(Self::Disc),
        }
    }

    /// Its file's name in a run's folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Disk => "disk.img",
            Self::Disc => "lacuna.iso",
        }
    }

    /// Makes it at `to`. `image` is the hypervisor's file, with the boot sector's beside it.
    ///
    /// # Errors
    /// See [`disk_image::make`] and [`iso::make`].
    pub fn make(self, image: &Path, archive: Option<&Path>, line: &str, to: &Path) -> Result<()> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
        let bytes = read(image)?;
        match self {
            Self::Disk => {
                let sector = disk_image::boot_sector(&read(&image.with_file_name(BOOT_SECTOR))?)?;
                let archive = archive.map(read).transpose()?;
                let disk = disk_image::make(&sector, &bytes, archive.as_deref(), line)?;
                fs::write(to, disk).with_context(|| format!("write {}", to.display()))
            }
            Self::Disc => iso::make(&bytes, archive, line, to, &to.with_extension("contents")),
        }
    }
}

/// Makes what `machine` starts from, in the run's folder.
///
/// # Errors
/// See [`Medium::make`].
pub fn prepare(machine: &Machine, folder: &Folder) -> Result<()> {
    let Some(medium) = Medium::of(machine.kind, machine.boot) else {
        return Ok(());
    };
    medium.make(
        &machine.image,
        machine.archive.as_deref(),
        &machine.command_line,
        &folder.file(medium.file_name()),
    )
}
