//! Writes to the debug registers (AMD APM vol. 2, 13.1.1; Intel SDM vol. 3B, 17.2).
//!
//! All of them are intercepted. On a real CPU that would not be needed, since VMRUN loads DR6 and DR7 and breaks on what they say. But
//! QEMU's emulation (7.2, measured) keeps the breakpoints that a guest has set through MOV on its own list across exits, where they hit
//! other guests and the host, and it aborts when a frame of an exception is pushed onto one. A breakpoint that comes by VMRUN only
//! is never on that list: there it does nothing, on a real CPU it works.

use crate::Fault;

/// CR4.DE: DR4 and DR5 are not names of DR6 and DR7.
const CR4_DE: u64 = 1 << 3;

/// DR6 with nothing reported: the bits that read as one.
pub const DR6_INIT: u64 = 0xffff_0ff0;
/// DR6.BD: a debug register was accessed while DR7.GD was set.
pub const DR6_ACCESS_DETECTED: u64 = 1 << 13;
/// DR6.BS: a single step.
pub const DR6_SINGLE_STEP: u64 = 1 << 14;
/// The bits of DR6 that software may change: the four breakpoints, BD, BS, BT.
const DR6_WRITABLE: u64 = 0xe00f;

/// DR7 with no breakpoint: bit 10 reads as one.
pub const DR7_INIT: u64 = 0x400;
/// DR7.GD: the next access to a debug register is a #DB, whose delivery clears the bit.
pub const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// The bits of DR7 that software may change: enables, LE, GE, GD, and kind and length of each breakpoint.
const DR7_WRITABLE: u64 = 0xffff_23ff;

/// A permitted write, with the value that the register will hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// DR0 to DR3.
    Address {
        /// 0 to 3.
        index: u8,
        /// The linear address.
        value: u64,
    },
    /// DR6.
    Status(u64),
    /// DR7.
    Control(u64),
}

/// The effect of MOV to debug register `number`, in a guest with this CR4 at privilege level 0.
///
/// # Errors
/// The fault that the guest gets.
pub const fn write(number: u8, value: u64, cr4: u64) -> Result<Write, Fault> {
    let number = match number {
        4 | 5 if cr4 & CR4_DE != 0 => return Err(Fault::InvalidOpcode),
        4 | 5 => number + 2,
        _ => number,
    };
    match number {
        0..=3 => Ok(Write::Address { index: number, value }),
        6 | 7 if value >> 32 != 0 => Err(Fault::GeneralProtection),
        6 => Ok(Write::Status((value & DR6_WRITABLE) | DR6_INIT)),
        7 => Ok(Write::Control((value & DR7_WRITABLE) | DR7_INIT)),
        // DR8 to DR15 do not exist.
        _ => Err(Fault::InvalidOpcode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn aliases_depend_on_cr4() {
        assert_eq!(write(4, 0, 0), Ok(Write::Status(DR6_INIT)));
        assert_eq!(write(5, 0, 0), Ok(Write::Control(DR7_INIT)));
        assert_eq!(write(4, 0, CR4_DE), Err(Fault::InvalidOpcode));
        assert_eq!(write(8, 0, 0), Err(Fault::InvalidOpcode));
    }

    #[test]
    fn wide_values_fault() {
        assert_eq!(write(7, 1 << 32, 0), Err(Fault::GeneralProtection));
        assert_eq!(write(6, 1 << 63, 0), Err(Fault::GeneralProtection));
        assert_eq!(
            write(2, u64::MAX, 0),
            Ok(Write::Address {
                index: 2,
                value: u64::MAX
            })
        );
    }

    proptest! {
        /// VMRUN refuses DR6 and DR7 with upper bits (APM vol. 2, 15.5.1): no write leaves any, and the fixed bits are as the CPU has them.
        #[test]
        fn what_is_written_can_be_run(number in 0u8..16, value: u64, cr4: u64) {
            match write(number, value, cr4) {
                Ok(Write::Status(dr6)) => prop_assert_eq!((dr6 >> 32, dr6 & 0x1000, dr6 & DR6_INIT), (0, 0, DR6_INIT)),
                Ok(Write::Control(dr7)) => prop_assert_eq!((dr7 >> 32, dr7 & 0xd800, dr7 & DR7_INIT), (0, 0, DR7_INIT)),
                Ok(Write::Address { index, value: kept }) => prop_assert_eq!((index, kept), (number, value)),
                Err(_) => (),
            }
        }
    }
}
