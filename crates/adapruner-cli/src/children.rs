//! Processes of this program that it starts itself.

use std::process::Command;

use adapruner_kernels::{SWITCHED_OFF, switched_off};
use anyhow::{Context, Result};

/// This program, which goes without the same instructions as this process.
///
/// # Errors
/// A system that does not say where the program is.
pub fn this_program() -> Result<Command> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.env(SWITCHED_OFF, switched_off().join(","));
    Ok(command)
}
