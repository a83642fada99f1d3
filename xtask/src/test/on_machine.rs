//! Runs one row on one kind of machine.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use crate::archive::{self, Guest};
use crate::build::Flavor;
use crate::emulator::{self, Record, Watch, file};
use crate::folder::Folder;
use crate::keyboard::Typed;
use crate::machine::{Kind, Machine, Ram};
use crate::preflight::Host;
use crate::test::row::{Archive, Outside, Row};
use crate::test::{Verdict, checks, outside};
use crate::verdict::Outcome;
use crate::{guests, measure, nested, symbolise, workspace};

/// How many of the last lines of the serial log are shown after a failure.
const TAIL: usize = 12;

/// What was built for the tests.
pub struct Images {
    /// The hypervisor.
    pub plain: PathBuf,
    /// The hypervisor that makes deliberate mistakes.
    pub hooks: PathBuf,
    /// The bundled guests.
    pub guests: Vec<Guest>,
}

/// Runs one row.
pub fn run(row: &Row, kind: Kind, images: &Images, verbose: bool) -> Verdict {
    let looks = row.outside != Outside::NotLookedAt;
    if looks && let Some(reason) = outside::obstacle(kind, &Host::ask()) {
        return Verdict::Skip(reason);
    }
    let needed = row.host_mib + nested::level_0::own_mib(kind);
    match available_mib() {
        Some(mib) if mib < needed => {
            return Verdict::Skip(format!(
                "needs {} MiB of RAM, this host has {mib} to spare",
                needed
            ));
        }
        _ => {}
    }
    let start = Instant::now();
    let mut folder = match Folder::create(&workspace::root()) {
        Ok(folder) => folder,
        Err(error) => return Verdict::Failed(format!("{error:#}")),
    };
    if verbose {
        println!();
        folder.keep();
    }
    let image = match row.flavor {
        Flavor::Plain => &images.plain,
        Flavor::TestHooks => &images.hooks,
    };
    let seed = guests::random_seed();
    let run = |folder: &Folder| attempt(row, kind, images, image, folder, (verbose, seed));
    let mut attempted = run(&folder);
    if row.repeats
        && let Ok((first, None)) = &attempted
    {
        attempted = again(first, run);
    }
    let reason = match attempted {
        Ok((_, None)) => return Verdict::Ok(format!("{:.1} s", start.elapsed().as_secs_f64())),
        Ok((record, Some(reason))) => format!("{reason}\n{}", details(&record, image)),
        Err(error) => format!("{error:#}"),
    };
    folder.keep();
    Verdict::Failed(format!("{reason}\nkept: {}", folder.path().display()))
}

/// Runs the machine; the text is why the record is not what the row wants.
fn attempt(
    row: &Row,
    kind: Kind,
    images: &Images,
    image: &std::path::Path,
    folder: &Folder,
    (verbose, seed): (bool, u64),
) -> Result<(Record, Option<String>)> {
    let looks = row.outside != Outside::NotLookedAt;
    let ram = folder.file("ram");
    let machine = Machine {
        kind,
        boot: row.boot,
        memory: row.memory_mib << 20,
        smp: row.smp,
        cpu_flags: row.cpu_flags,
        counted: row.repeats,
        threads: row.threads,
        ram: if looks {
            Ram::SharedFile(ram.clone())
        } else {
            Ram::Anonymous
        },
        image: image.to_owned(),
        archive: archive(row.archive, &images.guests, folder)?,
        command_line: line(row, seed, &images.guests)?,
        json: folder.file(file::JSON),
        monitor: None,
        debugger: None,
    };
    let mut look = outside::Look::new(kind, &ram, seed);
    let mut visit = |phase: &str, registers: &str| {
        if looks {
            look.visit(phase, registers)
        } else {
            Ok(())
        }
    };
    let watch = Watch {
        limit: Some(row.limit * patience(kind)),
        show: verbose,
        visitor: &mut visit,
        typed: match row.typed {
            [] => Typed::Nothing,
            script => Typed::Script(script),
        },
    };
    let record = emulator::run(machine, folder, watch);
    // As large as the machine, and of no use without it.
    let _ = fs::remove_file(&ram);
    let record = record?;
    let judged = judge(row, kind, &record).and_then(|()| {
        if record.outcome == Outcome::Pass && matches!(row.archive, Archive::Bundled) {
            measure::agrees(&record.report, &images.guests)
        } else {
            Ok(())
        }
    });
    let judged = judged.and_then(|()| match row.outside {
        Outside::NotLookedAt => Ok(()),
        Outside::Holds => look.conclude(&record.report),
        Outside::Finds(what) => outside::found(what, look.conclude(&record.report)),
    });
    Ok((record, judged.err()))
}

/// Runs the machine a second time; the text is what differs from the first.
fn again(
    first: &Record,
    run: impl FnOnce(&Folder) -> Result<(Record, Option<String>)>,
) -> Result<(Record, Option<String>)> {
    let (second, reason) = run(&Folder::create(&workspace::root())?)?;
    let both = || first.report.events.iter().zip(&second.report.events);
    let differs = both().find(|(first, second)| first != second);
    let reason = reason.or_else(|| match differs {
        Some((first, second)) => Some(format!("two runs differ:\n{first:?}\n{second:?}")),
        None if first.report.events.len() != second.report.events.len() => {
            Some("one of two runs has a longer report".into())
        }
        None => None,
    });
    Ok((second, reason))
}

/// How many times as long as on other machines a row may take.
fn patience(kind: Kind) -> u32 {
    match kind {
        Kind::Tcg | Kind::Kvm | Kind::Bochs => 1,
        Kind::NestedAmd => 2,
        Kind::NestedIntel => 5,
    }
}

/// Whether the record is what the row wants; the error is the first thing that is not.
fn judge(row: &Row, kind: Kind, record: &Record) -> Result<(), String> {
    if record.outcome.word() != row.verdict {
        return Err(format!("{}, but {} was expected", record.outcome, row.verdict));
    }
    let reason = record.outcome.reason();
    for wanted in row.says {
        if !reason.contains(wanted) && !record.text.contains(wanted) {
            return Err(format!(
                "nothing says `{wanted}`; the verdict is {}",
                record.outcome
            ));
        }
    }
    if record.outcome == Outcome::Pass {
        checks::standing(record)?;
        checks::second_stage(&record.report, kind)?;
    }
    checks::report_agrees(record)?;
    (row.check)(record)
}

/// The hypervisor's command line of a row.
fn line(row: &Row, seed: u64, bundled: &[Guest]) -> Result<String> {
    let mut words = vec![format!("seed={seed:#x}")];
    for word in row.line.split_whitespace() {
        match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
            Some("guests") => {
                words.extend(guests::of_the_main_job(bundled).map(|guest| format!("guest={}", guest.spec())));
            }
            Some(name) => words.push(format!("guest={}", guests::find(bundled, name)?.spec())),
            None => words.push(word.to_owned()),
        }
    }
    Ok(words.join(" "))
}

/// Makes the archive of a row.
fn archive(kind: Archive, bundled: &[Guest], folder: &Folder) -> Result<Option<PathBuf>> {
    let path = folder.file(file::ARCHIVE);
    match kind {
        Archive::Missing => return Ok(None),
        Archive::Bundled => archive::write(&path, bundled)?,
        Archive::Spoilt(spoil) => {
            archive::write(&path, bundled)?;
            let good = fs::read(&path).context("read the archive back")?;
            folder.write(file::ARCHIVE, spoil(good))?;
        }
        Archive::Files(make) => {
            let mut files = Vec::new();
            for (name, bytes) in make() {
                files.push(Guest {
                    name: name.to_owned(),
                    path: folder.write(name, bytes)?,
                    launch: boot_config::Launch::default(),
                });
            }
            archive::write(&path, &files)?;
        }
    }
    Ok(Some(path))
}

/// The backtrace and the end of the text.
fn details(record: &Record, image: &std::path::Path) -> String {
    let mut lines = symbolise::explain(record, image);
    let text: Vec<_> = record.text.lines().collect();
    let tail = text.get(text.len().saturating_sub(TAIL)..).unwrap_or_default();
    lines.extend(tail.iter().map(|line| format!("| {}", line.trim_end())));
    lines.join("\n")
}

/// RAM that the host can still give, in MiB: the kernel's estimate, and the limit of the control group where there is one.
/// `None` when the host does not say.
pub fn available_mib() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let free = meminfo_mib(&meminfo).ok()?;
    let number = |file: &str| {
        let text = fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    match (number("memory.max"), number("memory.current")) {
        (Some(most), Some(used)) => Some(free.min(most.saturating_sub(used) >> 20)),
        _ => Some(free),
    }
}

/// `MemAvailable` of `/proc/meminfo`, in MiB.
fn meminfo_mib(text: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .map(str::trim);
    let kib: u64 = number.ok_or_else(|| anyhow!("no MemAvailable"))?.parse()?;
    Ok(kib >> 10)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::test::table;

    #[test]
    fn memory_of_the_host() {
        assert_eq!(
            meminfo_mib("MemTotal: 1 kB\nMemAvailable:   24340712 kB\n").unwrap(),
            23770
        );
        assert!(meminfo_mib("MemTotal: 1 kB").is_err());
    }

    fn record(outcome: Outcome, text: &str, json: &str) -> Record {
        let report = crate::report::Report::parse(json.as_bytes());
        Record {
            outcome,
            text: text.into(),
            report,
            stopped_at: Vec::new(),
            took: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn a_row_fails_on_another_verdict_a_missing_sentence_and_a_missing_report() {
        let says: &[&str] = &["did you mean `seed`?"];
        let row = Row::ending("REFUSED", says, "r", "", "sead=1");
        let verdict = r#"{"event":"verdict","verdict":"refused","reason":"x"}"#;
        let refused = |reason: &str| Outcome::Refused(reason.into());
        assert!(
            judge(
                &row,
                Kind::Tcg,
                &record(refused("did you mean `seed`?"), "", verdict)
            )
            .is_ok()
        );
        assert!(
            judge(
                &row,
                Kind::Tcg,
                &record(refused("no"), "did you mean `seed`?", verdict)
            )
            .is_ok()
        );
        assert!(
            judge(&row, Kind::Tcg, &record(refused("no"), "", verdict))
                .unwrap_err()
                .contains("nothing says")
        );
        assert!(
            judge(&row, Kind::Tcg, &record(Outcome::Pass, "", verdict))
                .unwrap_err()
                .contains("was expected")
        );
        let error = judge(&row, Kind::Tcg, &record(refused("did you mean `seed`?"), "", "")).unwrap_err();
        assert!(error.contains("the report ends with None"), "{error}");
        let passing = Row::passing("p", "", "{guests}");
        assert!(judge(&passing, Kind::Tcg, &record(Outcome::Pass, "", verdict)).is_err());
    }

    #[test]
    fn lines_of_the_table_are_what_the_hypervisor_reads() {
        let guest = |name: &str| Guest {
            name: name.into(),
            path: name.into(),
            launch: boot_config::Launch::default()
                // As long as they are on average.
                .parse_over("memory=16M,limit=120s")
                .unwrap(),
        };
        // The guests that any row names, each once.
        let rows = table::rows(&[]);
        let words = rows.iter().flat_map(|row| row.line.split_whitespace());
        let names: BTreeSet<&str> = words
            .filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'))
            .filter(|name| *name != "guests")
            .collect();
        let bundled: Vec<_> = names.iter().map(|name| guest(name)).collect();
        let names: Vec<_> = names.into_iter().map(str::to_owned).collect();
        for row in table::rows(&names) {
            let line = line(&row, 1, &bundled).unwrap();
            assert!(
                line.len() <= boot_config::MAX_COMMAND_LINE,
                "{}: {line}",
                row.name
            );
            let parsed = boot_config::Config::parse(&line);
            assert_eq!(
                parsed.is_err(),
                row.name.starts_with("bad-line"),
                "{}: {line} {parsed:?}",
                row.name
            );
        }
    }
}
