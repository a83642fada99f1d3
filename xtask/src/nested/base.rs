//! The part of level 1 that all runs share: its kernel, and one archive with everything but the run's own files. Made once and kept below
//! the folder of what cargo builds; made again when another QEMU is installed or this program wants other files.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result};

use super::contents::{self, Kernel};
use super::cpio::Archive;
use super::packages::{self, Package};
use crate::workspace;

/// Changes when the kinds of files that are packed change, so that what an older version has kept is not used.
const FORMAT: u32 = 1;
/// The distribution's kernel for virtual machines: KVM's modules, few drivers.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// How the name of the package begins that holds it.
const KERNEL_PACKAGE: &str = "linux-image-";
/// The shell and all programs of level 1, in one file.
const BUSYBOX_PACKAGE: &str = "busybox-static";
/// Level 1's first program.
const INIT: &str = include_str!("init.sh");
/// What it makes of KVM's trace points.
const COUNT: &str = include_str!("count.awk");

/// What all runs share.
pub struct Base {
    /// The kernel.
    pub kernel: PathBuf,
    /// The archive.
    pub files: PathBuf,
    /// What it is made of, in one line.
    pub about: String,
}

/// Makes the base with this module of KVM's, unless it is there.
///
/// # Errors
/// The packages can't be had, a tool is missing, or the folder can't be written to.
pub fn ensure(module: &str) -> Result<Base> {
    let folder = workspace::target_folder()?.join("level-1");
    let place = folder.join(module);
    let base = |about: String| Base {
        kernel: place.join("kernel"),
        files: place.join("files.cpio"),
        about,
    };
    let stamp = place.join("made-of");
    let own = own_part();
    let qemu = contents::qemu_version()?;
    if let Ok(text) = fs::read_to_string(&stamp)
        && let [format, of, about] = text.lines().collect::<Vec<_>>()[..]
        && format == own
        && of == qemu
    {
        return Ok(base(about.to_owned()));
    }

    fs::create_dir_all(&place).with_context(|| format!("make the folder {}", place.display()))?;
    let cache = folder.join("packages");
    let name = packages::dependency(META_PACKAGE, KERNEL_PACKAGE)?;
    let (linux, busybox) = (
        Package::fetch(&name, &cache)?,
        Package::fetch(BUSYBOX_PACKAGE, &cache)?,
    );
    let about = format!(
        "level 1: {} {}, {} {}, {}",
        linux.name, linux.version, busybox.name, busybox.version, qemu
    );
    let kernel = Kernel::read(&linux)?;
    let archive = pack(&kernel, &busybox, module, &about, &place)?;
    let made = base(about);
    // Another run may have the old file open, or make the same one: each is complete when it appears.
    let write = |path: &Path, bytes: &[u8]| {
        let part = path.with_extension(format!("part-{}", process::id()));
        fs::write(&part, bytes)
            .and_then(|()| fs::rename(&part, path))
            .with_context(|| format!("write {}", path.display()))
    };
    write(&made.kernel, &kernel.image)?;
    write(&made.files, &archive)?;
    // Last: what was cut short has no stamp.
    write(&stamp, format!("{own}\n{qemu}\n{}\n", made.about).as_bytes())?;
    Ok(made)
}

/// What tells this program's part of the archive from an older one's.
fn own_part() -> String {
    let mut hasher = DefaultHasher::new();
    (INIT, COUNT).hash(&mut hasher);
    format!("level 1, format {FORMAT}, {:x}", hasher.finish())
}

/// The archive's bytes.
fn pack(kernel: &Kernel, busybox: &Package, module: &str, about: &str, scratch: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["/dev", "/proc", "/sys", "/run", "/tmp", "/etc"] {
        archive.folder(Path::new(folder))?;
    }
    archive.file(Path::new("/init"), INIT.as_bytes(), true)?;
    archive.file(
        Path::new("/level-1/about"),
        format!("{about}\n").as_bytes(),
        false,
    )?;
    archive.file(Path::new("/level-1/count.awk"), COUNT.as_bytes(), false)?;
    let mut found = false;
    busybox.each(|path, contents| {
        if path.ends_with("bin/busybox") {
            let mut bytes = Vec::new();
            contents.read_to_end(&mut bytes).context("read busybox")?;
            archive.file(Path::new("/bin/busybox"), &bytes, true)?;
            found = true;
        }
        Ok(())
    })?;
    anyhow::ensure!(found, "the package {} has no busybox", busybox.name);
    let modules = kernel.with_dependencies(module)?;
    let mut order = String::new();
    for (name, bytes) in modules {
        let bytes = contents::stripped(&bytes, &scratch.join(format!("module-{}", process::id())))?;
        let at = format!("/level-1/{name}.ko");
        archive.file(Path::new(&at), &bytes, false)?;
        order.push_str(&format!("{at}\n"));
    }
    archive.file(Path::new("/level-1/modules"), order.as_bytes(), false)?;
    for file in contents::qemu_files()? {
        let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        archive.file(&file, &bytes, true)?;
    }
    archive.finish()
}
