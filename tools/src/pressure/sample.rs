//! Results for tests.

use super::axes::{Phase, Policy};
use super::chased::{Chase, ChaseRow};
use super::results::{
    CellKind, Core, Figure, Leaves, PhaseResult, PolicyResult, Results, Run, SCHEMA, SizeResult, Skip,
};

/// Two policies at three moments on one core.
pub fn sample() -> Results {
    const LEAVES: Leaves = Leaves {
        g1: 3,
        m2: 511,
        k4: 416,
    };
    let figures = |cycles: f64| -> Vec<Figure> {
        ["lru", "nru"]
            .into_iter()
            .flat_map(|replacement| {
                ["objects-all", "scrub-random"].map(|workload| Figure {
                    core: "spr".into(),
                    replacement: replacement.into(),
                    workload: workload.into(),
                    source: "model".into(),
                    misses: cycles / 2.0,
                    walks: cycles / 4.0,
                    from_memory: 1.0,
                    cycles,
                })
            })
            .collect()
    };
    let phase = |phase, hidden_bytes, cycles| PhaseResult {
        phase,
        guests: u64::from(hidden_bytes > 0),
        hidden_bytes,
        leaves: LEAVES,
        map: vec![
            Run {
                kind: CellKind::In2m,
                blocks: 512 - hidden_bytes / (2 << 20),
            },
            Run {
                kind: CellKind::Hidden,
                blocks: hidden_bytes / (2 << 20),
            },
            Run {
                kind: CellKind::In1g,
                blocks: 512,
            },
        ],
        figures: figures(cycles),
    };
    let policy = |policy, during, after| PolicyResult {
        policy,
        phases: vec![
            phase(Phase::Boot, 0, 100.0),
            phase(Phase::Guests64, 64 << 20, during),
            phase(Phase::After, 0, after),
        ],
        on_all_2m: figures(1000.0),
        skipped: vec![Skip {
            what: "conversions".into(),
            reason: "not there".into(),
        }],
    };
    Results {
        schema: SCHEMA,
        version: "test".into(),
        ram: 2 << 30,
        seed: 1,
        lifetimes: 10,
        accesses: 1000,
        dimensions: "one".into(),
        measured: Vec::new(),
        cores: vec![Core {
            name: "spr".into(),
            core: "a core".into(),
            weights: "some".into(),
            source: "made up".into(),
        }],
        policies: vec![
            policy(Policy::Grouped, 110.0, 100.0),
            policy(Policy::LinuxFresh, 5000.0, 5000.0),
        ],
        sizes: [(Policy::Grouped, 1.01), (Policy::LinuxFresh, 3.0)]
            .into_iter()
            .flat_map(|(policy, times)| {
                let of = |bytes, cycles| SizeResult {
                    policy,
                    bytes,
                    before: LEAVES,
                    leaves: LEAVES,
                    boot: figures(100.0),
                    figures: figures(cycles),
                };
                [of(2 << 20, 100.0 * times), of(64 << 20, 110.0 * times)]
            })
            .collect(),
        chase: Some(Chase {
            cpu: "a CPU".into(),
            hypervisor: true,
            large_entries: true,
            probe: (1.2, 1.3),
            cycle: 0.25,
            rows: [(16, 1.0, 1.0), (4096, 12.0, 5.0)]
                .map(|(pages, small, large)| ChaseRow {
                    pages,
                    windows: 2000,
                    small: (0..=20).map(|step| small + f64::from(step) / 10.0).collect(),
                    large: (0..=20).map(|step| large + f64::from(step) / 10.0).collect(),
                    predicted: [0.5, 6.0, 7.0],
                })
                .into(),
        }),
        skipped: vec![Skip {
            what: "pmu".into(),
            reason: "no counters".into(),
        }],
    }
}
