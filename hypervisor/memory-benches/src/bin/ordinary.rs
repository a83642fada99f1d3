//! Host allocations in a program that has the frame records and nothing else: no code that carves, hides or restores is in it.

use memory_benches::{board, counting, ordinary};

fn main() {
    // As in `counts`, so that the two can be compared.
    let bytes = 64 << 30;
    let mut storage = board::storage(bytes);
    let mut frames = board::frames(bytes, &mut storage);
    counting::counted("empty", 1000, || {});
    ordinary::count("without-code", &mut frames);
}
