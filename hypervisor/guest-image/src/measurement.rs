//! The launch measurement: what is hashed, in which order and in which encoding. `docs/measurement.md` has the same for whoever computes it
//! without this crate.

use core::fmt;

use boot_config::Launch as Line;
use memory::address::{Gpa, PAGE_SIZE};
use sha2::{Digest as _, Sha384};

use crate::StartState;

/// What stands first, so that no other use of SHA-384 gives the same digest: 24 bytes. The number grows when anything of what follows it changes.
const DOMAIN: &[u8; 24] = b"LACUNA launch measure\0\x02\0";
/// What follows is a page.
const PAGE: u8 = 1;
/// What follows is the start state of the first vCPU.
const START: u8 = 2;
/// What follows are the flags.
const FLAGS: u8 = 3;

/// What a measured page is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageKind {
    /// It holds bytes of the program's file.
    Image = 1,
    /// The hypervisor writes it: launch information, GDT, page tables.
    LaunchArea = 2,
}

/// What the launch line decides about what the guest can do and see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags {
    /// Size of its memory in bytes.
    pub memory_bytes: u64,
    /// Most vCPUs that it may have.
    pub vcpus: u32,
    /// Most bytes that it may share with the host at a time.
    pub share_bytes: u64,
    /// Most tables that its changes of its memory may take.
    pub tables: u64,
    /// What is done for it at an access: bit 0, `auto-accept`; bit 1, `auto-convert`.
    pub automatic: u8,
}

impl Flags {
    /// Those of a launch line.
    pub const fn of(line: &Line) -> Self {
        // Every field is named here, so that a new one is decided about.
        let &Line {
            memory,
            vcpus,
            share,
            tables,
            auto_accept,
            auto_convert,
            // How many such guests there are, and when, is the host's affair, as is the CPU time it gives them; how a guest
            // is expected to end changes only the verdict.
            count: _,
            limit: _,
            expect: _,
            after: _,
        } = line;
        Self {
            memory_bytes: memory,
            vcpus,
            share_bytes: share,
            tables,
            automatic: auto_accept as u8 | (auto_convert as u8) << 1,
        }
    }
}

/// A measurement being made: pages in ascending order, then the rest.
#[derive(Clone)]
pub struct Measuring {
    hash: Sha384,
    pages: u64,
    next: Gpa,
}

impl Measuring {
    /// Nothing is measured yet.
    pub fn new() -> Self {
        Self {
            hash: Sha384::new_with_prefix(DOMAIN),
            pages: 0,
            next: Gpa::new(0),
        }
    }

    /// Adds a whole page as it is when the guest starts.
    ///
    /// # Errors
    /// [`OutOfOrder`] when it is no page's address, or not above that of the page before. Nothing was added.
    pub fn page(
        &mut self,
        kind: PageKind,
        at: Gpa,
        contents: &[u8; PAGE_SIZE as usize],
    ) -> Result<(), OutOfOrder> {
        let next = at.checked_add(PAGE_SIZE);
        let (true, Some(next)) = (at >= self.next && at.get().is_multiple_of(PAGE_SIZE), next) else {
            return Err(OutOfOrder { at });
        };
        self.hash.update([PAGE, kind as u8]);
        self.hash.update(at.get().to_le_bytes());
        self.hash.update(contents);
        self.pages += 1;
        self.next = next;
        Ok(())
    }

    /// Pages added.
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Adds the registers of the first vCPU and the flags, and ends.
    pub fn finish(mut self, start: &StartState, flags: &Flags) -> Digest {
        let &StartState {
            rip,
            rsp,
            rdi,
            cr3,
            gdt_base,
            gdt_limit,
            code_selector,
            data_selector,
        } = start;
        self.hash.update([START]);
        for word in [rip.get(), rsp.get(), rdi.get(), cr3.get(), gdt_base.get()] {
            self.hash.update(word.to_le_bytes());
        }
        for word in [gdt_limit, code_selector, data_selector] {
            self.hash.update(word.to_le_bytes());
        }
        let &Flags {
            memory_bytes,
            vcpus,
            share_bytes,
            tables,
            automatic,
        } = flags;
        self.hash.update([FLAGS]);
        self.hash.update(memory_bytes.to_le_bytes());
        self.hash.update(vcpus.to_le_bytes());
        self.hash.update(share_bytes.to_le_bytes());
        self.hash.update(tables.to_le_bytes());
        self.hash.update([automatic]);
        self.hash.update(self.pages.to_le_bytes());
        Digest(self.hash.finalize().into())
    }
}

impl Default for Measuring {
    fn default() -> Self {
        Self::new()
    }
}

/// A page that was given in the wrong order. The addresses come from us, so this is a mistake of our own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfOrder {
    /// Its address.
    pub at: Gpa,
}

impl fmt::Display for OutOfOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} was measured out of order", self.at)
    }
}

impl core::error::Error for OutOfOrder {}

/// What a launch comes to. Written in hexadecimal, first byte first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; Self::BYTES]);

impl Digest {
    /// Its length: SHA-384 (FIPS 180-4).
    pub const BYTES: usize = 48;

    /// The bytes in the order of FIPS 180-4.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
