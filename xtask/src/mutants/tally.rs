//! What became of each change.

use std::collections::BTreeMap;
use std::fmt;

use super::weave::Mutant;

/// How a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
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
    fn of(mutant: &Mutant) -> Self {
        Self {
            file: mutant.below_sources().to_owned(),
            what: mutant
                .name
                .splitn(4, ':')
                .last()
                .unwrap_or_default()
                .trim()
                .to_owned(),
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
    /// Adds a change.
    pub fn add(&mut self, mutant: &Mutant, end: End) {
        let change = Change::of(mutant);
        self.0.insert(mutant.name.clone(), (change, end));
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

    /// Whether it is known what became of a change.
    pub fn has(&self, mutant: &Mutant) -> bool {
        self.0.contains_key(&mutant.name)
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
    use super::*;

    /// Changes in these files that ended so; each is on a line of its own.
    pub fn tally(list: &[(&str, End)]) -> Tally {
        let mut tally = Tally::default();
        for ((file, end), line) in list.iter().zip(1..) {
            let file = format!("hypervisor/memory/src/{file}");
            let name = format!("{file}:{line}:9: replace || with && in <impl A for B>::c");
            tally.add(&Mutant::named(&name, &file), *end);
        }
        tally
    }

    #[test]
    fn what_became_of_changes_is_counted_by_file() {
        assert_eq!(Tally::default().built(), 0);
        let tally = tally(&[
            ("a.rs", End::Noticed),
            ("a.rs", End::Noticed),
            ("b.rs", End::Unviable),
            ("b.rs", End::Noticed),
            ("b.rs", End::Survived),
        ]);
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
