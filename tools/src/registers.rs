//! Control registers as QEMU's monitor prints them (`info registers`).

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
    /// Reads one CPU's `info registers`; `None` when a register is missing.
    pub fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let start = text.find(&format!("{name}="))? + name.len() + 1;
            let digits = text
                .get(start..)?
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

    /// The format of the host's tables. Addresses may have the architectural 52 bits: QEMU does not print how many the CPU has.
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
    }
}
