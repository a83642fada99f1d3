//! The bits of a table entry, as the manuals give them, and what a leaf means.

use crate::address::{G1, K4, M2, Pa, Va};
use crate::extended;

/// Bits of an entry: AMD APM volume 2 section 5.4.1, Intel SDM volume 3A tables 4-14 to 4-20.
pub(crate) mod bit {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const WRITE_THROUGH: u64 = 1 << 3;
    pub const CACHE_DISABLE: u64 = 1 << 4;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    /// At levels 2 and 3: this entry is a leaf. Reserved above.
    pub const LARGE: u64 = 1 << 7;
    /// At level 1 the same bit selects the upper half of the PAT.
    pub const PAT_SMALL: u64 = 1 << 7;
    pub const GLOBAL: u64 = 1 << 8;
    /// In a large leaf the PAT bit moves here.
    pub const PAT_LARGE: u64 = 1 << 12;
    pub const KEY_SHIFT: u32 = 59;
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// Bits 51:12, the most that an entry can hold of an address.
    pub const ADDRESS: u64 = bits(12, 51);

    /// A mask of the bits from `low` to `high`, both inclusive.
    pub const fn bits(low: u32, high: u32) -> u64 {
        if low > high {
            return 0;
        }
        (u64::MAX >> (63 - high)) & (u64::MAX << low)
    }
}

/// The layout of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Host tables, and AMD's nested tables.
    LongMode,
    /// Intel's EPT.
    Extended {
        /// Leaves that may be executed but not read are allowed.
        execute_only: bool,
    },
}

/// Which of the formats to walk, and what this CPU allows in it.
///
/// Host tables and AMD's nested tables have the same entries (APM volume 2 section 15.25.5); they differ in what the
/// upper half of the address space means. Intel's extended tables have their own (SDM volume 3C section 29.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    layout: Layout,
    levels: u8,
    canonical: bool,
    physical_bits: u32,
    no_execute: bool,
    gigabyte_leaves: bool,
}

impl Format {
    /// Host tables: 4 levels, or 5 when CR4.LA57 (bit 12) is set. Assumes EFER.NXE and 1G leaves.
    ///
    /// `physical_bits` is CPUID 8000_0008H EAX bits 7:0; values over the architectural 52 count as 52.
    pub const fn host(five_levels: bool, physical_bits: u32) -> Self {
        Self {
            layout: Layout::LongMode,
            levels: if five_levels { 5 } else { 4 },
            canonical: true,
            physical_bits: if physical_bits > 52 { 52 } else { physical_bits },
            no_execute: true,
            gigabyte_leaves: true,
        }
    }

    /// AMD nested tables; as [`Format::host`], but the translated addresses are guest-physical: they have no sign.
    pub const fn nested(five_levels: bool, physical_bits: u32) -> Self {
        let mut format = Self::host(five_levels, physical_bits);
        format.canonical = false;
        format
    }

    /// Intel's extended tables. Assumes 1G leaves, and that a leaf must not be executable without being readable.
    pub const fn extended(five_levels: bool, physical_bits: u32) -> Self {
        let mut format = Self::nested(five_levels, physical_bits);
        format.layout = Layout::Extended { execute_only: false };
        format
    }

    /// For EPT on a CPU with execute-only leaves (IA32_VMX_EPT_VPID_CAP bit 0). Nothing changes for other tables.
    pub const fn with_execute_only(mut self) -> Self {
        if self.is_extended() {
            self.layout = Layout::Extended { execute_only: true };
        }
        self
    }

    pub(crate) const fn is_extended(self) -> bool {
        matches!(self.layout, Layout::Extended { .. })
    }

    /// For a CPU without 1G leaves (CPUID 8000_0001H EDX bit 26 clear; for EPT, IA32_VMX_EPT_VPID_CAP bit 17): bit 7 of a level-3 entry is
    /// reserved.
    pub const fn without_gigabyte_leaves(mut self) -> Self {
        self.gigabyte_leaves = false;
        self
    }

    /// For EFER.NXE = 0: bit 63 is reserved.
    pub const fn without_no_execute(mut self) -> Self {
        self.no_execute = false;
        self
    }

    /// Number of levels: 4 or 5.
    pub const fn levels(self) -> u8 {
        self.levels
    }

    /// The root table's address in a CR3, nested-CR3 or EPT-pointer value: bits 51:12. The rest are flags and a context number.
    pub const fn root(self, cr3: u64) -> Pa {
        Pa::new(cr3 & bit::ADDRESS)
    }

    /// Bits of the address that the tables translate: 48 or 57.
    const fn address_bits(self) -> u32 {
        12 + 9 * self.levels as u32
    }

    /// The address as an index into the tables, without its sign bits.
    pub(crate) const fn linear(self, va: Va) -> u64 {
        va.get() & bit::bits(0, self.address_bits() - 1)
    }

    /// The reverse of [`Format::linear`]: copies the top bit upward when addresses are canonical.
    pub(crate) const fn address(self, linear: u64) -> Va {
        let shift = 64 - self.address_bits();
        if self.canonical {
            Va::new((((linear << shift) as i64) >> shift) as u64)
        } else {
            Va::new(linear)
        }
    }

    /// Whether an entry leads anywhere.
    pub(crate) const fn is_present(self, entry: u64) -> bool {
        match self.layout {
            Layout::LongMode => entry & bit::PRESENT != 0,
            Layout::Extended { .. } => extended::is_present(entry),
        }
    }

    /// The rights that are left below an entry.
    pub(crate) const fn through(self, rights: Rights, entry: u64) -> Rights {
        match self.layout {
            Layout::LongMode => rights.through(entry),
            Layout::Extended { .. } => extended::through(rights, entry),
        }
    }

    /// Whether a present entry at `level` ends the walk.
    pub(crate) const fn is_leaf(self, level: u8, entry: u64) -> bool {
        if self.is_extended() {
            return extended::is_leaf(level, entry, self.gigabyte_leaves);
        }
        match level {
            1 => true,
            2 => entry & bit::LARGE != 0,
            3 => entry & bit::LARGE != 0 && self.gigabyte_leaves,
            _ => false,
        }
    }

    /// What one entry of a level-`level` table says by itself, whatever stands above it. `va` is the first address that it translates.
    pub const fn decode(self, level: u8, va: Va, entry: u64) -> Entry {
        if !self.is_present(entry) {
            return Entry::Absent;
        }
        let reserved = self.reserved(level, entry);
        if reserved != 0 {
            return Entry::Malformed { reserved };
        }
        if self.is_leaf(level, entry) {
            let rights = self.through(Rights::ALL, entry);
            return Entry::Leaf(Leaf::new(self, va, level, entry, rights));
        }
        Entry::Table(Pa::new(entry & bit::ADDRESS))
    }

    /// The bits set in `entry` that must be zero at this level.
    ///
    /// APM volume 2 figures 5-17 to 5-29, SDM volume 3A section 4.5.5. In level 4 and 5 entries the SDM ignores bit 8 and the APM
    /// says it must be zero: the stricter rule is taken.
    pub(crate) const fn reserved(self, level: u8, entry: u64) -> u64 {
        if let Layout::Extended { execute_only } = self.layout {
            let (bits, gigabyte) = (self.physical_bits, self.gigabyte_leaves);
            return extended::misconfigured(level, entry, bits, gigabyte, execute_only);
        }
        let mut mask = bit::bits(self.physical_bits, 51);
        if !self.no_execute {
            mask |= bit::NO_EXECUTE;
        }
        if level >= 4 {
            mask |= bit::LARGE | bit::GLOBAL;
        }
        if level == 3 && !self.gigabyte_leaves {
            mask |= bit::LARGE;
        }
        if level == 3 && self.is_leaf(level, entry) {
            mask |= bit::bits(13, 29);
        }
        if level == 2 && self.is_leaf(level, entry) {
            mask |= bit::bits(13, 20);
        }
        entry & mask
    }
}

/// What one entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It leads nowhere.
    Absent,
    /// It is present and has bits set that must be zero: these.
    Malformed {
        /// The bits.
        reserved: u64,
    },
    /// It leads to a table of the level below.
    Table(Pa),
    /// It maps memory, with the rights that it gives itself.
    Leaf(Leaf),
}

/// The size of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeafSize {
    /// 4 KiB, level 1.
    K4,
    /// 2 MiB, level 2.
    M2,
    /// 1 GiB, level 3.
    G1,
}

impl LeafSize {
    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::K4 => K4,
            Self::M2 => M2,
            Self::G1 => G1,
        }
    }

    pub(crate) const fn of_level(level: u8) -> Self {
        match level {
            1 => Self::K4,
            2 => Self::M2,
            _ => Self::G1,
        }
    }
}

/// Rights gathered on the way down: each level can only take away (APM volume 2 section 5.6, SDM volume 3A section 4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    writable: bool,
    user: bool,
    execute: bool,
}

impl Rights {
    pub(crate) const ALL: Self = Self {
        writable: true,
        user: true,
        execute: true,
    };

    const fn through(self, entry: u64) -> Self {
        self.and(
            entry & bit::WRITABLE != 0,
            entry & bit::USER != 0,
            entry & bit::NO_EXECUTE == 0,
        )
    }

    pub(crate) const fn and(self, writable: bool, user: bool, execute: bool) -> Self {
        Self {
            writable: self.writable && writable,
            user: self.user && user,
            execute: self.execute && execute,
        }
    }

    /// With what a leaf says beside them.
    pub(crate) const fn attributes(
        self,
        global: bool,
        write_through: bool,
        cache_disable: bool,
        pat: bool,
        key: u8,
    ) -> Attributes {
        Attributes {
            writable: self.writable,
            user: self.user,
            execute: self.execute,
            global,
            write_through,
            cache_disable,
            pat,
            key,
        }
    }
}

/// What a leaf allows, and its memory type; the part of a leaf that must come back exactly after a split and a merge.
/// Accessed and dirty are not in here, nor the bits that the CPU ignores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// Writes are allowed at every level.
    pub writable: bool,
    /// User access is allowed at every level. AMD's second stage needs it: nested accesses count as user (APM 15.25.5). Always set in EPT.
    pub user: bool,
    /// No level forbids execution.
    pub execute: bool,
    /// The translation survives a CR3 write (leaf bit 8). In EPT: the guest's PAT is ignored (bit 6).
    pub global: bool,
    /// Memory type: PWT, index bit 0 into the PAT. In EPT: bit 0 of the type itself (bit 3).
    pub write_through: bool,
    /// Memory type: PCD, index bit 1 into the PAT. In EPT: bit 1 of the type itself (bit 4).
    pub cache_disable: bool,
    /// Memory type: PAT, index bit 2 into the PAT (bit 7 of a 4K leaf, bit 12 of a larger one). In EPT: bit 2 of the type itself
    /// (bit 5).
    pub pat: bool,
    /// Protection key, 0 to 15 (bits 62:59); without effect unless CR4.PKE or CR4.PKS is set.
    pub key: u8,
}

impl Attributes {
    pub(crate) const fn of_leaf(level: u8, entry: u64, rights: Rights) -> Self {
        let pat = if level == 1 {
            bit::PAT_SMALL
        } else {
            bit::PAT_LARGE
        };
        rights.attributes(
            entry & bit::GLOBAL != 0,
            entry & bit::WRITE_THROUGH != 0,
            entry & bit::CACHE_DISABLE != 0,
            entry & pat != 0,
            ((entry >> bit::KEY_SHIFT) & 0xf) as u8,
        )
    }

    /// All attributes in 11 bits: a stable number for digests and dumps. Bit 0 writable, 1 user, 2 execute, 3 global, 4 PWT, 5 PCD, 6
    /// PAT, 7 to 10 the key.
    pub const fn code(self) -> u16 {
        self.writable as u16
            | (self.user as u16) << 1
            | (self.execute as u16) << 2
            | (self.global as u16) << 3
            | (self.write_through as u16) << 4
            | (self.cache_disable as u16) << 5
            | (self.pat as u16) << 6
            | (self.key as u16) << 7
    }
}

/// One translation: `size` bytes from `va` go to `pa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where it is seen.
    pub va: Va,
    /// Where it goes.
    pub pa: Pa,
    /// How much it maps.
    pub size: LeafSize,
    /// Rights (over all levels) and memory type.
    pub attributes: Attributes,
    /// The CPU read through it (bit 5; in EPT, bit 8).
    pub accessed: bool,
    /// The CPU wrote through it (bit 6; in EPT, bit 9).
    pub dirty: bool,
}

impl Leaf {
    pub(crate) const fn new(format: Format, va: Va, level: u8, entry: u64, rights: Rights) -> Self {
        let size = LeafSize::of_level(level);
        let (attributes, accessed, dirty) = match format.layout {
            Layout::LongMode => (
                Attributes::of_leaf(level, entry, rights),
                bit::ACCESSED,
                bit::DIRTY,
            ),
            Layout::Extended { .. } => (
                extended::attributes(entry, rights),
                extended::ACCESSED,
                extended::DIRTY,
            ),
        };
        Self {
            va,
            pa: Pa::new(entry & bit::ADDRESS & !(size.bytes() - 1)),
            size,
            attributes,
            accessed: entry & accessed != 0,
            dirty: entry & dirty != 0,
        }
    }

    /// Where the leaf's physical extent ends (exclusive). Cannot overflow: addresses have at most 52 bits.
    pub const fn pa_end(&self) -> Pa {
        Pa::new(self.pa.get() + self.size.bytes())
    }
}
