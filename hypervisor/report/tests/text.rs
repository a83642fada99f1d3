//! The exact text of picture and summary.
#![cfg(test)]

use report::{BlockState, Counters, Leaves, PhaseColumn, Picture, Span, Summary, write_summary};

fn span(first: u64, blocks: u64, state: BlockState) -> Span {
    Span { first, blocks, state }
}

const LOW: Span = Span {
    first: 0,
    blocks: 1,
    state: BlockState::Small4K { leaves: 352 },
};

fn text(picture: &Picture<'_>) -> String {
    let mut text = String::new();
    picture.write(&mut text).unwrap();
    assert!(
        text.is_ascii() && text.lines().all(|line| line.len() <= 80),
        "{text}"
    );
    text
}

#[test]
fn picture_of_128_mib() {
    let mut picture = Picture::new(64);
    let boot = [
        LOW,
        span(1, 1, BlockState::Small4K { leaves: 512 }),
        span(2, 62, BlockState::Leaf2M),
    ];
    picture.add("boot", boot.into_iter()).unwrap();
    let holes = [
        LOW,
        span(1, 1, BlockState::Small4K { leaves: 512 }),
        span(2, 40, BlockState::Leaf2M),
        span(42, 16, BlockState::Hole),
        span(58, 6, BlockState::Leaf2M),
    ];
    picture.add("guests", holes.into_iter()).unwrap();
    picture.add("after", boot.into_iter()).unwrap();
    assert_eq!(
        text(&picture),
        "\
The direct map; one character is 2 MiB
  boot     |--==============================================================|
  guests   |--========================================oooooooooooooooo======|
  after    |--==============================================================|
  # 1G leaves   = 2M leaves   - 4K leaves   + leaves of several sizes
  o holes   % holes beside leaves   . not RAM   ! RAM that is missing
"
    );
}

#[test]
fn picture_of_4_gib_with_holes() {
    // As q35 lays it out: 2 GiB from 0, 2 GiB from 4 GiB.
    let mut picture = Picture::new(6 * 512);
    let low = [LOW, span(1, 511, BlockState::Leaf2M)];
    let boot = [
        span(512, 512, BlockState::In1G),
        span(2048, 1024, BlockState::In1G),
    ];
    picture.add("boot", low.into_iter().chain(boot)).unwrap();
    let guests = [
        span(512, 512, BlockState::In1G),
        span(2048, 100, BlockState::Hole),
        span(2148, 412, BlockState::Leaf2M),
        span(2560, 512, BlockState::In1G),
    ];
    picture.add("guests", low.into_iter().chain(guests)).unwrap();
    let missing = [
        span(512, 1, BlockState::Missing),
        span(513, 511, BlockState::Leaf2M),
        span(2048, 1024, BlockState::In1G),
    ];
    picture
        .add("after a long while", low.into_iter().chain(missing))
        .unwrap();
    assert_eq!(
        text(&picture),
        "\
The direct map; one character is 128 MiB
  boot     |+=======########................################|
  guests   |+=======########................o%======########|
  after a  |+=======!=======................################|
  # 1G leaves   = 2M leaves   - 4K leaves   + leaves of several sizes
  o holes   % holes beside leaves   . not RAM   ! RAM that is missing
"
    );
}

#[test]
fn picture_of_64_gib() {
    let mut picture = Picture::new(66 * 512);
    let boot = [
        LOW,
        span(1, 511, BlockState::Leaf2M),
        span(512, 512, BlockState::In1G),
        span(2048, 62 * 512, BlockState::In1G),
    ];
    picture.add("boot", boot.into_iter()).unwrap();
    let single = (0..66 * 512)
        .filter(|block| !(1024..2048).contains(block))
        .map(|block| {
            Span::block(
                block,
                match block {
                    0 => BlockState::Small4K { leaves: 352 },
                    1..512 | 33100.. => BlockState::Leaf2M,
                    32256..33100 => BlockState::Hole,
                    _ => BlockState::In1G,
                },
            )
        });
    picture.add("guests", single).unwrap();
    assert_eq!(
        text(&picture),
        "\
The direct map; one character is 2 GiB
  boot     |+.###############################|
  guests   |+.#############################%%|
  # 1G leaves   = 2M leaves   - 4K leaves   + leaves of several sizes
  o holes   % holes beside leaves   . not RAM   ! RAM that is missing
"
    );
}

#[test]
fn a_picture_of_any_size_fits_and_a_full_one_says_so() {
    for end in [0, 1, 64, 65, 128, 129, 512 * 900, 96 << 19, u64::MAX / 4] {
        let mut picture = Picture::new(end);
        picture
            .add("boot", [span(0, end, BlockState::In1G)].into_iter())
            .unwrap();
        let text = text(&picture);
        let strip = text.lines().nth(1).unwrap();
        let cells = strip.chars().filter(|character| *character == '#').count();
        assert!(
            cells <= 64 && (end == 0 || cells * 2 > end.min(64) as usize),
            "{end}: {text}"
        );
    }
    let mut picture = Picture::new(1);
    for _ in 0..4 {
        picture.add("x", [].into_iter()).unwrap();
    }
    assert_eq!(picture.add("x", [].into_iter()), Err(report::PictureFull));
}

#[test]
fn summary_of_a_run() {
    let column = |name, g1, m2, k4, hidden_mib| PhaseColumn {
        name,
        leaves: Leaves { g1, m2, k4 },
        hidden_mib,
    };
    let phases = [
        column("boot", 62, 1022, 864, 0),
        column("guests", 60, 1854, 864, 384),
        column("after", 62, 1022, 864, 0),
    ];
    let summary = Summary {
        memory_mib: 65535,
        guests: 12,
        guests_held: 11,
        most_at_once: 6,
        checks: 40,
        checks_held: 40,
        phases: &phases,
        counters: Counters {
            direct_map_level2_splits: 0,
            direct_map_level3_splits: 2,
            direct_map_level2_collapses: 1,
            direct_map_level3_collapses: 3,
            flushes: 24,
            cpus_interrupted: 25,
            interrupts_met_in_guests: 8,
            cpus_flagged: 26,
            cpus_spared: 27,
            kicks: 28,
            window_invlpgs: 4096,
            regions_hidden: 384,
            regions_restored: 383,
            second_stage_splits: 7,
            second_stage_collapses: 6,
            pages_shared: 513,
            pages_unshared: 512,
            pages_shared_in_place: 65,
            pages_unshared_in_place: 64,
            regions_given_back: 12,
            regions_taken_again: 11,
            kept_frames_taken: 1024,
            frames_supplied: 300,
            guest_flushes: 3,
            bytes_scrubbed: u64::MAX,
            ticks_hide: 1_000_001,
            ticks_scrub: 90_000_000_000,
            ticks_map: 31,
            ticks_restore: 700,
            ticks_load: 44,
            bytes_loaded: 12_345,
            ticks_measure: 45,
            bytes_measured: 16_384,
            ticks_to_first_guest: 60_000_000,
            ..Counters::default()
        },
    };
    let mut text = String::new();
    write_summary(&summary, &mut text).unwrap();
    assert!(
        text.is_ascii() && text.lines().all(|line| line.len() <= 80),
        "{text}"
    );
    assert_eq!(
        text,
        "\
Ran 12 guests on 65535 MiB of RAM, at most 6 at once.
Of the guests 11 of 12 ended as expected; of the checks 40 of 40 held.

Direct map            boot      guests       after
  1G leaves             62          60          62
  2M leaves           1022        1854        1022
  4K leaves            864         864         864
  hidden MiB             0         384           0

Splits and merges (level 2 is 2M, level 3 is 1G)
  direct_map_level2_splits                      0
  direct_map_level3_splits                      2
  direct_map_level2_collapses                   1
  direct_map_level3_collapses                   3
Translations dropped
  flushes on all CPUs                          24
  CPUs interrupted for them                    25
    while in a guest                            0
    who entered one meanwhile                   8
  CPUs flagged, undisturbed                    26
  CPUs spared                                  27
  kicks out of a guest                         28
  INVLPGs of windows, local                  4096
Private memory
  regions hidden                              384
  regions restored                            383
    hidden as whole gigablocks                  0
    from the cache                              0
  4K pages hidden one by one                    0
  2M leaves of guests split                     7
    and whole again                             6
  4K pages shared by guests                   513
    and private again                         512
  4K pages shared in place                     65
    and private again                          64
  regions given back by guests                 12
    and taken again                            11
  kept frames of guests taken                1024
    and others supplied                       300
  flushes of living guests                      3
  bytes scrubbed               18446744073709551615
  bytes loaded                              12345
  bytes measured                            16384
TSC ticks (instructions under -icount)
  taking and hiding                       1000001
  scrubbing                           90000000000
  mapping for guests                           31
  giving back                                 700
  loading images                               44
  measuring them                               45
  boot to first guest                    60000000
"
    );
}
