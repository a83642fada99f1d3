//! Waiting for a debugger.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result};

/// A TCP port that is free right now.
///
/// # Errors
/// The host has no loopback network.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("look for a free port for the debugger")?;
    Ok(listener
        .local_addr()
        .context("look for a free port for the debugger")?
        .port())
}

/// The command that attaches gdb with the image's symbols. The breakpoint is a hardware one: the image is not in memory when the
/// machine is still halted at its first instruction.
pub fn attach_command(image: &Path, port: u16) -> String {
    shell_words::join([
        "gdb",
        "-ex",
        &format!("file {}", image.display()),
        "-ex",
        &format!("target remote 127.0.0.1:{port}"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_pasted() {
        let command = attach_command(Path::new("target/lacuna"), 1234);
        assert_eq!(
            command,
            "gdb -ex 'file target/lacuna' -ex 'target remote 127.0.0.1:1234'"
        );
        assert_ne!(free_port().unwrap(), 0);
    }
}
