//! All changes in one build: each function that cargo-mutants would change gets a body for every change, and a switch chooses one of
//! them when the program runs.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use anyhow::{Context, Result};
use serde_json::Value;

use super::SOURCES;

/// The variable that says which change is on.
pub const VARIABLE: &str = "LACUNA_CHANGE";
/// The variable that names a file for the numbers of all functions that the program comes to; none is changed then.
pub const REACHED: &str = "LACUNA_REACHED";

/// What the crate gets besides: the switch. Where the compiler works out a constant nothing can be read, and no change is on.
const SWITCH: &str = "
/// Which change is on.
pub mod switch {
    extern crate std as for_the_switch;

    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
    use for_the_switch::{env, fs, io::Write, string::ToString};

    const NONE: u32 = u32::MAX;
    const NOTING: u32 = u32::MAX - 1;
    const UNREAD: u32 = u32::MAX - 2;
    static ACTIVE: AtomicU32 = AtomicU32::new(UNREAD);
    static REACHED: [AtomicBool; MUTANTS] = [const { AtomicBool::new(false) }; MUTANTS];

    /// The number of the change that is on, in a function.
    #[inline(always)]
    pub const fn active(function: usize) -> u32 {
        core::intrinsics::const_eval_select((function,), at_build, at_run)
    }

    const fn at_build(_function: usize) -> u32 {
        NONE
    }

    fn at_run(function: usize) -> u32 {
        match ACTIVE.load(Relaxed) {
            UNREAD => {
                read();
                at_run(function)
            }
            NOTING => {
                if !REACHED[function].swap(true, Relaxed) {
                    note(function);
                }
                NONE
            }
            change => change,
        }
    }

    #[cold]
    fn read() {
        let change = match env::var(\"LACUNA_CHANGE\") {
            Ok(text) => text.parse().unwrap(),
            Err(_) if env::var(\"LACUNA_REACHED\").is_ok() => NOTING,
            Err(_) => NONE,
        };
        ACTIVE.store(change, Relaxed);
    }

    #[cold]
    fn note(function: usize) {
        let file = env::var(\"LACUNA_REACHED\").unwrap();
        let mut file = fs::File::options().append(true).open(file).unwrap();
        file.write_all((function.to_string() + \"\\n\").as_bytes()).unwrap();
    }
}
";

/// A place in a source: line and column, from 1.
type Place = (usize, usize);

/// One change, as `cargo mutants --list --json` says it.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Path, line, column, and what is changed.
    pub name: String,
    /// The path from the workspace on.
    pub file: String,
    /// Where the function around it is.
    function: Option<(Place, Place)>,
    /// What is replaced.
    span: (Place, Place),
    replacement: String,
}

impl Mutant {
    /// Reads one.
    ///
    /// # Errors
    /// Something is missing.
    pub fn read(value: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
        let place = |value: &Value| Some((number(&value["line"])?, number(&value["column"])?));
        let span = |value: &Value| Some((place(&value["start"])?, place(&value["end"])?));
        let read = || {
            Some(Self {
                name: text(&value["name"])?,
                file: text(&value["file"])?,
                function: span(&value["function"]["span"]),
                span: span(&value["span"])?,
                replacement: text(&value["replacement"])?,
            })
        };
        read().with_context(|| format!("a change without its place: {value}"))
    }

    /// Its file, from the sources on.
    pub fn below_sources(&self) -> &str {
        self.file.strip_prefix(SOURCES).unwrap_or(&self.file)
    }

    /// One without a place.
    #[cfg(test)]
    pub fn named(name: &str, file: &str) -> Self {
        Self {
            name: name.into(),
            file: file.into(),
            function: None,
            span: ((1, 1), (1, 1)),
            replacement: String::new(),
        }
    }

    /// A source with this change.
    pub fn applied(&self, source: &str) -> String {
        let offsets = Offsets::of(source);
        let (from, to) = (offsets.at(self.span.0), offsets.at(self.span.1));
        format!("{}{}{}", &source[..from], self.replacement, &source[to..])
    }
}

/// Where the lines of a source begin.
struct Offsets<'s> {
    source: &'s str,
    lines: Vec<usize>,
}

impl<'s> Offsets<'s> {
    fn of(source: &'s str) -> Self {
        let lines = source.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            source,
            lines: std::iter::once(0).chain(lines).collect(),
        }
    }

    fn at(&self, (line, column): Place) -> usize {
        let start = self.lines[line - 1];
        let mut chars = self.source[start..].char_indices();
        start
            + chars
                .nth(column - 1)
                .map_or(self.source.len() - start, |(at, _)| at)
    }
}

fn number(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// A source with changes behind the switch.
pub struct Woven {
    pub text: String,
    /// The lines of each change, and its number.
    pub arms: Vec<(RangeInclusive<usize>, usize)>,
    /// The function that each change is in, by the number of its first change.
    pub functions: Vec<(usize, usize)>,
}

/// Puts the changes of one file behind the switch, but for those in `without`; adds those to `left_out` that cannot be: outside of functions,
/// in functions that return something without a name, in functions inside of others, and in their heads.
pub fn weave(
    source: &str,
    mutants: &[(usize, &Mutant)],
    without: &HashSet<usize>,
    left_out: &mut HashSet<usize>,
) -> Woven {
    let offsets = Offsets::of(source);
    let mut functions: BTreeMap<(usize, usize), Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in mutants {
        match mutant.function {
            Some((start, end)) => functions
                .entry((offsets.at(start), offsets.at(end)))
                .or_default()
                .push((*number, mutant)),
            None => {
                left_out.insert(*number);
            }
        }
    }
    let mut woven = Woven {
        text: String::new(),
        arms: Vec::new(),
        functions: Vec::new(),
    };
    let mut done = 0;
    for ((start, end), changes) in functions {
        let Some(function) = Function::find(&source[start..end]).filter(|_| start >= done) else {
            left_out.extend(changes.iter().map(|(number, _)| *number));
            continue;
        };
        let name = changes[0].0;
        woven
            .functions
            .extend(changes.iter().map(|(number, _)| (*number, name)));
        woven.text += &source[done..start];
        woven.text += function.head;
        if function.is_named {
            woven.text += &format!("{{ match crate::switch::active({name}) {{\n");
        } else {
            // Two bodies would be of two types.
            woven.text += &format!("{{ let _ = crate::switch::active({name}); {{\n");
        }
        for (number, mutant) in changes {
            let body = start + function.body_at;
            let (from, to) = (offsets.at(mutant.span.0), offsets.at(mutant.span.1));
            let within = from >= body && to <= body + function.body.len();
            if !within || !function.is_named {
                left_out.insert(number);
                continue;
            }
            if without.contains(&number) {
                continue;
            }
            let first = woven.text.matches('\n').count() + 1;
            let (before, after) = (&function.body[..from - body], &function.body[to - body..]);
            woven.text += &format!("{number} => {{{before}{}{after}\n}}\n", mutant.replacement);
            woven
                .arms
                .push((first..=woven.text.matches('\n').count(), number));
        }
        let arm = if function.is_named { "_ => " } else { "" };
        woven.text += &format!("{arm}{{{}\n}}\n}} }}", function.body);
        done = end;
    }
    woven.text += &source[done..];
    woven
}

/// The parts of a function's text.
struct Function<'s> {
    /// Up to the body.
    head: &'s str,
    body: &'s str,
    body_at: usize,
    /// Whether what it returns has a name; it has none where it is `impl` something.
    is_named: bool,
}

impl<'s> Function<'s> {
    fn find(text: &'s str) -> Option<Self> {
        let mut at = 0;
        let line = text.split_inclusive('\n').find(|line| {
            let code = line.trim_start();
            let begins = ["pub", "const ", "fn "].iter().any(|word| code.starts_with(word));
            at += if begins { 0 } else { line.len() };
            begins
        })?;
        let keyword = at + line.find("fn ")?;
        let brace = keyword + text[keyword..].find('{')?;
        let head = &text[..brace];
        Some(Self {
            head,
            body: text[brace + 1..].strip_suffix('}')?,
            body_at: brace + 1,
            is_named: !head.contains("-> impl") && !head.contains("-> Option<impl"),
        })
    }
}

/// The root of the crate, with the switch in it, for so many changes.
pub fn with_switch(root: &str, mutants: usize) -> String {
    let (mut after, mut at) = (0, 0);
    for line in root.split_inclusive('\n') {
        at += line.len();
        if line.starts_with("#![") {
            after = at;
        }
    }
    let (attributes, rest) = root.split_at(after);
    let switch = SWITCH.replace("MUTANTS", &mutants.max(1).to_string());
    format!("{attributes}#![feature(core_intrinsics, const_eval_select)]\n{rest}{switch}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SOURCE: &str = "//! A file.\n\n/// Adds { }.\npub const fn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n\nfn all() -> impl Iterator<Item = u32> {\n    0..3 + 1\n}\n";

    fn mutant(name: &str, function: [(usize, usize); 2], span: [(usize, usize); 2], new: &str) -> Mutant {
        let place = |(line, column): (usize, usize)| json!({"line": line, "column": column});
        let of = |[start, end]: [(usize, usize); 2]| json!({"start": place(start), "end": place(end)});
        let value = json!({
            "name": name, "file": "a.rs", "replacement": new, "span": of(span),
            "function": {"function_name": name, "span": of(function)}
        });
        Mutant::read(&value).unwrap()
    }

    #[test]
    fn each_change_has_a_body_and_says_on_which_lines() {
        let add = [(3, 1), (6, 2)];
        let minus = mutant("add", add, [(5, 7), (5, 8)], "-");
        let zero = mutant("add", add, [(5, 5), (5, 10)], "0");
        let all = mutant("all", [(8, 1), (10, 2)], [(9, 10), (9, 11)], "*");
        let (mut left_out, mut without) = (HashSet::new(), HashSet::new());
        let list = [(4, &minus), (5, &zero), (6, &all)];
        let woven = weave(SOURCE, &list, &without, &mut left_out);
        assert_eq!(left_out, HashSet::from([6]));
        assert_eq!(woven.functions, [(4, 4), (5, 4), (6, 6)]);
        let head = "pub const fn add(a: u32, b: u32) -> u32 { match crate::switch::active(4) {";
        assert!(woven.text.contains(head), "{}", woven.text);
        let lines: Vec<&str> = woven.text.lines().collect();
        for (range, number) in &woven.arms {
            let text = lines[range.start() - 1..*range.end()].concat();
            let body = if *number == 4 {
                "4 => {    a - b}"
            } else {
                "5 => {    0}"
            };
            assert_eq!(text, body);
        }
        assert!(woven.text.contains("_ => {\n    a + b\n\n}"), "{}", woven.text);
        let unnamed =
            "-> impl Iterator<Item = u32> { let _ = crate::switch::active(6); {\n{\n    0..3 + 1\n\n}\n} }\n";
        assert!(woven.text.ends_with(unnamed), "{}", woven.text);
        // One that did not build.
        without.insert(4);
        let again = weave(SOURCE, &list, &without, &mut left_out);
        assert_eq!(again.arms.iter().map(|arm| arm.1).collect::<Vec<_>>(), [5]);
        assert_eq!(minus.applied(SOURCE), SOURCE.replace("a + b", "a - b"));
    }

    #[test]
    fn the_switch_stands_below_the_attributes() {
        let text = with_switch("//! A crate.\n#![no_std]\n#![forbid(unsafe_code)]\n\nmod a;\n", 9);
        let start = "//! A crate.\n#![no_std]\n#![forbid(unsafe_code)]\n#![feature(core_intrinsics, const_eval_select)]\n\nmod a;\n";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains(&format!("var(\"{VARIABLE}\")")));
        assert!(text.contains(&format!("var(\"{REACHED}\")")) && text.contains("AtomicBool; 9]"));
    }
}
