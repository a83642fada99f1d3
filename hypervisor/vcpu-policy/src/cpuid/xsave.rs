//! CPUID leaf 0DH: the size and layout of an XSAVE area (Intel SDM vol. 1, 13.2 and 13.4; AMD APM vol. 2, 11.5).

use super::{GuestView, LAST_BASIC, ZERO};
use raw_cpuid::{CpuIdReader, CpuIdResult};

/// Bytes of the legacy part (512) and the header (64), which every area has (SDM vol. 1, 13.4).
const FIXED_BYTES: u32 = 576;
/// Subleaf 1 EAX: XSAVEOPT, XSAVEC and XGETBV with ECX = 1. Not bit 3, XSAVES: supervisor states need IA32_XSS.
const FORMS: u32 = 1 << 0 | 1 << 1 | 1 << 2;
/// Subleaf 1 EAX: XSAVEC, the compacted format.
const COMPACTED: u32 = 1 << 1;
/// Subleaf n ECX: in the compacted format the component is 64-aligned.
const ALIGNED: u32 = 1 << 1;
/// The first component with a place of its own; x87 and SSE are in the legacy part.
const FIRST_EXTENDED: u32 = 2;
/// Components that XCR0 can hold; bit 63 is reserved.
const COMPONENTS: u32 = 63;

/// Bytes of an XSAVE area in the standard format that holds the components of `mask`.
pub fn area_size(host: &impl CpuIdReader, mask: u64) -> u32 {
    components(mask)
        .map(|index| {
            let part = host.cpuid2(LAST_BASIC, index);
            part.ebx.saturating_add(part.eax)
        })
        .fold(FIXED_BYTES, u32::max)
}

/// As [`area_size`], in the compacted format.
fn compacted_size(host: &impl CpuIdReader, mask: u64) -> u32 {
    components(mask).fold(FIXED_BYTES, |end, index| {
        let part = host.cpuid2(LAST_BASIC, index);
        let start = if part.ecx & ALIGNED != 0 {
            end.checked_next_multiple_of(64).unwrap_or(u32::MAX)
        } else {
            end
        };
        start.saturating_add(part.eax)
    })
}

fn components(mask: u64) -> impl Iterator<Item = u32> {
    (FIRST_EXTENDED..COMPONENTS).filter(move |index| mask >> index & 1 != 0)
}

pub(super) fn answer(host: &impl CpuIdReader, view: &GuestView, subleaf: u32) -> CpuIdResult {
    if view.xcr0_allowed == 0 {
        return ZERO;
    }
    match subleaf {
        0 => CpuIdResult {
            eax: view.xcr0_allowed as u32,
            ebx: area_size(host, view.xcr0),
            ecx: area_size(host, view.xcr0_allowed),
            edx: (view.xcr0_allowed >> 32) as u32,
        },
        1 => {
            let eax = host.cpuid2(LAST_BASIC, 1).eax & FORMS;
            CpuIdResult {
                eax,
                ebx: if eax & COMPACTED != 0 {
                    compacted_size(host, view.xcr0)
                } else {
                    0
                },
                ..ZERO
            }
        }
        FIRST_EXTENDED..COMPONENTS if view.xcr0_allowed >> subleaf & 1 != 0 => {
            let real = host.cpuid2(LAST_BASIC, subleaf);
            CpuIdResult {
                ecx: real.ecx & ALIGNED,
                edx: 0,
                ..real
            }
        }
        _ => ZERO,
    }
}
