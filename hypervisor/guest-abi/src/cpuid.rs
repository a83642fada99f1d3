//! The CPUID leaves by which a guest recognises Lacuna.
//!
//! Leaves from 0x4000_0000 are left to hypervisors (AMD APM vol. 2, 15.35.1 "hypervisor-reserved"; Intel SDM vol. 2A, CPUID:
//! "no existing or future CPU will return processor identification or feature information in 40000000H-4FFFFFFFH").

/// Highest hypervisor leaf in EAX, signature in EBX, ECX, EDX.
pub const LEAF_SIGNATURE: u32 = 0x4000_0000;
/// [`ABI_VERSION`](crate::ABI_VERSION) in EAX; EBX, ECX and EDX are zero.
pub const LEAF_ABI: u32 = 0x4000_0001;
/// The number of the shared bit in EAX: set in a guest-physical address, it names the page at its shared alias. EBX, ECX and EDX are zero.
pub const LEAF_ALIASES: u32 = 0x4000_0002;
/// The first of three leaves with the launch measurement: 48 bytes in the order EAX, EBX, ECX, EDX, leaf after leaf, each register little-endian.
pub const LEAF_MEASUREMENT: u32 = 0x4000_0003;
/// The last of them.
pub const LEAF_MEASUREMENT_LAST: u32 = LEAF_MEASUREMENT + 2;
/// Bytes of the launch measurement: SHA-384.
pub const MEASUREMENT_BYTES: usize = 48;
/// What EAX of [`LEAF_SIGNATURE`] holds: the highest leaf there is.
pub const LEAF_MAX: u32 = LEAF_MEASUREMENT_LAST;
/// The signature as text: the bytes of EBX, ECX, EDX in this order, little-endian.
pub const SIGNATURE: &[u8; 12] = b"LacunaLacuna";
/// The signature as the values of EBX, ECX and EDX.
pub const SIGNATURE_REGISTERS: [u32; 3] = [part(0), part(4), part(8)];

/// The launch measurement as `cpuid` gives it, which reads a leaf: EAX, EBX, ECX, EDX.
pub fn measurement(mut cpuid: impl FnMut(u32) -> [u32; 4]) -> [u8; MEASUREMENT_BYTES] {
    let mut bytes = [0; MEASUREMENT_BYTES];
    for (leaf, part) in (LEAF_MEASUREMENT..).zip(bytes.as_chunks_mut::<16>().0) {
        for (register, to) in cpuid(leaf).iter().zip(part.as_chunks_mut::<4>().0) {
            *to = register.to_le_bytes();
        }
    }
    bytes
}

/// What the measurement's leaf holds in EAX, EBX, ECX, EDX; `None` for another leaf. The inverse of [`measurement()`].
pub fn measurement_leaf(measurement: &[u8; MEASUREMENT_BYTES], leaf: u32) -> Option<[u32; 4]> {
    let index = usize::try_from(leaf.checked_sub(LEAF_MEASUREMENT)?).ok()?;
    let part = measurement.as_chunks::<16>().0.get(index)?;
    let mut registers = [0; 4];
    for (register, from) in registers.iter_mut().zip(part.as_chunks::<4>().0) {
        *register = u32::from_le_bytes(*from);
    }
    Some(registers)
}

const fn part(at: usize) -> u32 {
    u32::from_le_bytes([
        SIGNATURE[at],
        SIGNATURE[at + 1],
        SIGNATURE[at + 2],
        SIGNATURE[at + 3],
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registers_spell_the_signature() {
        let bytes: Vec<u8> = SIGNATURE_REGISTERS.iter().flat_map(|r| r.to_le_bytes()).collect();
        assert_eq!(&bytes, b"LacunaLacuna");
    }

    #[test]
    fn three_leaves_hold_the_measurement() {
        let digest: [u8; MEASUREMENT_BYTES] = core::array::from_fn(|index| index as u8);
        let leaf = |leaf| measurement_leaf(&digest, leaf);
        assert_eq!(leaf(LEAF_MEASUREMENT).unwrap()[0], 0x0302_0100);
        assert_eq!(leaf(LEAF_MEASUREMENT_LAST).unwrap()[3], 0x2f2e_2d2c);
        for other in [0, LEAF_MEASUREMENT - 1, LEAF_MEASUREMENT_LAST + 1, u32::MAX] {
            assert_eq!(leaf(other), None);
        }
        assert_eq!(measurement(|number| leaf(number).unwrap()), digest);
    }
}
