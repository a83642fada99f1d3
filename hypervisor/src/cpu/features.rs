//! What the CPU can do, as far as it matters here, from CPUID.

use heapless::String;
use raw_cpuid::CpuId;

/// Who made the CPU; decides between SVM and VMX, VMMCALL and VMCALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// AMD, or Hygon, whose CPUs follow AMD's manual.
    Amd,
    /// Intel.
    Intel,
    /// Anyone else.
    Other,
}

/// The features this project looks at.
#[derive(Clone, Debug)]
pub struct Features {
    /// Maker.
    pub vendor: Vendor,
    /// The maker's name for it, trimmed; empty when CPUID has none. At most 48 bytes (APM vol. 3, E.4.3).
    pub brand: String<48>,
    /// 1G leaves in host page tables.
    pub gigabyte_pages: bool,
    /// No-execute pages.
    pub nx: bool,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// The local APIC can be reached through MSRs.
    pub x2apic: bool,
    /// Memory type range registers.
    pub mtrrs: bool,
    /// Machine-check exceptions.
    pub machine_check: bool,
    /// Width of physical addresses; 36 when CPUID does not say (SDM vol. 3A, 4.1.4).
    pub physical_address_bits: u8,
}

impl Features {
    /// What this CPU has otherwise than `boot`, the boot CPU, in the names of CPUID; `None` when they agree. The brand may differ: it is only
    /// printed.
    pub fn difference(&self, boot: &Self) -> Option<&'static str> {
        [
            (self.vendor != boot.vendor, "vendor"),
            (self.gigabyte_pages != boot.gigabyte_pages, "Page1GB"),
            (self.nx != boot.nx, "NX"),
            (self.smep != boot.smep, "SMEP"),
            (self.smap != boot.smap, "SMAP"),
            (self.x2apic != boot.x2apic, "x2APIC"),
            (self.mtrrs != boot.mtrrs, "MTRR"),
            (self.machine_check != boot.machine_check, "MCE"),
            (
                self.physical_address_bits != boot.physical_address_bits,
                "physical address width",
            ),
        ]
        .into_iter()
        .find_map(|(differs, name)| differs.then_some(name))
    }

    /// Asks this CPU.
    pub fn detect() -> Self {
        let cpuid = CpuId::new();
        let vendor = match cpuid.get_vendor_info().as_ref().map(|vendor| vendor.as_str()) {
            Some("AuthenticAMD" | "HygonGenuine") => Vendor::Amd,
            Some("GenuineIntel") => Vendor::Intel,
            _ => Vendor::Other,
        };
        let mut brand = String::new();
        if let Some(text) = cpuid.get_processor_brand_string() {
            for character in text.as_str().trim().chars() {
                // A name that is not ASCII may be cut; it is only printed.
                if brand.push(character).is_err() {
                    break;
                }
            }
        }
        let basic = cpuid.get_feature_info();
        let basic = basic.as_ref();
        let structured = cpuid.get_extended_feature_info();
        let structured = structured.as_ref();
        let extended = cpuid.get_extended_processor_and_feature_identifiers();
        let extended = extended.as_ref();
        Self {
            vendor,
            brand,
            gigabyte_pages: extended.is_some_and(|leaf| leaf.has_1gib_pages()),
            nx: extended.is_some_and(|leaf| leaf.has_execute_disable()),
            smep: structured.is_some_and(|leaf| leaf.has_smep()),
            smap: structured.is_some_and(|leaf| leaf.has_smap()),
            x2apic: basic.is_some_and(|leaf| leaf.has_x2apic()),
            mtrrs: basic.is_some_and(|leaf| leaf.has_mtrr()),
            machine_check: basic.is_some_and(|leaf| leaf.has_mce()),
            physical_address_bits: cpuid
                .get_processor_capacity_feature_info()
                .map_or(36, |leaf| leaf.physical_address_bits()),
        }
    }
}
