//! The first instructions: from a loader's 32-bit mode to `rust_entry` in the high half.
//!
//! A PVH loader enters with paging off, flat segments, interrupts off and the physical address of `hvm_start_info` in EBX
//! (Xen `docs/misc/pvh.pandoc`). A multiboot2 loader enters in the same state, with a magic number in EAX and the physical
//! address of its information in EBX (Multiboot2 Specification 2.0, 3.3 "I386 machine state"). Nothing else may be assumed, so
//! there is no stack until this code sets one. The two entries differ in one instruction: ESI gets the magic number by which
//! `rust_entry` knows what EBX pointed to.
//!
//! The early tables are a top-level table, two third-level tables and four second-level tables with 2M leaves for the
//! first 4 GiB. Those leaves appear three times: at identity (this code runs there while it switches paging on), in the
//! direct map's place, and, the first GiB only, in the image's place. All writable and executable: our own tables follow soon.

core::arch::global_asm!(
    r#"
    .set IMAGE, {image_base}

    /* The PVH note: name "Xen", type 18 = XEN_ELFNOTE_PHYS32_ENTRY, a 4-byte physical entry address
       (Xen xen/include/public/elfnote.h). */
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_entry - IMAGE

    /* The multiboot2 header: in the first 32 KiB of the file, aligned to 8 bytes (Multiboot2 Specification 2.0, 3.1). Tags are
       type, flags (1: may be ignored), bytes. Boot services are not asked for, so under UEFI the loader has ended them. */
    .section .multiboot2, "a", @progbits
    .balign 8
    multiboot2_header:
    .long 0xe85250d6                                     /* magic */
    .long 0                                              /* i386, protected mode */
    .long multiboot2_header_end - multiboot2_header
    .long -(0xe85250d6 + multiboot2_header_end - multiboot2_header)
    .word 1, 0                                           /* cannot do without: memory map (6) */
    .long 12, 6
    .balign 8
    .word 3, 0                                           /* entry, physical; the ELF header has PVH's */
    .long 12, multiboot2_entry - IMAGE
    .balign 8
    .word 6, 0                                           /* modules on page boundaries */
    .long 8
    .word 0, 0                                           /* end */
    .long 8
    multiboot2_header_end:

    .section .bss.early_tables, "aw", @nobits
    .balign 4096
    .globl early_level4
    early_level4:      .skip 4096
    early_level3_low:  .skip 4096
    early_level3_high: .skip 4096
    early_level2:      .skip 4096 * 4

    .section .bss.boot_stack, "aw", @nobits
    .balign 4096
    .globl boot_stack_bottom
    boot_stack_bottom: .skip {boot_stack_bytes}
    .globl boot_stack_top
    boot_stack_top:

    .section .rodata.boot, "a", @progbits
    .balign 16
    .globl boot_gdt
    boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff   /* 0x08: 64-bit code, accessed, so the CPU never writes to it */
    .quad 0x00cf93000000ffff   /* 0x10: data, accessed */
    .quad 0x00cf9b000000ffff   /* 0x18: 32-bit code, accessed; for `trampoline` */
    boot_gdt_end:
    boot_gdt_pointer_low:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt - IMAGE
    .globl boot_gdt_pointer
    boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt
    no_long_mode_text:
    .asciz "VERDICT: REFUSED this CPU has no 64-bit mode; start Lacuna on an x86-64 CPU\n"

    .section .text.boot, "ax", @progbits
    .code32
    multiboot2_entry:
    movl %eax, %esi
    jmp entry
    .globl pvh_entry
    pvh_entry:
    movl ${pvh_magic}, %esi
    entry:
    cli
    cld
    movl %ebx, %ebp

    /* Long mode: CPUID 8000_0001H EDX bit 29 (APM vol. 3, appendix E.4.2). */
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode

    /* Zero .bss; the linker script aligns both ends to a page. */
    movl $(__bss_start - IMAGE), %edi
    movl $(__bss_end - IMAGE), %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl

    /* 2048 leaves of 2M: present, writable, large (SDM vol. 3A, 4.5; APM vol. 2, 5.3.4). High halves stay zero. */
    movl $(early_level2 - IMAGE), %edi
    movl $0x83, %eax
    movl $2048, %ecx
    1: movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    loop 1b

    movl $(early_level3_low - IMAGE), %edi
    movl $(early_level2 - IMAGE + 3), %eax
    movl %eax, early_level3_high - IMAGE + 8 * 510
    movl $4, %ecx
    2: movl %eax, (%edi)
    addl $8, %edi
    addl $4096, %eax
    loop 2b

    movl $(early_level3_low - IMAGE + 3), %eax
    movl %eax, early_level4 - IMAGE
    movl %eax, early_level4 - IMAGE + 8 * 256
    movl $(early_level3_high - IMAGE + 3), %eax
    movl %eax, early_level4 - IMAGE + 8 * 511

    /* Into long mode: PAE, CR3, EFER.LME, paging (APM vol. 2, 14.6.1; SDM vol. 3A, 9.8.5). */
    movl $0x20, %eax
    movl %eax, %cr4
    movl $(early_level4 - IMAGE), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    lgdt boot_gdt_pointer_low - IMAGE
    ljmp $0x08, $(long_mode_low - IMAGE)

    no_long_mode:
    movl $0x3fb, %edx          /* line control: 8 bits, no parity */
    movb $3, %al
    outb %al, %dx
    movl $(no_long_mode_text - IMAGE), %edi
    3: movb (%edi), %bl
    testb %bl, %bl
    jz 6f
    /* Wait for COM1's empty transmitter (line status, bit 5), but not for ever. */
    movl $0x3fd, %edx
    movl $100000, %ecx
    4: inb %dx, %al
    testb $0x20, %al
    jnz 5f
    loop 4b
    5: movl $0x3f8, %edx
    movb %bl, %al
    outb %al, %dx
    incl %edi
    jmp 3b
    6: movl ${exit_refused}, %eax
    movl ${exit_port}, %edx
    outl %eax, %dx
    7: cli
    hlt
    jmp 7b

    .code64
    long_mode_low:
    movabsq $long_mode_high, %rax
    jmpq *%rax
    long_mode_high:
    lgdt boot_gdt_pointer(%rip)
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq $boot_stack_top, %rsp
    movl %esi, %edi
    movl %ebp, %esi
    xorl %ebp, %ebp            /* the end of every backtrace */
    callq rust_entry
    ud2
    "#,
    image_base = const memory::layout::IMAGE_BASE.get(),
    pvh_magic = const pvh::start_info::START_MAGIC_VALUE,
    boot_stack_bytes = const super::image::BOOT_STACK_BYTES,
    exit_refused = const crate::console::ExitCode::Refused as u32,
    exit_port = const crate::console::EXIT_PORT,
    options(att_syntax)
);
