//! Tries all changes: those that can be behind a switch in one build, the others one by one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use super::found::Found;
use super::is_strict;
use super::suite::{ROUNDS, Round, Suite};
use super::tally::{End, Tally};
use super::tree::{PROGRAMS, Together, Tree};
use super::weave::Mutant;

/// After how many changes there is a word on how far it is.
const WORD: usize = 50;

/// Tries the changes; what became of each.
///
/// # Errors
/// The changes cannot be built together, the tests fail without any, or Ctrl-C came.
pub fn try_all(mutants: &[Mutant], folder: &Path, jobs: usize, found: Found) -> Result<Tally> {
    let tree = Tree::new(folder)?;
    let together = tree.together(mutants)?;
    eprintln!(
        "mutants: {} changes, of which {} do not build and {} cannot be behind a switch",
        mutants.len(),
        together.unviable.len(),
        together.left_out.len()
    );
    let suite = Suite::measure(
        &together.programs,
        tree.tests_folder(),
        &folder.join("tests.json"),
    )?;
    eprintln!("mutants: {} tests measured", suite.len());
    let sieve = Sieve {
        mutants,
        together: &together,
        suite: &suite,
        known: Mutex::new((Tally::default(), found)),
    };
    let mut first = Vec::new();
    for (number, mutant) in mutants.iter().enumerate() {
        let before = sieve.with(|(_, found)| found.end_of(mutant));
        if let Some(end) = before {
            sieve.note(number, end)?;
        } else if together.unviable.contains(&number) {
            sieve.note(number, End::Unviable)?;
        } else if !together.left_out.contains(&number) {
            first.push(number);
        }
    }
    // Where no change may survive comes first.
    first.sort_by_key(|number| !is_strict(mutants[*number].below_sources()));
    for (round, name) in ROUNDS.iter().zip(["quick tests", "slow tests", "more histories"]) {
        eprintln!("mutants: {} for {name}", first.len());
        first = sieve.try_together(round, &first, jobs)?;
    }
    for number in first {
        sieve.note(number, End::Survived)?;
    }
    // With other sources in the copy the programs are others.
    for (number, mutant) in mutants.iter().enumerate() {
        if !sieve.with(|(tally, _)| tally.has(mutant)) {
            let end = sieve.alone(&tree, number, mutant)?;
            sieve.note(number, end)?;
        }
    }
    Ok(sieve
        .known
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .0)
}

struct Sieve<'a> {
    mutants: &'a [Mutant],
    together: &'a Together,
    suite: &'a Suite,
    known: Mutex<(Tally, Found)>,
}

impl Sieve<'_> {
    /// Tries changes in the programs that have all of them, so many at a time; those that the round does not notice.
    fn try_together(&self, round: &Round, numbers: &[usize], jobs: usize) -> Result<Vec<usize>> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<usize>> {
            let mut left = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(&number) = numbers.get(at) else {
                    return Ok(left);
                };
                let function = self.together.functions.get(&number).copied();
                if self
                    .suite
                    .notices(round, &self.together.programs, function, Some(number))?
                {
                    self.note(number, End::Noticed)?;
                } else {
                    left.push(number);
                }
                if (at + 1).is_multiple_of(WORD) {
                    eprintln!("mutants: {} of {}", at + 1, numbers.len());
                }
            }
        };
        let mut left = std::thread::scope(|scope| -> Result<Vec<usize>> {
            let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            let mut left = Vec::new();
            for thread in threads {
                left.extend(
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
                );
            }
            Ok(left)
        })?;
        // The order in which they were.
        let place: HashMap<usize, usize> = numbers.iter().copied().zip(0..).collect();
        left.sort_by_key(|number| place[number]);
        Ok(left)
    }

    /// What becomes of a change that has a build of its own: that of the quickest program first.
    fn alone(&self, tree: &Tree, number: usize, mutant: &Mutant) -> Result<End> {
        let function = self.together.functions.get(&number).copied();
        for programs in [1, PROGRAMS.len()] {
            let Some(programs) = tree.alone(mutant, programs)? else {
                return Ok(End::Unviable);
            };
            for round in &ROUNDS {
                if self.suite.notices(round, &programs, function, None)? {
                    return Ok(End::Noticed);
                }
            }
        }
        Ok(End::Survived)
    }

    /// Notes what became of a change.
    fn note(&self, number: usize, end: End) -> Result<()> {
        let mutant = &self.mutants[number];
        self.with(|(tally, found)| {
            tally.add(mutant, end);
            found.note(mutant, end)
        })
        .with_context(|| format!("note what became of {}", mutant.name))?;
        if end == End::Survived {
            eprintln!("survived: {}", mutant.name);
        }
        Ok(())
    }

    fn with<R>(&self, work: impl FnOnce(&mut (Tally, Found)) -> R) -> R {
        work(
            &mut self
                .known
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}
