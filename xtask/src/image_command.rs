//! `cargo xtask image`: a file to boot from.

use crate::build::{self, Flavor};
use crate::folder::Folder;
use crate::medium::Medium;
use crate::{Failure, archive, cli, emulator, guests, setup, workspace};

/// Builds everything and makes the file.
///
/// # Errors
/// Set-up or build failed, or the flags do not fit.
pub fn image(flags: &cli::Image) -> Result<(), Failure> {
    let medium = if flags.disk { Medium::Disk } else { Medium::Disc };
    setup::target()?;
    if medium == Medium::Disc {
        setup::discs()?;
    }
    let built = build::build(Flavor::Plain)?;
    let guests = guests::choose(&built.guests, &flags.guests, &flags.own).map_err(Failure::Usage)?;
    let line =
        guests::command_line(&guests, guests::random_seed(), &flags.cmdline).map_err(Failure::Usage)?;
    let folder = Folder::create(&workspace::root())?;
    let tar = folder.file(emulator::file::ARCHIVE);
    archive::write(&tar, &guests)?;
    let extension = if flags.disk { "img" } else { "iso" };
    let default = built.hypervisor.with_extension(extension);
    let to = flags.output.as_ref().unwrap_or(&default);
    medium.make(&built.hypervisor, Some(&tar), &line, to)?;
    println!("{}", to.display());
    println!("command line: {line}");
    Ok(())
}
