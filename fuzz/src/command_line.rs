//! The hypervisor's command line: any bytes are read or refused, and the refusal points into the line.
#![no_main]

use boot_config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
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
