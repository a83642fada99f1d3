//! Links the guests with the script of this package, without debug information: it is forty times the size of a guest, and all guests travel
//! in one archive. Symbols stay.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-arg-bins=-T{folder}/guest.ld");
    println!("cargo:rustc-link-arg-bins=--strip-debug");
    println!("cargo:rerun-if-changed=guest.ld");
}
