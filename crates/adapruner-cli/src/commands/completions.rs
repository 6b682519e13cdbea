//! `completions`: completion scripts for shells.

use adapruner_checkpoint::atomic::Files;
use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use super::{Cli, Perform, Session};
use crate::printer;

/// Print a completion script for a shell.
///
/// Example: adapruner completions bash > ~/.local/share/bash-completion/completions/adapruner
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl Perform for CompletionsArgs {
    fn json(&self) -> bool {
        false
    }

    fn files(&self) -> Result<Files> {
        Ok(Files::new())
    }

    fn run(&self, _: &Session) -> Result<()> {
        run(self)
    }
}

fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::line(), "adapruner", &mut script);
    Ok(printer::document(&script)?)
}
