//! An event as its register wants it.

/// Who made the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
}

/// What is counted: event, unit mask, counter mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Select {
    /// The event; on AMD up to 12 bits.
    pub event: u16,
    /// Which of its kinds.
    pub umask: u8,
    /// Count cycles in which at least so many happen; 0 counts what happens.
    pub cmask: u8,
}

/// Count in ring 0 (Intel SDM vol. 3B 20.2.1.1; AMD APM vol. 2 13.2.1).
const OS: u64 = 1 << 17;
/// Count at all.
const ENABLE: u64 = 1 << 22;
/// AMD: only while not in a guest; needs EFER.SVME (APM vol. 2 13.2.1).
pub const HOST_ONLY: u64 = 1 << 41;

/// Whether an event register's value lets its counter count.
pub(crate) const fn is_on(value: u64) -> bool {
    value & ENABLE != 0
}

impl Select {
    /// Event and unit mask.
    pub const fn new(event: u16, umask: u8) -> Self {
        Self {
            event,
            umask,
            cmask: 0,
        }
    }

    /// The register's value, for ring 0 only.
    pub const fn ring_0(self, vendor: Vendor) -> u64 {
        let low = self.event as u64 & 0xff;
        let high = match vendor {
            Vendor::Intel => 0,
            // Bits 11:8 of the event stand in bits 35:32.
            Vendor::Amd => (self.event as u64 >> 8 & 0xf) << 32,
        };
        low | high | (self.umask as u64) << 8 | (self.cmask as u64) << 24 | OS | ENABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_those_of_the_manuals() {
        // Walks completed, all sizes, on Golden Cove: 12H, 0EH.
        assert_eq!(Select::new(0x12, 0x0e).ring_0(Vendor::Intel), 0x0042_0e12);
        let active = Select {
            cmask: 1,
            ..Select::new(0x12, 0x10)
        };
        assert_eq!(active.ring_0(Vendor::Intel), 0x0142_1012);
        assert_eq!(Select::new(0x45, 0xf0).ring_0(Vendor::Amd), 0x0042_f045);
        assert_eq!(Select::new(0x1ca, 0xff).ring_0(Vendor::Amd), 0x1_0042_ffca);
    }

    #[test]
    fn no_reserved_bit_of_intels_is_set() {
        // 63:32 and 21 are reserved in what KVM gives a guest (Linux 6.12, vmx/pmu_intel.c).
        for event in 0..=0xff {
            let value = Select {
                event,
                umask: 0xff,
                cmask: 0xff,
            }
            .ring_0(Vendor::Intel);
            assert_eq!(value & (0xffff_ffff << 32 | 1 << 21), 0);
        }
    }
}
