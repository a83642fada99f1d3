//! What the CPU offers of SVM (AMD APM vol. 3, appendix E.4.9: CPUID leaf 8000_000AH).

use super::instructions;
use crate::virt::{Capabilities, Unsupported};
use raw_cpuid::CpuId;
use vcpu_policy::asid::{AsidCount, Asids};

/// SVM as it was found on this CPU: usable, with or without the features that save work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SvmFound {
    asid_count: AsidCount,
    /// TLB_CONTROL can flush one ASID.
    flush_by_asid: bool,
    /// An exit by an instruction reports the RIP after it.
    next_rip: bool,
    /// An exit by a move to a control or debug register reports the source.
    decode_assists: bool,
    /// RDPRU exists, and its intercept.
    rdpru: bool,
    /// Page tables may have 1G leaves.
    gigabyte_pages: bool,
}

impl SvmFound {
    /// Asks the CPU.
    pub(super) fn detect() -> Result<Self, Unsupported> {
        let cpuid = CpuId::new();
        let has_svm = cpuid
            .get_extended_processor_and_feature_identifiers()
            .is_some_and(|features| features.has_svm());
        if !has_svm {
            return Err(Unsupported::NoSvm);
        }
        // SAFETY: CPUID has just shown SVM.
        if let Some(locked) = unsafe { instructions::disabled_by_firmware() } {
            return Err(Unsupported::SvmDisabledByFirmware { locked });
        }
        let svm = cpuid.get_svm_info().ok_or(Unsupported::NoNestedPaging)?;
        if !svm.has_nested_paging() {
            return Err(Unsupported::NoNestedPaging);
        }
        let count = svm.supported_asids();
        Ok(Self {
            asid_count: AsidCount::new(count).ok_or(Unsupported::NoAsids { count })?,
            flush_by_asid: svm.has_flush_by_asid(),
            next_rip: svm.has_nrip(),
            decode_assists: svm.has_decode_assists(),
            rdpru: cpuid
                .get_processor_capacity_feature_info()
                .is_some_and(|features| features.has_rdpru()),
            gigabyte_pages: cpuid
                .get_extended_processor_and_feature_identifiers()
                .is_some_and(|features| features.has_1gib_pages()),
        })
    }

    /// What was found, for the report.
    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities {
            second_stage: "npt",
            quirk: None,
            asids: self.asid_count.get(),
            nrip_save: self.next_rip,
            decode_assists: self.decode_assists,
            flush_by_asid: self.flush_by_asid,
        }
    }

    /// The ASIDs of one CPU.
    pub(super) const fn asids(&self, cpu: u32) -> Asids {
        Asids::new(cpu, self.asid_count, self.flush_by_asid)
    }

    /// Whether an exit by an instruction reports the RIP after it.
    pub(super) const fn next_rip(&self) -> bool {
        self.next_rip
    }

    /// Whether an exit by a move to a control or debug register reports all there is to know of the instruction.
    pub(super) const fn reports_moves(&self) -> bool {
        self.decode_assists && self.next_rip
    }

    /// Whether page tables may have 1G leaves.
    pub(super) const fn gigabyte_pages(&self) -> bool {
        self.gigabyte_pages
    }

    /// Whether RDPRU exists, and its intercept.
    pub(super) const fn rdpru(&self) -> bool {
        self.rdpru
    }
}
