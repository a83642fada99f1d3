//! The machine's RAM, taken out of a Bochs that stands still.
//!
//! Bochs has no RAM file, and its debugger writes only what the CPU's own tables show (`writemem`), which is not what hides from them. So the
//! bytes are read from its process (`/proc/PID/mem`), which Linux allows for a child of one's own. Where they are there, Bochs says itself: it
//! takes RAM in blocks of 128 KiB, in the order of first use, from one piece of memory whose address is in its log, and the debugger shows
//! which block is where (`show "memory.mapping"`; Bochs 2.7, `memory/misc_mem.cc`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::process::Process;

/// The debugger's command for the blocks.
pub const ASK_BLOCKS: &str = "show \"memory.mapping\"";
/// Bytes of a block (`memory/memory-bochs.h`, `BX_MEM_BLOCK_LEN`).
const BLOCK: u64 = 128 << 10;
/// Up to here RAM is in one piece. Then comes the hole for devices.
const MOST: u64 = 3 << 30;

/// Writes the RAM of the Bochs with this process number to a file: each byte at its physical address. `log` is Bochs' log, `blocks` the answer to
/// [`ASK_BLOCKS`].
///
/// # Errors
/// Bochs does not say where its memory is, or it can't be read.
pub fn save(id: u32, log: &str, blocks: &str, bytes: u64, path: &Path) -> Result<()> {
    ensure!(
        bytes <= MOST,
        "a look at more than 3 GiB of Bochs' RAM is not possible: it is not in one piece"
    );
    let start = start(log).context("Bochs' log does not say where its memory is (`vector=`)")?;
    let blocks = parse(blocks, bytes / BLOCK)?;
    let memory = open(id).context("open the memory of Bochs' process")?;
    let file = File::create(path).with_context(|| format!("make the file {}", path.display()))?;
    file.set_len(bytes).context("make a file as large as the RAM")?;
    let mut buffer = vec![0; BLOCK as usize];
    for (number, place) in (0..).zip(blocks) {
        // Never used: zeros, as the file has there.
        let Some(place) = place else { continue };
        memory
            .read_exact_at(&mut buffer, start + place * BLOCK)
            .context("read the memory of Bochs' process")?;
        file.write_all_at(&buffer, number * BLOCK)
            .context("write the RAM to a file")?;
    }
    Ok(())
}

fn open(id: u32) -> std::io::Result<File> {
    File::open(format!("/proc/{id}/mem"))
}

/// Why a child's memory can't be read here, tried with a child; `None` when it can.
pub fn obstacle() -> Option<String> {
    let mut command = Command::new("sleep");
    let tried = Process::start(command.arg("60").stdin(Stdio::null()))
        .and_then(|mut child| Ok(open(child.child().id()).map(drop)?));
    let error = tried.err()?;
    Some(format!(
        "the memory of Bochs' process can't be read: {error:#} (`sudo sysctl kernel.yama.ptrace_scope=1` allows it for one's own children)"
    ))
}

/// Where the memory begins: `allocated memory at 0x1010. after alignment, vector=0x2000`. The last such line counts.
fn start(log: &str) -> Option<u64> {
    let (_, rest) = log.rsplit_once("vector=0x")?;
    let digits = rest.split(|letter: char| !letter.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

/// Which place each of `count` blocks has: lines such as `blk7 = 3`, with -1 for one never used and -2 for one that is in a file.
fn parse(text: &str, count: u64) -> Result<Vec<Option<u64>>> {
    let mut blocks = Vec::new();
    for line in text.lines() {
        let Some((name, value)) = line.trim().split_once(" = ") else {
            continue;
        };
        let Some(number) = name.strip_prefix("blk") else {
            continue;
        };
        let in_order = number.parse() == Ok(blocks.len());
        ensure!(in_order, "Bochs' blocks of memory are out of order at `{line}`");
        blocks.push(match value {
            "-1" => None,
            "-2" => bail!("Bochs has put a part of its RAM into a file: give it less RAM"),
            value => Some(value.parse().with_context(|| format!("read `{line}`"))?),
        });
    }
    let found = blocks.len() as u64;
    ensure!(
        found == count,
        "Bochs names {found} blocks of memory, but there are {count}"
    );
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bochs_says_of_its_memory() {
        let log = "0i[MEM0  ] allocated memory at 0x10. after alignment, vector=0x1000\n\
                   0i[MEM0  ] allocated memory at 0x7fddf49fa010. after alignment, vector=0x7fddf49fb000\n0i[MEM0  ] 64MB";
        assert_eq!(start(log), Some(0x7fdd_f49f_b000));
        assert_eq!(start("0i[MEM0  ] 64MB"), None);
        let text = "show param name: <memory.mapping>\nmapping = {\n  blk0 = 0\n  blk1 = 2\n  blk2 = -1\n}\n";
        assert_eq!(parse(text, 3).unwrap(), [Some(0), Some(2), None]);
        assert!(parse(text, 4).unwrap_err().to_string().contains("names 3 blocks"));
        assert!(parse("blk0 = 0\nblk2 = 1\n", 2).is_err());
        assert!(parse("blk0 = x\n", 1).is_err());
        let error = parse("blk0 = -2\n", 1).unwrap_err().to_string();
        assert!(error.contains("less RAM"), "{error}");
    }

    /// Our own process stands for Bochs.
    #[test]
    fn blocks_come_to_their_addresses() {
        let memory: Vec<u8> = (0..2 * BLOCK).map(|at| (at / BLOCK) as u8 + 1).collect();
        let log = format!("vector={:p}\n", memory.as_ptr());
        let file = tempfile::NamedTempFile::new().unwrap();
        let save = |blocks: &str, bytes| save(std::process::id(), &log, blocks, bytes, file.path());
        save("blk0 = 1\nblk1 = -1\nblk2 = 0\n", 3 * BLOCK).unwrap();
        let ram = std::fs::read(file.path()).unwrap();
        let values: Vec<u8> = ram.chunks(BLOCK as usize).map(|block| block[77]).collect();
        assert_eq!((ram.len() as u64, values), (3 * BLOCK, vec![2, 0, 1]));
        assert!(save("", 4 << 30).unwrap_err().to_string().contains("3 GiB"));
        drop(memory);
        assert!(
            super::save(
                std::process::id(),
                "vector=0x0\n",
                "blk0 = 0\n",
                BLOCK,
                file.path()
            )
            .is_err()
        );
    }
}
