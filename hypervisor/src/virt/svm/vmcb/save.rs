//! The state-save area (AMD APM vol. 2, appendix B, table B-2). Offsets are from its start, 400H in the block.

use super::bits::SegmentAttributes;
use core::mem::offset_of;

/// A segment register or a descriptor-table register.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Segment {
    /// The selector; 0 for GDTR and IDTR.
    pub selector: u16,
    /// Type, rights and size; 0 for GDTR and IDTR.
    pub attributes: SegmentAttributes,
    /// Last byte.
    pub limit: u32,
    /// First byte.
    pub base: u64,
}

/// The guest's registers, as far as VMRUN, VMLOAD and VMSAVE swap them.
#[repr(C)]
pub struct SaveArea {
    /// 000H.
    pub es: Segment,
    /// 010H.
    pub cs: Segment,
    /// 020H.
    pub ss: Segment,
    /// 030H.
    pub ds: Segment,
    /// 040H. By VMLOAD and VMSAVE.
    pub fs: Segment,
    /// 050H. By VMLOAD and VMSAVE.
    pub gs: Segment,
    /// 060H.
    pub gdtr: Segment,
    /// 070H. By VMLOAD and VMSAVE.
    pub ldtr: Segment,
    /// 080H.
    pub idtr: Segment,
    /// 090H. By VMLOAD and VMSAVE.
    pub tr: Segment,
    _0a0: [u8; 0x0cb - 0x0a0],
    /// 0CBH: current privilege level.
    pub cpl: u8,
    _0cc: [u8; 4],
    /// 0D0H. SVME must be set.
    pub efer: u64,
    _0d8: [u8; 0x148 - 0x0d8],
    /// 148H.
    pub cr4: u64,
    /// 150H.
    pub cr3: u64,
    /// 158H.
    pub cr0: u64,
    /// 160H. The upper half must be zero.
    pub dr7: u64,
    /// 168H. The upper half must be zero.
    pub dr6: u64,
    /// 170H.
    pub rflags: u64,
    /// 178H.
    pub rip: u64,
    _180: [u8; 0x1d8 - 0x180],
    /// 1D8H.
    pub rsp: u64,
    _1e0: [u8; 0x1f8 - 0x1e0],
    /// 1F8H.
    pub rax: u64,
    /// 200H. This and the next seven by VMLOAD and VMSAVE.
    pub star: u64,
    /// 208H.
    pub lstar: u64,
    /// 210H.
    pub cstar: u64,
    /// 218H.
    pub sfmask: u64,
    /// 220H.
    pub kernel_gs_base: u64,
    /// 228H.
    pub sysenter_cs: u64,
    /// 230H.
    pub sysenter_esp: u64,
    /// 238H.
    pub sysenter_eip: u64,
    /// 240H.
    pub cr2: u64,
    _248: [u8; 0x268 - 0x248],
    /// 268H: the memory types of the guest's own tables.
    pub pat: u64,
    /// 270H: debug control.
    pub debug_control: u64,
}

const _: () = {
    assert!(size_of::<Segment>() == 16);
    assert!(offset_of!(SaveArea, es) == 0x000);
    assert!(offset_of!(SaveArea, cs) == 0x010);
    assert!(offset_of!(SaveArea, ss) == 0x020);
    assert!(offset_of!(SaveArea, ds) == 0x030);
    assert!(offset_of!(SaveArea, fs) == 0x040);
    assert!(offset_of!(SaveArea, gs) == 0x050);
    assert!(offset_of!(SaveArea, gdtr) == 0x060);
    assert!(offset_of!(SaveArea, ldtr) == 0x070);
    assert!(offset_of!(SaveArea, idtr) == 0x080);
    assert!(offset_of!(SaveArea, tr) == 0x090);
    assert!(offset_of!(SaveArea, cpl) == 0x0cb);
    assert!(offset_of!(SaveArea, efer) == 0x0d0);
    assert!(offset_of!(SaveArea, cr4) == 0x148);
    assert!(offset_of!(SaveArea, cr3) == 0x150);
    assert!(offset_of!(SaveArea, cr0) == 0x158);
    assert!(offset_of!(SaveArea, dr7) == 0x160);
    assert!(offset_of!(SaveArea, dr6) == 0x168);
    assert!(offset_of!(SaveArea, rflags) == 0x170);
    assert!(offset_of!(SaveArea, rip) == 0x178);
    assert!(offset_of!(SaveArea, rsp) == 0x1d8);
    assert!(offset_of!(SaveArea, rax) == 0x1f8);
    assert!(offset_of!(SaveArea, star) == 0x200);
    assert!(offset_of!(SaveArea, lstar) == 0x208);
    assert!(offset_of!(SaveArea, cstar) == 0x210);
    assert!(offset_of!(SaveArea, sfmask) == 0x218);
    assert!(offset_of!(SaveArea, kernel_gs_base) == 0x220);
    assert!(offset_of!(SaveArea, sysenter_cs) == 0x228);
    assert!(offset_of!(SaveArea, sysenter_esp) == 0x230);
    assert!(offset_of!(SaveArea, sysenter_eip) == 0x238);
    assert!(offset_of!(SaveArea, cr2) == 0x240);
    assert!(offset_of!(SaveArea, pat) == 0x268);
    assert!(offset_of!(SaveArea, debug_control) == 0x270);
};
