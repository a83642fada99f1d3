//! Atomic writes to what CPUs share, for small private allocations by 1 to 16 CPUs. A line for each number of CPUs: threads, operations, takes
//! of the lock, writes.

use memory_benches::threads::contend;

/// Operations of each thread.
const OPERATIONS: u64 = 1 << 20;

fn main() {
    for threads in [1, 2, 4, 8, 16] {
        match contend(threads, OPERATIONS) {
            Ok(all) => println!("{threads} {} {} {}", all.operations, all.locks, all.writes),
            Err(error) => panic!("{threads} threads: {error}"),
        }
    }
}
