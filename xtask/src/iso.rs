//! A GRUB disc that starts the hypervisor by multiboot2, on a BIOS and under UEFI; or anything else that GRUB can start.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::image_file;
use crate::process::Process;
use crate::setup::MKRESCUE;

/// GRUB's modules on the disc. All of them are 15 MB, which nothing needs; `grub-mkrescue` makes GRUB look for every kind of
/// partition table, though.
const MODULES: &str = "normal multiboot2 linux iso9660 part_acorn part_amiga part_apple part_bsd part_dfly part_dvh part_gpt \
                       part_msdos part_plan part_sun part_sunpc";
/// Making a disc takes a second or less.
const LIMIT: Duration = Duration::from_secs(60);

/// Makes the disc at `to`; `scratch` is a folder for its contents, which is removed.
///
/// # Errors
/// The image is not one, GRUB can't be given the command line, or `grub-mkrescue` fails (the text has what it says).
pub fn make(
    image: &[u8],
    archive: Option<&Path>,
    command_line: &str,
    to: &Path,
    scratch: &Path,
) -> Result<()> {
    let configuration = configuration(command_line, archive.is_some())?;
    fs::create_dir_all(scratch).with_context(|| format!("make the folder {}", scratch.display()))?;
    let file = scratch.join("image");
    fs::write(&file, image_file::without_sections(image)?).context("write the disc's image")?;
    let mut files = vec![("lacuna", file.as_path())];
    files.extend(archive.map(|archive| ("guests.tar", archive)));
    disc(&files, &configuration, to, scratch)
}

/// Makes a disc at `to` that does what `configuration` says, with these files in `/boot`; `scratch` is a folder that is removed.
///
/// # Errors
/// A file can't be read, or `grub-mkrescue` fails (the text has what it says).
pub fn disc(files: &[(&str, &Path)], configuration: &str, to: &Path, scratch: &Path) -> Result<()> {
    let grub = scratch.join("grub");
    fs::create_dir_all(&grub).with_context(|| format!("make the folder {}", grub.display()))?;
    fs::write(grub.join("grub.cfg"), configuration).context("write GRUB's configuration")?;

    let log = scratch.join("messages");
    let messages = fs::File::create(&log).context("make a file for GRUB's messages")?;
    let mut command = Command::new(MKRESCUE);
    command
        .arg("-o")
        .arg(to)
        .args([
            "--install-modules",
            MODULES,
            "--fonts=",
            "--locales=",
            "--themes=",
        ])
        .arg(format!("/boot/grub={}", grub.display()));
    command.args(
        files
            .iter()
            .map(|(name, path)| format!("/boot/{name}={}", path.display())),
    );
    command
        .stdin(Stdio::null())
        .stdout(messages.try_clone().context("share a file")?)
        .stderr(messages);
    let status = Process::start(&mut command)?.wait(LIMIT)?;
    let messages = fs::read_to_string(&log).unwrap_or_default();
    fs::remove_dir_all(scratch).with_context(|| format!("remove {}", scratch.display()))?;
    if !status.success() || !to.is_file() {
        bail!("{MKRESCUE} failed:\n{}", messages.trim());
    }
    Ok(())
}

/// GRUB's configuration: no menu, one entry.
fn configuration(command_line: &str, archive: bool) -> Result<String> {
    let mut words = String::new();
    for word in command_line.split_whitespace() {
        // GRUB takes what is in single quotes as it is, but escapes these three when it hands the line on.
        if word.contains(['\'', '"', '\\']) {
            bail!("GRUB can't hand over `{word}`: leave out quotes and backslashes");
        }
        words.push_str(&format!(" '{word}'"));
    }
    let module = if archive {
        "module2 /boot/guests.tar guests.tar\n"
    } else {
        ""
    };
    Ok(format!("multiboot2 /boot/lacuna{words}\n{module}boot\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted() {
        assert_eq!(
            configuration("guest=a,memory=4M  seed=1;$x", true).unwrap(),
            "multiboot2 /boot/lacuna 'guest=a,memory=4M' 'seed=1;$x'\nmodule2 /boot/guests.tar guests.tar\nboot\n"
        );
        assert_eq!(
            configuration("", false).unwrap(),
            "multiboot2 /boot/lacuna\nboot\n"
        );
        assert!(configuration("it's", true).is_err());
    }
}
