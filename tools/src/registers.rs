//! Control registers as QEMU's monitor (`info registers`) and Bochs' debugger (`creg`) print them.

use audit::Format;

/// What is needed to walk the tables that a CPU uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Root of the tables, with flags.
    pub cr3: u64,
    /// Bit 12 chooses five levels.
    pub cr4: u64,
    /// Bit 11 makes bit 63 of an entry mean no-execute.
    pub efer: u64,
}

impl Registers {
    /// Reads one CPU's registers; `None` when one is missing.
    pub fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let start = text.find(&format!("{name}="))? + name.len() + 1;
            let value = text.get(start..)?;
            // Bochs has the prefix, QEMU has not.
            let digits = value
                .strip_prefix("0x")
                .unwrap_or(value)
                .split(|digit: char| !digit.is_ascii_hexdigit())
                .next()?;
            u64::from_str_radix(digits, 16).ok()
        };
        Some(Self {
            cr3: value("CR3")?,
            cr4: value("CR4")?,
            efer: value("EFER")?,
        })
    }

    /// The format of the host's tables. Addresses may have the architectural 52 bits: neither prints how many the CPU has.
    pub fn format(&self) -> Format {
        let format = Format::host(self.cr4 & 1 << 12 != 0, 52);
        if self.efer & 1 << 11 == 0 {
            format.without_no_execute()
        } else {
            format
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_from_the_monitor_s_text() {
        let text = "GDT=     ffffe080 00000067\r\nCR0=80010033 CR2=0000000000000000 CR3=0000000000235000 CR4=00000620\r\n\
                    DR0=0000000000000000\r\nEFER=0000000000001d00\r\n";
        let registers = Registers::parse(text).unwrap();
        assert_eq!(
            registers,
            Registers {
                cr3: 0x23_5000,
                cr4: 0x620,
                efer: 0x1d00
            }
        );
        assert_eq!(registers.format(), Format::host(false, 52));
        assert_eq!(
            Registers {
                cr4: 1 << 12,
                efer: 0,
                ..registers
            }
            .format(),
            Format::host(true, 52).without_no_execute()
        );
        assert_eq!(Registers::parse("CR3=1000 CR4=20"), None);
        let bochs = "CR2=page fault laddr=0x0000000000000000\nCR3=0x000000151000\n    PCD=page-level cache disable=0\n\
                     CR4=0x00342660: pks cet pke SMAP SMEP\nCR8: 0x0\nEFER=0x00000d00: ffxsr NXE LMA LME sce\n";
        let expected = Registers {
            cr3: 0x15_1000,
            cr4: 0x34_2660,
            efer: 0xd00,
        };
        assert_eq!(Registers::parse(bochs), Some(expected));
    }
}
