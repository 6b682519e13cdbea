//! Ctrl-C: half-written outputs are removed before the program ends.

use std::process;

/// Exit code of an interrupted program, as shells have it.
const INTERRUPTED: i32 = 130;

/// From now on an interrupt or termination leaves the disk as it was.
#[expect(clippy::print_stderr, reason = "the way out of an interrupt")]
pub fn install() {
    let handler = || {
        let _held = adapruner_checkpoint::atomic::discard_all();
        eprintln!("\ninterrupted, nothing was written");
        process::exit(INTERRUPTED);
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::warn!("interrupts cannot be caught: {error}");
    }
}
