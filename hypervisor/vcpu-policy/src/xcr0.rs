//! Which values a guest may load into XCR0 (Intel SDM vol. 1, 13.3; AMD APM vol. 2, 11.5.2).

use core::fmt;

/// x87 state; always set.
pub const X87: u64 = 1 << 0;
/// XMM registers and MXCSR.
pub const SSE: u64 = 1 << 1;
/// Upper halves of the YMM registers.
pub const AVX: u64 = 1 << 2;
/// Opmask registers, upper halves of ZMM0 to 15, and ZMM16 to 31: three bits that only change together.
pub const AVX512: u64 = 0b111 << 5;
/// The protection-key register.
pub const PKRU: u64 = 1 << 9;

/// What this hypervisor knows how to keep for a guest. Not MPX (gone from CPUs), not AMX tiles (8 KiB for each vCPU, and a fault
/// on first use through an MSR that guests do not have).
pub const KNOWN: u64 = X87 | SSE | AVX | AVX512 | PKRU;

/// The largest valid XCR0 within what the host's CPU has (`host`: EDX:EAX of CPUID leaf 0DH) and this hypervisor knows.
///
/// 0 when the host has no XSAVE (`host` is 0).
pub const fn allowed(host: u64) -> u64 {
    let mut mask = host & KNOWN;
    if mask & (X87 | SSE) != X87 | SSE {
        // Every CPU with XSAVE has both (SDM vol. 1, 13.2); one that says otherwise is treated as one without XSAVE.
        return 0;
    }
    if mask & AVX == 0 || mask & AVX512 != AVX512 {
        mask &= !AVX512;
    }
    mask
}

/// Checks a value for XSETBV with ECX = 0.
///
/// # Errors
/// The rule that the value breaks; the guest gets #GP for each of them.
pub const fn check(value: u64, allowed: u64) -> Result<(), Xcr0Error> {
    if value & !allowed != 0 {
        return Err(Xcr0Error::NotAllowed(value & !allowed));
    }
    if value & X87 == 0 {
        return Err(Xcr0Error::NoX87);
    }
    if value & AVX != 0 && value & SSE == 0 {
        return Err(Xcr0Error::AvxWithoutSse);
    }
    if value & AVX512 != 0 && (value & AVX512 != AVX512 || value & AVX == 0) {
        return Err(Xcr0Error::Avx512Incomplete);
    }
    Ok(())
}

/// The rule that a value for XCR0 breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Xcr0Error {
    /// These bits are reserved or not offered to guests.
    NotAllowed(u64),
    /// Bit 0 must be set.
    NoX87,
    /// AVX needs SSE.
    AvxWithoutSse,
    /// The three AVX-512 bits must be equal, and need AVX.
    Avx512Incomplete,
}

impl fmt::Display for Xcr0Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed(bits) => write!(
                f,
                "XCR0 bits {bits:#x} are not offered in CPUID leaf 0DH: clear them"
            ),
            Self::NoX87 => f.write_str("XCR0 bit 0 (x87) must be set"),
            Self::AvxWithoutSse => f.write_str("XCR0 bit 2 (AVX) needs bit 1 (SSE)"),
            Self::Avx512Incomplete => {
                f.write_str("XCR0 bits 5 to 7 (AVX-512) must be equal and need bit 2 (AVX)")
            }
        }
    }
}

impl core::error::Error for Xcr0Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_rule_refuses() {
        assert_eq!(check(0, KNOWN), Err(Xcr0Error::NoX87));
        assert_eq!(check(SSE, KNOWN), Err(Xcr0Error::NoX87));
        assert_eq!(check(X87 | AVX, KNOWN), Err(Xcr0Error::AvxWithoutSse));
        assert_eq!(
            check(X87 | SSE | AVX | (1 << 5), KNOWN),
            Err(Xcr0Error::Avx512Incomplete)
        );
        assert_eq!(check(X87 | SSE | AVX512, KNOWN), Err(Xcr0Error::Avx512Incomplete));
        assert_eq!(check(X87 | (1 << 3), KNOWN), Err(Xcr0Error::NotAllowed(1 << 3)));
        assert_eq!(check(X87 | PKRU, X87 | SSE), Err(Xcr0Error::NotAllowed(PKRU)));
        assert_eq!(check(KNOWN, KNOWN), Ok(()));
        assert_eq!(check(X87, KNOWN), Ok(()));
    }

    #[test]
    fn a_host_with_half_of_avx512_gives_none() {
        assert_eq!(allowed(X87 | SSE | AVX | (1 << 5)), X87 | SSE | AVX);
        assert_eq!(allowed(X87 | SSE | AVX512), X87 | SSE);
        assert_eq!(allowed(0), 0);
        assert_eq!(allowed(AVX), 0);
    }

    proptest! {
        /// What a host allows is itself a value that XSETBV takes, and within the host.
        #[test]
        fn allowed_is_valid(host: u64) {
            let mask = allowed(host);
            prop_assert_eq!(mask & !host, 0);
            if mask != 0 {
                prop_assert_eq!(check(mask, mask), Ok(()));
            }
        }
    }
}
