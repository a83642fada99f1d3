//! What a guest's IN and OUT do.
//!
//! A guest has no devices. At a port that nobody decodes a PC's bus reads as all ones and takes every write, and that is what a guest finds at
//! each of the 65,536: a kernel that looks for devices finds none and goes on. No access reaches a port of the machine's.
//!
//! INS and OUTS also touch memory through the guest's segments and tables, which the hypervisor would have to walk on its behalf; no guest
//! has a reason to read a string from a device that is not there, so the caller ends it.

/// What RAX holds after an IN of `bytes` bytes (1, 2 or 4) from a port without a device; `rax` is its value before. AL and AX leave the rest
/// as it was, EAX clears the upper half (AMD APM vol. 3, IN, and vol. 1, 3.1.2; Intel SDM vol. 1, 3.4.1.1).
pub const fn after_in(rax: u64, bytes: u8) -> u64 {
    match bytes {
        1 => rax | 0xff,
        2 => rax | 0xffff,
        _ => 0xffff_ffff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bytes_that_were_read_are_ones() {
        let rax = 0x1234_5678_0000_0000;
        assert_eq!(after_in(rax, 1), 0x1234_5678_0000_00ff);
        assert_eq!(after_in(rax, 2), 0x1234_5678_0000_ffff);
        assert_eq!(after_in(rax, 4), 0xffff_ffff);
    }
}
