//! `man`: manual pages.

use adapruner_checkpoint::atomic::Files;
use anyhow::Result;
use clap::Args;

use super::{Cli, Perform, Session};
use crate::{failure::advised, printer};

/// Print the manual page of a command, or of the program.
///
/// Example: adapruner man prune > ~/.local/share/man/man1/adapruner-prune.1
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command [default: the program]
    command: Option<String>,
}

impl Perform for ManArgs {
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

fn run(args: &ManArgs) -> Result<()> {
    let mut line = Cli::line();
    // Commands then have the options that all of them share.
    line.build();
    let page = match &args.command {
        None => line,
        Some(name) => line.find_subcommand(name).cloned().ok_or_else(|| {
            let names = line.get_subcommands().map(|command| command.get_name().to_owned());
            let message = match adapruner_choice::nearest(name, names) {
                Some(nearest) => format!("man: unknown command {name:?}, did you mean {nearest}?"),
                None => format!("man: unknown command {name:?}"),
            };
            advised(message, "adapruner --help lists the commands")
        })?,
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    Ok(printer::document(&text)?)
}
