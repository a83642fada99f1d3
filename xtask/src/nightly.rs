//! The nightly toolchain, for what the stable one cannot do: Miri, and the instrumentation that fuzzing needs. Nothing that is shipped is
//! built with it.

use std::process::{Command, Stdio};

use crate::{setup, workspace};

/// The toolchain's name for rustup.
const TOOLCHAIN: &str = "nightly";

/// cargo of the nightly toolchain.
pub fn cargo() -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", TOOLCHAIN, "cargo"])
        .current_dir(workspace::root())
        .stdin(Stdio::null());
    // What the cargo that started us says of itself.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command
}

/// Makes sure that the toolchain is there with these components.
///
/// # Errors
/// Why it is not, with the command to type.
pub fn bring(components: &[&str]) -> Result<(), String> {
    if setup::find("rustup").is_none() {
        return Err(format!(
            "there is no rustup to bring the {TOOLCHAIN} toolchain; with rustup (https://rustup.rs) try again"
        ));
    }
    if installed(components) {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup
        .args(["toolchain", "install", TOOLCHAIN, "--profile", "minimal"])
        .args(components.iter().flat_map(|component| ["--component", component]))
        .stdin(Stdio::null());
    let typed = format!(
        "rustup toolchain install {TOOLCHAIN} --profile minimal --component {}",
        components.join(" --component ")
    );
    eprintln!("set-up: {typed}");
    match rustup.status() {
        Ok(status) if status.success() && installed(components) => Ok(()),
        _ => Err(format!(
            "rustup did not bring the {TOOLCHAIN} toolchain; type `{typed}`, and mend what it reports"
        )),
    }
}

fn installed(components: &[&str]) -> bool {
    let mut rustup = Command::new("rustup");
    rustup
        .args(["component", "list", "--installed", "--toolchain", TOOLCHAIN])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let Ok(output) = rustup.output() else { return false };
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success()
        && components
            .iter()
            .all(|component| list.lines().any(|line| line.starts_with(component)))
}
