/* The boot sector. The numbers in braces come from lib.rs.

   The BIOS has loaded it to 0x7c00 and jumped to it in real mode, with the drive's number in DL and nothing else certain. Two services
   of the BIOS are used: INT 13h function 42h reads sectors (Phoenix, Enhanced Disk Drive Specification 3.0), and INT 15h function E820h
   lists memory (ACPI 6.5, 15.1). Text goes to COM1, never to the screen: a headless emulator may wait for ever to show it. */

    .section .boot, "ax", @progbits
    .code16
    .globl boot_sector
boot_sector:
    cli
    cld
    /* Some BIOSes jump to 07c0:0000. */
    ljmp $0, $start
start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $boot_sector, %sp
    sti
    movb %dl, drive

    /* Let addresses have a bit 20: fast A20, system control port A, bit 1 (bit 0 would reset the machine). */
    inb $0x92, %al
    orb $2, %al
    andb $0xfe, %al
    outb %al, $0x92

    /* The plan: what the packet below asks for from the start. */
    call read

    /* Each piece: ECX sectors from EAX on, to EDI. */
    movw ${pieces}, %bx
next_piece:
    movl (%bx), %eax
    movl 4(%bx), %ecx
    movl 8(%bx), %edi
    addw ${piece_bytes}, %bx
    movl %eax, packet_sector
    movw ${buffer_segment}, packet_segment
    movw $0, packet_offset
some_sectors:
    movl ${read_sectors}, %edx
    cmpl %edx, %ecx
    jae 1f
    movl %ecx, %edx
1:  testl %edx, %edx
    jz loaded
    movw %dx, packet_count
    call read

    /* Copy to above 1 MiB. A segment's limit is that of the descriptor it was loaded from in protected mode, and stays when real mode
       is back (SDM vol. 3A, 9.9.2): DS and ES get one of 4 GiB. The BIOS may change that, so it is done each time. */
    cli
    pushl %eax
    lgdt descriptors_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    movw $0x10, %si
    movw %si, %ds
    movw %si, %es
    andb $0xfe, %al
    movl %eax, %cr0
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    popl %eax
    pushl %ecx
    movl ${buffer}, %esi
    movl %edx, %ecx
    shll $7, %ecx                       /* 512 bytes are 128 words */
    rep movsl (%esi), %es:(%edi)
    popl %ecx
    sti

    addl %edx, packet_sector
    subl %edx, %ecx
    jnz some_sectors
    jmp next_piece

    /* The memory map: the BIOS writes 20 bytes of each entry. */
loaded:
    movw ${map}, %di
    xorl %ebx, %ebx
    movw $map_text, %bp
next_range:
    movl $0xe820, %eax
    movl $20, %ecx
    movl $0x534d4150, %edx              /* "SMAP" */
    movl $0, 20(%di)
    int $0x15
    jc map_ends
    cmpl $0x534d4150, %eax
    jne fail
    incl {map_entries}
    addw ${map_entry}, %di
    testl %ebx, %ebx
    jz start_image
    cmpw ${map_end}, %di
    jb next_range
    jmp fail                            /* more than there is room for */
map_ends:
    /* Some BIOSes say so when the list has ended, others when they have none. */
    cmpl $0, {map_entries}
    je fail

    /* Protected mode, and the state in which a PVH loader enters (Xen docs/misc/pvh.pandoc). */
start_image:
    cli
    lgdt descriptors_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmp $0x08, $flat
    .code32
flat:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl ${start_info}, %ebx
    jmpl *{image_entry}

    .code16
    /* Reads what the packet says. Keeps EAX, EBX, ECX, EDX, EDI. */
read:
    pushal
    movb $0x42, %ah
    movb drive, %dl
    movw $packet, %si
    int $0x13
    movw $disk_text, %bp
    jc fail
    popal
    ret

    /* Prints a verdict whose end is at BP on COM1, and ends the run: QEMU's exit device, Bochs' debugger, or for ever. */
fail:
    movw $0x3fb, %dx
    movb $3, %al                        /* line control: 8 bits, no parity; after reset Bochs sends 5 */
    outb %al, %dx
    movw $verdict_text, %si
    call print
    movw %bp, %si
    call print
    movw $0xf4, %dx
    movl $0x13, %eax                    /* refused (ExitCode in hypervisor/src/console) */
    outl %eax, %dx
    movw $0x8900, %dx
    movb $'D', %al
    outb %al, %dx
2:  cli
    hlt
    jmp 2b

    /* Prints the text at SI, which ends with a zero. */
print:
    lodsb
    testb %al, %al
    jz 4f
    movw $0x3f8, %dx
    outb %al, %dx
    movb $0xfd, %dl
    xorw %cx, %cx                       /* 65536 attempts: the port may be stuck */
3:  inb %dx, %al
    testb $0x40, %al                    /* line status: all has been sent */
    loopz 3b
    jmp print
4:  ret

verdict_text:
    .asciz "VERDICT: REFUSED boot disk: "
disk_text:
    .asciz "the BIOS cannot read it\n"
map_text:
    .asciz "the BIOS has no usable memory map\n"

    .balign 4
packet:                                 /* disk address packet */
    .byte 16, 0
packet_count:
    .word {plan_sectors}
packet_offset:
    .word {plan}
packet_segment:
    .word 0
packet_sector:
    .long {plan_sector}, 0

descriptors:
    .quad 0
    .quad 0x00cf9b000000ffff            /* 0x08: 32-bit code, 4 GiB */
    .quad 0x00cf93000000ffff            /* 0x10: data, 4 GiB */
descriptors_end:
descriptors_pointer:
    .word descriptors_end - descriptors - 1
    .long descriptors
drive:
    .byte 0

    .org 510
    .word 0xaa55
