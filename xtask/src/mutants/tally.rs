//! What became of each change, from cargo-mutants' `outcomes.json`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::SOURCES;
use super::weave::Mutant;

/// How a change ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It does not build.
    Unviable,
    /// A test noticed it.
    Noticed,
    Survived,
}

/// What was changed: the file, from `hypervisor/memory/src` on, and the words of cargo-mutants, without the line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub file: String,
    pub what: String,
}

impl Change {
    /// By a path from the workspace on, and a name: that is a path, a line, a column, and what is changed.
    fn of(file: &str, name: &str) -> Self {
        Self {
            file: file.strip_prefix(SOURCES).unwrap_or(file).to_owned(),
            what: name.splitn(4, ':').last().unwrap_or_default().trim().to_owned(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

/// Every change that was tried, by its place.
#[derive(Default)]
pub struct Tally(BTreeMap<String, (Change, End)>);

impl Tally {
    /// Adds a change that was noticed.
    pub fn noticed(&mut self, mutant: &Mutant) {
        let change = Change::of(&mutant.file, &mutant.name);
        self.0.insert(mutant.name.clone(), (change, End::Noticed));
    }

    /// Adds what cargo-mutants found.
    pub fn add(&mut self, outcomes: &Value) {
        for outcome in outcomes["outcomes"].as_array().into_iter().flatten() {
            // The tests without any change have no name.
            let mutant = &outcome["scenario"]["Mutant"];
            let (Some(name), Some(file), Some(summary)) = (
                mutant["name"].as_str(),
                mutant["file"].as_str(),
                outcome["summary"].as_str(),
            ) else {
                continue;
            };
            let end = match summary {
                "Unviable" => End::Unviable,
                "MissedMutant" => End::Survived,
                _ => End::Noticed,
            };
            let change = Change::of(file, name);
            self.0.insert(name.to_owned(), (change, end));
        }
    }

    /// What no test noticed, with its place.
    pub fn survivors(&self) -> impl Iterator<Item = (&str, &Change)> {
        self.ending(End::Survived)
    }

    fn ending(&self, end: End) -> impl Iterator<Item = (&str, &Change)> {
        self.0
            .iter()
            .filter(move |(_, (_, was))| *was == end)
            .map(|(place, (change, _))| (place.as_str(), change))
    }

    /// Changes that build.
    pub fn built(&self) -> usize {
        self.0.len() - self.ending(End::Unviable).count()
    }

    /// Whether anything in a file was changed.
    pub fn has_tried(&self, file: &str) -> bool {
        self.0.values().any(|(change, _)| change.file == file)
    }
}

/// The table by file.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut files: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
        for (change, end) in self.0.values() {
            let row = files.entry(&change.file).or_default();
            row[0] += 1;
            row[1] += usize::from(*end != End::Unviable);
            row[2] += usize::from(*end == End::Survived);
        }
        writeln!(f, "| file | tried | built | survived |\n|---|---|---|---|")?;
        for (file, [tried, built, survived]) in files {
            writeln!(f, "| `{file}` | {tried} | {built} | {survived} |")?;
        }
        let survived = self.survivors().count();
        writeln!(f, "| all | {} | {} | {survived} |", self.0.len(), self.built())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A pass that ended so for changes in these files; each is on a line of its own.
    pub fn pass(list: &[(&str, &str)]) -> Value {
        let mut outcomes = vec![json!({"scenario": "Baseline", "summary": "Success"})];
        outcomes.extend(list.iter().zip(1..).map(|((file, summary), line)| {
            let file = format!("hypervisor/memory/src/{file}");
            let name = format!("{file}:{line}:9: replace || with && in <impl A for B>::c");
            json!({"scenario": {"Mutant": {"name": name, "file": file}}, "summary": summary})
        }));
        json!({ "outcomes": outcomes })
    }

    #[test]
    fn a_change_counts_as_it_was_found_last() {
        let mut tally = Tally::default();
        assert_eq!(tally.built(), 0);
        tally.add(&pass(&[
            ("a.rs", "MissedMutant"),
            ("a.rs", "CaughtMutant"),
            ("b.rs", "Unviable"),
            ("b.rs", "Timeout"),
            ("b.rs", "MissedMutant"),
        ]));
        assert_eq!((tally.built(), tally.survivors().count()), (4, 2));
        tally.add(&pass(&[("a.rs", "CaughtMutant")]));
        assert_eq!((tally.built(), tally.survivors().count()), (4, 1));
        let (_, change) = tally.survivors().next().unwrap();
        assert_eq!(
            change.to_string(),
            "b.rs: replace || with && in <impl A for B>::c"
        );
        assert!(tally.has_tried("a.rs") && !tally.has_tried("c.rs"));
        let text = tally.to_string();
        assert!(
            text.contains("| `b.rs` | 3 | 2 | 1 |\n| all | 5 | 4 | 1 |"),
            "{text}"
        );
    }
}
