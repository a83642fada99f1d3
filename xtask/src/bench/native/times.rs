//! Times, measured by criterion, which keeps its estimates in files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{PACKAGE, folder, run};
use crate::workspace;

/// It takes about two minutes, and its build one.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// One estimate: of the median, which a busy machine moves least.
#[derive(Debug, Clone, PartialEq)]
pub struct Time {
    /// Its name; parts are separated by `/`.
    pub name: String,
    /// Nanoseconds.
    pub median: f64,
    /// Ends of the interval that holds it with a confidence of 95 %.
    pub between: (f64, f64),
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Times(pub Vec<Time>);

impl Times {
    /// The time with this name.
    pub fn of(&self, name: &str) -> Option<&Time> {
        self.0.iter().find(|time| time.name == name)
    }

    /// The names that begin so, without that.
    pub fn below(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter_map(move |time| time.name.strip_prefix(prefix))
    }

    /// The shortest time to zero so many MiB, and how.
    pub fn fastest_zeroing(&self, mib: u64) -> Option<(&str, f64)> {
        let suffix = format!("/{mib}");
        let ways = self.0.iter().filter_map(|time| {
            let way = time.name.strip_prefix("zero/")?.strip_suffix(&suffix)?;
            Some((way, time.median))
        });
        ways.min_by(|one, other| one.1.total_cmp(&other.1))
    }
}

/// Runs criterion and reads its estimates.
///
/// # Errors
/// It can't be built or run, or its files can't be read.
pub fn take() -> Result<Times> {
    let home = folder("criterion")?;
    let mut cargo = workspace::cargo();
    cargo
        .args([
            "bench",
            "--quiet",
            "--package",
            PACKAGE,
            "--bench",
            "times",
            "--",
            "--quiet",
            "--noplot",
        ])
        .env("CRITERION_HOME", &home)
        .stdout(std::io::stderr());
    run("measure times", &mut cargo, LIMIT)?;
    let mut times = Vec::new();
    visit(&home, &mut times)?;
    Ok(Times(times))
}

/// Looks for estimates in a folder and those below it.
fn visit(folder: &Path, times: &mut Vec<Time>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("look into {}", folder.display()))?;
    for entry in entries {
        let path = entry.context("look into a folder")?.path();
        if path.is_dir() {
            visit(&path, times)?;
        } else if path.ends_with("new/benchmark.json") {
            let read = |name: &str| -> Result<Value> {
                let path = path.with_file_name(name);
                let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
            };
            times.push(time(&read("benchmark.json")?, &read("estimates.json")?)?);
        }
    }
    Ok(())
}

/// What two files of criterion's say.
fn time(benchmark: &Value, estimates: &Value) -> Result<Time> {
    let name = benchmark["full_id"]
        .as_str()
        .context("an estimate without a name")?;
    let median = &estimates["median"];
    let number = |value: &Value| value.as_f64().with_context(|| format!("no estimate of {name}"));
    let interval = &median["confidence_interval"];
    Ok(Time {
        name: name.to_owned(),
        median: number(&median["point_estimate"])?,
        between: (
            number(&interval["lower_bound"])?,
            number(&interval["upper_bound"])?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_read() {
        let name = serde_json::json!({ "full_id": "zero/memset/64" });
        let estimates = serde_json::json!({
            "median": { "point_estimate": 5.0, "confidence_interval": { "lower_bound": 4.0, "upper_bound": 6.5 } }
        });
        let first = time(&name, &estimates).unwrap();
        assert_eq!((first.median, first.between), (5.0, (4.0, 6.5)));
        let slower = Time {
            name: "zero/rep-stosb/64".into(),
            median: 7.0,
            ..first.clone()
        };
        let other = Time {
            name: "zero/rep-stosb/256".into(),
            median: 1.0,
            ..first.clone()
        };
        let times = Times(vec![slower, first, other]);
        assert_eq!(times.fastest_zeroing(64), Some(("memset", 5.0)));
        assert_eq!(times.fastest_zeroing(4), None);
        assert!(time(&name, &serde_json::json!({})).is_err());
    }
}
