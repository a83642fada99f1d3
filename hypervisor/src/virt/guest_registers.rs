//! A guest's general registers, as a world switch leaves them.

use super::Exit;
use guest_abi::Arguments;
use vcpu_policy::instruction::Register;

/// The guest's general registers by their number ([`Register::number`]). The hardware swaps some itself (RSP; RAX too under SVM): these
/// slots are filled from the control block.
///
/// A value of this type on the stack is where a world switch leaves them: stack is memory that a CPU may touch before it flushes.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct GuestRegisters([u64; 16]);

/// RAX.
pub const RAX: Register = Register::from_low_bits(0);
/// RCX.
pub const RCX: Register = Register::from_low_bits(1);
/// RDX.
pub const RDX: Register = Register::from_low_bits(2);
/// RBX.
pub const RBX: Register = Register::from_low_bits(3);
/// RSP.
pub const RSP: Register = Register::from_low_bits(4);
/// RSI.
const RSI: Register = Register::from_low_bits(6);
/// RDI.
pub const RDI: Register = Register::from_low_bits(7);
/// R8.
const R8: Register = Register::from_low_bits(8);
/// R9.
const R9: Register = Register::from_low_bits(9);
/// R10.
const R10: Register = Register::from_low_bits(10);

impl GuestRegisters {
    /// Reads a register.
    pub const fn get(&self, register: Register) -> u64 {
        self.0[register.number() as usize & 15]
    }

    /// Writes a register.
    pub const fn set(&mut self, register: Register, value: u64) {
        self.0[register.number() as usize & 15] = value;
    }

    /// The 64-bit operand of WRMSR and XSETBV.
    pub const fn edx_eax(&self) -> u64 {
        self.get(RDX) << 32 | self.get(RAX) & 0xffff_ffff
    }

    /// The call that the guest makes with these.
    pub const fn hypercall(&self) -> Exit {
        Exit::Hypercall {
            number: self.get(RAX),
            arguments: Arguments {
                rdi: self.get(RDI),
                rsi: self.get(RSI),
                rdx: self.get(RDX),
                r8: self.get(R8),
                r9: self.get(R9),
                r10: self.get(R10),
            },
        }
    }
}
