//! Further vCPUs of the guest.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::launch_area::PAGE;
use guest_abi::{Hypercall, HypercallError, VcpuStart};

use crate::{hypercall, memory};

/// Bytes of a further vCPU's stack.
const STACK_BYTES: u64 = 16 * PAGE;

/// Stacks given out so far.
static STACKS: AtomicU64 = AtomicU64::new(0);

/// Starts a further vCPU in `run`, with a stack at the end of the guest's free memory; the guest must not use that for something else.
///
/// # Errors
/// Why the hypervisor does not start it.
///
/// # Panics
/// When there is no free memory for the stack.
pub fn start(run: extern "C" fn(u64) -> !, argument: u64) -> Result<(), HypercallError> {
    let number = STACKS.fetch_add(1, Ordering::Relaxed);
    let last = memory::free().last();
    let Some(end) = last
        .filter(|free| free.bytes() >= (number + 1) * STACK_BYTES)
        .map(|free| free.start() + free.bytes() - number * STACK_BYTES)
    else {
        panic!("no free memory for the stack of a further vCPU");
    };
    let call = Hypercall::StartVcpu(VcpuStart {
        rip: run as *const () as u64,
        // As after a call (System V ABI, 3.2.2).
        rsp: end - 8,
        argument,
    });
    match hypercall::call(&call) {
        0 => Ok(()),
        code => Err(HypercallError::from_code(code).unwrap_or(HypercallError::UnknownNumber)),
    }
}
