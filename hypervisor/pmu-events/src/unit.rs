//! Which counters CPUID promises.

use core::fmt;

use raw_cpuid::{CpuId, CpuIdReader};

use crate::select::Vendor;
use crate::tables::{Event, Events, Metric, common, events_of};

/// Leaf 0AH: version in EAX 7:0, counters in 15:8, their width in 23:16, length of the vector in EBX in 31:24; EBX has a bit set for each
/// architectural event that is *not* there (SDM vol. 2A, CPUID).
const PERFMON: u32 = 0xa;
/// Leaf 07H, subleaf 1, EAX: leaf 23H is there.
const HAS_EXTENDED: u32 = 1 << 8;
/// Leaf 23H, subleaf 1, EAX: a bit for each general counter of this core; leaf 0AH has the least of all kinds of core.
const PERFMON_EXTENDED: u32 = 0x23;
/// Leaf 07H, EDX: cores of several kinds.
const HYBRID: u32 = 1 << 15;
/// Leaf 1AH, EAX 31:24: the kind of this one.
const CORE_KIND: u32 = 0x1a;
const EFFICIENT: u32 = 0x20;
/// Leaf 8000_0001H, ECX: six counters at MSRs of their own (APM vol. 3, E.4.2, PerfCtrExtCore).
const HAS_CORE_COUNTERS: u32 = 1 << 23;
/// Leaf 8000_0022H, EAX: PerfMonV2; EBX 3:0: its counters (APM vol. 3, E.4.22).
const PERFMON_V2_LEAF: u32 = 0x8000_0022;
const HAS_V2: u32 = 1;

/// Counters of AMD's first kind, which CPUID does not speak of, and of the second (APM vol. 2, 13.2.1).
const LEGACY_COUNTERS: u8 = 4;
const CORE_COUNTERS: u8 = 6;
/// Their width (APM vol. 2, 13.2.1).
const AMD_WIDTH: u8 = 48;
/// General counters that are looked at: more than are used at once.
pub(crate) const MOST_COUNTERS: u8 = 8;

/// How counters are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Intel's architectural performance monitoring, of this version.
    Architectural(u8),
    /// AMD's four counters since family 06H.
    AmdLegacy,
    /// AMD's core counters.
    AmdCore,
    /// AMD's PerfMonV2: core counters with one register that switches all of them.
    AmdV2,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Architectural(version) => write!(f, "architectural, version {version}"),
            Self::AmdLegacy => f.write_str("AMD legacy"),
            Self::AmdCore => f.write_str("AMD core"),
            Self::AmdV2 => f.write_str("AMD PerfMonV2"),
        }
    }
}

/// Why there is nothing to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Neither Intel nor AMD.
    Vendor,
    /// CPUID has no counters.
    NotAdvertised,
    /// Nothing is known of this core's events.
    UnknownCore {
        /// Displayed family.
        family: u8,
        /// Displayed model.
        model: u8,
    },
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vendor => f.write_str("neither an Intel nor an AMD CPU"),
            Self::NotAdvertised => f.write_str("CPUID has no counters"),
            Self::UnknownCore { family, model } => write!(
                f,
                "no events about translations are known for this core, family {family:02X}H, model {model:02X}H"
            ),
        }
    }
}

/// The counters of a CPU, as CPUID promises them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Who made it.
    pub vendor: Vendor,
    /// How counters are reached.
    pub interface: Interface,
    /// General counters, at most 8.
    pub counters: u8,
    /// Bits of a counter.
    pub width: u8,
    /// The core's events about translations, or why there are none.
    pub events: Result<&'static Events, Absence>,
    /// Bit 0: no cycles, bit 1: no instructions.
    missing: u32,
}

impl Unit {
    /// Asks CPUID, on the CPU that is to count.
    ///
    /// # Errors
    /// See [`Absence`]; a core that is not known is none.
    pub fn detect(cpuid: &impl CpuIdReader) -> Result<Self, Absence> {
        let leaves = CpuId::with_cpuid_reader(cpuid.clone());
        let vendor = match leaves.get_vendor_info().as_ref().map(|vendor| vendor.as_str()) {
            Some("GenuineIntel") => Vendor::Intel,
            Some("AuthenticAMD" | "HygonGenuine") => Vendor::Amd,
            _ => return Err(Absence::Vendor),
        };
        let (family, model) = signature(cpuid.cpuid2(1, 0).eax);
        let unknown = Absence::UnknownCore { family, model };
        let events = events_of(vendor, family, model)
            .filter(|_| !is_efficient(cpuid))
            .ok_or(unknown);
        let unit = match vendor {
            Vendor::Intel => architectural(cpuid).ok_or(Absence::NotAdvertised)?,
            Vendor::Amd => amd(cpuid),
        };
        Ok(Self { events, ..unit })
    }

    /// The core's name, or "unknown".
    pub fn core(&self) -> &'static str {
        self.events.map_or("unknown", |events| events.cores)
    }

    /// All events that can be asked for.
    pub fn all(&self) -> impl Iterator<Item = Event> + use<> {
        let missing = self.missing;
        let common = common(self.vendor)
            .into_iter()
            .filter(move |event| match event.metric {
                Metric::Cycles => missing & 1 == 0,
                _ => missing & 2 == 0,
            });
        common.chain(
            self.events
                .map_or(&[][..], |events| events.events)
                .iter()
                .copied(),
        )
    }

    /// Counters from 0 on that can count all of them.
    pub(crate) fn usable(&self) -> u8 {
        self.events
            .map_or(self.counters, |events| events.counters.min(self.counters))
    }

    /// The event register of a counter.
    pub(crate) fn select(&self, counter: u8) -> u32 {
        let counter = u32::from(counter);
        match self.interface {
            // IA32_PERFEVTSEL0 (SDM vol. 4, table 2-2).
            Interface::Architectural(_) => 0x186 + counter,
            // PERF_LEGACY_CTL0, PERF_CTL0 (APM vol. 2, A.6).
            Interface::AmdLegacy => 0xc001_0000 + counter,
            Interface::AmdCore | Interface::AmdV2 => 0xc001_0200 + 2 * counter,
        }
    }

    /// The counter.
    pub(crate) fn count(&self, counter: u8) -> u32 {
        let counter = u32::from(counter);
        match self.interface {
            // IA32_PMC0.
            Interface::Architectural(_) => 0xc1 + counter,
            // PERF_LEGACY_CTR0, PERF_CTR0.
            Interface::AmdLegacy => 0xc001_0004 + counter,
            Interface::AmdCore | Interface::AmdV2 => 0xc001_0201 + 2 * counter,
        }
    }

    /// The register with a bit for each counter that switches it on.
    pub(crate) fn switch(&self) -> Option<u32> {
        match self.interface {
            // IA32_PERF_GLOBAL_CTRL, from version 2 on (SDM vol. 3B, 20.2.2).
            Interface::Architectural(2..) => Some(0x38f),
            // PerfCntrGlobalCtl (APM vol. 2, 13.2.1).
            Interface::AmdV2 => Some(0xc000_0301),
            Interface::Architectural(_) | Interface::AmdLegacy | Interface::AmdCore => None,
        }
    }
}

/// Displayed family and model (SDM vol. 2A, CPUID, figure 3-6; APM vol. 3, E.3.2). The crate's sum of the family's two parts panics in debug
/// builds where it does not fit.
fn signature(eax: u32) -> (u8, u8) {
    let field = |shift: u32, mask: u32| (eax >> shift & mask) as u8;
    let (family, model) = (field(8, 0xf), field(4, 0xf));
    match family {
        0xf => (
            family.saturating_add(field(20, 0xff)),
            field(16, 0xf) << 4 | model,
        ),
        // AMD's and Intel's differ only in family 6, which no AMD CPU with counters has.
        6 => (family, field(16, 0xf) << 4 | model),
        _ => (family, model),
    }
}

/// Whether this is the smaller kind of core of a hybrid CPU, whose events are others than those of its model's table.
fn is_efficient(cpuid: &impl CpuIdReader) -> bool {
    cpuid.cpuid2(7, 0).edx & HYBRID != 0 && cpuid.cpuid2(CORE_KIND, 0).eax >> 24 == EFFICIENT
}

fn architectural(cpuid: &impl CpuIdReader) -> Option<Unit> {
    if cpuid.cpuid2(0, 0).eax < PERFMON {
        return None;
    }
    let leaf = cpuid.cpuid2(PERFMON, 0);
    let version = leaf.eax as u8;
    let all = cpuid.cpuid2(0, 0).eax >= PERFMON_EXTENDED && cpuid.cpuid2(7, 1).eax & HAS_EXTENDED != 0;
    let counters = if all {
        // Those from 0 on; none has holes so far.
        cpuid.cpuid2(PERFMON_EXTENDED, 1).eax.trailing_ones() as u8
    } else {
        (leaf.eax >> 8) as u8
    };
    let known = 1_u32.checked_shl(leaf.eax >> 24).map_or(u32::MAX, |end| end - 1);
    (version > 0 && counters > 0).then_some(Unit {
        vendor: Vendor::Intel,
        interface: Interface::Architectural(version),
        counters: counters.min(MOST_COUNTERS),
        width: (leaf.eax >> 16) as u8,
        events: Err(Absence::NotAdvertised),
        missing: leaf.ebx | !known,
    })
}

fn amd(cpuid: &impl CpuIdReader) -> Unit {
    let last = cpuid.cpuid2(0x8000_0000, 0).eax;
    let has_core = last >= 0x8000_0001 && cpuid.cpuid2(0x8000_0001, 0).ecx & HAS_CORE_COUNTERS != 0;
    let v2 = (last >= PERFMON_V2_LEAF)
        .then(|| cpuid.cpuid2(PERFMON_V2_LEAF, 0))
        .filter(|leaf| leaf.eax & HAS_V2 != 0 && leaf.ebx & 0xf > 0);
    let (interface, counters) = match (v2, has_core) {
        (Some(leaf), true) => (Interface::AmdV2, (leaf.ebx & 0xf) as u8),
        (_, true) => (Interface::AmdCore, CORE_COUNTERS),
        _ => (Interface::AmdLegacy, LEGACY_COUNTERS),
    };
    Unit {
        vendor: Vendor::Amd,
        interface,
        counters: counters.min(MOST_COUNTERS),
        width: AMD_WIDTH,
        events: Err(Absence::NotAdvertised),
        missing: 0,
    }
}

#[cfg(test)]
mod tests;
