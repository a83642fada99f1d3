//! The report of a fatal exception: what, where, all registers, what the address was, who called.

use core::fmt;

use memory::address::Hva;
use spin::Once;
use x86::irq::{
    ALIGNMENT_CHECK_VECTOR, DOUBLE_FAULT_VECTOR, EXCEPTIONS, GENERAL_PROTECTION_FAULT_VECTOR,
    INVALID_TSS_VECTOR, PAGE_FAULT_VECTOR, SEGMENT_NOT_PRESENT_VECTOR, STACK_SEGEMENT_FAULT_VECTOR,
};

use super::exception::Frame;
use super::{backtrace, registers};
use crate::console::fatal;
use crate::{print, println};

/// Says what an address belongs to, on one line without a newline. It runs inside a fault handler, so it must take no lock that
/// ordinary code holds.
pub type Describer = fn(Hva, &mut dyn fmt::Write) -> fmt::Result;

static DESCRIBER: Once<Describer> = Once::new();

/// Sets what explains addresses in fault reports. Only the first call counts.
pub fn set_address_describer(describer: Describer) {
    DESCRIBER.call_once(|| describer);
}

/// An exception's name, such as "page fault (#PF)".
struct Name(u8);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Newer than the crate's table (APM vol. 2, 8.2; SDM vol. 3A, 6.3.1).
        let newer = match self.0 {
            20 => Some("#VE virtualization exception"),
            21 => Some("#CP control protection exception"),
            28 => Some("#HV hypervisor injection exception"),
            29 => Some("#VC VMM communication exception"),
            30 => Some("#SX security exception"),
            _ => None,
        };
        match (newer, EXCEPTIONS.get(usize::from(self.0))) {
            (Some(name), _) => f.write_str(name),
            (None, Some(known)) if !known.description.is_empty() && known.description != "RESERVED" => {
                write!(f, "{} {}", known.mnemonic, known.description)
            }
            (None, Some(_)) => write!(f, "reserved exception {}", self.0),
            (None, None) => write!(f, "unexpected interrupt {:#x}", self.0),
        }
    }
}

/// An error code in words.
struct ErrorCode {
    vector: u8,
    code: u64,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, code } = *self;
        let bit = |number: u32| code >> number & 1 != 0;
        match vector {
            // SDM vol. 3A, 4.7, figure 4-12; APM vol. 2, 8.4.2.
            PAGE_FAULT_VECTOR => {
                let access = match (bit(4), bit(1)) {
                    (true, _) => "instruction fetch",
                    (false, true) => "write",
                    (false, false) => "read",
                };
                let mode = if bit(2) { "user" } else { "supervisor" };
                let why = if bit(3) {
                    "reserved bit set in a table entry"
                } else if bit(5) {
                    "protection key"
                } else if bit(0) {
                    "not permitted"
                } else {
                    "not present"
                };
                write!(f, ", error {code:#x}: {mode} {access}, {why}")
            }
            // SDM vol. 3A, 6.13, figure 6-7.
            INVALID_TSS_VECTOR
            | SEGMENT_NOT_PRESENT_VECTOR
            | STACK_SEGEMENT_FAULT_VECTOR
            | GENERAL_PROTECTION_FAULT_VECTOR => {
                write!(f, ", error {code:#x}")?;
                if code == 0 {
                    return f.write_str(": no selector");
                }
                let table = match (bit(1), bit(2)) {
                    (true, _) => "IDT",
                    (false, true) => "LDT",
                    (false, false) => "GDT",
                };
                write!(f, ": {table} index {}", code >> 3 & 0x1fff)?;
                if bit(0) {
                    f.write_str(", external event")
                } else {
                    Ok(())
                }
            }
            // Always zero.
            DOUBLE_FAULT_VECTOR | ALIGNMENT_CHECK_VECTOR => Ok(()),
            _ if code != 0 => write!(f, ", error {code:#x}"),
            _ => Ok(()),
        }
    }
}

/// The registers of interrupted code, in whole lines.
pub struct Registers<'f> {
    frame: &'f Frame,
    cr2: u64,
}

impl<'f> Registers<'f> {
    /// Those in `frame`, with CR2 as it is now; the other control registers are read when it is printed.
    pub fn now(frame: &'f Frame) -> Self {
        Self {
            frame,
            cr2: registers::read_cr2(),
        }
    }
}

impl fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frame, cr2 } = *self;
        writeln!(
            f,
            "  rip {:016x}  rsp {:016x}  rflags {:#x}",
            frame.rip, frame.rsp, frame.rflags
        )?;
        writeln!(
            f,
            "  cs {:#06x}  ss {:#06x}  efer {:#x}",
            frame.cs,
            frame.ss,
            registers::read_efer()
        )?;
        writeln!(
            f,
            "  cr0 {:#010x}  cr2 {cr2:016x}  cr3 {:016x}  cr4 {:#x}",
            registers::read_cr0(),
            registers::read_cr3(),
            registers::read_cr4()
        )?;
        let general = [
            ("rax", frame.rax),
            ("rbx", frame.rbx),
            ("rcx", frame.rcx),
            ("rdx", frame.rdx),
            ("rsi", frame.rsi),
            ("rdi", frame.rdi),
            ("rbp", frame.rbp),
            ("r8 ", frame.r8),
            ("r9 ", frame.r9),
            ("r10", frame.r10),
            ("r11", frame.r11),
            ("r12", frame.r12),
            ("r13", frame.r13),
            ("r14", frame.r14),
            ("r15", frame.r15),
        ];
        for row in general.chunks(4) {
            f.write_str(" ")?;
            for (register, value) in row {
                write!(f, " {register} {value:016x}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Prints the report and the verdict, and ends the run.
pub fn fatal(frame: &Frame) -> ! {
    // First of all: a fault in here would overwrite CR2.
    let registers = Registers::now(frame);
    let vector = frame.vector as u8;
    let name = Name(vector);
    let rip = Hva::new(frame.rip);
    fatal::claim(format_args!("{name} at rip {rip}"));

    println!(
        "exception: {name}, vector {vector}{}",
        ErrorCode {
            vector,
            code: frame.error_code
        }
    );
    print!("{registers}");
    // A double fault is often a page fault that could not be delivered.
    if matches!(vector, PAGE_FAULT_VECTOR | DOUBLE_FAULT_VECTOR) {
        print_address(Hva::new(registers.cr2));
    }
    println!(
        "backtrace:{}",
        backtrace::from_interrupted(rip, Hva::new(frame.rbp))
    );
    fatal::verdict()
}

/// Prints what an address belongs to.
fn print_address(address: Hva) {
    /// The describer's text goes straight to the port.
    struct Text;
    impl fmt::Write for Text {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            print!("{text}");
            Ok(())
        }
    }
    print!("address {address}: ");
    match DESCRIBER.get() {
        Some(describe) => {
            if describe(address, &mut Text).is_err() {
                print!("(no more to say)");
            }
        }
        None => print!("the early tables are in use; they map the first 4 GiB and the image"),
    }
    println!();
}
