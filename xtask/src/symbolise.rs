//! Addresses of the image as functions and lines of source.

use std::path::Path;

use addr2line::Loader;

use crate::emulator::Record;
use crate::workspace;

/// What starts the line of return addresses that a panic prints.
const MARK: &str = "backtrace:";

/// The backtraces that help with a record: those in its text, and the place where it was stopped. One line for each function, with
/// names and lines from the image's debug information. Empty when there is none.
pub fn explain(record: &Record, image: &Path) -> Vec<String> {
    let mut lines = backtraces(&record.text, image);
    if let Some((instruction, callers)) = record.stopped_at.split_first() {
        // The instruction is the next one, not behind a call.
        lines.extend(listing(
            image,
            [instruction.saturating_add(1)]
                .into_iter()
                .chain(callers.iter().copied()),
        ));
    }
    lines
}

/// The backtraces in `text`.
fn backtraces(text: &str, image: &Path) -> Vec<String> {
    let found = text.lines().filter_map(|line| Some(line.split_once(MARK)?.1));
    found
        .flat_map(|words| listing(image, words.split_whitespace().map_while(address)))
        .collect()
}

/// One backtrace, the innermost function first.
fn listing(image: &Path, addresses: impl Iterator<Item = u64>) -> Vec<String> {
    let numbered = addresses.enumerate().flat_map(|(depth, address)| {
        frames(image, address)
            .into_iter()
            .map(move |frame| format!("{depth:>3}  {frame}"))
    });
    numbered.collect()
}

fn address(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

/// The functions at a return address, the inlined ones first, each as `name  file:line`.
fn frames(image: &Path, address: u64) -> Vec<String> {
    let unknown = || vec![format!("{address:#x}")];
    let Ok(loader) = Loader::new(image) else {
        return unknown();
    };
    // A return address is behind the call; the call itself is what one wants to see.
    let probe = address.saturating_sub(1);
    let mut found = Vec::new();
    if let Ok(mut frames) = loader.find_frames(probe) {
        while let Ok(Some(frame)) = frames.next() {
            let name = frame
                .function
                .as_ref()
                .and_then(|function| function.demangle().ok().map(String::from));
            let place = frame
                .location
                .and_then(|location| Some((location.file?.to_owned(), location.line?)));
            let (Some(name), Some((file, line))) = (name, place) else {
                continue;
            };
            found.push(format!("{name}  {}:{line}", shorten(&file)));
        }
    }
    if found.is_empty() {
        // Assembly has no debug information, but a symbol.
        if let Some(symbol) = loader.find_symbol_info(probe) {
            let name = addr2line::demangle_auto(symbol.name().into(), None).into_owned();
            return vec![format!("{name}+{:#x}", address.saturating_sub(symbol.address()))];
        }
        return unknown();
    }
    found
}

/// A path as it is seen from the workspace; the standard library's without the compiler's hash.
fn shorten(file: &str) -> String {
    if let Some((_hash, library)) = file.strip_prefix("/rustc/").and_then(|path| path.split_once('/')) {
        return library.to_owned();
    }
    let root = workspace::root();
    Path::new(file)
        .strip_prefix(&root)
        .map_or_else(|_| file.to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function whose address can be looked up in this very program.
    #[inline(never)]
    fn landmark() -> u64 {
        std::hint::black_box(7)
    }

    #[test]
    fn a_function_of_this_program_is_found() {
        let image = std::env::current_exe().unwrap();
        // The difference between run-time and link-time addresses (position independent code), from any symbol.
        let symbols = std::fs::read(&image).unwrap();
        let file = object::File::parse(symbols.as_slice()).unwrap();
        let symbol = object::Object::symbols(&file)
            .find(|symbol| object::ObjectSymbol::name(symbol).is_ok_and(|name| name.contains("landmark")))
            .unwrap();
        assert_eq!(landmark(), 7);
        let address = object::ObjectSymbol::address(&symbol);
        let text = format!(
            "x\r\npanic: backtrace: {:#x} 0xdead000000000010 end\r\n",
            address + 2
        );
        let lines = backtraces(&text, &image);
        assert!(lines[0].contains("landmark"), "{lines:?}");
        assert!(lines[0].contains("symbolise.rs:"), "{lines:?}");
        assert_eq!(lines[1], "  1  0xdead000000000010");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn no_backtrace_and_no_image() {
        assert!(backtraces("all is well", Path::new("/nonexistent")).is_empty());
        assert_eq!(
            backtraces("backtrace: 0x1234", Path::new("/nonexistent")),
            ["  0  0x1234"]
        );
    }
}
