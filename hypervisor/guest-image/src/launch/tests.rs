use std::collections::BTreeMap;

use guest_abi::launch_area::PAGE_TABLES_END;
use proptest::prelude::*;

use super::*;

/// The smallest program: one byte of code at 1 MiB.
fn program() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend([0x10_0000_u64, 64, 0].map(u64::to_le_bytes).concat());
    file.extend([0_u16, 0, 64, 56, 1, 64, 0, 0].map(u16::to_le_bytes).concat());
    file.extend([1_u32, 5].map(u32::to_le_bytes).concat());
    file.extend(
        [120_u64, 0x10_0000, 0x10_0000, 1, 1, 1]
            .map(u64::to_le_bytes)
            .concat(),
    );
    file.push(0xf4);
    file
}

/// Guest memory as the writes leave it, by page; what was not written is zero.
struct Memory(BTreeMap<u64, Vec<u8>>);

impl Memory {
    fn of(launch: &Launch) -> Self {
        let mut pages: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let done: Result<(), ()> = launch.for_each_write(|gpa, bytes| {
            let (page, offset) = (gpa.get() / 4096, (gpa.get() % 4096) as usize);
            assert!(offset + bytes.len() <= 4096 && !bytes.is_empty());
            assert!(
                (LAUNCH_INFO..STACK_START).contains(&gpa.get())
                    || (PAGE_TABLES_START..PAGE_TABLES_END).contains(&gpa.get())
            );
            let old = pages.insert(page, vec![0; 4096]);
            assert!(old.is_none(), "page {page:#x} written twice");
            pages.get_mut(&page).unwrap()[offset..offset + bytes.len()].copy_from_slice(bytes);
            Ok(())
        });
        assert_eq!(done, Ok(()));
        Self(pages)
    }

    fn word(&self, gpa: u64) -> u64 {
        let page = self.0.get(&(gpa / 4096));
        page.map_or(0, |page| {
            u64::from_le_bytes(page[(gpa % 4096) as usize..][..8].try_into().unwrap())
        })
    }

    /// Walks the tables as the CPU does, written from the manual and not from the code under test: the physical address, or
    /// nothing where an entry is absent. Read-only entries and reserved bits are failures.
    fn translate(&self, cr3: u64, address: u64) -> Option<u64> {
        let mut table = cr3;
        for shift in [39, 30, 21, 12] {
            let entry = self.word(table + (address >> shift & 0x1ff) * 8);
            if entry & 1 == 0 {
                return None;
            }
            assert!(entry & 2 != 0 && entry >> 40 == 0, "{entry:#x}");
            let target = entry & 0x000f_ffff_ffff_f000;
            if shift == 12 || (shift < 39 && entry & 0x80 != 0) {
                let offset = (1 << shift) - 1;
                assert_eq!(target & offset, 0, "misaligned leaf {entry:#x}");
                return Some(target | address & offset);
            }
            assert_eq!(entry & 0x80, 0);
            table = target;
        }
        None
    }
}

fn launch(memory_bytes: u64) -> Result<Launch, LaunchError> {
    let file = program();
    Launch::new(&Image::parse(&file, memory_bytes).unwrap(), 3, 0x5eed)
}

fn check_identity(memory_bytes: u64) {
    let launch = launch(memory_bytes).unwrap();
    let memory = Memory::of(&launch);
    let cr3 = launch.start_state().cr3.get();
    let covered = memory_bytes.max(4 << 30).next_multiple_of(1 << 30);
    for address in (0..covered).step_by(1 << 21) {
        assert_eq!(memory.translate(cr3, address + 0x1234), Some(address + 0x1234));
    }
    assert_eq!(memory.translate(cr3, covered), None);
    assert_eq!(memory.translate(cr3, 1 << 39), None);
    assert_eq!(memory.translate(cr3, 0xffff_8000_0000_0000), None);
    let announced: Vec<u64> = launch.pages().map(|page| page.get() / 4096).collect();
    assert!(
        announced.iter().eq(memory.0.keys()),
        "pages written and pages announced"
    );
    // The range that the guest is told to leave alone holds all tables, and no table lies outside of it.
    let tables = launch.info().page_tables_start..launch.info().page_tables_end;
    assert!(tables.end <= PAGE_TABLES_END && tables.contains(&cr3));
    let written = memory
        .0
        .keys()
        .filter(|&&page| page * 4096 >= PAGE_TABLES_START)
        .count() as u64;
    assert_eq!(written, (tables.end - tables.start) / 4096);
    assert!(memory.0.keys().all(|page| page * 4096 < tables.end));
}

/// The most memory that is looked at: Miri takes a minute for four GiB of entries.
const LOOKED_AT: u64 = if cfg!(miri) { 5 << 30 } else { MEMORY_MAX };

#[test]
fn the_tables_map_all_memory_and_four_gigabytes_to_itself() {
    let sizes = [4 << 20, 1 << 30, 4 << 30, (4 << 30) + (2 << 20), 9 << 30];
    let sizes = sizes.into_iter().chain([LOOKED_AT]);
    // The smallest and the largest have all that differs.
    for memory_bytes in sizes.filter(|bytes| !cfg!(miri) || *bytes < 1 << 30 || *bytes == LOOKED_AT) {
        check_identity(memory_bytes);
    }
}

#[test]
fn a_memory_that_can_not_be_described_is_refused() {
    let memory_bytes = MEMORY_MAX + PAGE_SIZE;
    let error = launch(memory_bytes).unwrap_err();
    assert_eq!(error, LaunchError::MemoryTooLarge { memory_bytes });
    assert!(error.to_string().contains("126 GiB"), "{error}");
    assert!(matches!(
        launch(u64::MAX),
        Err(LaunchError::MemoryTooLarge { .. })
    ));
    assert!(matches!(
        launch((4 << 20) + 1),
        Err(LaunchError::MemorySize { .. })
    ));
    let file = program();
    let image = Image::parse(&file, 4 << 20).unwrap();
    assert_eq!(
        Launch::new(&image, 0, 1),
        Err(LaunchError::Instance { instance: 0 })
    );
    assert!(Launch::new(&image, pattern::INSTANCES, 1).is_err());
    assert!(Launch::new(&image, pattern::INSTANCES - 1, 1).is_ok());
}

#[test]
fn launch_information_and_descriptors_are_where_the_registers_say() {
    let launch = launch(64 << 20).unwrap();
    let memory = Memory::of(&launch);
    let state = launch.start_state();
    let page = &memory.0[&(state.rdi.get() / 4096)];
    let info = LaunchInfo::from_bytes(page).unwrap();
    assert_eq!(
        (info.memory_bytes, info.instance, info.seed),
        (64 << 20, 3, 0x5eed)
    );
    assert_eq!((info.image_start, info.image_end), (0x10_0000, 0x10_1000));
    assert_eq!((info.stack_start, info.stack_end), (0x4_0000, 0x8_0000));
    assert_eq!(state.rip, Gva::new(0x10_0000));
    assert_eq!(state.rsp.get() % 16, 8);

    // Base 0, limit 4 GiB, present, ring 0; bit 53 L, bit 54 D, bit 43 code.
    let descriptor = |selector: u16| {
        assert!(u64::from(selector) + 7 <= u64::from(state.gdt_limit));
        memory.word(state.gdt_base.get() + u64::from(selector))
    };
    let (code, data) = (descriptor(state.code_selector), descriptor(state.data_selector));
    assert_eq!((code >> 43 & 1, code >> 53 & 3), (1, 1));
    assert_eq!((data >> 43 & 1, data >> 41 & 1), (0, 1));
    for descriptor in [code, data] {
        assert_eq!(
            (descriptor >> 47 & 1, descriptor >> 44 & 7, descriptor >> 40 & 1),
            (1, 1, 1)
        );
    }
    assert_eq!(memory.word(state.gdt_base.get()), 0);
}

#[test]
fn the_first_failed_write_ends_the_sequence() {
    let launch = launch(4 << 20).unwrap();
    let all = Memory::of(&launch).0.len();
    for fail_at in 0..all {
        let mut calls = 0;
        let result = launch.for_each_write(|_, _| {
            calls += 1;
            if calls > fail_at { Err(calls) } else { Ok(()) }
        });
        assert_eq!((result, calls), (Err(fail_at + 1), fail_at + 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 24 }))]
    #[test]
    fn any_memory_size_is_mapped_whole(pages in 1024..LOOKED_AT / 4096) {
        check_identity(pages * 4096);
    }
}
