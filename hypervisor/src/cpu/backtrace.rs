//! Who called: a walk along the frame pointers that believes nothing.
//!
//! Every function starts with `push rbp; mov rbp, rsp` (the target is built with frame pointers), so at RBP stand the caller's RBP and the
//! return address. A pointer is followed only inside a known stack and only upwards; a return address counts only inside the code.

use core::arch::asm;
use core::fmt;

use memory::address::Hva;

use super::descriptor::CpuTables;
use super::stack::Stack;
use crate::boot::image;

/// Return addresses in one backtrace, at most.
const DEPTH: usize = 32;

/// A walk to be printed: a space and a hexadecimal address for each return address.
#[derive(Clone, Copy, Debug)]
pub struct Backtrace {
    rip: Option<Hva>,
    rbp: Hva,
}

/// The callers of the caller.
#[inline(always)]
pub fn from_here() -> Backtrace {
    let rbp: u64;
    // SAFETY: reading RBP has no effect.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    Backtrace {
        rip: None,
        rbp: Hva::new(rbp),
    }
}

/// The callers of interrupted code, itself first.
pub fn from_interrupted(rip: Hva, rbp: Hva) -> Backtrace {
    Backtrace { rip: Some(rip), rbp }
}

/// The known stack with a whole stack frame at `rbp`.
fn stack_of(rbp: Hva) -> Option<Stack> {
    let boot = image::boot_stack();
    if boot.contains(rbp, 16) {
        return Some(boot);
    }
    CpuTables::current()?.stack_of(rbp, 16)
}

/// The caller's RBP and the return address that stand at `rbp`.
fn read_frame(rbp: Hva) -> Option<(Hva, Hva)> {
    if !rbp.is_aligned(8) {
        return None;
    }
    stack_of(rbp)?;
    let words = core::ptr::with_exposed_provenance::<[u64; 2]>(rbp.get() as usize);
    // SAFETY: the sixteen bytes are aligned and lie in a known stack, which is always mapped; a volatile read asks nothing of who writes
    // there.
    let [caller, address] = unsafe { words.read_volatile() };
    Some((Hva::new(caller), Hva::new(address)))
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rip) = self.rip {
            write!(f, " {rip}")?;
        }
        let mut rbp = self.rbp;
        for _ in 0..DEPTH {
            let Some((caller, address)) = read_frame(rbp) else {
                break;
            };
            if !image::is_code(address) {
                break;
            }
            write!(f, " {address}")?;
            // Stacks grow downwards, so callers are above.
            if caller <= rbp {
                break;
            }
            rbp = caller;
        }
        Ok(())
    }
}
