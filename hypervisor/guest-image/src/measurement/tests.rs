use std::collections::BTreeMap;

use boot_config::Launch as Line;
use memory::address::Gva;
use proptest::prelude::*;

use super::*;

type Page = [u8; PAGE_SIZE as usize];

#[derive(Clone, Debug, PartialEq)]
struct Case {
    pages: BTreeMap<u64, (PageKind, Page)>,
    start: StartState,
    flags: Flags,
}

impl Case {
    fn digest(&self) -> Digest {
        let mut measuring = Measuring::new();
        for (frame, (kind, page)) in &self.pages {
            measuring.page(*kind, Gpa::new(frame * PAGE_SIZE), page).unwrap();
        }
        assert_eq!(measuring.pages(), self.pages.len() as u64);
        measuring.finish(&self.start, &self.flags)
    }

    /// The definition of docs/measurement.md, as one string of bytes.
    fn by_the_document(&self) -> [u8; 48] {
        let mut bytes = b"LACUNA launch measure\0\x02\0".to_vec();
        for (frame, (kind, page)) in &self.pages {
            bytes.extend([1, if *kind == PageKind::Image { 1 } else { 2 }]);
            bytes.extend((frame * 4096).to_le_bytes());
            bytes.extend(page);
        }
        bytes.push(2);
        let start = &self.start;
        let words = [
            start.rip.get(),
            start.rsp.get(),
            start.rdi.get(),
            start.cr3.get(),
            start.gdt_base.get(),
        ];
        bytes.extend(words.map(u64::to_le_bytes).concat());
        let words = [start.gdt_limit, start.code_selector, start.data_selector];
        bytes.extend(words.map(u16::to_le_bytes).concat());
        bytes.push(3);
        bytes.extend(self.flags.memory_bytes.to_le_bytes());
        bytes.extend(self.flags.vcpus.to_le_bytes());
        bytes.extend(self.flags.share_bytes.to_le_bytes());
        bytes.extend(self.flags.tables.to_le_bytes());
        bytes.push(self.flags.automatic);
        bytes.extend((self.pages.len() as u64).to_le_bytes());
        Sha384::digest(bytes).into()
    }
}

fn kind() -> impl Strategy<Value = PageKind> {
    prop_oneof![Just(PageKind::Image), Just(PageKind::LaunchArea)]
}

fn case() -> impl Strategy<Value = Case> {
    let page = (kind(), any::<[u8; 16]>()).prop_map(|(kind, seed)| {
        (
            kind,
            std::array::from_fn(|at| seed[at % 16].wrapping_mul(at as u8 | 1)),
        )
    });
    let pages = proptest::collection::btree_map(0..1_u64 << 40, page, 1..6);
    (
        pages,
        any::<([u64; 5], [u16; 3])>(),
        any::<(u64, u32, u64, u64, u8)>(),
    )
        .prop_map(
            |(pages, ([rip, rsp, rdi, cr3, gdt_base], [gdt_limit, code_selector, data_selector]), flags)| {
                Case {
                    pages,
                    start: StartState {
                        rip: Gva::new(rip),
                        rsp: Gva::new(rsp),
                        rdi: Gpa::new(rdi),
                        cr3: Gpa::new(cr3),
                        gdt_base: Gva::new(gdt_base),
                        gdt_limit,
                        code_selector,
                        data_selector,
                    },
                    flags: Flags {
                        memory_bytes: flags.0,
                        vcpus: flags.1,
                        share_bytes: flags.2,
                        tables: flags.3,
                        automatic: flags.4,
                    },
                }
            },
        )
}

/// Every single thing of a case changed alone, `bit` choosing how.
fn changes(case: &Case, at: usize, bit: u32) -> Vec<Case> {
    let mut all = Vec::new();
    let mut changed = |change: &dyn Fn(&mut Case)| {
        let mut other = case.clone();
        change(&mut other);
        all.push(other);
    };
    let frames: Vec<u64> = case.pages.keys().copied().collect();
    for frame in frames {
        changed(&|other| other.pages.get_mut(&frame).unwrap().1[at] ^= 1 << (bit % 8));
        changed(&|other| {
            let kind = &mut other.pages.get_mut(&frame).unwrap().0;
            *kind = match kind {
                PageKind::Image => PageKind::LaunchArea,
                PageKind::LaunchArea => PageKind::Image,
            };
        });
        changed(&|other| {
            let page = other.pages.remove(&frame).unwrap();
            // Not where another page is: that would be two changes.
            let to = (frame..).find(|to| *to != frame && !case.pages.contains_key(to));
            other.pages.insert(to.unwrap(), page);
        });
        changed(&|other| other.pages.retain(|at, _| *at != frame));
    }
    let word = |value: u64| value ^ 1 << (bit % 64);
    changed(&|other| other.start.rip = Gva::new(word(case.start.rip.get())));
    changed(&|other| other.start.rsp = Gva::new(word(case.start.rsp.get())));
    changed(&|other| other.start.rdi = Gpa::new(word(case.start.rdi.get())));
    changed(&|other| other.start.cr3 = Gpa::new(word(case.start.cr3.get())));
    changed(&|other| other.start.gdt_base = Gva::new(word(case.start.gdt_base.get())));
    changed(&|other| other.start.gdt_limit ^= 1 << (bit % 16));
    changed(&|other| other.start.code_selector ^= 1 << (bit % 16));
    changed(&|other| other.start.data_selector ^= 1 << (bit % 16));
    changed(&|other| other.flags.memory_bytes ^= 1 << (bit % 64));
    changed(&|other| other.flags.share_bytes ^= 1 << (bit % 64));
    changed(&|other| other.flags.vcpus ^= 1 << (bit % 32));
    changed(&|other| other.flags.tables ^= 1 << (bit % 64));
    changed(&|other| other.flags.automatic ^= 1 << (bit % 8));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_same_gives_the_same_and_any_change_another(case in case(), at in 0..4096_usize, bit in 0..64_u32) {
        let digest = case.digest();
        prop_assert_eq!(case.clone().digest(), digest);
        prop_assert_eq!(case.by_the_document(), *digest.as_bytes());
        for other in changes(&case, at, bit) {
            prop_assert!(other != case);
            prop_assert_ne!(other.digest(), digest);
        }
    }
}

#[test]
fn pages_come_in_ascending_order_or_not_at_all() {
    let page = [0; PAGE_SIZE as usize];
    let mut measuring = Measuring::new();
    let mut add = |at| measuring.page(PageKind::Image, Gpa::new(at), &page);
    assert_eq!(add(0x3000), Ok(()));
    for at in [0x3000, 0x2000, 0x5800, u64::MAX - 0xfff, 0] {
        assert_eq!(add(at), Err(OutOfOrder { at: Gpa::new(at) }), "{at:#x}");
    }
    assert_eq!(add(0x4000), Ok(()));
    assert_eq!(measuring.pages(), 2);
}

#[test]
fn only_what_a_guest_can_notice_is_a_flag() {
    let flags = |text: &str| Flags::of(&Line::default().parse_over(text).unwrap());
    assert_eq!(flags("count=3,limit=1s,expect=exit:3,after"), flags(""));
    assert_ne!(flags("vcpus=2"), flags(""));
    assert_ne!(flags("share=4K"), flags(""));
    assert_ne!(flags("tables=4"), flags(""));
    let automatic = ["", "auto-accept", "auto-convert", "auto-accept,auto-convert"].map(flags);
    assert_eq!(automatic.map(|flags| flags.automatic), [0, 1, 2, 3]);
    assert_ne!(flags("memory=4M"), flags(""));
}
