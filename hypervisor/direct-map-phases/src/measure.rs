//! The workloads' addresses through the model, at each moment.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow};
use memory::layout::direct;
use tools::pressure::Figure;
use tools::pressure::goals::EVERYWHERE;
use tools::tlb::{Dimensions, Geometry, Mapping, Model, Replacement};
use workloads::{Access, Extent, Kind, Ram, Stream, Workload};

use crate::ground::HostPages;

/// What is modelled.
pub struct Setting {
    /// The cores.
    pub cores: Vec<&'static Geometry>,
    /// One or two dimensions.
    pub dimensions: Dimensions,
    /// Seed of the addresses.
    pub seed: u64,
    /// Accesses that are counted; as many come before them and are not.
    pub accesses: usize,
}

/// The addresses of each workload, warm-up and all: the same at every moment.
pub struct Addresses(Vec<(&'static str, Vec<Access>)>);

impl Addresses {
    /// Objects over all RAM.
    ///
    /// # Errors
    /// There is none.
    pub fn everywhere(ram: &[Extent], setting: &Setting) -> Result<Self> {
        let ground = Ram::new(ram, &[], |_| true).context("there is no RAM")?;
        let stream = Stream::new(&ground, Workload::Objects { pages: None }, setting.seed);
        let accesses = stream.take(2 * setting.accesses).collect();
        Ok(Self(vec![(EVERYWHERE, accesses)]))
    }

    /// The addresses of all workloads on this ground.
    ///
    /// # Errors
    /// There is no page for them.
    pub fn new(ram: &[Extent], pages: &HostPages, setting: &Setting) -> Result<Self> {
        Self::of(&Workload::ALL, ram, pages, setting)
    }

    /// The addresses of some workloads on this ground.
    ///
    /// # Errors
    /// There is no page for them.
    pub fn of(workloads: &[Workload], ram: &[Extent], pages: &HostPages, setting: &Setting) -> Result<Self> {
        let ground = Ram::new(ram, &pages.neighbours, |page| pages.usable(page))
            .context("no page is the host's at every moment")?;
        let of = |workload: &Workload| {
            let stream = Stream::new(&ground, *workload, setting.seed);
            (workload.name(), stream.take(2 * setting.accesses).collect())
        };
        Ok(Self(workloads.iter().map(of).collect()))
    }

    /// What each workload costs on each core, with both kinds of replacement.
    ///
    /// # Errors
    /// Something is touched that is not mapped.
    pub fn measure(&self, map: &Mapping, setting: &Setting) -> Result<Vec<Figure>> {
        let jobs: Vec<_> = setting
            .cores
            .iter()
            .flat_map(|core| {
                let replacements = [Replacement::Lru, Replacement::Nru].into_iter();
                replacements
                    .flat_map(move |replacement| self.0.iter().map(move |of| (*core, replacement, of)))
            })
            .collect();
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..tools::threads().min(jobs.len()) {
                scope.spawn(|| {
                    while let Some((core, replacement, (workload, accesses))) =
                        jobs.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let model = Model::new(core, *replacement, setting.dimensions);
                        let figure = run(model, map, accesses).map(|counts| Figure {
                            core: core.name.into(),
                            replacement: replacement.to_string(),
                            workload: (*workload).into(),
                            source: "model".into(),
                            misses: counts.per_thousand(counts.misses),
                            walks: counts.per_thousand(counts.walks),
                            from_memory: counts.per_thousand(counts.loads_from_memory),
                            cycles: counts.per_thousand(counts.cycles),
                        });
                        match done.lock() {
                            Ok(mut done) => done.push(figure),
                            Err(poisoned) => poisoned.into_inner().push(figure),
                        }
                    }
                });
            }
        });
        let done = match done.into_inner() {
            Ok(done) => done,
            Err(poisoned) => poisoned.into_inner(),
        };
        let mut figures: Vec<Figure> = done.into_iter().collect::<Result<_>>()?;
        figures.sort_by(|one, other| {
            let key = |figure: &Figure| {
                (
                    figure.core.clone(),
                    figure.workload.clone(),
                    figure.replacement.clone(),
                )
            };
            key(one).cmp(&key(other))
        });
        Ok(figures)
    }
}

/// Counts the second half of the accesses, after the first.
fn run(mut model: Model, map: &Mapping, accesses: &[Access]) -> Result<tools::tlb::Counts> {
    let half = accesses.len() / 2;
    for (number, access) in accesses.iter().enumerate() {
        if number == half {
            model.restart();
        }
        let at = direct(access.at).with_context(|| format!("{} is beyond the direct map", access.at))?;
        model
            .access(map, at.get(), access.at.get(), access.kind == Kind::Store)
            .map_err(|error| anyhow!("{error}"))?;
    }
    Ok(model.counts())
}
