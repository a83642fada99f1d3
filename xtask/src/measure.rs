//! `cargo xtask measure`: what a launch will be measured as, computed from the file alone (docs/measurement.md).
//!
//! The hypervisor reads guest memory back, page by page. Here the pages are laid out from the file's program headers, which another
//! library reads; only the encoding and the contents of the launch area are the same code.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, anyhow, bail};
use boot_config::{Config, Launch};
use guest_image::{Digest, Flags, Image, Launch as Area, Measuring, PageKind};
use memory::address::{Gpa, PAGE_SIZE};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::archive::Guest;
use crate::report::Report;
use crate::{Failure, cli, guests};

type Page = [u8; PAGE_SIZE as usize];

/// Prints the digest.
///
/// # Errors
/// The file is no guest, or the flags do not fit it.
pub fn measure(flags: &cli::Measure) -> Result<(), Failure> {
    let guest = guests::own_guest(&flags.guest).map_err(Failure::Usage)?;
    let file = fs::read(&guest.path).with_context(|| format!("read the guest {}", guest.path.display()))?;
    let digest = expected(&file, &guest.launch, flags.instance, flags.seed)?;
    println!("{digest}");
    Ok(())
}

/// What the launch of this file comes to.
///
/// # Errors
/// The hypervisor would refuse it.
pub fn expected(file: &[u8], launch: &Launch, instance: u32, seed: u64) -> Result<Digest> {
    let image = Image::parse(file, launch.memory).map_err(|error| anyhow!("{error}"))?;
    let area = Area::new(&image, instance, seed).map_err(|error| anyhow!("{error}"))?;
    let mut pages = BTreeMap::new();
    area.for_each_write(|at, bytes| put(&mut pages, PageKind::LaunchArea, at.get(), bytes))?;
    let header = FileHeader64::<LittleEndian>::parse(file)?;
    for segment in header.program_headers(LittleEndian, file)? {
        if segment.p_type(LittleEndian) == PT_LOAD {
            let bytes = segment
                .data(LittleEndian, file)
                .map_err(|()| anyhow!("a segment lies outside of the file"))?;
            put(&mut pages, PageKind::Image, segment.p_paddr(LittleEndian), bytes)?;
        }
    }
    let mut measuring = Measuring::new();
    for (at, (kind, page)) in &pages {
        measuring.page(*kind, Gpa::new(*at), page)?;
    }
    Ok(measuring.finish(&area.start_state(), &Flags::of(launch)))
}

/// Lays bytes into pages; a new page is zero.
fn put(
    pages: &mut BTreeMap<u64, (PageKind, Page)>,
    kind: PageKind,
    mut at: u64,
    mut bytes: &[u8],
) -> Result<()> {
    while !bytes.is_empty() {
        let offset = (at % PAGE_SIZE) as usize;
        let (piece, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE as usize - offset));
        let (known, page) = pages
            .entry(at - at % PAGE_SIZE)
            .or_insert((kind, [0; PAGE_SIZE as usize]));
        if *known != kind {
            bail!("image and launch area overlap at {at:#x}");
        }
        page.get_mut(offset..offset + piece.len())
            .context("a piece beyond its page")?
            .copy_from_slice(piece);
        at += piece.len() as u64;
        bytes = rest;
    }
    Ok(())
}

/// Checks that every guest of a run was measured as its file says. Of several launch lines for one file, one must fit.
///
/// # Errors
/// Which guest was not, as text.
pub fn agrees(report: &Report, bundled: &[Guest]) -> Result<(), String> {
    let start = report.start().ok_or("no start")?;
    let config = Config::parse(&start.command_line).map_err(|error| error.to_string())?;
    let mut files = BTreeMap::new();
    for guest in report.guests().filter(|guest| guest.vcpus > 0) {
        let path = bundled.iter().find(|file| file.name == guest.name);
        let path = &path.ok_or_else(|| format!("no file `{}`", guest.name))?.path;
        if !files.contains_key(path) {
            files.insert(path, fs::read(path).map_err(|error| error.to_string())?);
        }
        let file = files.get(path).map(Vec::as_slice).unwrap_or_default();
        let lines = config.guests.iter().filter(|line| line.name == guest.name);
        let lines: Vec<Launch> = lines.map(|line| line.launch).collect();
        let lines = if lines.is_empty() {
            vec![Launch::default()]
        } else {
            lines
        };
        let digests: Vec<String> = lines
            .iter()
            .filter_map(|launch| expected(file, launch, guest.instance, start.seed).ok())
            .map(|digest| digest.to_string())
            .collect();
        if !digests.contains(&guest.measurement) {
            return Err(format!(
                "{}#{} was measured as `{}`, its file says {digests:?}",
                guest.name, guest.instance, guest.measurement
            ));
        }
    }
    Ok(())
}

/// Reads a seed as the hypervisor's command line does.
///
/// # Errors
/// What the command line says about it.
pub fn parse_seed(text: &str) -> Result<u64, String> {
    Config::parse(&format!("seed={text}"))
        .map(|config| config.seed)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use guest_image::OutOfOrder;

    use super::*;

    #[test]
    fn a_page_filled_in_pieces_is_one_page() {
        let mut pages = BTreeMap::new();
        put(&mut pages, PageKind::Image, 0x1ff0, &[7; 32]).unwrap();
        put(&mut pages, PageKind::Image, 0x2800, &[8; 1]).unwrap();
        let laid: Vec<_> = pages
            .iter()
            .map(|(at, (_, page))| (*at, page[0], page[4095], page[0x800]))
            .collect();
        assert_eq!(laid, [(0x1000, 0, 7, 0), (0x2000, 7, 0, 8)]);
        assert!(put(&mut pages, PageKind::LaunchArea, 0x1000, &[1]).is_err());
        let mut measuring = Measuring::new();
        let (_, page) = pages[&0x1000];
        measuring.page(PageKind::Image, Gpa::new(0x1000), &page).unwrap();
        let again = measuring.page(PageKind::Image, Gpa::new(0x1000), &page);
        assert_eq!(again, Err(OutOfOrder { at: Gpa::new(0x1000) }));
    }

    #[test]
    fn a_seed_is_decimal_or_hexadecimal() {
        assert_eq!(parse_seed("0xff"), Ok(255));
        assert!(parse_seed("x").is_err());
    }
}
