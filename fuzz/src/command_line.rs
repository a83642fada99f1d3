//! The hypervisor's command line, and what is typed on its console: any bytes are read or refused; the refusal of a command line points into it, that of
//! a command says something.
#![no_main]

use boot_config::{Command, Config};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    if let Ok(Err(error)) = std::str::from_utf8(line).map(Command::parse) {
        assert!(!error.to_string().is_empty());
    }
    match Config::from_bytes(line) {
        Ok(config) => {
            // Read again with a space before it, it means the same, or is now too long.
            let spaced = [b" ", line].concat();
            if let Ok(again) = Config::from_bytes(&spaced) {
                assert_eq!(format!("{config:?}"), format!("{again:?}"));
            }
        }
        Err(error) => {
            assert!(error.position <= line.len());
            assert!(!error.to_string().is_empty());
        }
    }
});
