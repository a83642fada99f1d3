//! What became of changes, in a file, for a run that goes on where another one stopped.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::tally::End;
use super::weave::Mutant;
use crate::workspace;

/// The file, and what it said at the beginning.
pub struct Found {
    file: File,
    before: HashMap<String, (u64, End)>,
    /// What each source is, as a number.
    sources: HashMap<String, u64>,
}

impl Found {
    /// Opens it. What it says is forgotten, unless the run is to go on with it.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn open(path: &Path, go_on: bool) -> Result<Self> {
        let mut before = HashMap::new();
        if go_on && let Ok(text) = fs::read_to_string(path) {
            before.extend(text.lines().filter_map(read));
        }
        let mut options = File::options();
        let file = options.create(true).write(true).append(go_on).truncate(!go_on);
        Ok(Self {
            file: file
                .open(path)
                .with_context(|| format!("open {}", path.display()))?,
            before,
            sources: HashMap::new(),
        })
    }

    /// What became of a change before, where that still stands: it was noticed or did not build, and its source is the same. What survived is
    /// tried again, for there may be new tests.
    pub fn end_of(&mut self, mutant: &Mutant) -> Option<End> {
        let (source, end) = self.before.get(&mutant.name).copied()?;
        (self.source(&mutant.file).ok()? == source && end != End::Survived).then_some(end)
    }

    /// Notes what became of one.
    ///
    /// # Errors
    /// The file cannot be written, or the source not be read.
    pub fn note(&mut self, mutant: &Mutant, end: End) -> Result<()> {
        let word = match end {
            End::Unviable => "unviable",
            End::Noticed => "noticed",
            End::Survived => "survived",
        };
        let source = self.source(&mutant.file)?;
        let line = json!({"name": mutant.name, "source": source, "end": word});
        writeln!(self.file, "{line}").context("write what was found")
    }

    fn source(&mut self, file: &str) -> Result<u64> {
        if let Some(source) = self.sources.get(file) {
            return Ok(*source);
        }
        let text = fs::read(workspace::root().join(file)).with_context(|| format!("read {file}"))?;
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let source = hasher.finish();
        self.sources.insert(file.to_owned(), source);
        Ok(source)
    }
}

/// One line; `None` when it is none, such as one that was cut off.
fn read(line: &str) -> Option<(String, (u64, End))> {
    let value: Value = serde_json::from_str(line).ok()?;
    let end = match value["end"].as_str()? {
        "unviable" => End::Unviable,
        "noticed" => End::Noticed,
        "survived" => End::Survived,
        _ => return None,
    };
    Some((
        value["name"].as_str()?.to_owned(),
        (value["source"].as_u64()?, end),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noticed_is_known_again_and_survivors_are_not() {
        let path = std::env::temp_dir().join(format!("found-{}", std::process::id()));
        let file = "xtask/src/mutants/found.rs";
        let mutants = ["a", "b", "c"].map(|name| Mutant::named(name, file));
        let mut found = Found::open(&path, false).unwrap();
        for (mutant, end) in mutants.iter().zip([End::Noticed, End::Survived, End::Unviable]) {
            found.note(mutant, end).unwrap();
        }
        let mut again = Found::open(&path, true).unwrap();
        let ends: Vec<_> = mutants.iter().map(|mutant| again.end_of(mutant)).collect();
        assert_eq!(ends, [Some(End::Noticed), None, Some(End::Unviable)]);
        assert_eq!(again.end_of(&Mutant::named("a", "xtask/src/mutants.rs")), None);
        let mut anew = Found::open(&path, false).unwrap();
        assert_eq!(anew.end_of(&mutants[0]), None);
        fs::remove_file(path).unwrap();
    }
}
