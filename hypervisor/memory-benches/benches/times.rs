//! Times, by criterion. What counts are the ratios within one run: the machine that this runs on is anybody's.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};
use memmap2::{Advice, MmapOptions};
use memory::HostMemory;
use memory::address::REGION_ORDER;
use memory::machine::Machine;
use memory_benches::threads::contend;
use memory_benches::zeroing::Zeroing;
use memory_benches::{Board, board};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// How much memory is hidden, restored and merged, and how much is zeroed, in MiB.
const SIZES: [u64; 4] = [4, 64, 256, 1024];
/// RAM in GiB, and regions in use.
const RAM: [u64; 5] = [4, 16, 64, 256, 1024];
const IN_USE: [u64; 6] = [1, 10, 100, 1000, 10_000, 100_000];

/// The time that `HostMemory` says that it took, in seconds: its ticks are those of the TSC.
struct Ticks {
    a_second: f64,
}

impl Ticks {
    fn calibrate(machine: &impl Machine) -> Self {
        let (start, before) = (Instant::now(), machine.now());
        std::thread::sleep(Duration::from_millis(200));
        let ticks = machine.now().wrapping_sub(before);
        Self {
            a_second: ticks as f64 / start.elapsed().as_secs_f64(),
        }
    }

    fn duration(&self, ticks: u64) -> Duration {
        Duration::from_secs_f64(ticks as f64 / self.a_second)
    }
}

/// Hiding, restoring and merging of so much memory, by what the memory subsystem's own timers say; and the whole life of a guest but for
/// the zeroing, by the clock outside.
fn hide_and_restore(criterion: &mut Criterion) {
    let mut storage = board::storage(16 * GIB);
    let mut board = Board::boot(16 * GIB, &mut storage);
    let ticks = Ticks::calibrate(&board.machine);
    let spent = |memory: &HostMemory<'_>| memory.costs().hide + memory.costs().restore;
    let mut group = criterion.benchmark_group("hide-restore-merge");
    for mib in SIZES {
        group.bench_function(BenchmarkId::from_parameter(mib), |bencher| {
            bencher.iter_custom(|times| {
                let before = spent(&board.memory);
                (0..times).for_each(|_| live(&mut board, mib * MIB));
                ticks.duration(spent(&board.memory) - before)
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("launch-teardown");
    for mib in SIZES {
        group.bench_function(BenchmarkId::from_parameter(mib), |bencher| {
            bencher.iter(|| live(&mut board, mib * MIB));
        });
    }
    group.finish();
    let stats = board.memory.stats();
    assert_eq!(
        stats.level3_splits, stats.level3_collapses,
        "every split is merged back"
    );
    assert_eq!(board.memory.frames.holes(), (0, 0), "nothing stays hidden");
}

fn live(board: &mut Board<'_>, bytes: u64) {
    match board.launch(bytes) {
        Ok(guest) => board.teardown(guest),
        Err(error) => panic!("a guest of {bytes} bytes: {error}"),
    }
}

/// Zeroing the same memory, the fastest ways there are, in the largest pages that the system gives.
fn zero(criterion: &mut Criterion) {
    let largest = SIZES.into_iter().fold(0, u64::max) * MIB;
    let mut ram = match MmapOptions::new().len(largest as usize).map_anon() {
        Ok(ram) => ram,
        Err(error) => panic!("a mapping of {largest} bytes: {error}"),
    };
    // A system without large pages goes on without.
    let _ = ram.advise(Advice::HugePage);
    // Only from the second time on it is the zeroing alone.
    ram.fill(1);
    let mut group = criterion.benchmark_group("zero");
    group.sampling_mode(SamplingMode::Flat);
    for mib in SIZES {
        for way in Zeroing::ALL {
            group.bench_function(BenchmarkId::new(way.name(), mib), |bencher| {
                bencher.iter(|| way.fill(black_box(&mut ram[..(mib * MIB) as usize])));
            });
        }
    }
    group.finish();
}

/// Taking one more region and giving it back, as RAM grows and more regions are in use.
fn one_more_region(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one-more-region");
    for ram in RAM {
        let mut storage = board::storage(ram * GIB);
        let mut board = Board::boot(ram * GIB, &mut storage);
        let Board {
            machine,
            memory,
            windows,
            ..
        } = &mut board;
        let mut held = Vec::new();
        for in_use in IN_USE.into_iter().filter(|in_use| in_use * 2 * MIB < ram * GIB) {
            while (held.len() as u64) < in_use {
                match memory.allocate_private(machine, windows, REGION_ORDER) {
                    Ok(extent) => held.push(extent),
                    Err(error) => panic!("{in_use} regions on {ram} GiB: {error}"),
                }
            }
            group.bench_function(BenchmarkId::new(ram.to_string(), in_use), |bencher| {
                bencher.iter(|| match memory.allocate_private(machine, windows, REGION_ORDER) {
                    Ok(extent) => memory.give_back(machine, extent),
                    Err(error) => panic!("{in_use} regions on {ram} GiB: {error}"),
                });
            });
        }
        held.into_iter()
            .for_each(|extent| memory.give_back(machine, extent));
    }
    group.finish();
}

/// Small private allocations by several CPUs at once: the time until each of them has made as many operations. On a machine with as many cores
/// it would be the same for any number of them, but for the lock.
fn small_private(criterion: &mut Criterion) {
    /// Operations of each thread that count as one: whole rounds, so that the time of starting threads is small beside it.
    const AT_ONCE: u64 = 1 << 16;
    let mut group = criterion.benchmark_group("small-private");
    group.sampling_mode(SamplingMode::Flat);
    for cpus in [1, 2, 4, 8, 16] {
        group.bench_function(BenchmarkId::from_parameter(cpus), |bencher| {
            bencher.iter_custom(|times| match contend(cpus, times * AT_ONCE) {
                Ok(all) => all.time,
                Err(error) => panic!("{cpus} CPUs: {error}"),
            });
        });
    }
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000))
        .sample_size(20)
}

criterion_group! {
    name = times;
    config = quick();
    targets = hide_and_restore, zero, one_more_region, small_private
}
criterion_main!(times);
