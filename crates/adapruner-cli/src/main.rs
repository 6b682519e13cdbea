//! The command line.
//!
//! Results go to stdout, progress and messages to stderr. Exit codes: 0 done,
//! 1 an error that the user can fix, 2 wrong usage, 130 interrupted.

mod args;
mod bars;
mod budget_args;
mod children;
mod combine;
mod commands;
mod config_file;
mod depth_args;
mod expert_args;
mod failure;
mod front_args;
mod interrupt;
mod mask_args;
mod output_args;
mod pipeline_args;
mod plan_args;
mod printer;
mod recipe;
mod recover_args;
mod search_args;
mod task_args;
mod terminal;
mod typed;
mod vocabulary_args;
mod workers;

use std::process::ExitCode;

use adapruner_kernels::{Allocator, keep_freed_pages, keep_to_one_pool};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    keep_freed_pages();
    // A panic behind a fence is reported as the error that it becomes.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !adapruner_checkpoint::fence::active() {
            report(panic);
        }
    }));
    keep_to_one_pool();
    let cli = commands::Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    terminal::init_messages(cli.verbose, cli.quiet);
    interrupt::install();
    interrupt::follow_parent();
    match workers::hold_stage().and_then(|_held| commands::run(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, cli.json()),
    }
}
