//! The control area (AMD APM vol. 2, appendix B, table B-1). Each field is checked against its offset below.

use super::bits::{Event, VirtualInterruptControl};
use core::mem::offset_of;

/// Offsets 000H to 3FFH. What this hypervisor does not use is reserved here and stays zero, which switches it off.
#[repr(C)]
pub struct ControlArea {
    /// 000H: reads of CR0 to CR15, then writes.
    pub intercept_cr: u32,
    /// 004H: reads of DR0 to DR15, then writes.
    pub intercept_dr: u32,
    /// 008H: exceptions by vector.
    pub intercept_exceptions: u32,
    /// 00CH: first word of instructions and events.
    pub intercept_first: u32,
    /// 010H: second word.
    pub intercept_second: u32,
    _014: [u8; 0x040 - 0x014],
    /// 040H: host-physical address of the port map.
    pub port_map: u64,
    /// 048H: host-physical address of the MSR map.
    pub msr_map: u64,
    /// 050H: added to the TSC that the guest reads.
    pub tsc_offset: u64,
    /// 058H: tag of the guest's translations; 0 is the host's and refused.
    pub asid: u32,
    /// 05CH: what VMRUN flushes.
    pub tlb_control: u8,
    _05d: [u8; 3],
    /// 060H: virtual interrupts.
    pub virtual_interrupts: VirtualInterruptControl,
    /// 068H: bit 0: the guest is in the shadow of STI or a load of SS.
    pub interrupt_shadow: u64,
    /// 070H: why the guest exited.
    pub exit_code: u64,
    /// 078H: details by exit code.
    pub exit_info_1: u64,
    /// 080H: details by exit code.
    pub exit_info_2: u64,
    /// 088H: the event whose delivery the exit interrupted (EXITINTINFO).
    pub interrupted_event: Event,
    /// 090H: bit 0: nested paging.
    pub nested_paging: u64,
    _098: [u8; 0x0a8 - 0x098],
    /// 0A8H: the event to deliver on entry (EVENTINJ).
    pub inject: Event,
    /// 0B0H: host-physical address of the top-level table of the second stage.
    pub nested_cr3: u64,
    /// 0B8H: last-branch records.
    pub last_branch: u64,
    /// 0C0H: which parts of the block the CPU may have cached. 0: none, always right.
    pub clean: u64,
    /// 0C8H: the RIP after the intercepted instruction, where CPUID offers it.
    pub next_rip: u64,
    _0d0: [u8; 0x400 - 0x0d0],
}

const _: () = {
    assert!(size_of::<ControlArea>() == 0x400);
    assert!(offset_of!(ControlArea, intercept_cr) == 0x000);
    assert!(offset_of!(ControlArea, intercept_dr) == 0x004);
    assert!(offset_of!(ControlArea, intercept_exceptions) == 0x008);
    assert!(offset_of!(ControlArea, intercept_first) == 0x00c);
    assert!(offset_of!(ControlArea, intercept_second) == 0x010);
    assert!(offset_of!(ControlArea, port_map) == 0x040);
    assert!(offset_of!(ControlArea, msr_map) == 0x048);
    assert!(offset_of!(ControlArea, tsc_offset) == 0x050);
    assert!(offset_of!(ControlArea, asid) == 0x058);
    assert!(offset_of!(ControlArea, tlb_control) == 0x05c);
    assert!(offset_of!(ControlArea, virtual_interrupts) == 0x060);
    assert!(offset_of!(ControlArea, interrupt_shadow) == 0x068);
    assert!(offset_of!(ControlArea, exit_code) == 0x070);
    assert!(offset_of!(ControlArea, exit_info_1) == 0x078);
    assert!(offset_of!(ControlArea, exit_info_2) == 0x080);
    assert!(offset_of!(ControlArea, interrupted_event) == 0x088);
    assert!(offset_of!(ControlArea, nested_paging) == 0x090);
    assert!(offset_of!(ControlArea, inject) == 0x0a8);
    assert!(offset_of!(ControlArea, nested_cr3) == 0x0b0);
    assert!(offset_of!(ControlArea, last_branch) == 0x0b8);
    assert!(offset_of!(ControlArea, clean) == 0x0c0);
    assert!(offset_of!(ControlArea, next_rip) == 0x0c8);
};
