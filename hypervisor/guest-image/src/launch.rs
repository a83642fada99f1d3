//! What the hypervisor adds to a guest's memory before the start, and the registers to start with.

use core::fmt;

use guest_abi::launch_area::{
    CODE_SELECTOR, DATA_SELECTOR, GDT, IDENTITY_MIN, IMAGE_START, LAUNCH_INFO, MEMORY_MAX, PAGE,
    PAGE_TABLES_START, STACK_END, STACK_START, START_RSP,
};
use guest_abi::{ABI_VERSION, LAUNCH_MAGIC, LaunchInfo, pattern};
use memory::address::{ENTRIES, Gpa, Gva, PAGE_SIZE};

use crate::Image;

/// Present and writable (AMD APM vol. 2, 5.4.1; Intel SDM vol. 3A, 4.5).
const TABLE: u64 = 0b11;
/// A leaf above level 1 (bit 7) that is present and writable.
const LARGE_LEAF: u64 = TABLE | 1 << 7;
const LEAF_BYTES: u64 = 2 << 20;
const GIGABYTE: u64 = 1 << 30;
const TABLES_START: Gpa = Gpa::new(PAGE_TABLES_START);

/// Null, flat 64-bit code, flat data; present, ring 0, already marked as accessed, so that the CPU writes nothing here
/// (AMD APM vol. 2, 4.8; Intel SDM vol. 3A, 3.4.5).
const DESCRIPTORS: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const _: () = assert!(CODE_SELECTOR == 8 && DATA_SELECTOR == 16);
const _: () = assert!(PAGE == PAGE_SIZE && PAGE_SIZE as usize == ENTRIES * 8);

/// The launch area of one guest. Everything that is not written stays as it is: zero, the caller's to see to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Launch {
    info: LaunchInfo,
    entry: Gva,
    gigabytes: u64,
}

/// The registers of a guest's first instruction that are not zero or in their initial state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartState {
    /// First instruction.
    pub rip: Gva,
    /// Stack pointer.
    pub rsp: Gva,
    /// Address of the launch information.
    pub rdi: Gpa,
    /// Top-level page table.
    pub cr3: Gpa,
    /// Base of GDTR.
    pub gdt_base: Gva,
    /// Limit of GDTR: the last valid byte.
    pub gdt_limit: u16,
    /// CS: flat 64-bit code.
    pub code_selector: u16,
    /// SS, DS, ES, FS, GS: flat data.
    pub data_selector: u16,
}

impl Launch {
    /// Plans the launch of `image` with the memory size that it was checked against.
    ///
    /// `instance` is the number of this guest in the run, from 1; `seed` that of the run.
    ///
    /// # Errors
    /// [`LaunchError`] when the launch area can't describe such a memory, or the instance number has no pattern.
    pub fn new(image: &Image<'_>, instance: u32, seed: u64) -> Result<Self, LaunchError> {
        let memory_bytes = image.memory_bytes();
        if memory_bytes > MEMORY_MAX {
            return Err(LaunchError::MemoryTooLarge { memory_bytes });
        }
        if memory_bytes <= IMAGE_START || !memory_bytes.is_multiple_of(PAGE_SIZE) {
            return Err(LaunchError::MemorySize { memory_bytes });
        }
        if instance == 0 || instance >= pattern::INSTANCES {
            return Err(LaunchError::Instance { instance });
        }
        let gigabytes = memory_bytes.max(IDENTITY_MIN).div_ceil(GIGABYTE);
        let info = LaunchInfo {
            magic: LAUNCH_MAGIC,
            abi_version: ABI_VERSION,
            bytes: LaunchInfo::BYTES as u32,
            memory_bytes,
            image_start: image.start().get(),
            image_end: image.end().get(),
            page_tables_start: PAGE_TABLES_START,
            page_tables_end: PAGE_TABLES_START + (2 + gigabytes) * PAGE_SIZE,
            stack_start: STACK_START,
            stack_end: STACK_END,
            instance,
            flags: 0,
            seed,
        };
        Ok(Self {
            info,
            entry: Gva::new(image.entry().get()),
            gigabytes,
        })
    }

    /// Gives every write to `write` as address and bytes, at most a page each and never across a page boundary: launch information, GDT,
    /// page tables. Uses a page of stack.
    ///
    /// # Errors
    /// The first error of `write`, which ends the sequence.
    pub fn for_each_write<E>(&self, mut write: impl FnMut(Gpa, &[u8]) -> Result<(), E>) -> Result<(), E> {
        write(Gpa::new(LAUNCH_INFO), &self.info.to_bytes())?;
        let mut page = [0; PAGE_SIZE as usize];
        write(Gpa::new(GDT), fill(&mut page, DESCRIPTORS.into_iter()))?;

        let third_level = table(1);
        write(table(0), fill(&mut page, [third_level.get() | TABLE].into_iter()))?;
        let second_levels = (0..self.gigabytes).map(|gigabyte| table(2 + gigabyte).get() | TABLE);
        write(third_level, fill(&mut page, second_levels))?;
        for gigabyte in 0..self.gigabytes {
            let leaf = |index: u64| (gigabyte * GIGABYTE + index * LEAF_BYTES) | LARGE_LEAF;
            write(
                table(2 + gigabyte),
                fill(&mut page, (0..ENTRIES as u64).map(leaf)),
            )?;
        }
        Ok(())
    }

    /// Addresses of the pages that [`for_each_write`](Self::for_each_write) writes to, ascending.
    pub fn pages(&self) -> impl Iterator<Item = Gpa> + use<> {
        let tables = 0..2 + self.gigabytes;
        [Gpa::new(LAUNCH_INFO), Gpa::new(GDT)]
            .into_iter()
            .chain(tables.map(table))
    }

    /// The registers to start with.
    pub const fn start_state(&self) -> StartState {
        StartState {
            rip: self.entry,
            rsp: Gva::new(START_RSP),
            rdi: Gpa::new(LAUNCH_INFO),
            cr3: TABLES_START,
            gdt_base: Gva::new(GDT),
            gdt_limit: (DESCRIPTORS.len() * 8 - 1) as u16,
            code_selector: CODE_SELECTOR,
            data_selector: DATA_SELECTOR,
        }
    }

    /// What the guest will be told.
    pub const fn info(&self) -> &LaunchInfo {
        &self.info
    }
}

/// Address of the page table with this number. `number` is at most 127 ([`MEMORY_MAX`]).
const fn table(number: u64) -> Gpa {
    Gpa::new(TABLES_START.get() + number * PAGE_SIZE)
}

/// The start of `page` filled with these words, as many as fit.
fn fill(page: &mut [u8; PAGE_SIZE as usize], words: impl Iterator<Item = u64>) -> &[u8] {
    let mut length = 0;
    for (slot, word) in page.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *slot = word.to_le_bytes();
        length += 8;
    }
    page.get(..length).unwrap_or_default()
}

/// Why a guest can't be launched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaunchError {
    /// The page tables for this much memory do not fit into the launch area.
    MemoryTooLarge {
        /// The memory asked for.
        memory_bytes: u64,
    },
    /// No room above the launch area, or not a number of pages.
    MemorySize {
        /// The memory asked for.
        memory_bytes: u64,
    },
    /// An instance number that has no pattern: zero or too large.
    Instance {
        /// The number.
        instance: u32,
    },
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MemoryTooLarge { memory_bytes } => write!(
                f,
                "a guest of {} MiB is too large: its first page tables have room for {} GiB; give it less memory",
                memory_bytes >> 20,
                MEMORY_MAX >> 30
            ),
            Self::MemorySize { memory_bytes } => write!(
                f,
                "guest memory of {memory_bytes} bytes; give it a multiple of {PAGE_SIZE} above {IMAGE_START}"
            ),
            Self::Instance { instance } => {
                write!(
                    f,
                    "guest number {instance} is not from 1 to {}; launch fewer",
                    pattern::INSTANCES - 1
                )
            }
        }
    }
}

impl core::error::Error for LaunchError {}

#[cfg(test)]
mod tests;
