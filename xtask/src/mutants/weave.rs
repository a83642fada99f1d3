//! All changes in one build: each function that cargo-mutants would change gets a body for every change, and a switch chooses one of
//! them when the program runs.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use anyhow::{Context, Result};
use serde_json::Value;

/// The variable that says which change is on.
pub const VARIABLE: &str = "LACUNA_CHANGE";

/// What the crate gets besides: the switch.
const SWITCH: &str = "
/// Which change is on.
pub mod switch {
    use core::sync::atomic::{AtomicU32, Ordering};

    static ACTIVE: AtomicU32 = AtomicU32::new(u32::MAX);

    /// The number of the change; one that there is not, where none is on.
    #[inline]
    pub fn active() -> u32 {
        match ACTIVE.load(Ordering::Relaxed) {
            u32::MAX => read(),
            change => change,
        }
    }

    #[cold]
    fn read() -> u32 {
        let said = for_the_switch::env::var(\"LACUNA_CHANGE\");
        let change = said.map_or(u32::MAX - 1, |text| text.parse().unwrap());
        ACTIVE.store(change, Ordering::Relaxed);
        change
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
    /// The function around it, by name, and where it is.
    function: Option<(String, Place, Place)>,
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
        let function = &value["function"];
        let read = || {
            Some(Self {
                name: text(&value["name"])?,
                file: text(&value["file"])?,
                function: match span(&function["span"]) {
                    Some((start, end)) => Some((text(&function["function_name"])?, start, end)),
                    None => None,
                },
                span: span(&value["span"])?,
                replacement: text(&value["replacement"])?,
            })
        };
        read().with_context(|| format!("a change without its place: {value}"))
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
}

/// Puts the changes of one file behind the switch, but for those in `left_out`; adds those to it that cannot be: functions that return
/// something without a name, functions inside of others, and the functions named in `constant`, which are used where nothing can be read.
pub fn weave(
    source: &str,
    mutants: &[(usize, &Mutant)],
    constant: &HashSet<String>,
    left_out: &mut HashSet<usize>,
) -> Woven {
    let offsets: Vec<usize> = std::iter::once(0)
        .chain(source.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let offset = |(line, column): Place| {
        let start = offsets[line - 1];
        let chars = source[start..].char_indices().nth(column - 1);
        start + chars.map_or(source.len() - start, |(at, _)| at)
    };
    let mut functions: BTreeMap<(usize, usize), Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in mutants {
        match &mutant.function {
            Some((_, start, end)) => functions
                .entry((offset(*start), offset(*end)))
                .or_default()
                .push((*number, mutant)),
            None => {
                left_out.insert(*number);
            }
        }
    }
    let (mut woven, mut done) = (
        Woven {
            text: String::new(),
            arms: Vec::new(),
        },
        0,
    );
    for ((start, end), changes) in functions {
        let parts = Function::find(&source[start..end]).filter(|_| start >= done);
        let is_constant = |(_, mutant): &(usize, &Mutant)| {
            mutant
                .function
                .as_ref()
                .is_some_and(|(name, ..)| constant.contains(name))
        };
        let Some(function) = parts.filter(|_| !changes.iter().any(is_constant)) else {
            left_out.extend(changes.iter().map(|(number, _)| *number));
            continue;
        };
        woven.text += &source[done..start];
        woven.text += &function.head;
        woven.text += "{ match crate::switch::active() {\n";
        for (number, mutant) in changes {
            let body = start + function.body_at;
            let span = (offset(mutant.span.0), offset(mutant.span.1));
            let (Some(from), Some(to)) = (span.0.checked_sub(body), span.1.checked_sub(body)) else {
                left_out.insert(number);
                continue;
            };
            if left_out.contains(&number) || to > function.body.len() {
                left_out.insert(number);
                continue;
            }
            let first = woven.text.matches('\n').count() + 1;
            let (before, after) = (&function.body[..from], &function.body[to..]);
            woven.text += &format!("{number} => {{{before}{}{after}\n}}\n", mutant.replacement);
            woven
                .arms
                .push((first..=woven.text.matches('\n').count(), number));
        }
        woven.text += &format!("_ => {{{}\n}}\n}} }}", function.body);
        done = end;
    }
    woven.text += &source[done..];
    woven
}

/// The parts of a function's text.
struct Function<'s> {
    /// Up to the body, and not `const`.
    head: String,
    body: &'s str,
    body_at: usize,
}

impl<'s> Function<'s> {
    /// `None` where it returns `impl` something: two bodies would be of two types.
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
        if head.contains("-> impl") || head.contains("-> Option<impl") {
            return None;
        }
        Some(Self {
            head: format!("{}{}", head[..keyword].replace("const ", ""), &head[keyword..]),
            body: text[brace + 1..].strip_suffix('}')?,
            body_at: brace + 1,
        })
    }
}

/// The root of the crate, with the switch in it.
pub fn with_switch(root: &str) -> String {
    let mut after = 0;
    let mut at = 0;
    for line in root.split_inclusive('\n') {
        at += line.len();
        if line.starts_with("#![") {
            after = at;
        }
    }
    let (attributes, rest) = root.split_at(after);
    format!("{attributes}extern crate std as for_the_switch;\n{rest}{SWITCH}")
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
        let mut left_out = HashSet::new();
        let list = [(4, &minus), (5, &zero), (6, &all)];
        let woven = weave(SOURCE, &list, &HashSet::new(), &mut left_out);
        assert_eq!(left_out, HashSet::from([6]));
        assert!(
            woven.text.contains("pub fn add(a: u32, b: u32) -> u32 { match"),
            "{}",
            woven.text
        );
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
        assert!(woven.text.ends_with("0..3 + 1\n}\n"));
        // One that did not build, and a function that must be constant.
        left_out.insert(4);
        let again = weave(SOURCE, &list, &HashSet::new(), &mut left_out);
        assert_eq!(again.arms.iter().map(|arm| arm.1).collect::<Vec<_>>(), [5]);
        let constant = HashSet::from(["add".to_owned()]);
        assert_eq!(weave(SOURCE, &list, &constant, &mut left_out).text, SOURCE);
        assert_eq!(left_out.len(), 3);
    }

    #[test]
    fn the_switch_stands_below_the_attributes() {
        let text = with_switch("//! A crate.\n#![no_std]\n#![forbid(unsafe_code)]\n\nmod a;\n");
        assert!(
            text.contains("(unsafe_code)]\nextern crate std as for_the_switch;\n\nmod a;\n"),
            "{text}"
        );
        assert!(text.contains(&format!("var(\"{VARIABLE}\")")));
    }
}
