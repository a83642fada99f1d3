//! ACPI: from the RSDP to the MADT, and from that to the CPUs and the local APIC.
//!
//! The crate `acpi` reads the tables, but it trusts their length fields. So this module hands it only tables whose lengths make sense,
//! and walks the MADT's entry headers once before the crate's iterator does.

use core::fmt;
use core::ptr::NonNull;

use acpi::madt::{Madt, MadtEntry};
use acpi::sdt::SdtHeader;
use acpi::{AcpiError, AcpiHandler, AcpiTables, PhysicalMapping};
use heapless::Vec;
use memory::address::Hpa;

use super::early_memory::{BeyondEarlyMap, EarlyMemory};

/// CPUs that [`Platform`] can list.
pub const MAX_CPUS: usize = 256;

/// Largest ACPI table that is believed. Real MADTs stay below 64 KiB and real root tables below 1 KiB.
const MAX_TABLE_BYTES: usize = 1 << 20;
/// Bytes of a revision 0 RSDP, and of the later ones (ACPI 6.5, 5.2.5.3, table 5.3).
const RSDP_BYTES: u64 = 20;
const RSDP_BYTES_V2: u64 = 36;

/// One processor as the MADT lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuId {
    /// Its local APIC id.
    pub apic_id: u32,
    /// Whether the firmware says it can be used.
    pub enabled: bool,
}

/// What the MADT says.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Host-physical address of every CPU's local APIC registers.
    pub local_apic: Hpa,
    /// The CPUs in the MADT's order; the boot CPU is usually the first.
    pub cpus: Vec<CpuId, MAX_CPUS>,
    /// CPUs beyond [`MAX_CPUS`].
    pub more_cpus: usize,
}

/// Why the MADT cannot be used.
#[derive(Debug)]
pub enum PlatformError {
    /// No RSDP was handed over and none is in the BIOS areas.
    NoRsdp,
    /// The RSDP's signature, length or checksum is wrong.
    BadRsdp(Hpa),
    /// The crate refused a table.
    Table(AcpiError),
    /// Something of ACPI lies above the first 4 GiB.
    Beyond(BeyondEarlyMap),
    /// The MADT's entry at this offset has a length that makes no sense.
    BadEntry(usize),
    /// The MADT lists no CPU.
    NoCpus,
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRsdp => {
                write!(
                    f,
                    "no ACPI root pointer, neither from the loader nor in the BIOS areas below 1 MiB"
                )
            }
            Self::BadRsdp(hpa) => write!(f, "the ACPI root pointer at {hpa} is damaged"),
            Self::Table(error) => write!(f, "an ACPI table cannot be used: {error:?}"),
            Self::Beyond(at) => write!(
                f,
                "an ACPI structure lies at {} ({} bytes), beyond the first 4 GiB that can be read at this point",
                at.start, at.bytes
            ),
            Self::BadEntry(offset) => {
                write!(f, "the MADT's entry at offset {offset} has an impossible length")
            }
            Self::NoCpus => write!(f, "the MADT lists no CPU"),
        }
    }
}

/// Hands tables to the crate. It cannot say no, so what must not be read becomes [`NOTHING`], whose zero signature the crate
/// refuses.
#[derive(Clone, Copy)]
struct Handler {
    memory: EarlyMemory,
    /// Where the root pointer is; it has been checked.
    rsdp: Hpa,
}

/// Stands in for a table that must not be read.
static NOTHING: [u64; 16] = [0; 16];

impl Handler {
    /// Whether `bytes` at `start` may be shown as a `T`.
    fn believable<T>(self, start: Hpa, bytes: usize) -> bool {
        if bytes < size_of::<T>() || bytes > MAX_TABLE_BYTES {
            return false;
        }
        if start == self.rsdp {
            return true;
        }
        // All else begins with a table header, whose length field decides what the crate reads next.
        let Some(field) = start.checked_add(4) else {
            return false;
        };
        self.memory
            .read::<u32>(field)
            .is_ok_and(|length| (size_of::<SdtHeader>()..=MAX_TABLE_BYTES).contains(&(length as usize)))
    }
}

impl AcpiHandler for Handler {
    unsafe fn map_physical_region<T>(
        &self,
        physical_address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        const { assert!(size_of::<T>() <= size_of_val(&NOTHING)) };
        let start = Hpa::new(physical_address as u64);
        let there = self
            .believable::<T>(start, size)
            .then(|| self.memory.translate(start, size as u64).ok())
            .flatten()
            .and_then(|hva| NonNull::new(core::ptr::with_exposed_provenance_mut::<T>(hva.get() as usize)));
        let (pointer, bytes) = match there {
            Some(pointer) => (pointer, size),
            None => (NonNull::from(&NOTHING).cast::<T>(), size_of_val(&NOTHING)),
        };
        // SAFETY: the pointer shows `bytes` readable bytes: either what `translate` checked, or `NOTHING`, which is larger than
        // any `T` here. The crate's table types are packed, so alignment does not matter, and it only reads.
        unsafe { PhysicalMapping::new(physical_address, pointer, bytes, bytes, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Reads the MADT.
///
/// `rsdp` is the loader's word for where the root pointer is; without it the BIOS areas are searched. Call it while the early
/// tables are active; the result holds no reference to the tables.
///
/// # Errors
/// A [`PlatformError`]; the caller may go on with the boot CPU alone.
pub fn read(memory: EarlyMemory, rsdp: Option<Hpa>) -> Result<Platform, PlatformError> {
    let rsdp = match rsdp {
        Some(hpa) if rsdp_is_sound(memory, hpa) => hpa,
        Some(hpa) => return Err(PlatformError::BadRsdp(hpa)),
        None => search(memory).ok_or(PlatformError::NoRsdp)?,
    };
    // SAFETY: the RSDP is sound, and `Handler` shows the crate nothing that cannot be read.
    let tables = unsafe { AcpiTables::from_rsdp(Handler { memory, rsdp }, rsdp.get() as usize) }
        .map_err(PlatformError::Table)?;
    let madt = tables.find_table::<Madt>().map_err(PlatformError::Table)?;
    check_entries(
        memory,
        Hpa::new(madt.physical_start() as u64),
        madt.region_length(),
    )?;

    let mut platform = Platform {
        local_apic: Hpa::new(u64::from(madt.get().local_apic_address)),
        cpus: Vec::new(),
        more_cpus: 0,
    };
    for entry in madt.get().entries() {
        match entry {
            // Flag bit 0: enabled (ACPI 6.5, 5.2.12.2, table 5.23).
            MadtEntry::LocalApic(cpu) => {
                add(
                    &mut platform,
                    CpuId {
                        apic_id: cpu.apic_id.into(),
                        enabled: cpu.flags & 1 != 0,
                    },
                );
            }
            MadtEntry::LocalX2Apic(cpu) => {
                add(
                    &mut platform,
                    CpuId {
                        apic_id: cpu.x2apic_id,
                        enabled: cpu.flags & 1 != 0,
                    },
                );
            }
            MadtEntry::LocalApicAddressOverride(place) => {
                platform.local_apic = Hpa::new(place.local_apic_address);
            }
            _ => {}
        }
    }
    if platform.cpus.is_empty() {
        Err(PlatformError::NoCpus)
    } else {
        Ok(platform)
    }
}

fn add(platform: &mut Platform, cpu: CpuId) {
    // Firmware may list a CPU both ways (ACPI 6.5, 5.2.12.12); one is enough.
    if platform
        .cpus
        .iter()
        .any(|known| known.apic_id == cpu.apic_id && known.enabled == cpu.enabled)
    {
        return;
    }
    if platform.cpus.push(cpu).is_err() {
        platform.more_cpus += 1;
    }
}

/// Walks the entry headers: type, then a length that counts both, and fits the type where we use the type.
fn check_entries(memory: EarlyMemory, madt: Hpa, bytes: usize) -> Result<(), PlatformError> {
    // 44 bytes stand before the entries (ACPI 6.5, 5.2.12, table 5.19).
    const ENTRIES_OFFSET: usize = 44;
    if bytes < ENTRIES_OFFSET {
        return Err(PlatformError::BadEntry(bytes));
    }
    let read = |offset: usize| -> Result<usize, PlatformError> {
        let byte: u8 = memory
            .read(Hpa::new(madt.get() + offset as u64))
            .map_err(PlatformError::Beyond)?;
        Ok(byte.into())
    };
    let mut offset = ENTRIES_OFFSET;
    while offset < bytes {
        if bytes - offset < 2 {
            return Err(PlatformError::BadEntry(offset));
        }
        let least = match read(offset)? {
            0 => 8,  // processor local APIC
            5 => 12, // local APIC address override
            9 => 16, // processor local x2APIC
            _ => 2,
        };
        let length = read(offset + 1)?;
        if length < least || length > bytes - offset {
            return Err(PlatformError::BadEntry(offset));
        }
        offset += length;
    }
    Ok(())
}

/// Looks for the RSDP in the first KiB of the extended BIOS data area, then in the BIOS area (ACPI 6.5, 5.2.5.1).
fn search(memory: EarlyMemory) -> Option<Hpa> {
    // The BIOS data area holds the extended one's segment at 40:0E.
    let ebda = memory
        .read::<u16>(Hpa::new(0x40e))
        .map_or(0, |segment| u64::from(segment) << 4);
    let ebda = if (0x8_0000..0xa_0000).contains(&ebda) {
        ebda..ebda + 1024
    } else {
        0..0
    };
    ebda.chain(0xe_0000..0x10_0000)
        .step_by(16)
        .map(Hpa::new)
        .find(|&hpa| rsdp_is_sound(memory, hpa))
}

/// Checks signature, length and checksums, so that the crate, which trusts the length, may read it.
fn rsdp_is_sound(memory: EarlyMemory, hpa: Hpa) -> bool {
    let byte = |offset: u64| hpa.checked_add(offset).and_then(|at| memory.read::<u8>(at).ok());
    let sums_to_zero = |bytes: u64| {
        let mut sum = 0u8;
        for offset in 0..bytes {
            match byte(offset) {
                Some(value) => sum = sum.wrapping_add(value),
                None => return false,
            }
        }
        sum == 0
    };
    if (0..8)
        .zip(b"RSD PTR ")
        .any(|(offset, &wanted)| byte(offset) != Some(wanted))
        || !sums_to_zero(RSDP_BYTES)
    {
        return false;
    }
    match byte(15) {
        None => false,
        Some(0) => true,
        // Length field at offset 20; the standard has had no other length than 36.
        Some(_) => hpa
            .checked_add(20)
            .and_then(|at| memory.read::<u32>(at).ok())
            .is_some_and(|length| {
                (RSDP_BYTES_V2..=256).contains(&u64::from(length)) && sums_to_zero(u64::from(length))
            }),
    }
}
