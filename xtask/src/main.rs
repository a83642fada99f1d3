//! Builds, runs and tests Lacuna.
fn main() {}
