//! Chores of the repository, run as `cargo xtask …`.
//!
//! | command | what it does |
//! |---|---|
//! | `bench` | measures this program and PyTorch in turns on the same model, or a whole search |
//! | `peers` | makes the table of this program's and other pruning methods |
//! | `torture` | kills commands, flips bits, fills disks, and looks whether anything is lost |

#![expect(clippy::disallowed_methods, reason = "tools for developers read what they were told to")]

use adapruner_kernels::{Allocator, keep_freed_pages, keep_to_one_pool};
use clap::Parser;

mod bench;
mod peers;
mod torture;

/// As in the program itself, so that what is measured is what is shipped.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Chores of the repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Command {
    /// Measures passes in turns with PyTorch's, or a whole search.
    Bench(bench::Args),
    /// Prunes a model by published methods and by this program, and prints a table.
    Peers(peers::Args),
    /// Kills commands, flips bits, fills disks, starts commands side by side, and
    /// fails where anything is lost.
    Torture(torture::Args),
}

fn main() -> anyhow::Result<()> {
    keep_freed_pages();
    keep_to_one_pool();
    match Command::parse() {
        Command::Bench(args) => bench::run(&args),
        Command::Peers(args) => peers::run(&args),
        Command::Torture(args) => torture::run(&args),
    }
}
