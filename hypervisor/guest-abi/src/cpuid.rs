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
/// What EAX of [`LEAF_SIGNATURE`] holds: the highest leaf there is.
pub const LEAF_MAX: u32 = LEAF_ALIASES;
/// The signature as text: the bytes of EBX, ECX, EDX in this order, little-endian.
pub const SIGNATURE: &[u8; 12] = b"LacunaLacuna";
/// The signature as the values of EBX, ECX and EDX.
pub const SIGNATURE_REGISTERS: [u32; 3] = [part(0), part(4), part(8)];

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
}
