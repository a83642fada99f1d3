//! The survivors that docs/testing.md explains: rows of its table of file, change and reason.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::tally::{Change, Tally};
use super::{MOST, is_strict};

/// The first row of the table.
const HEAD: &str = "| file | change that survives | why |";

/// What may survive, each row one change.
pub struct Known(Vec<Change>);

impl Known {
    /// Reads the table in a page.
    ///
    /// # Errors
    /// It is not there, or a row is not of its form.
    pub fn read(page: &Path) -> Result<Self> {
        let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
        Self::parse(&text).with_context(|| format!("read the explained survivors in {}", page.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().skip_while(|line| *line != HEAD);
        if lines.next().is_none() {
            bail!("there is no table that begins with {HEAD}");
        }
        let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
        rows.map(row).collect::<Result<_>>().map(Self)
    }

    /// What is wrong with the survivors; nothing when all are explained and few enough, and every explanation is needed.
    pub fn judge(&self, tally: &Tally) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut unused: Vec<&Change> = self
            .0
            .iter()
            .filter(|known| tally.has_tried(&known.file))
            .collect();
        let mut elsewhere = 0;
        for (place, change) in tally.survivors() {
            elsewhere += usize::from(!is_strict(&change.file));
            match unused.iter().position(|known| *known == change) {
                Some(index) => {
                    unused.swap_remove(index);
                }
                None => wrong.push(format!("survived, and is not explained: {place}")),
            }
        }
        wrong.extend(
            unused
                .iter()
                .map(|known| format!("explained, and does not survive: {known}")),
        );
        if elsewhere * 100 > MOST * tally.built() {
            wrong.push(format!(
                "{elsewhere} of {} survived, which is more than {MOST} %",
                tally.built()
            ));
        }
        if tally.built() == 0 {
            wrong.push("nothing was tried".into());
        }
        wrong
    }
}

/// One row: file and change as code, with each `|` escaped, and why.
fn row(line: &str) -> Result<Change> {
    const BAR: &str = "\u{0}";
    let line = line.replace("\\|", BAR);
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let code = |cell: &str| {
        let inner = cell.strip_prefix('`')?.strip_suffix('`')?;
        Some(inner.replace(BAR, "|"))
    };
    match cells[..] {
        [file, what, why] if !why.is_empty() => match (code(file), code(what)) {
            (Some(file), Some(what)) => Ok(Change { file, what }),
            _ => bail!("file and change are to be in backticks: {line}"),
        },
        _ => bail!("not a file, a change and a reason: {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::End;
    use super::super::tally::tests::tally;
    use super::*;

    fn known(rows: &[&str]) -> Result<Known> {
        let rows = rows.join("\n");
        Known::parse(&format!(
            "text\n\n{HEAD}\n|---|---|---|\n{rows}\n\n| other | table |"
        ))
    }

    fn row_of(file: &str) -> String {
        format!(r"| `{file}` | `replace \|\| with && in <impl A for B>::c` | no matter |")
    }

    fn judge(rows: &[&str], survivors: &[&str]) -> Vec<String> {
        let rows: Vec<String> = rows.iter().map(|file| row_of(file)).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let mut list = vec![("stats.rs", End::Noticed); 97];
        list.extend(survivors.iter().map(|file| (*file, End::Survived)));
        known(&rows).unwrap().judge(&tally(&list))
    }

    #[test]
    fn every_survivor_is_explained_and_every_explanation_needed() {
        assert_eq!(judge(&[], &[]), [] as [&str; 0]);
        assert_eq!(judge(&["stats.rs"; 3], &["stats.rs"; 3]), [] as [&str; 0]);
        assert!(judge(&["stats.rs"], &["stats.rs"; 2])[0].contains("is not explained: "));
        assert!(
            judge(&["stats.rs"], &[])[0].starts_with("explained, and does not survive: stats.rs: replace ||")
        );
        // What was not tried is not judged.
        assert_eq!(judge(&["view.rs"], &[]), [] as [&str; 0]);
    }

    #[test]
    fn few_may_survive_and_none_unexplained_where_entries_are_written() {
        let many = judge(&["stats.rs"; 4], &["stats.rs"; 4]);
        assert_eq!(many, ["4 of 101 survived, which is more than 3 %"]);
        assert_eq!(judge(&[], &["direct_map/hide.rs"]).len(), 1);
        assert_eq!(judge(&["tlb/mod.rs"; 4], &["tlb/mod.rs"; 4]), [] as [&str; 0]);
        assert_eq!(
            known(&[]).unwrap().judge(&Tally::default()),
            ["nothing was tried"]
        );
    }

    #[test]
    fn a_row_that_says_nothing_is_refused() {
        assert!(Known::parse("no table").is_err());
        assert!(known(&["| `a.rs` | `replace a` | |"]).is_err());
        assert!(known(&["| a.rs | `replace a` | why |"]).is_err());
        assert!(known(&["| `a.rs` | why |"]).is_err());
    }
}
