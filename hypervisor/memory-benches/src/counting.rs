//! What callgrind counts: instructions between the entry of [`counted`] and its end, each call in a file of its own.
//!
//! Run with `valgrind --tool=callgrind --toggle-collect='*counted_by_callgrind*' --dump-after='*counted_by_callgrind*'`. Without valgrind
//! everything runs just the same, uncounted.

use std::hint::black_box;

/// Runs the operation `times` times, counted, and prints the line that tells what was counted: the name and how often it was done.
/// The n-th line belongs to callgrind's n-th file.
pub fn counted(name: &str, times: u64, mut operation: impl FnMut()) {
    println!("{name} {times}");
    counted_by_callgrind(times, &mut operation);
}

/// Callgrind knows the function by its name, so it stays a function of its own.
#[inline(never)]
fn counted_by_callgrind(times: u64, operation: &mut dyn FnMut()) {
    // A loop, so that the call is no jump out of here.
    for _ in 0..black_box(times) {
        operation();
    }
}
